"""Sections of the audit, and how one that brings its own table and words is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from privface.audit.context import Context

Line: TypeAlias = tuple[str, str, list[Any]]
"""Name and note of a row, and one figure of the document for each column."""


@dataclass(frozen=True)
class Part:
    """How the rows under one key of ``audit.json`` are shown.

    Attributes:
        key: Key in the document; a list of rows. Without rows the part is not shown.
        title: Heading, a question.
        lead: What the figures say and what they do not, in plain words.
        caption: Caption of the table.
        first: Heading of the rows' names.
        columns: Heading and small print of each column.
        line: From a row of the document, which anyone may have written, to what the table shows of it.
        percent: Show figures as percentages; else as numbers with three digits.
    """

    key: str
    title: str
    lead: str
    caption: str
    first: str
    columns: tuple[tuple[str, str], ...]
    line: Callable[[Mapping[str, Any]], Line]
    percent: bool


@dataclass(frozen=True)
class Section:
    """A section of the audit: one file, and one line in :data:`privface.audit.auditor.SECTIONS`.

    Attributes:
        run: Gives its keys of ``audit.json``; none where there is nothing to say.
        part: How its rows are shown in the report, where the report knows nothing of them.
    """

    run: Callable[[Context], Mapping[str, Any]]
    part: Part | None = None
