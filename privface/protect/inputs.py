"""Finds the input files of a job and reads them without leaving the input root."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from privface.errors import ImageError, ImageTooLargeError
from privface.images import file_key, list_images

BYTES_PER_PIXEL = 8
"""No still image needs more (16-bit RGBA, uncompressed), so the pixel limit also bounds the file size."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        key: See ``privface.images.file_key``.
        path: Where it lies.
        relative: POSIX path below the input root, exact (with surrogate escapes); the output's path too.
        fault: Why it must not be read; ``None`` where it may.
    """

    key: str
    path: Path
    relative: str
    fault: str | None = None


def list_inputs(source: Path) -> list[InputFile]:
    """Image files below ``source`` and the folder links that were not followed, sorted by path.

    Raises:
        DataError: If ``source`` is no folder.
    """
    files: list[InputFile] = []
    seen: set[str] = set()
    for path in list_images(source):
        key = file_key(path, source)
        # A name with a byte 0xFF and a name that spells "\xff" share a key; the later one is refused.
        fault = "another file has the same key; rename one" if key in seen else None
        seen.add(key)
        files.append(InputFile(key, path, path.relative_to(source).as_posix(), fault))
    files.extend(_linked_folders(source))
    return files


def _linked_folders(source: Path) -> list[InputFile]:
    """Links to folders: not followed, yet not passed over in silence."""
    links = []
    for folder, names, _ in os.walk(source):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for path in (Path(folder) / name for name in names):
            if path.is_symlink():
                fault = "symbolic link to a folder; links are not followed"
                links.append(
                    InputFile(file_key(path, source), path, path.relative_to(source).as_posix(), fault)
                )
    return links


def read_input(item: InputFile, root: Path, *, max_pixels: int) -> bytes:
    """Bytes of an input file that lies, links resolved, below ``root``.

    Args:
        item: The file.
        root: Input root, resolved.
        max_pixels: Decode limit; a file of more than 8 bytes a pixel is not read.

    Raises:
        ImageTooLargeError: If the file is larger than any image within the limit.
        ImageError: If it cannot be read, is no regular file, or is a link that leads out of ``root``.
    """
    name = item.key.rsplit("/", 1)[-1]
    try:
        path = item.path.resolve(strict=True)
        if root not in path.parents:
            raise ImageError(f"{name}: symbolic link that leads out of the input folder.")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{name}: not a regular file.")
        if status.st_size > max_pixels * BYTES_PER_PIXEL:
            raise ImageTooLargeError(f"{name}: {status.st_size:,} bytes, too many for {max_pixels:,} pixels.")
        return path.read_bytes()
    except RuntimeError as error:  # pathlib's word for a loop of links
        raise ImageError(f"{name}: loop of symbolic links.") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror}).") from error
