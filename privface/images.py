"""Bytes to pixels and back: the only room that knows uint8, EXIF, colour modes and Pillow.

Inside privface a batch of images is float32 RGB of shape ``(N, 3, H, W)`` in [0, 1]; a single decoded
photo is uint8 RGB of shape ``(H, W, 3)``.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from privface.errors import DataError, ImageError, ImageTooLargeError, OutputError
from privface.options import MAX_PIXELS

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_READ = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")
"""Formats that are decoded, whatever a file's name; Pillow knows others, and would hand PostScript to a program of its own."""

WRITTEN_SUFFIXES: tuple[str, ...] = tuple(_FORMATS)
"""Suffixes that ``encode_image`` writes; a GIF has no faithful RGB form."""

_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, ArithmeticError)
"""Pillow's decoders leak all of these on damaged input."""


def decode_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one still photo to upright RGB pixels, with nothing else of the file kept.

    EXIF orientation is applied. Palette, grey, CMYK, 1-bit and 16-bit grey images are converted; alpha is
    laid over white. Truncated files are refused rather than filled with grey.

    Args:
        source: A file, or the bytes of one.
        max_pixels: Width x height above which the image is refused unread.

    Returns:
        uint8 array of shape ``(H, W, 3)``.

    Raises:
        ImageTooLargeError: If the header announces more than ``max_pixels``.
        ImageError: If the bytes are no image, damaged, or an animation.
    """
    name = source.name if isinstance(source, Path) else f"{len(source)} bytes"
    name = name.encode("utf-8", "backslashreplace").decode()
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be read ({error.strerror}).",
            hint="Check that the file exists and its permissions.",
        ) from error
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes).", hint="Copy it again from its source.")
    try:
        with Image.open(io.BytesIO(data), formats=_READ) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"{name}: {width} x {height} = {width * height:,} pixels, above the limit of {max_pixels:,}.",
                    hint="Scale it down, or raise the pixel limit if you trust its source.",
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # an MPO is a phone's JPEG with a second view behind it
                raise ImageError(
                    f"{name}: an animation or stack of {frames} frames; only still photos are read.",
                    hint="Extract the frame you want.",
                )
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"{name}: {error}", hint="Scale it down before use.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image that can be decoded.", hint=f"Supported: {', '.join(IMAGE_SUFFIXES)}."
        ) from error
    except _DECODER_ERRORS as error:
        raise ImageError(
            f"{name}: damaged image ({error}).", hint="Copy it again from its source."
        ) from error


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Upright RGB pixels of an open Pillow image, converted as :func:`decode_image` does.

    Args:
        image: Of any mode that has a defined range; of an animation, the frame that it stands at.

    Returns:
        uint8 array of shape ``(H, W, 3)``.

    Raises:
        ImageError: If the pixels cannot be decoded or converted.
    """
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_ERRORS as error:
        raise ImageError(
            f"A Pillow image of mode {image.mode!r} cannot be read ({error}).",
            hint="Convert it to RGB, or copy its file again.",
        ) from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in {"I;16", "I;16B", "I;16L", "I;16N", "I"}:
        values = np.asarray(image).astype(np.float64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"grey values {values.min():.0f}..{values.max():.0f} outside 0..65535")
        grey = np.round(values / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def encode_image(pixels: NDArray[np.uint8], suffix: str, *, quality: int = 95) -> bytes:
    """Encode RGB pixels with no metadata at all: no EXIF, XMP, comment, ICC text or thumbnail.

    Args:
        pixels: uint8 array of shape ``(H, W, 3)``.
        suffix: File suffix that names the format, such as ``".jpg"``.
        quality: JPEG or WebP quality, 1 to 100; 4:4:4 chroma is kept.

    Raises:
        ImageError: If the suffix names no format that privface writes.
    """
    form = _FORMATS.get(suffix.lower())
    if form is None:
        raise ImageError(
            f"Cannot write {suffix!r} images.", hint=f"Choose one of {', '.join(sorted(_FORMATS))}."
        )
    options: dict[str, dict[str, object]] = {
        "PNG": {"compress_type": zlib.Z_RLE},  # as small for photos in half the time; drawings become larger
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
    }
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, form, **options.get(form, {}))
    return buffer.getvalue()


def to_unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 ``(..., H, W, 3)`` to float32 ``(..., 3, H, W)`` in [0, 1]."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32) / np.float32(255)


def to_pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 ``(..., 3, H, W)`` in [0, 1] to uint8 ``(..., H, W, 3)``, rounded to nearest."""
    scaled = np.rint(np.clip(images, 0.0, 1.0) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(scaled, -3, -1))


def without_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma (ITU-R BT.601) of an RGB image ``(H, W, 3)`` in all three channels."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file to write that a reader sees whole or not at all: temporary file, fsync, rename.

    The temporary file lies beside ``path`` (so never outside an output root) and is private (0600). If the block
    raises, nothing is left.

    Args:
        path: File to write or replace; its folder is made.
        mode: Permissions of the finished file.

    Raises:
        OutputError: If the folder is read-only, the disk full, or the name impossible.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.privface-tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # below a file even looking for it fails
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}.",
            hint="Check free space and that the folder is writable.",
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file at once; see :func:`atomic_file`.

    Raises:
        OutputError: If the folder is read-only, the disk full, or the name impossible.
    """
    with atomic_file(path) as file:
        file.write(data)


def printable(path: str) -> str:
    r"""A path as text that can be written: bytes that are not UTF-8 as ``\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_key(path: Path, root: Path) -> str:
    """Key of a photo: its POSIX path below ``root``, as :func:`printable` writes it."""
    return printable(path.relative_to(root).as_posix())


def list_images(root: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Files with an image suffix below ``root``, sorted, hidden files and folders left out.

    Symbolic links to folders are not followed.

    Args:
        root: Where to look.
        suffixes: Lower-case suffixes to take.

    Raises:
        DataError: If ``root`` is no folder, or one below it cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.", hint="Give a folder that holds images.")

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be listed ({error.strerror}).",
            hint="Allow reading it, or move it out of the folder: no photo is passed over in silence.",
        ) from error

    for folder, names, files in os.walk(root, onerror=refuse):
        names[:] = sorted(n for n in names if not n.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                yield Path(folder) / name
