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
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO

from privface.errors import OutputError
from privface.images import atomic_file
from privface.protect.manifest import STATUSES, ManifestRow

JOURNAL_NAME = ".privface-journal.jsonl"
FORMAT = "privface.journal/2"

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
    """Append-only record of finished files in an output root, which must exist and be locked by the caller.

    Raises:
        OutputError: In every method, if it cannot be written, is not one of privface's or was changed by somebody else.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / JOURNAL_NAME
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def exists(self) -> bool:
        """Whether a job has been started here."""
        return self.path.is_file() and not self.path.is_symlink()

    def start(self, settings: Mapping[str, object]) -> None:
        """Begin an empty journal under ``settings``."""
        self.close()
        header = {"format": FORMAT, "settings": dict(settings)}
        with atomic_file(self.path, mode=0o600) as file:  # it holds templates
            file.write((json.dumps(header, sort_keys=True) + "\n").encode("ascii"))

    def settings(self) -> dict[str, object]:
        """Settings of the job that wrote here."""
        with suppress(ValueError, KeyError, TypeError), self.path.open("rb") as file:
            header = json.loads(file.readline())
            if header["format"] == FORMAT:
                return dict(header["settings"])
        raise OutputError(
            f"{self.path} is not a {FORMAT} journal.",
            hint="Choose another output folder, or overwrite this one.",
        )

    def index(self) -> dict[str, int]:
        """Where the last line on each finished file begins, in bytes. Damaged lines are dropped."""
        found: dict[str, int] = {}
        with self.path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                entry = _entry(line)
                if entry is not None:
                    found[entry.row.input] = place
                place += len(line)
        return found

    def read(self, place: int) -> Entry:
        """The entry whose line begins at ``place``, as :meth:`index` and :meth:`append` tell; from any thread."""
        with self._lock:
            if self._file is None:
                self._file = self.path.open("rb")
            self._file.seek(place)
            line = self._file.readline()
        entry = _entry(line)
        if entry is None:
            raise OutputError(f"{self.path} has been changed by another program.", hint="Run the job again.")
        return entry

    def append(self, entries: Iterable[Entry]) -> list[int]:
        """Add finished files and wait until they are on disk; gives where each entry's line begins, for :meth:`read`."""
        lines = []
        for e in entries:
            own = {"path": e.path, "template": e.template, "further": list(map(asdict, e.further))}
            # ensure_ascii keeps surrogate escapes (names that are not UTF-8) intact through JSON
            lines.append(json.dumps(own | asdict(e.row), sort_keys=True))
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
        if self._file is not None:
            self._file.close()
            self._file = None


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; ``None`` where it is damaged, or its path leads out of the output."""
    try:
        value = json.loads(line)
        found = [
            ManifestRow(**{name: row[name] for name in _NAMES if name in row})
            for row in (value, *value.get("further", ()))
        ]
        path, template = PurePosixPath(value["path"]), value.get("template")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    row, *further = found
    fits = isinstance(row.input, str) and row.status in STATUSES and isinstance(template, str | None)
    if not fits or path.is_absolute() or ".." in path.parts:
        return None
    return Entry(value["path"], row, template, tuple(further))
