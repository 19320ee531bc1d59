"""The journal of an output folder: what is finished, so that an interrupted job goes on where it stopped.

A text file of JSON lines. The first names the settings that all outputs share; each further line is one
finished file. A line is appended only after its image lies on disk, so a killed job loses at most the work
of the batch in flight. A line torn by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from privface.errors import OutputError
from privface.images import write_atomic
from privface.protect.manifest import STATUSES, ManifestRow

JOURNAL_NAME = ".privface-journal.jsonl"
FORMAT = "privface.journal/1"

_NAMES = tuple(field.name for field in fields(ManifestRow))


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished file.

    Attributes:
        path: Its path below the roots, POSIX, with surrogate escapes for bytes that are not UTF-8.
        row: Its manifest row.
        template: Its packed template, where the job makes them (``privface.protect.templates.pack``).
    """

    path: str
    row: ManifestRow
    template: str | None = None


class Journal:
    """Append-only record of finished files in an output root.

    Args:
        root: Output root; must exist and be locked by the caller.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / JOURNAL_NAME

    def exists(self) -> bool:
        """Whether a job has been started here."""
        return self.path.is_file() and not self.path.is_symlink()

    def start(self, settings: Mapping[str, object]) -> None:
        """Begin an empty journal under ``settings``.

        Raises:
            OutputError: If it cannot be written.
        """
        header = {"format": FORMAT, "settings": dict(settings)}
        write_atomic(self.path, (json.dumps(header, sort_keys=True) + "\n").encode("ascii"))

    def settings(self) -> dict[str, object]:
        """Settings of the job that wrote here.

        Raises:
            OutputError: If the journal is not one of privface's.
        """
        with self.path.open("rb") as file:
            header = _parse(file.readline())
        if not header or header.get("format") != FORMAT or not isinstance(header.get("settings"), dict):
            raise OutputError(
                f"{self.path} is not a {FORMAT} journal.",
                hint="Choose another output folder, or overwrite this one.",
            )
        return dict(header["settings"])

    def entries(self) -> dict[str, Entry]:
        """Finished files by key; of several lines on one file the last holds. Damaged lines are dropped."""
        entries: dict[str, Entry] = {}
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                entry = _entry(_parse(line))
                if entry is not None:
                    entries[entry.row.input] = entry
        return entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Add finished files and wait until they are on disk.

        Raises:
            OutputError: If they cannot be written.
        """
        lines = [
            json.dumps({"path": e.path, "template": e.template, **asdict(e.row)}, sort_keys=True)
            for e in entries
        ]
        if not lines:
            return
        # ensure_ascii keeps surrogate escapes (names that are not UTF-8) intact through JSON.
        # The leading newline seals off a line that a crash may have torn; empty lines are skipped.
        data = ("\n" + "\n".join(lines) + "\n").encode("ascii")
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror}.", hint="Check free space."
            ) from error


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _entry(value: dict[str, Any] | None) -> Entry | None:
    if value is None or not {"path", *_NAMES} <= value.keys():
        return None
    path = value["path"]
    if not isinstance(path, str) or not isinstance(value["input"], str) or value["status"] not in STATUSES:
        return None
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        return None
    template = value.get("template")
    if template is not None and not isinstance(template, str):
        return None
    return Entry(path, ManifestRow(**{name: value[name] for name in _NAMES}), template)
