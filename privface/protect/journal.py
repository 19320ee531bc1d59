"""The journal of an output folder: what is finished, so that an interrupted job goes on where it stopped.

A text file of JSON lines. The first names the settings that all outputs share; each further line is one
finished file. A line is appended only after its image lies on disk, so a killed job loses at most the work
of the batch in flight. A line torn by a crash is dropped.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from privface.errors import OutputError
from privface.images import write_atomic
from privface.protect.manifest import STATUSES, ManifestRow

JOURNAL_NAME = ".privface-journal.jsonl"
FORMAT = "privface.journal/2"
_PART = 8192

_NAMES = tuple(field.name for field in fields(ManifestRow))


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished file.

    Attributes:
        path: Its path below the roots, POSIX, with surrogate escapes for bytes that are not UTF-8.
        row: Its manifest row, that of the central face.
        template: Its packed template, where the job makes them (``privface.protect.templates.pack``).
        further: The rows of its further faces.
    """

    path: str
    row: ManifestRow
    template: str | None = None
    further: tuple[ManifestRow, ...] = ()

    @property
    def rows(self) -> tuple[ManifestRow, ...]:
        """All of its rows."""
        return (self.row, *self.further)


class Journal:
    """Append-only record of finished files in an output root.

    Args:
        root: Output root; must exist and be locked by the caller.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / JOURNAL_NAME
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def exists(self) -> bool:
        """Whether a job has been started here."""
        return self.path.is_file() and not self.path.is_symlink()

    def start(self, settings: Mapping[str, object]) -> None:
        """Begin an empty journal under ``settings``.

        Raises:
            OutputError: If it cannot be written.
        """
        self.close()
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

    def index(self) -> dict[str, int]:
        """Where the last line on each finished file begins, in bytes. Damaged lines are dropped."""
        found: dict[str, int] = {}
        with self.path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                entry = from_record(_parse(line))
                if entry is not None:
                    found[entry.row.input] = place
                place += len(line)
        return found

    def read(self, place: int) -> Entry:
        """The entry whose line begins at ``place``, as :meth:`index` and :meth:`append` tell; from any thread.

        Raises:
            OutputError: If somebody else has changed the journal.
        """
        if self._descriptor is None:
            with self._opening:
                self._descriptor = self._descriptor or os.open(self.path, os.O_RDONLY)
        line = b""
        while b"\n" not in line:
            part = os.pread(self._descriptor, _PART, place + len(line))
            if not part:
                break
            line += part
        entry = from_record(_parse(line.split(b"\n", 1)[0]))
        if entry is None:
            raise OutputError(f"{self.path} has been changed by another program.", hint="Run the job again.")
        return entry

    def append(self, entries: Iterable[Entry]) -> list[int]:
        """Add finished files and wait until they are on disk.

        Returns:
            Where each entry's line begins, for :meth:`read`.

        Raises:
            OutputError: If they cannot be written.
        """
        # ensure_ascii keeps surrogate escapes (names that are not UTF-8) intact through JSON.
        lines = [json.dumps(as_record(e), sort_keys=True) for e in entries]
        if not lines:
            return []
        # The leading newline seals off a line that a crash may have torn; empty lines are skipped.
        data = ("\n" + "\n".join(lines) + "\n").encode("ascii")
        try:
            with self.path.open("ab") as file:
                begin = file.tell() + 1
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror}.", hint="Check free space."
            ) from error
        return [begin, *(begin + end for end in accumulate(len(line) + 1 for line in lines[:-1]))]

    def close(self) -> None:
        """Give the file back; it may be read again afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def as_record(entry: Entry) -> dict[str, Any]:
    """An entry as :func:`from_record` takes it, fit for JSON."""
    further = [asdict(row) for row in entry.further]
    return {"path": entry.path, "template": entry.template, "further": further, **asdict(entry.row)}


def from_record(value: dict[str, Any] | None) -> Entry | None:
    """The entry of a line of JSON; ``None`` where it is none."""
    if value is None or not {"path", "input", "status", "model"} <= value.keys():
        return None
    path = value["path"]
    if not isinstance(path, str) or not isinstance(value["input"], str) or value["status"] not in STATUSES:
        return None
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        return None
    template = value.get("template")
    if template is not None and not isinstance(template, str):
        return None
    try:
        rows = [_row(found) for found in (value, *value.get("further", ()))]
    except TypeError:
        return None
    return Entry(path, rows[0], template, tuple(rows[1:]))


def _row(value: dict[str, Any]) -> ManifestRow:
    return ManifestRow(**{name: value[name] for name in _NAMES if name in value})
