"""The output root of a job: kept apart from the input, locked, and never left through a link."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from privface.errors import OutputError
from privface.images import write_atomic
from privface.protect.inputs import InputFile
from privface.protect.manifest import ManifestRow

LOCK_NAME = ".privface-lock"
_TEMPORARY = re.compile(r"^\.[0-9a-f]{16}\.privface-tmp$")


def require_apart(source: Path, output: Path) -> None:
    """Refuse an output root that equals, holds or lies in the input, links resolved.

    Raises:
        OutputError: If the two overlap.
    """
    inner, outer = source.resolve(), output.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise OutputError(
            f"The output {output} overlaps the input {source}.",
            hint="Choose an output folder outside the input: originals are never overwritten.",
        )


@contextmanager
def locked(root: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Create an output root and hold it for one job.

    The kernel frees the lock when a process is killed; a file left behind blocks nobody.

    Args:
        root: The folder.
        patience: Seconds to wait for another job that holds it.

    Raises:
        OutputError: If another job holds it, or the folder cannot be written.
    """
    lock = FileLock(root / LOCK_NAME, timeout=patience, mode=0o600)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.1)
    except Timeout as error:
        raise OutputError(
            f"Another job is writing to {root}.", hint="Wait for it, or choose another output."
        ) from error
    except OSError as error:
        raise OutputError(
            f"Cannot write to {root}: {error.strerror}.",
            hint="Check that it is a folder that you may write to.",
        ) from error
    try:
        yield
    finally:
        (root / LOCK_NAME).unlink(missing_ok=True)  # still under the lock: who waits notices that it is gone
        lock.release()


def is_fresh(root: Path) -> bool:
    """Whether an output root holds nothing but our lock and leftovers of interrupted writes."""
    return all(p.name == LOCK_NAME or _TEMPORARY.match(p.name) for p in root.iterdir())


def remove_leftovers(root: Path) -> None:
    """Delete temporary files of a killed job below ``root``."""
    for folder, _, files in os.walk(root):
        for name in files:
            if _TEMPORARY.match(name):
                (Path(folder) / name).unlink(missing_ok=True)


class Output(ABC):
    """Where a job's protected images go: below a root that exists.

    Raises:
        OutputError: In every method, if something cannot be written or removed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, items: Sequence[InputFile]) -> None:  # noqa: B027  # most need no order
        """Told all items in their fixed order before anything else is asked."""

    def place(self, item: InputFile) -> str:
        """Name in the manifest of what is written for an item."""
        return item.output

    def holds(self, item: InputFile, rows: Iterable[ManifestRow]) -> bool:
        """Whether what an earlier run wrote for an item is still there; ``rows`` are those of the item's faces."""
        faces = ((item.face(number), row) for number, row in enumerate(rows, 1))
        return all(
            row.output == self.place(face) and row.output_sha256 == self.digest(face) for face, row in faces
        )

    @abstractmethod
    def write(self, item: InputFile, data: bytes) -> None:
        """Take an item's protected image; called from several threads."""

    @abstractmethod
    def digest(self, item: InputFile) -> str | None:
        """SHA-256 of what an earlier run wrote for an item; ``None`` where there is nothing. Called from several threads."""

    @abstractmethod
    def settle(self, item: InputFile, *, written: int, before: int) -> None:
        """An item has its final rows.

        Args:
            item: The photo.
            written: How many outputs it has, new or of an earlier run, each named by :meth:`InputFile.face`.
            before: How many an earlier run noted; what is too many of them is removed.
        """

    @abstractmethod
    def clear(self, paths: Iterable[str]) -> None:
        """Remove all that an earlier job wrote; ``paths`` are its outputs' paths."""

    def close(self) -> None:  # noqa: B027  # most have nothing open
        """The job ends, whatever the reason."""


class OutputTree(Output):
    """The input's tree, checked against links that lead out of the root."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._resolved = root.resolve()
        self._safe: set[Path] = set()

    def write(self, item: InputFile, data: bytes) -> None:
        """See :meth:`Output.write`."""
        write_atomic(self.target(item.relative), data)

    def digest(self, item: InputFile) -> str | None:
        """See :meth:`Output.digest`."""
        path = self.target(item.relative)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return None

    def settle(self, item: InputFile, *, written: int, before: int) -> None:
        """See :meth:`Output.settle`."""
        if item.fault is None:  # what a refused name points at is not ours
            for number in range(written + 1, max(before, 1) + 1):  # the first may be there unnoted
                unlink(self.target(item.face(number).relative))

    def clear(self, paths: Iterable[str]) -> None:
        """See :meth:`Output.clear`."""
        for path in paths:
            unlink(self.target(path))

    def target(self, relative: str) -> Path:
        """Where the output of ``relative`` (POSIX, below the root) lies; refused where a link leads out of the root."""
        path = self.root / relative
        if path.parent not in self._safe:
            parent = path.parent.resolve()
            if parent != self._resolved and self._resolved not in parent.parents:
                raise OutputError(
                    f"{path.parent} leads out of the output folder to {parent}.",
                    hint="Remove the symbolic link.",
                )
            self._safe.add(path.parent)
        return path


def unlink(path: Path) -> None:
    """Delete a file if it is there.

    Raises:
        OutputError: If it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot delete the outdated {path}: {error.strerror}.",
            hint="Check that the folder is writable.",
        ) from error
