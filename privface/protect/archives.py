"""Photos in archives and tables, local or at a URL; nothing is ever unpacked to disk."""

from __future__ import annotations

import stat
import tarfile
import threading
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

from privface.errors import DataError, ImageError, ImageTooLargeError
from privface.images import printable
from privface.protect.inputs import InputFile, Source, is_photo, within
from privface.protect.places import expand, open_binary

_TABLE_KEYS = ("file", "path", "key", "__key__", "name")
_TABLE_IMAGES = ("image", "bytes", "img", "jpg", "png")


class Archive(Source):
    """One file that holds photos, or several by a pattern with ``*``, whose names then lead the keys.

    A copy for another process opens the files itself.
    """

    cure: ClassVar[str]
    """What to do where a file is damaged."""
    in_order: ClassVar[bool] = False
    """Whether photos come as they lie in the file; else they are sorted by key."""

    def __init__(self, pattern: str | Path) -> None:
        self._pattern = pattern
        self._files: list[IO[bytes]] = []
        self._members: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Archive], tuple[type[Archive], str | Path]]:
        return _opened_again, (type(self), self._pattern)

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        places = expand(self._pattern)
        if not places:
            hint = "Name a file, or several with * in quotes."
            raise DataError(f"{self._pattern} does not exist.", hint=hint)
        found = []
        for place in places:
            lead = f"{PurePosixPath(place).stem}/" if len(places) > 1 else ""
            file = open_binary(place)
            self._files.append(file)
            try:
                found += [self._member(lead + name, *more) for name, *more in self._listed(file, place)]
            except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
                kind = PurePosixPath(place).suffix.lower()
                raise DataError(
                    f"{place} is not a readable {kind} file ({error}).", hint=self.cure
                ) from error
        return found if self.in_order else sorted(found, key=lambda item: item.key)

    def close(self) -> None:
        """See :meth:`Source.close`."""
        for file in self._files:
            with suppress(OSError):
                file.close()

    @abstractmethod
    def _listed(self, file: IO[bytes], place: str) -> Iterator[tuple[str, str | None, Any]]:
        """The photos of one file: name, why it must not be read, and where it lies."""

    def _member(self, name: str, fault: str | None, where: Any) -> InputFile:
        """A photo; what must not be a path is named safely and refused."""
        key = printable(name)
        if fault is None and key in self._members:
            fault = "another entry has the same name; rename one"
        self._members.setdefault(key, where)
        last = PurePosixPath(name.replace("\\", "/")).name.replace("\0", "")
        return InputFile(key, name if fault is None else f"refused/{last}", fault=fault)


def _opened_again(kind: type[Archive], pattern: str | Path) -> Archive:
    source = kind(pattern)
    source.items()  # which also tells where each one lies
    return source


class ZipSource(Archive):
    """The photos in a zip archive, read without unpacking it."""

    cure = "Copy it again."

    def _listed(self, file: IO[bytes], place: str) -> Iterator[tuple[str, str | None, Any]]:
        archive = zipfile.ZipFile(file)
        for member in archive.infolist():
            if not member.is_dir() and is_photo(member.filename):
                yield member.filename, zip_fault(member), (archive, member)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        archive, member = self._members[item.key]
        name = item.key.rsplit("/", 1)[-1]
        try:
            with archive.open(member) as file:
                data: bytes = file.read(limit + 1)  # what the header says of the size may be a lie
        except Exception as error:  # zipfile lets through whatever its decompressors raise
            raise ImageError(f"{name}: cannot be read from the zip ({error}).") from error
        return within(data, limit, name)


class TarSource(Archive):
    """The photos in tar shards, such as WebDataset's."""

    cure = "Compressed shards cannot be read in place; decompress them first."

    def _listed(self, file: IO[bytes], place: str) -> Iterator[tuple[str, str | None, Any]]:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isdir() and is_photo(member.name):
                    plain = member.isreg() and not member.issparse()
                    name = member.name.removeprefix("./")  # as `tar -C photos .` writes them
                    fault = _name_fault(name) if plain else "a link or no regular file"
                    yield name, fault, (file, member.offset_data, member.size)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        file, offset, size = self._members[item.key]
        name = item.key.rsplit("/", 1)[-1]
        if size > limit:
            raise ImageTooLargeError(f"{name}: {size:,} bytes, the limit is {limit:,}.")
        try:
            with self._lock:  # one position a file
                file.seek(offset)
                data = bytes(file.read(size))
        except Exception as error:  # each file system raises what it likes
            raise ImageError(f"{name}: cannot be read from the tar file ({error}).") from error
        if len(data) != size:
            raise ImageError(f"{name}: the tar file ends within it.")
        return data


class TableSource(Archive):
    """Parquet tables with a column of image bytes, as Hugging Face and others write them.

    The image column is ``image`` (bytes, or a struct with ``bytes``), else the first of a few usual names; the key
    column is ``file`` or another usual name, else the row number. A key without an image suffix gets ``.png``. Photos come
    in the order of the table: its row groups are read one after the other.
    """

    cure = "Write it again."
    in_order = True

    def __init__(self, pattern: str | Path) -> None:
        super().__init__(pattern)
        self._groups: dict[tuple[int, int], Any] = {}

    def _listed(self, file: IO[bytes], place: str) -> Iterator[tuple[str, str | None, Any]]:
        import pyarrow.parquet as pq  # noqa: PLC0415

        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        image = next((n for n in _TABLE_IMAGES if n in names), None)
        if image is None:
            raise DataError(
                f"{place} has no image column; it has {', '.join(names)}.",
                hint="Name the column of bytes 'image'.",
            )
        column = next((n for n in _TABLE_KEYS if n in names), None)
        number, row = len(self._files), 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            keys: list[Any] = [f"row-{row + k:09d}" for k in range(count)]
            if column is not None:
                keys = table.read_row_group(group, columns=[column]).column(0).to_pylist()
            for place_in_group, value in enumerate(keys):
                name = "" if value is None else str(value)
                if not is_photo(name):
                    name += ".png"
                yield name, _name_fault(name), (table, image, (number, group), place_in_group)
            row += count

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        table, image, group, place = self._members[item.key]
        try:
            with self._lock:
                if group not in self._groups:
                    if len(self._groups) > 1:  # the one before is still asked for by other threads
                        del self._groups[min(self._groups)]
                    self._groups[group] = table.read_row_group(group[1], columns=[image]).column(0)
                value = self._groups[group][place].as_py()
        except Exception as error:  # a damaged page, or what a file system raises
            raise ImageError(f"{item.key}: cannot be read from the table ({error}).") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise ImageError(f"{item.key}: the row holds no image bytes.")
        return within(data, limit, item.key)


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
