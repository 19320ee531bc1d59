"""Photos in archives and tables, local or at a URL; nothing is ever unpacked to disk."""

from __future__ import annotations

import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from privface.errors import DataError, ImageError, ImageTooLargeError
from privface.protect.inputs import InputFile, Source, is_photo, within
from privface.protect.places import expand, open_binary

_TABLE_KEYS = ("file", "path", "key", "__key__", "name")
_TABLE_IMAGES = ("image", "bytes", "img", "jpg", "png")


class Archive(Source):
    """A source that holds files open. A copy for another process opens them itself."""

    def __init__(self, place: str | Path) -> None:
        self._place = place
        self._files: list[IO[bytes]] = []

    def __reduce__(self) -> tuple[Callable[..., Archive], tuple[type[Archive], str | Path]]:
        return _opened_again, (type(self), self._place)

    def _open(self, place: str | Path) -> IO[bytes]:
        self._files.append(open_binary(place))
        return self._files[-1]

    def close(self) -> None:
        """See :meth:`Source.close`."""
        for file in self._files:
            with suppress(OSError):
                file.close()


def _opened_again(kind: type[Archive], place: str | Path) -> Archive:
    source = kind(place)
    source.items()  # which also tells where each one lies
    return source


class ZipSource(Archive):
    """The photos in a zip archive, read without unpacking it."""

    def __init__(self, place: str | Path) -> None:
        super().__init__(place)
        try:
            self._zip = zipfile.ZipFile(self._open(place))
        except (OSError, zipfile.BadZipFile) as error:
            self.close()
            raise DataError(
                f"{place} is not a readable zip file ({error}).", hint="Copy it again."
            ) from error
        self._members: dict[str, zipfile.ZipInfo] = {}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found = []
        for member in self._zip.infolist():
            if member.is_dir() or not is_photo(member.filename):
                continue
            found.append(_member(member.filename, zip_fault(member), self._members))
            self._members.setdefault(found[-1].key, member)
        return sorted(found, key=lambda item: item.key)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        name = item.key.rsplit("/", 1)[-1]
        try:
            with self._zip.open(self._members[item.key]) as file:
                data = file.read(limit + 1)  # what the header says of the size may be a lie
        except Exception as error:  # zipfile lets through whatever its decompressors raise
            raise ImageError(f"{name}: cannot be read from the zip ({error}).") from error
        return within(data, limit, name)


class TarSource(Archive):
    """The photos in tar shards, such as WebDataset's; with several shards their names lead the keys."""

    def __init__(self, pattern: str | Path) -> None:
        super().__init__(pattern)
        self._shards = _require(pattern, kind=".tar")
        self._members: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found = []
        for number, shard in enumerate(self._shards):
            lead = f"{PurePosixPath(shard).stem}/" if len(self._shards) > 1 else ""
            file = self._open(shard)
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    members = tar.getmembers()
            except (OSError, tarfile.TarError) as error:
                raise DataError(
                    f"{shard} is not a readable tar file ({error}).",
                    hint="Compressed shards cannot be read in place; decompress them first.",
                ) from error
            for member in members:
                if member.isdir() or not is_photo(member.name):
                    continue
                fault = _name_fault(member.name)
                if not member.isreg() or member.issparse():
                    fault = "a link or no regular file"
                found.append(_member(lead + member.name, fault, self._members))
                self._members.setdefault(found[-1].key, (number, member.offset_data, member.size))
        return sorted(found, key=lambda item: item.key)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        number, offset, size = self._members[item.key]
        name = item.key.rsplit("/", 1)[-1]
        if size > limit:
            raise ImageTooLargeError(f"{name}: {size:,} bytes, the limit is {limit:,}.")
        with self._lock:  # one position a file
            file = self._files[number]
            file.seek(offset)
            data = bytes(file.read(size))
        if len(data) != size:
            raise ImageError(f"{name}: the tar file ends within it.")
        return data


class TableSource(Archive):
    """Parquet tables with a column of image bytes, as Hugging Face and others write them.

    The image column is ``image`` (bytes, or a struct with ``bytes``), else the first of a few usual names; the key
    column is ``file`` or another usual name, else the row number. A key without an image suffix gets ``.png``. With
    several tables their names lead the keys.
    """

    def __init__(self, pattern: str | Path) -> None:
        super().__init__(pattern)
        self._tables: list[tuple[str, Any, str, str | None]] = []
        places = _require(pattern, kind=".parquet")
        for place in places:
            lead = f"{PurePosixPath(place).stem}/" if len(places) > 1 else ""
            self._tables.append((lead, *self._table(place)))
        self._places: dict[str, tuple[int, int, int]] = {}
        self._groups: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def _table(self, place: str) -> tuple[Any, str, str | None]:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            table = pq.ParquetFile(self._open(place))
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise DataError(
                f"{place} is not a readable Parquet file ({error}).", hint="Write it again."
            ) from error
        names = table.schema_arrow.names
        image = next((n for n in _TABLE_IMAGES if n in names), None)
        if image is None:
            self.close()
            raise DataError(
                f"{place} has no image column; it has {', '.join(names)}.",
                hint="Name the column of bytes 'image'.",
            )
        return table, image, next((n for n in _TABLE_KEYS if n in names), None)

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found = []
        for number, (lead, table, _, key) in enumerate(self._tables):
            row = 0
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                keys = (
                    table.read_row_group(group, columns=[key]).column(0).to_pylist()
                    if key
                    else [f"row-{row + k:09d}" for k in range(count)]
                )
                for place, value in enumerate(keys):
                    name = "" if value is None else str(value)
                    if not is_photo(name):
                        name += ".png"
                    found.append(_member(lead + name, _name_fault(name), self._places))
                    self._places.setdefault(found[-1].key, (number, group, place))
                row += count
        return found  # in the order of the table: its row groups are read one after the other

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        number, group, place = self._places[item.key]
        with self._lock:
            if (number, group) not in self._groups:
                if len(self._groups) > 1:  # the one before is still asked for by other threads
                    del self._groups[min(self._groups)]
                _, table, image, _ = self._tables[number]
                self._groups[number, group] = table.read_row_group(group, columns=[image]).column(0)
            value = self._groups[number, group][place].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise ImageError(f"{item.key}: the row holds no image bytes.")
        return within(data, limit, item.key)


def _require(pattern: str | Path, *, kind: str) -> list[str]:
    found = expand(pattern)
    if not found:
        raise DataError(
            f"{pattern} does not exist.", hint=f"Name a {kind} file, or several with * in quotes."
        )
    return found


def zip_fault(member: zipfile.ZipInfo) -> str | None:
    """Why a member of a zip archive must not be unpacked; ``None`` where it may."""
    if stat.S_ISLNK(member.external_attr >> 16):
        return "symbolic link; links are not followed"
    if member.flag_bits & 0x1:
        return "encrypted; unpack it yourself"
    return _name_fault(member.filename.rstrip("/"))


def _name_fault(name: str) -> str | None:
    """Why a name from an archive or a table must not become a path."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in parts[0]:
        return "its name is an absolute path or has a backslash or a colon"
    if any(part in {"", ".", ".."} for part in parts):
        return "its name leads out of the folder or has an empty part"
    return None


def _member(name: str, fault: str | None, taken: dict[str, Any]) -> InputFile:
    """An entry of an archive or a table; what must not be a path is named safely and refused."""
    key = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if fault is None and key in taken:
        fault = "another entry has the same name; rename one"
    relative = (
        name if fault is None else "refused/" + PurePosixPath(name.replace("\\", "/")).name.replace("\0", "")
    )
    return InputFile(key, relative, key, fault)
