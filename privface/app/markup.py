"""What the page shows, as HTML of ``templates/parts.html.j2``, where everything that comes from users or models is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from privface.app.protecting import DIFFERENCE_GAIN, Outcome
from privface.errors import PrivfaceError
from privface.report.html import environment

Link = Callable[[str, bytes, str, bool], str]
"""Puts (name, bytes, media type, whether it is to be saved) on the shelf and gives the address."""


def notice(message: str, *, hint: str | None = None) -> str:
    """A message that screen readers announce at once."""
    return _part("notice", message, hint)


def trouble(error: PrivfaceError) -> str:
    """An error in words, with its cure."""
    return notice(error.message, hint=error.hint)


def hint(text: str) -> str:
    """A quiet line, such as what to do first."""
    return _part("hint", text)


def warning(text: str) -> str:
    """A line that must not be overlooked."""
    return _part("warning", text)


def outcomes(rows: Sequence[Outcome], *, archive: str | None, link: Link) -> str:
    """Faces beside one another, with their readings and downloads; ``archive`` is the address of the zip of all."""
    return _part("outcomes", rows, archive, link, DIFFERENCE_GAIN)


def framed(headline: str, address: str, downloads: Mapping[str, str]) -> str:
    """A finished page in a frame that runs no script, with the addresses of what can be saved, by file name."""
    return _part("framed", headline, address, downloads)


def progress(stage: str, done: int, total: int, *, seconds: float) -> str:
    """How far a piece of work is."""
    return _part("progress", stage, done, max(total, 1), int(seconds))


def _part(name: str, *values: Any) -> str:
    return str(getattr(_parts(), name)(*values))


@cache
def _parts() -> Any:
    return (
        environment("privface.app")
        .get_template("parts.html.j2", globals={"leaning": _leaning, "number": _number})
        .module
    )


def _number(value: float) -> str:
    return "not readable" if math.isnan(value) else f"{value:.3f}"


def _leaning(male: float) -> str:
    if math.isnan(male):
        return "not readable"
    word, share = ("male", male) if male >= 0.5 else ("female", 1.0 - male)
    return f"{word} {share:.0%}"
