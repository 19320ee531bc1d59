"""Opens whatever a user names as input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from privface.errors import DataError
from privface.protect.archives import TableSource, TarSource, ZipSource
from privface.protect.folders import FolderSource, ListSource, UrlFolderSource
from privface.protect.inputs import Source
from privface.protect.places import expand, is_folder, is_url, suffix_of

_ARCHIVES: dict[str, Callable[[str | Path], Source]] = {
    ".zip": ZipSource,
    ".tar": TarSource,
    ".parquet": TableSource,
}


def open_photos(source: str | Path, *, videos: bool = False) -> Source:
    """The photos of a folder, a list (``.txt``), or of ``.zip``, ``.tar`` or ``.parquet`` files (``*`` allowed).

    Args:
        source: A local path, or a URL of any file system that fsspec knows.
        videos: Folders and lists give videos, too.

    Raises:
        DataError: If there is nothing of that kind.
    """
    if is_folder(source):
        if is_url(source):
            return UrlFolderSource(str(source), videos=videos)
        return FolderSource(Path(source), videos=videos)
    suffix = suffix_of(source)
    if suffix in _ARCHIVES:
        return _ARCHIVES[suffix](source)
    if suffix == ".txt" and not is_url(source) and Path(source).is_file():
        return ListSource(Path(source))
    known = "a folder, or a .txt list, .zip, .tar or .parquet file"
    if not expand(source):
        raise DataError(f"{source} does not exist.", hint=f"Give {known}.")
    raise DataError(f"{source} is not {known}.", hint=f"Give {known}; lists lie on this machine.")
