"""Reads figures and names out of an audit document that anyone may have written."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_MEASURABLE = "not measurable"

Row = Mapping[str, Any]
"""An audit document, or a part of one."""


@dataclass(frozen=True)
class Reading:
    """A figure of an audit document, as :class:`~privface.records.Measured`; where it has a value its reason is empty."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = "not part of this audit"

    @classmethod
    def of(cls, figure: object) -> Reading:
        """A reading of ``{"value", "low", "high", "reason"}``, a plain number, nothing, or a reading."""
        if isinstance(figure, Reading):
            return figure
        if isinstance(figure, Mapping):
            value = _number(figure.get("value"))
            reason = plain_text(figure.get("reason") or "no reason given")
            low, high = _number(figure.get("low")), _number(figure.get("high"))
            return cls(value, low, high, "" if math.isfinite(value) else reason)
        value = _number(figure)
        return cls(value, reason="") if math.isfinite(value) else cls()

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def text(self) -> str:
        """Value and interval with three digits; ``n/m`` where there is no value."""
        if not self.known:
            return "n/m"
        return f"{self.value:.3f}" + (f" [{self.low:.3f}, {self.high:.3f}]" if self.has_interval else "")

    @property
    def leakage(self) -> Reading:
        """An AUC turned into leakage, max(AUC, 1 - AUC): a sure mistake tells as much as a sure hit."""
        if not self.known or self.value >= 0.5:
            return self
        return Reading(1 - self.value, 1 - self.high, 1 - self.low, self.reason)


def rows_of(document: Row, key: str) -> list[Row]:
    """The rows under a key; none where there is something else."""
    part = document.get(key)
    rows = part if isinstance(part, Sequence) and not isinstance(part, str) else []
    return [row for row in rows if isinstance(row, Mapping)]


def part_of(document: Row, key: str) -> Row:
    """The mapping under a key; an empty one where there is something else."""
    part = document.get(key)
    return part if isinstance(part, Mapping) else {}


def plain_text(value: Any) -> str:
    """Text without control, bidirectional or surrogate characters, which could garble a page."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        " " if c in "\t\r\n" else c for c in text if c in "\t\r\n" or unicodedata.category(c)[0] != "C"
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan
