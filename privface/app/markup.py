"""What the page shows, as HTML. Everything that comes from users or models is escaped here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from privface.app.protecting import DIFFERENCE_GAIN, Outcome, Reading
from privface.errors import PrivfaceError
from privface.report.reading import plain_text

Link = Callable[[str, bytes, str, bool], str]
"""Puts (name, bytes, media type, whether it is to be saved) on the shelf and gives the address."""


def notice(message: str, *, hint: str | None = None) -> str:
    """A message that screen readers announce at once."""
    cure = "" if hint is None else f" <span>{_text(hint)}</span>"
    return f'<div class="pf-notice" role="alert"><strong>{_text(message)}</strong>{cure}</div>'


def trouble(error: PrivfaceError) -> str:
    """An error in words, with its cure."""
    return notice(error.message, hint=error.hint)


def hint(text: str) -> str:
    """A quiet line, such as what to do first."""
    return f'<p class="pf-hint">{_text(text)}</p>'


def warning(text: str) -> str:
    """A line that must not be overlooked."""
    return f'<p class="pf-warning">{_text(text)}</p>'


def outcomes(rows: Sequence[Outcome], *, archive: str | None, link: Link) -> str:
    """Faces beside one another, with their readings and downloads; ``archive`` is the address of the zip of all."""
    good = sum(row.data is not None for row in rows)
    bad = len(rows) - good
    said = f"{good} {'face' if good == 1 else 'faces'} protected."
    said += f" {bad} {'photo' if bad == 1 else 'photos'} not protected." if bad else ""
    button = (
        ""
        if archive is None
        else f'<a class="pf-button" href="{escape(archive)}" download>Download all (zip)</a>'
    )
    cards = "".join(_card(row, link) for row in rows)
    return f'<div class="pf-summary" role="status"><span>{said}</span>{button}</div><div class="pf-cards">{cards}</div>'


def _card(row: Outcome, link: Link) -> str:
    title = f"<h3>{_text(row.name)}</h3>"
    if row.data is None or row.pictures is None:
        reason = _text(row.reason or "")
        return f'<article class="pf-card">{title}<p class="pf-failed">Not protected: {reason}</p></article>'
    shown = (
        ("original", row.pictures.original),
        ("protected", row.pictures.protected),
        (f"difference &times;{DIFFERENCE_GAIN}", row.pictures.difference),
    )
    pictures = "".join(
        f'<figure><img src="{escape(link(f"{number}.jpg", data, "image/jpeg", False))}" alt="{caption}: {_text(row.name)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for number, (caption, data) in enumerate(shown)
    )
    address = escape(link(row.output, row.data, "application/octet-stream", True))
    return (
        f'<article class="pf-card">{title}<div class="pf-three">{pictures}</div>{_readings(row)}'
        f'<p class="pf-foot"><a class="pf-button" href="{address}" download aria-label="Download {_text(row.output)}">Download</a></p></article>'
    )


def _readings(row: Outcome) -> str:
    """Tables of what matchers and gender classifiers see; empty without any."""
    parts = []
    if row.matches:
        body = "".join(
            f"<tr><th scope='row'>{_text(r.model)}</th><td>{_number(r.after)}</td></tr>" for r in row.matches
        )
        parts.append(
            '<table><thead><tr><th scope="col">matcher</th><th scope="col">similarity before ~ after</th></tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )
    if row.genders:
        body = "".join(_gender(r) for r in row.genders)
        parts.append(
            '<table><thead><tr><th scope="col">gender probe</th><th scope="col">before</th><th scope="col">after</th></tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )
    return f'<div class="pf-readings">{"".join(parts)}</div>' if parts else ""


def _gender(reading: Reading) -> str:
    return f"<tr><th scope='row'>{_text(reading.model)}</th><td>{_leaning(reading.before)}</td><td>{_leaning(reading.after)}</td></tr>"


def _leaning(male: float) -> str:
    if math.isnan(male):
        return "not readable"
    word, share = ("male", male) if male >= 0.5 else ("female", 1.0 - male)
    return f"{word} {share:.0%}"


def framed(headline: str, address: str, downloads: Mapping[str, str]) -> str:
    """A finished page in a frame that runs no script, with the addresses of what can be saved, by file name."""
    buttons = "".join(
        f'<a class="pf-button" href="{escape(file)}" download>Download {_text(name)}</a>'
        for name, file in downloads.items()
    )
    return (
        f'<div class="pf-summary" role="status"><span>{_text(headline)}</span>{buttons}</div>'
        f'<iframe class="pf-report" src="{escape(address)}" sandbox title="{_text(headline)}"></iframe>'
    )


def _number(value: float) -> str:
    return "not readable" if math.isnan(value) else f"{value:.3f}"


def _text(value: str) -> str:
    return escape(plain_text(value))


def progress(stage: str, done: int, total: int, *, seconds: float) -> str:
    """How far a piece of work is."""
    minutes, rest = divmod(int(seconds), 60)
    told = f"{_text(stage)}: {done:,} of {total:,}" if total > 1 else _text(stage)
    return (
        f'<div class="pf-progress" role="status"><label>{told}, {minutes}:{rest:02d}'
        f'<progress max="{max(total, 1)}" value="{min(done, max(total, 1))}"></progress></label></div>'
    )
