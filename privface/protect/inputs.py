"""Where a job's photos come from: a folder, a list of files, a zip, tar shards or a table; nothing is ever unpacked to disk."""

from __future__ import annotations

import glob
import os
import stat
import tarfile
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from privface.errors import ConfigError, DataError, ImageError, ImageTooLargeError
from privface.images import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, file_key, list_images

BYTES_PER_PIXEL = 8
"""No still image needs more (16-bit RGBA, uncompressed), so the pixel limit also bounds the file size."""

_TABLE_KEYS = ("file", "path", "key", "__key__", "name")
_TABLE_IMAGES = ("image", "bytes", "img", "jpg", "png")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        key: Its name in the manifest; see ``privface.images.file_key``.
        relative: POSIX path of its output below the output root, exact (with surrogate escapes).
        output: The output's name in the manifest.
        fault: Why it must not be read; ``None`` where it may.
    """

    key: str
    relative: str
    output: str
    fault: str | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the output, lower case."""
        return PurePosixPath(self.relative).suffix.lower()


class Source(ABC):
    """Photos by name. :meth:`read` may be called from several threads."""

    @abstractmethod
    def items(self) -> list[InputFile]:
        """All photos in a fixed order, and what must not be read with the reason.

        Raises:
            DataError: If the source cannot be read.
        """

    @abstractmethod
    def read(self, item: InputFile, *, limit: int) -> bytes:
        """Bytes of a photo of :meth:`items`.

        Args:
            item: The photo.
            limit: Bytes above which it is not read.

        Raises:
            ImageTooLargeError: If it has more bytes.
            ImageError: If it cannot be read or must not be.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Give files back."""


def open_photos(source: Path) -> Source:
    """The photos of a folder, a list (``.txt``), a ``.zip``, ``.tar`` shards (``*`` allowed) or a ``.parquet`` table.

    Raises:
        DataError: If there is nothing of that kind.
    """
    suffix = source.suffix.lower()
    if source.is_dir():
        return FolderSource(source)
    if suffix == ".tar":
        return TarSource(source)
    kinds: dict[str, Callable[[Path], Source]] = {
        ".txt": ListSource,
        ".zip": ZipSource,
        ".parquet": TableSource,
    }
    if suffix not in kinds or not source.is_file():
        known = "a folder, or a .txt list, .zip, .tar or .parquet file"
        what = "does not exist" if not source.exists() else f"is not {known}"
        raise DataError(f"{source} {what}.", hint=f"Give {known}.")
    return kinds[suffix](source)


def with_format(items: Iterable[InputFile], name: str | None) -> list[InputFile]:
    """The same photos with outputs of another format, ``"jpg"``, ``"png"`` or ``"webp"``; ``None`` keeps each one's own.

    Raises:
        ConfigError: If the format is not written.
    """
    if name is None:
        return list(items)
    suffix = f".{name.lower().lstrip('.')}"
    if suffix not in WRITTEN_SUFFIXES:
        raise ConfigError(
            f"The format {name!r} is not written.", hint=f"Choose one of {', '.join(WRITTEN_SUFFIXES)}."
        )
    found, taken = [], set[str]()
    for item in items:
        relative = str(PurePosixPath(item.relative).with_suffix(suffix))
        fault = item.fault
        if fault is None and relative in taken:
            fault = f"another photo would be written to the same {suffix} file; rename one"
        elif fault is None:
            taken.add(relative)
        output = str(PurePosixPath(item.output).with_suffix(suffix))
        found.append(replace(item, relative=relative, output=output, fault=fault))
    return found


