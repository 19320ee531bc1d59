"""What the page shows, as HTML. Everything that comes from users or models is escaped here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from privface.app.protecting import DIFFERENCE_GAIN, Outcome
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
    button = ""
    if archive is not None:
        button = f'<a class="pf-button" href="{escape(archive)}" download>Download all (zip)</a>'
    cards = "".join(_card(row, link) for row in rows)
    return f'<div class="pf-summary" role="status"><span>{said}</span>{button}</div><div class="pf-cards">{cards}</div>'


def _card(row: Outcome, link: Link) -> str:
    title = f"<h3>{_text(row.name)}</h3>"
    if row.data is None:
        reason = _text(row.reason or "")
        return f'<article class="pf-card">{title}<p class="pf-failed">Not protected: {reason}</p></article>'
    captions = ("original", "protected", f"difference &times;{DIFFERENCE_GAIN}")
    pictures = "".join(
        f'<figure><img src="{escape(link(f"{number}.jpg", data, "image/jpeg", False))}" alt="{caption}: {_text(row.name)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for number, (caption, data) in enumerate(zip(captions, row.pictures, strict=True))
    )
    address = escape(link(row.output, row.data, "application/octet-stream", True))
    return (
        f'<article class="pf-card">{title}<div class="pf-three">{pictures}</div>{_readings(row)}'
        f'<p class="pf-foot"><a class="pf-button" href="{address}" download aria-label="Download {_text(row.output)}">Download</a></p></article>'
    )


def _readings(row: Outcome) -> str:
    """Tables of what matchers and gender classifiers see; empty without any."""
    matches = [(name, _number(value)) for name, value in row.matches]
    genders = [(name, _leaning(before), _leaning(after)) for name, before, after in row.genders]
    tables = _table(("matcher", "similarity before ~ after"), matches)
    tables += _table(("gender probe", "before", "after"), genders)
    return f'<div class="pf-readings">{tables}</div>' if tables else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "".join(
        f"<tr><th scope='row'>{_text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""


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
