"""Photos that are files of their own: folders, local or at a URL, and lists."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from privface.errors import DataError, ImageError, ImageTooLargeError
from privface.images import IMAGE_SUFFIXES, file_key, list_images
from privface.protect.inputs import VIDEO_SUFFIXES, InputFile, Source, is_photo, within
from privface.protect.places import file_system, reaching


class FolderSource(Source):
    """A folder tree; links that lead out of it and links to folders are not followed."""

    def __init__(self, root: Path, *, videos: bool = False) -> None:
        self._root = root
        self._resolved = root.resolve()
        self._suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
        self._odd: dict[str, str] = {}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        files: list[InputFile] = []
        seen: set[str] = set()
        for path in list_images(self._root, suffixes=self._suffixes):
            key, relative = file_key(path, self._root), path.relative_to(self._root).as_posix()
            if key == relative:
                relative = key  # one string in memory
            # A name with a byte 0xFF and a name that spells "\xff" share a key; the later one is refused.
            fault = "another file has the same key; rename one" if key in seen else None
            seen.add(key)
            files.append(InputFile(key, relative, fault=fault))
            if relative is not key and fault is None:
                self._odd[key] = relative
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
                    links.append(InputFile(key, path.relative_to(self._root).as_posix(), fault=fault))
        return links

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        path = self._root / self._odd.get(item.key, item.key)
        return read_file(path, limit=limit, inside=self._resolved)


class UrlFolderSource(Source):
    """A folder of a remote file system, such as a bucket's prefix."""

    def __init__(self, url: str, *, videos: bool = False) -> None:
        self._url = url
        self._system, self._root = file_system(url)
        self._root = self._root.rstrip("/")
        self._suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        with reaching(self._url):
            names = self._system.find(self._root)
        found = []
        for name in sorted(names):
            key = name[len(self._root) :].removeprefix("/")
            parts = key.split("/")
            if not is_photo(key, suffixes=self._suffixes) or any(
                p.startswith(".") and p != ".." for p in parts
            ):
                continue
            fault = None
            if not all(parts) or ".." in parts or "\0" in key:  # object stores allow any name
                fault = "its name leads out of the folder or has an empty part"
            relative = key if fault is None else f"refused/{parts[-1]}"
            found.append(InputFile(key, relative, fault=fault))
        return found

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        name = item.key.rsplit("/", 1)[-1]
        try:
            data = bytes(self._system.cat_file(f"{self._root}/{item.key}", start=0, end=limit + 1))
        except Exception as error:  # each file system raises what it likes
            raise ImageError(f"{name}: cannot be read ({type(error).__name__}: {error}).") from error
        return within(data, limit, name)


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
            found.append(InputFile(key, path.relative_to(shared).as_posix(), fault=fault))
        return sorted(found, key=lambda item: item.key)

    def originals(self) -> Iterable[Path]:
        """See :meth:`Source.originals`."""
        return (Path(os.path.realpath(path)) for path in self._paths.values())

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        return read_file(self._paths[item.key], limit=limit)


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
