"""Soft attributes: the columns of a labelled set that can be hidden, audited or kept, such as gender, race or age in bands."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.errors import ConfigError, LabelError
from privface.records import GENDERS, FaceTable

_NAME: Final = re.compile(r"\w[\w-]*")

GENDER: Final = "gender"
"""The attribute that is meant where none is named."""

MAX_CLASSES: Final = 20
"""A column with more classes than this describes photos, not groups of people."""

MAX_ATTRIBUTES: Final = 5
"""Attributes of one model: each choice among them has erasers of its own, and five have 31 choices."""

MIN_ROWS: Final = 8
"""Labelled photos of a class below which nothing can be learnt of it."""


@dataclass(frozen=True)
class Attribute:
    """A column of labels with two classes or more.

    Attributes:
        name: The column.
        bands: For a column of numbers, where its bands begin, ascending: ``(16, 30, 45)`` makes ``16-30``, ``30-45`` and ``45+``;
            a number below the first has no label. Empty for a column of words.
        classes: Names of the classes, in the order of their codes; empty until the labels are known.

    Raises:
        ConfigError: If the name has other signs than letters, digits, ``_`` and ``-``, or the bands do not ascend.
    """

    name: str
    bands: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is no name of an attribute; letters, digits, _ and - are possible.",
                hint="Write a column, such as race or age=16,30,45,60.",
            )
        ascending = all(a < b for a, b in itertools.pairwise(self.bands))
        if self.bands and (len(self.bands) < 2 or not ascending or not all(map(math.isfinite, self.bands))):
            raise ConfigError(
                f"The bands of {self.name!r} are {self._edges}; each must begin above the one before, and two are the least.",
                hint="Write where each band begins, such as age=16,30,45,60.",
            )

    @classmethod
    def parse(cls, text: str) -> Attribute:
        """Read ``race`` or ``age=16,30,45,60``.

        Raises:
            ConfigError: If a band is no number, or as for the class.
        """
        name, equals, edges = text.strip().partition("=")
        name = name.strip()
        try:
            bands = tuple(float(edge) for edge in edges.split(",")) if equals else ()
        except ValueError as error:
            raise ConfigError(
                f"{text!r}: a band begins at a number.", hint="Write it as age=16,30,45,60."
            ) from error
        return BY_GENDER if name == GENDER and not bands else cls(name, bands)

    @property
    def text(self) -> str:
        """What :meth:`parse` reads."""
        return f"{self.name}={self._edges}" if self.bands else self.name

    @property
    def _edges(self) -> str:
        return ",".join(map(_number, self.bands))

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess."""
        return 1 / max(len(self.classes), 1)

    def read(self, words: Sequence[str] | NDArray[np.str_]) -> tuple[Attribute, NDArray[np.int64]]:
        """The attribute with its classes, and the codes of labels as text, ``(N,)``: :meth:`with_classes`, then :meth:`codes`."""
        found = self.with_classes(words)
        return found, found.codes(words)

    def with_classes(self, words: Sequence[str] | NDArray[np.str_]) -> Attribute:
        """The same with the classes that these labels hold; known ones are kept.

        Args:
            words: Labels as text, ``(N,)``; an empty text is none.

        Raises:
            LabelError: If there are fewer than two classes or more than twenty, or a class has fewer than eight photos.
        """
        if self.classes:
            return self
        if self.bands:
            ends = [f"-{_number(edge)}" for edge in self.bands[1:]]
            names = [f"{_number(edge)}{end}" for edge, end in zip(self.bands, [*ends, "+"], strict=True)]
        else:
            names = sorted(set(map(str, words)) - {""})
        found = Attribute(self.name, self.bands, tuple(names))
        if not 2 <= len(names) <= MAX_CLASSES:
            raise LabelError(
                f"The attribute {self.name!r} has {len(names)} classes in the labels; 2 to {MAX_CLASSES} are possible.",
                hint=f"Cut numbers into bands: {self.name}=16,30,45,60."
                if len(names) > 2
                else "Give labels with more classes.",
            )
        codes = found.codes(words)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        if counts.min() < MIN_ROWS:
            raise LabelError(
                f"The class {names[counts.argmin()]!r} of {self.name!r} has {counts.min()} photos; {MIN_ROWS} are the least.",
                hint="Give more photos, or put small classes together.",
            )
        return found

    def codes(self, words: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """Labels as places in :attr:`classes`, shape ``(N,)``; -1 where there is none, or none that is known.

        Raises:
            LabelError: If there are bands and a label is no number.
        """
        if not self.bands:
            place = {name: code for code, name in enumerate(self.classes)}
            return np.array([place.get(str(word), -1) for word in words], np.int64)
        try:
            numbers = np.array([float(word) if str(word) else np.nan for word in words], np.float64)
        except ValueError as error:
            raise LabelError(
                f"The attribute {self.name!r} has bands, and a label is no number: {str(error).rpartition(': ')[2]}.",
                hint=f"Leave the bands out: {self.name}.",
            ) from error
        # NaN sorts behind every number
        return np.where(np.isnan(numbers), -1, np.searchsorted(self.bands, numbers, side="right") - 1).astype(
            np.int64
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a card or a report."""
        return {"name": self.name, "bands": list(self.bands), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Attribute:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            bands, classes = tuple(map(float, content["bands"])), tuple(map(str, content["classes"]))
            return cls(str(content["name"]), bands, classes)
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise ValueError(f"no attribute: {content!r}") from error


def _number(edge: float) -> str:
    return str(int(edge)) if edge.is_integer() else repr(edge)


BY_GENDER: Final = Attribute(GENDER, classes=GENDERS)
"""Gender, whose classes are known before any label is."""


def column(table: FaceTable, name: str) -> NDArray[np.str_]:
    """The labels of one column as text, shape ``(N,)``; an empty text is none.

    Raises:
        LabelError: If no photo has the column; lists those that there are.
    """
    if name == GENDER:
        return np.array([record.gender or "" for record in table])
    words = np.array([record.cohorts.get(name, "") for record in table])
    if not len(words) or (words == "").all():
        there = {title for record in table for title in record.cohorts}
        raise missing_column(name, there, where=f"The labels of {table.name}")
    return words


def labelled(table: FaceTable, attributes: Collection[Attribute]) -> FaceTable:
    """The photos that can be learnt from, or audited: those with a gender label, or all where none has one and none is asked for.

    Args:
        table: Labelled photos.
        attributes: What is asked for; none means gender.
    """
    names = {attribute.name for attribute in attributes}
    return table if names and GENDER not in names and not table.gendered else table.labelled()


def missing_column(name: str, there: Collection[str], *, where: str) -> LabelError:
    """The error for a column that labels do not have; it names those that there are."""
    return LabelError(
        f"{where} have no column {name!r}.",
        hint=f"Columns beside gender: {', '.join(sorted(there)) or 'none'}.",
    )


def parse_attributes(texts: Sequence[str]) -> tuple[Attribute, ...]:
    """Several attributes, each named once.

    Raises:
        ConfigError: If one cannot be read or is named twice, or there are more than five.
    """
    found = tuple(Attribute.parse(text) for text in texts)
    if len(found) > MAX_ATTRIBUTES:
        raise ConfigError(
            f"{len(found)} attributes; {MAX_ATTRIBUTES} are the most.",
            hint="Leave some out.",
        )
    names = [attribute.name for attribute in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"The attribute {name!r} is named twice.", hint="Name each once.")
    return found
