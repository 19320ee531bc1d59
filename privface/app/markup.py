"""What the page shows, as HTML of ``templates/parts.html.j2``, where everything that comes from users or models is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from privface.app.protecting import DIFFERENCE_GAIN, Outcome
from privface.errors import PrivfaceError
from privface.report.html import environment

Macro = Literal["notice", "hint", "warning", "outcomes", "framed", "progress"]

Link = Callable[[str, bytes, str, bool], str]
"""Puts (name, bytes, media type, whether it is to be saved) on the shelf and gives the address."""


def part(name: Macro, *values: Any) -> str:
    """What a macro of the template makes: notice, hint, warning, outcomes, framed or progress."""
    return str(getattr(_parts(), name)(*values))


def trouble(error: PrivfaceError) -> str:
    """An error in words, with its cure; screen readers announce it at once."""
    return part("notice", error.message, error.hint)


def outcomes(rows: Sequence[Outcome], *, archive: str | None, link: Link) -> str:
    """Faces beside one another, with their readings and downloads; ``archive`` is the address of the zip of all."""
    return part("outcomes", rows, archive, link, DIFFERENCE_GAIN)


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
