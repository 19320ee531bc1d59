"""What a source of photos is; ``sources`` opens one."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from privface.errors import ConfigError, ImageTooLargeError
from privface.images import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, printable

BYTES_PER_PIXEL = 8
"""No still image needs more (16-bit RGBA, uncompressed), so the pixel limit also bounds the file size."""

VIDEO_SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        key: Its name in the manifest; see ``privface.images.file_key``.
        relative: POSIX path of its output below the output root, exact (with surrogate escapes).
        fault: Why it must not be read; ``None`` where it may.
    """

    key: str
    relative: str
    fault: str | None = field(default=None, kw_only=True)

    @property
    def output(self) -> str:
        """The output's name in the manifest."""
        return printable(self.relative)

    @property
    def suffix(self) -> str:
        """Suffix of the output, lower case."""
        return PurePosixPath(self.relative).suffix.lower()

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its name."""
        return self.suffix in VIDEO_SUFFIXES

    def face(self, number: int) -> InputFile:
        """The same photo, its output named for one of its faces: the first has the photo's name, ``a.face2.jpg`` is the second."""
        if number == 1:
            return self
        stem, dot, suffix = self.relative.rpartition(".")
        return replace(self, relative=f"{stem}.face{number}{dot}{suffix}")


_LONGEST_NAME = 255
"""Bytes of a name in usual file systems."""
_FACE_NAME = re.compile(r"(.+)\.face(?:[2-9]|[1-9]\d+)(\.[^./]+)", re.DOTALL)


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

    def originals(self) -> Iterable[Path]:
        """Local files that are read one by one, links resolved, where a name of :meth:`items` does not say where they lie."""
        return ()

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Give files back."""


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
        if item.is_video:
            found.append(item)
            continue
        relative = str(PurePosixPath(item.relative).with_suffix(suffix))
        fault = item.fault
        if fault is None and relative in taken:
            fault = f"another photo would be written to the same {suffix} file; rename one"
        elif fault is None:
            taken.add(relative)
        found.append(replace(item, relative=relative, fault=fault))
    return found


def with_possible_names(items: Iterable[InputFile]) -> list[InputFile]:
    """The same photos, but those refused whose output no folder can hold."""
    found = list(items)
    named = {item.relative for item in found if item.fault is None}
    for place, item in enumerate(found):
        parts = item.relative.split("/")
        folders = ("/".join(parts[:end]) for end in range(1, len(parts)))
        if item.fault is None and max(len(os.fsencode(part)) for part in parts) > _LONGEST_NAME:
            found[place] = replace(item, fault=f"its name has more than {_LONGEST_NAME} bytes; shorten it")
        elif item.fault is None and any(folder in named for folder in folders):
            found[place] = replace(
                item, fault="it lies in a folder that has the name of another photo; rename one"
            )
    return found


def with_room_for_faces(items: Iterable[InputFile]) -> list[InputFile]:
    """The same photos, but those refused that have the name that a further face of another photo would get.

    Refused by name alone: whether that photo shows a second face, and when it is looked at, must not matter.
    """
    found = list(items)
    named = {item.relative for item in found if item.fault is None}
    for place, item in enumerate(found):
        match = _FACE_NAME.fullmatch(item.relative)
        if item.fault is None and match is not None and "".join(match.groups()) in named:
            fault = (
                "the second or a further face of another photo would be written to the same file; rename it"
            )
            found[place] = replace(item, fault=fault)
    return found


def within(data: bytes, limit: int, name: str) -> bytes:
    """The data, if it keeps to the limit.

    Raises:
        ImageTooLargeError: If it does not.
    """
    if len(data) > limit:
        raise ImageTooLargeError(f"{name}: more than {limit:,} bytes.")
    return data


def is_photo(name: str, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a name is that of a photo that is not hidden."""
    last = name.rsplit("/", 1)[-1]
    return last.lower().endswith(suffixes) and not last.startswith(".")