class FolderSource(Source):
    """A folder tree; links that lead out of it and links to folders are not followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._resolved = root.resolve()
        self._paths: dict[str, Path] = {}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        files: list[InputFile] = []
        seen: set[str] = set()
        for path in list_images(self._root):
            key, relative = file_key(path, self._root), path.relative_to(self._root).as_posix()
            # A name with a byte 0xFF and a name that spells "\xff" share a key; the later one is refused.
            fault = "another file has the same key; rename one" if key in seen else None
            seen.add(key)
            files.append(InputFile(key, relative, key, fault))
            self._paths.setdefault(key, path)
        return [*files, *self._linked_folders()]

    def _linked_folders(self) -> list[InputFile]:
        """Links to folders: not followed, yet not passed over in silence."""
        links = []
        for folder, names, _ in os.walk(self._root):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for path in (Path(folder) / name for name in names):
                if path.is_symlink():
                    fault = "symbolic link to a folder; links are not followed"
                    key = file_key(path, self._root)
                    links.append(InputFile(key, path.relative_to(self._root).as_posix(), key, fault))
        return links

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        return read_file(self._paths[item.key], limit=limit, inside=self._resolved)


class ListSource(Source):
    """A text file of paths, one a line, relative to its own folder or absolute; ``#`` begins a comment.

    Outputs get the paths below the deepest folder that all files share.
    """

    def __init__(self, path: Path) -> None:
        self._list = path
        self._paths: dict[str, Path] = {}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        try:
            lines = self._list.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self._list} cannot be read ({error}).", hint="Save it as UTF-8 text."
            ) from error
        named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        paths = [Path(os.path.normpath(self._list.parent / name)).absolute() for name in named]
        if not paths:
            return []
        shared = Path(os.path.commonpath([p.parent for p in paths]))
        found = []
        for path in paths:
            key = file_key(path, shared)
            fault = "listed more than once" if key in self._paths else None
            self._paths.setdefault(key, path)
            found.append(InputFile(key, path.relative_to(shared).as_posix(), key, fault))
        return sorted(found, key=lambda item: item.key)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        return read_file(self._paths[item.key], limit=limit)


class ZipSource(Source):
    """The photos in a zip archive, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a readable zip file ({error}).", hint="Copy it again.") from error
        self._members: dict[str, zipfile.ZipInfo] = {}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found = []
        for member in self._zip.infolist():
            if member.is_dir() or not _is_photo(member.filename):
                continue
            fault = _name_fault(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                fault = "symbolic link; links are not followed"
            elif member.flag_bits & 0x1:
                fault = "encrypted; unpack it yourself"
            found.append(_member(member.filename, fault, self._members))
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
        return _within(data, limit, name)

    def close(self) -> None:
        """See :meth:`Source.close`."""
        self._zip.close()


class TarSource(Source):
    """The photos in tar shards, such as WebDataset's; with several shards their names lead the keys."""

    def __init__(self, pattern: Path) -> None:
        self._shards = [Path(p) for p in sorted(glob.glob(str(pattern)))]  # noqa: PTH207  # a pattern with folders
        if not self._shards:
            raise DataError(
                f"{pattern} does not exist.", hint="Name a .tar file, or shards with * in quotes."
            )
        self._files: list[Any] = []
        self._members: dict[str, tuple[int, tarfile.TarInfo]] = {}
        self._lock = threading.Lock()

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found = []
        for number, shard in enumerate(self._shards):
            lead = f"{shard.stem}/" if len(self._shards) > 1 else ""
            try:
                with tarfile.open(shard, "r:") as tar:
                    members = tar.getmembers()
                self._files.append(shard.open("rb"))
            except (OSError, tarfile.TarError) as error:
                raise DataError(
                    f"{shard} is not a readable tar file ({error}).",
                    hint="Compressed shards cannot be read in place; decompress them first.",
                ) from error
            for member in members:
                if member.isdir() or not _is_photo(member.name):
                    continue
                fault = _name_fault(member.name)
                if not member.isreg() or member.issparse():
                    fault = "a link or no regular file"
                found.append(_member(lead + member.name, fault, self._members))
                self._members.setdefault(found[-1].key, (number, member))
        return sorted(found, key=lambda item: item.key)

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        number, member = self._members[item.key]
        name = item.key.rsplit("/", 1)[-1]
        if member.size > limit:
            raise ImageTooLargeError(f"{name}: {member.size:,} bytes, the limit is {limit:,}.")
        with self._lock:  # one position a file
            file = self._files[number]
            file.seek(member.offset_data)
            data = bytes(file.read(member.size))
        if len(data) != member.size:
            raise ImageError(f"{name}: the tar file ends within it.")
        return data

    def close(self) -> None:
        """See :meth:`Source.close`."""
        for file in self._files:
            with suppress(OSError):
                file.close()


class TableSource(Source):
    """A Parquet table with a column of image bytes, as Hugging Face and others write them.

    The image column is ``image`` (bytes, or a struct with ``bytes``), else the first of a few usual names; the key
    column is ``file`` or another usual name, else the row number. A key without an image suffix gets ``.png``.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} is not a readable Parquet file ({error}).", hint="Write it again."
            ) from error
        names = self._file.schema_arrow.names
        image = next((n for n in _TABLE_IMAGES if n in names), None)
        if image is None:
            raise DataError(
                f"{path} has no image column; it has {', '.join(names)}.",
                hint="Name the column of bytes 'image'.",
            )
        self._image: str = image
        self._key = next((n for n in _TABLE_KEYS if n in names), None)
        self._places: dict[str, tuple[int, int]] = {}
        self._groups: dict[int, Any] = {}
        self._lock = threading.Lock()

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        found, row = [], 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            keys = (
                self._file.read_row_group(group, columns=[self._key]).column(0).to_pylist()
                if self._key
                else [f"row-{row + k:09d}" for k in range(count)]
            )
            for place, value in enumerate(keys):
                name = "" if value is None else str(value)
                if not _is_photo(name):
                    name += ".png"
                found.append(_member(name, _name_fault(name), self._places))
                self._places.setdefault(found[-1].key, (group, place))
            row += count
        return found  # in the order of the table: its row groups are read one after the other

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        group, place = self._places[item.key]
        with self._lock:
            if group not in self._groups:
                if len(self._groups) > 1:  # the one before is still asked for by other threads
                    del self._groups[min(self._groups)]
                self._groups[group] = self._file.read_row_group(group, columns=[self._image]).column(0)
            value = self._groups[group][place].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise ImageError(f"{item.key}: the row holds no image bytes.")
        return _within(data, limit, item.key)

    def close(self) -> None:
        """See :meth:`Source.close`."""
        self._file.close()


def read_file(path: Path, *, limit: int, inside: Path | None = None) -> bytes:
    """Bytes of a regular file that lies, links resolved, below ``inside``.

    Raises:
        ImageTooLargeError: If it has more than ``limit`` bytes.
        ImageError: If it cannot be read, is no regular file, or is a link that leads out of ``inside``.
    """
    name = path.name.encode("utf-8", "backslashreplace").decode()
    try:
        path = path.resolve(strict=True)
        if inside is not None and inside not in path.parents:
            raise ImageError(f"{name}: symbolic link that leads out of the input folder.")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{name}: not a regular file.")
        if status.st_size > limit:
            raise ImageTooLargeError(f"{name}: {status.st_size:,} bytes, the limit is {limit:,}.")
        return path.read_bytes()
    except RuntimeError as error:  # pathlib's word for a loop of links
        raise ImageError(f"{name}: loop of symbolic links.") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror}).") from error


def _within(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise ImageTooLargeError(f"{name}: more than {limit:,} bytes.")
    return data


def _is_photo(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.lower().endswith(IMAGE_SUFFIXES) and not last.startswith(".")


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
