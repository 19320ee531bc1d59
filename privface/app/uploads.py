"""What may be uploaded: limits, image bytes told by their content, and zip archives unpacked with suspicion."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from privface.errors import DataError, ImageError, PrivfaceError
from privface.images import IMAGE_SUFFIXES
from privface.protect.archives import zip_fault

LABELS_NAME = "labels.csv"
"""A table of this name at the top of a zip is unpacked with the photos."""

_CHUNK = 1 << 20
_DIRECTORY_ENTRY = b"PK\x01\x02"
_SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tif"),
)


class UploadError(PrivfaceError):
    """Something uploaded breaks a limit or is not what it is said to be."""


@dataclass(frozen=True)
class Limits:
    """What one server takes. Sizes in bytes."""

    file_bytes: int = 50_000_000  # one uploaded file
    request_bytes: int = 100_000_000  # all files of one request
    files: int = 100  # of one request
    pixels: int = 100_000_000  # width x height of one image
    zip_members: int = 10_000
    unpacked_bytes: int = 500_000_000  # one zip archive, unpacked
    held_bytes: int = 1_000_000_000  # all that the server holds in memory for its users
    held_seconds: float = 900.0  # how long something unused is held


LIMITS = Limits()
"""Those of every server."""


@dataclass(frozen=True)
class File:
    """A file in memory: an upload or a result."""

    name: str  # without folders; that of an upload is to be escaped wherever it is shown
    data: bytes
    media: str = "application/octet-stream"  # under which it may be served; no upload's is believed
    attachment: bool = False  # whether a browser is to save it


def megabytes(count: float) -> str:
    """A size in words, such as ``"50 MB"``."""
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{max(count / 1e3, 0.1):,.1f} kB"


def check_sizes(names: Sequence[str], sizes: Sequence[int]) -> None:
    """Refuse a request with too many or too large files."""
    if len(sizes) > LIMITS.files:
        raise UploadError(
            f"{len(sizes):,} files; the limit is {LIMITS.files:,} at once.",
            hint="Send them in parts, or use `privface protect` on the command line.",
        )
    for name, size in zip(names, sizes, strict=True):
        if size > LIMITS.file_bytes:
            raise UploadError(
                f"{name}: {megabytes(size)}; the limit is {megabytes(LIMITS.file_bytes)} a file.",
                hint="Make it smaller, or use the command line.",
            )
    if sum(sizes) > LIMITS.request_bytes:
        raise UploadError(
            f"{megabytes(sum(sizes))} together; the limit is {megabytes(LIMITS.request_bytes)} at once.",
            hint="Send them in parts.",
        )


def image_suffix(data: bytes) -> str:
    """The suffix of an image by its first bytes; names are not believed.

    Raises:
        ImageError: If it is none of the formats that are read here. Others (PostScript among them, which Pillow
            would hand to another program) are not even tried.
    """
    for signature, suffix in _SIGNATURES:
        if signature.match(data):
            return suffix
    raise ImageError("not an image that can be read.", hint=f"Give one of {', '.join(IMAGE_SUFFIXES)}.")


def safe_stem(name: str) -> str:
    """A file name for a download, without its suffix: no folder, nothing a terminal, shell or page could read as code."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return re.sub(r"[^\w.\- ]+", "_", stem).strip(". ")[:80] or "photo"


def untaken(stem: str, taken: set[str], *, suffix: str = "") -> str:
    """A name that is not taken yet, with a number where it must be; it is taken from now on."""
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.lower())
    return name


def unpack_photos(data: bytes, folder: Path, *, name: str, stop: Callable[[], None] = lambda: None) -> None:
    """Unpack the photos of a zip archive, and a ``labels.csv`` beside them, into a new folder of mode 0700.

    A folder that holds everything is left out of the paths. Other files are passed over, a manifest among them: it
    would tell the audit where to look. ``stop`` is called between members, and raises to stop.

    Raises:
        UploadError: If the archive is damaged, encrypted, too large or too many, or has a link, an absolute name or
            one with ``..``; nothing is written then but what came before it.
        DataError: If it holds no photo.
    """
    entries = data.count(_DIRECTORY_ENTRY)  # before a million entries become a million objects
    if entries > LIMITS.zip_members:
        raise UploadError(
            f"{name}: {entries:,} entries; the limit is {LIMITS.zip_members:,}.",
            hint="Audit a part of the set.",
        )
    folder.mkdir(mode=0o700, parents=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = list(_members(archive, name))
            root = _common_folder([member.filename for member in members])
            left = LIMITS.unpacked_bytes
            for member in members:
                stop()
                path = folder / member.filename[len(root) :]
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                left -= _write(archive, member, path, min(left, LIMITS.file_bytes), name)
    except UploadError:
        raise
    except OSError as error:
        if error.errno is None:  # zipfile and its decompressors, not the file system
            raise _damaged(name, error) from error
        raise UploadError(
            f"{name}: cannot be unpacked ({error.strerror}).", hint="Use shorter names, and no name twice."
        ) from error
    except Exception as error:  # zipfile lets through whatever its decompressors raise
        raise _damaged(name, error) from error
    if not any(member.filename.lower().endswith(IMAGE_SUFFIXES) for member in members):
        raise DataError(
            f"{name} holds no photo.",
            hint=f"Photos end in {', '.join(IMAGE_SUFFIXES)}; hidden ones are left out.",
        )


def _damaged(name: str, error: Exception) -> UploadError:
    return UploadError(f"{name} is not a zip archive that can be read ({error}).", hint="Pack it again.")


def _members(archive: zipfile.ZipFile, name: str) -> Iterator[zipfile.ZipInfo]:
    """The members to unpack, after a look at all of them."""
    declared = sum(member.file_size for member in archive.infolist())
    if declared > LIMITS.unpacked_bytes:
        raise UploadError(
            f"{name} unpacks to {megabytes(declared)}; the limit is {megabytes(LIMITS.unpacked_bytes)}.",
            hint="Audit a part of the set, or use `privface audit` on the command line.",
        )
    for member in archive.infolist():
        fault = zip_fault(member)
        if fault is not None:
            raise UploadError(f"{name}: the entry {member.filename!r}: {fault}.", hint="Pack it without.")
        path = PurePosixPath(member.filename)
        if (
            member.is_dir()
            or member.filename.startswith("__MACOSX/")
            or any(p.startswith(".") for p in path.parts)
        ):
            continue
        if path.name.lower().endswith(IMAGE_SUFFIXES) or path.name == LABELS_NAME:
            yield member


def _common_folder(names: Sequence[str]) -> str:
    """The top folder that all names share, with its slash; empty where there is none."""
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, limit: int, name: str) -> int:
    """Unpack one member; what its header says of its size is not believed."""
    size = 0
    with archive.open(member) as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise UploadError(
                    f"{name}: {member.filename!r} unpacks to more than {megabytes(limit)}.",
                    hint="A photo has no such size; pack the archive again.",
                )
            target.write(chunk)
    return size
