"""What the page shows, as HTML of ``templates/parts.html.j2``, where everything that comes from users or models is escaped."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

from privface.app.protecting import DIFFERENCE_GAIN
from privface.report.html import environment

Macro = Literal["notice", "hint", "warning", "outcomes", "framed", "progress"]


def part(name: Macro, *values: Any) -> str:
    """What a macro of the template makes: notice, hint, warning, outcomes, framed or progress."""
    return str(getattr(_parts(), name)(*values))


@cache
def _parts() -> Any:
    return (
        environment("privface.app")
        .get_template(
            "parts.html.j2", globals={"leaning": _leaning, "number": _number, "gain": DIFFERENCE_GAIN}
        )
        .module
    )


def _number(value: float) -> str:
    return "not readable" if math.isnan(value) else f"{value:.3f}"


def _leaning(male: float) -> str:
    if math.isnan(male):
        return "not readable"
    word, share = ("male", male) if male >= 0.5 else ("female", 1.0 - male)
    return f"{word} {share:.0%}"
