"""Protected images in shards instead of files of their own: WebDataset tar files or Parquet tables."""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from privface.images import atomic_file
from privface.protect.inputs import InputFile
from privface.protect.output import Output, unlink

logger = logging.getLogger(__name__)

SHARD_SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}
"""Layouts in shards: plain tar files with one member an image, or tables with the columns ``file`` and ``image``."""

_STEM = "protected-"
_ROWS_A_GROUP = 128


class ShardedOutput(Output):
    """Shards of a fixed number of inputs each, in input order, so that the same job always cuts them alike.

    A shard is written once all of its inputs are settled; until then it is held in memory. What a killed job had not
    written is found missing by the next one and done again. Where a part of a shard has to be done again, the rest
    is taken from the shard that is there.

    Args:
        root: Output root; must exist.
        layout: One of ``SHARD_SUFFIXES``.
        size: Inputs a shard, 1 or more.
    """

    def __init__(self, root: Path, layout: str, *, size: int) -> None:
        super().__init__(root)
        self._suffix, self._size = SHARD_SUFFIXES[layout], size
        self._order: dict[str, int] = {}
        self._left: list[int] = []
        self._open: dict[int, _Shard] = {}
        self._lock = threading.Lock()

    def begin(self, items: Sequence[InputFile]) -> None:
        """See :meth:`Output.begin`."""
        if self._suffix == ".parquet":
            import pyarrow.parquet  # noqa: F401, PLC0415 - a light install lacks it: said before work begins
        self._order = {item.key: place for place, item in enumerate(items) if item.fault is None}
        self._left = [0] * (len(items) // self._size + 1)
        for place in self._order.values():
            self._left[place // self._size] += 1

    def place(self, item: InputFile) -> str:
        """See :meth:`Output.place`."""
        return f"{self._path(self._number(item)).name}/{item.output}"

    def write(self, item: InputFile, data: bytes) -> None:
        """See :meth:`Output.write`."""
        with self._lock:
            self._shard(self._number(item)).new[item.output] = data

    def digest(self, item: InputFile) -> str | None:
        """See :meth:`Output.digest`."""
        with self._lock:
            data = self._shard(self._number(item)).old.get(item.output)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def settle(self, item: InputFile, *, written: int, before: int) -> None:
        """See :meth:`Output.settle`."""
        if item.fault is not None:
            return
        number = self._number(item)
        names = [item.face(k).output for k in range(1, max(written, before, 1) + 1)]
        with self._lock:
            shard = self._shard(number)
            shard.kept[self._order[item.key]] = names[:written]
            shard.settled.update(names)
            self._left[number] -= 1
            if self._left[number]:
                return
            del self._open[number]
        if shard.new or list(shard.old) != shard.names():
            self._store(number, shard.names(), shard)

    def close(self) -> None:
        """Write what an interrupted job has of its last shards; what those held before and is not yet settled stays."""
        for number, shard in sorted(self._open.items()):
            if shard.new:
                waiting = [name for name in shard.old if name not in shard.settled]
                self._store(number, shard.names() + waiting, shard)
        self._open.clear()

    def clear(self, paths: Iterable[str]) -> None:
        """See :meth:`Output.clear`; shards hold all of the job's outputs."""
        for path in sorted(self.root.glob(f"{_STEM}*{self._suffix}")):
            unlink(path)

    def _read(self, path: Path) -> dict[str, bytes]:
        """Images of a shard by name, in order; empty if it is missing or damaged."""
        if not path.is_file() or path.is_symlink():
            return {}
        try:
            return _read_tar(path) if self._suffix == ".tar" else _read_table(path)
        except (OSError, ValueError, tarfile.TarError) as error:
            logger.warning("%s is damaged and is written again (%s).", path, error)
            return {}

    def _number(self, item: InputFile) -> int:
        return self._order[item.key] // self._size

    def _path(self, number: int) -> Path:
        return self.root / f"{_STEM}{number:05d}{self._suffix}"

    def _shard(self, number: int) -> _Shard:
        if number not in self._open:
            self._open[number] = _Shard(self._read(self._path(number)))
        return self._open[number]

    def _store(self, number: int, names: Sequence[str], shard: _Shard) -> None:
        path = self._path(number)
        if not names:
            unlink(path)
            return
        held = shard.old | shard.new
        images = {name: held[name] for name in names}
        write = _write_tar if self._suffix == ".tar" else _write_table
        with atomic_file(path) as file:
            write(file, images)


@dataclass
class _Shard:
    """A shard that is being filled."""

    old: dict[str, bytes]
    new: dict[str, bytes] = field(default_factory=dict)
    kept: dict[int, Sequence[str]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def names(self) -> list[str]:
        """The outputs of what is settled, in input order."""
        return [name for place in sorted(self.kept) for name in self.kept[place]]


def _read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        members = ((member.name, tar.extractfile(member)) for member in tar)
        return {name: file.read() for name, file in members if file is not None}


def _write_tar(file: IO[bytes], images: Mapping[str, bytes]) -> None:
    """Without times, owners and rights of this machine."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def _read_table(path: Path) -> dict[str, bytes]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as shard:  # starts no thread: see `read_manifest`
        table = shard.read(["file", "image"], use_threads=False)
    return dict(zip(table["file"].to_pylist(), table["image"].to_pylist(), strict=True))


def _write_table(file: IO[bytes], images: Mapping[str, bytes]) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table({"file": list(images), "image": pa.array(list(images.values()), pa.binary())})
    pq.write_table(table, file, row_group_size=_ROWS_A_GROUP, compression="none")
