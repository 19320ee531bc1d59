"""Where inputs lie: a local path or a URL of any fsspec file system (``s3://``, ``gs://``, ``https://``, ...)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from privface.errors import DataError

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::.*)?://")
_LOCAL = re.compile(r"^(?:file|local)://(/.*)$", re.DOTALL)
_BLOCK = 2**20


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL rather than a local path."""
    return _URL.match(str(place)) is not None


def as_local(place: str | Path) -> str | Path:
    """The path that a URL of this machine's own files names (``file://``, ``local://``); any other place as it is."""
    own = _LOCAL.match(str(place))
    return Path(own[1]) if own else place


def suffix_of(place: str | Path) -> str:
    """Lower-case suffix of the last part of a path or URL, query left out."""
    text = str(place).split("?", 1)[0] if is_url(place) else str(place)
    return PurePosixPath(text).suffix.lower()


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        DataError: If the protocol is unknown, its package missing, or the URL chains file systems: those that
            cache would lay originals into a temporary folder.
    """
    import fsspec  # noqa: PLC0415

    if "::" in url:
        raise DataError(
            f"{url} chains file systems with '::'.",
            hint="Give one file system; originals must not be cached on this disk.",
        )
    with reaching(url):
        try:
            system, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise DataError(
                f"{url} cannot be opened ({error}).",
                hint="Install the file system's package, such as s3fs or gcsfs.",
            ) from error
    return system, path


@contextmanager
def reaching(place: str | Path) -> Iterator[None]:
    """Whatever goes wrong within is told as a :class:`~privface.errors.DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each file system raises what it likes: credentials, network
        raise DataError(
            f"{place} cannot be read ({type(error).__name__}: {error}).",
            hint="Check the address, the credentials and the network.",
        ) from error


def is_folder(place: str | Path) -> bool:
    """Whether a place is a folder.

    Raises:
        DataError: If its file system cannot be reached.
    """
    if not is_url(place):
        return Path(place).is_dir()
    with reaching(place):
        system, path = file_system(str(place))
        return bool(system.isdir(path))


def expand(pattern: str | Path) -> list[str]:
    """The places that a pattern with ``*`` names, sorted; a plain name gives itself if it is there.

    Raises:
        DataError: If its file system cannot be reached.
    """
    text = str(pattern)
    if not is_url(text):
        return [text] if Path(text).exists() else sorted(glob.glob(text))  # noqa: PTH207  # a pattern with folders
    with reaching(pattern):
        system, path = file_system(text)
        found = system.glob(path) if "*" in path else [path] if system.exists(path) else []
        return sorted(str(system.unstrip_protocol(name)) for name in found)


def open_binary(place: str | Path) -> IO[bytes]:
    """A seekable binary file.

    Raises:
        DataError: If it cannot be opened.
    """
    with reaching(place):
        if not is_url(place):
            return Path(place).open("rb")
        system, path = file_system(str(place))
        opened: IO[bytes] = system.open(path, "rb", block_size=_BLOCK)
        return opened
