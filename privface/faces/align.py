"""Five-point alignment to the ArcFace frame, and back into the photo.

Pixel ``i`` covers ``[i, i + 1)`` and its centre has the coordinate ``i``, as landmarks have. A frame of
another size than 112 covers the same area of the face, so a point ``t`` of the 112 frame lies at
``(t + 0.5) * size / 112 - 0.5`` (the rule of ``cv2.resize`` and of torch's ``align_corners=False``).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from privface.errors import ImageError, InputRangeError
from privface.records import ARCFACE_TEMPLATE, FRAME, Landmarks

_PATCH = (0.5, 0.52, 0.47, 0.48)
"""Centre and half axes of what :func:`paste_back` lays over a photo, as shares of the frame: a face without the frame's corners."""

_ROUND = 3.0
"""Exponent of its outline: 2 is an ellipse, more is nearer to a rectangle."""

_FEATHER = 0.16
"""Width of its soft edge, as a share of the half axes."""

_MAX_STRETCH = 1.10
"""Largest ratio of the sides that :func:`as_aligned` takes for an aligned face."""


def similarity_transform(landmarks: ArrayLike, *, size: int = FRAME) -> NDArray[np.float64]:
    """Least-squares similarity (rotation, one scale, shift; no reflection) from landmarks to the ArcFace template.

    The closed form of Umeyama (IEEE TPAMI 1991). In the plane, with points as complex numbers, it is the
    regression ``w = a z + b``: any complex ``a`` is a rotation and scaling, so no reflection can arise.

    Args:
        landmarks: Five points (x, y) in the photo, shape ``(5, 2)``.
        size: Side of the target frame in pixels.

    Returns:
        Matrix of shape ``(2, 3)`` that takes photo coordinates to coordinates of the ``size`` frame.

    Raises:
        ImageError: If the landmarks are not finite, coincide, or determine no scale.
        InputRangeError: If the shape differs or ``size`` is not positive.
    """
    source = np.asarray(landmarks, np.float64)
    _require_size(size)
    target = (np.asarray(ARCFACE_TEMPLATE, np.float64) + 0.5) * (size / FRAME) - 0.5
    if source.shape != target.shape:
        raise InputRangeError(f"The landmarks have the shape {source.shape}.", hint="Five points are (5, 2).")
    if not np.isfinite(source).all():
        raise ImageError("The landmarks are not finite numbers.", hint="Detect the face again.")
    z, w = source @ (1, 1j), target @ (1, 1j)
    z_mean, w_mean = z.mean(), w.mean()
    spread = float(np.sum(np.abs(z - z_mean) ** 2))
    if spread < 1e-6 * len(z):
        raise ImageError("The landmarks coincide, so they give no scale.", hint="Detect the face again.")
    a = np.sum(np.conj(z - z_mean) * (w - w_mean)) / spread
    if abs(a) < 1e-9:
        raise ImageError("The landmarks fit the template at no scale.", hint="Detect the face again.")
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]], np.float64)


def align_face(
    pixels: NDArray[np.uint8], landmarks: Landmarks | NDArray[np.float64], *, size: int = FRAME
) -> NDArray[np.uint8]:
    """Cut a face out of a photo in the ArcFace frame (Deng et al., CVPR 2019).

    Bilinear; where the face shrinks more than two-fold, the photo is reduced by area averaging first, so
    that nothing aliases. What lies outside the photo repeats its border.

    Args:
        pixels: The photo, uint8 RGB of shape ``(H, W, 3)``.
        landmarks: Left eye, right eye, nose, left and right mouth corner, in pixels of the photo.
        size: Side of the result.

    Returns:
        uint8 RGB of shape ``(size, size, 3)``.

    Raises:
        ImageError: If the landmarks are degenerate; see :func:`similarity_transform`.
        InputRangeError: If ``pixels`` is not uint8 RGB.
    """
    require_rgb(pixels)
    return _warp(pixels, similarity_transform(landmarks, size=size), (size, size))


def as_aligned(pixels: NDArray[np.uint8], *, size: int = FRAME) -> NDArray[np.uint8]:
    """Take a photo that already shows an aligned face; only its size changes.

    Args:
        pixels: uint8 RGB of shape ``(H, W, 3)``, square up to 10 %.
        size: Side of the result.

    Returns:
        uint8 RGB of shape ``(size, size, 3)``.

    Raises:
        ImageError: If one side is more than 10 % longer than the other.
        InputRangeError: If ``pixels`` is not uint8 RGB.
    """
    require_rgb(pixels)
    _require_size(size)
    height, width = pixels.shape[:2]
    ratio = max(height, width) / min(height, width)
    if ratio > _MAX_STRETCH:
        raise ImageError(
            f"{width} x {height} pixels: the sides differ by {ratio - 1:.0%}, the limit is 10 %.",
            hint="Let the faces be detected and aligned instead.",
        )
    return _resize(pixels, size, size)


def is_crop(pixels: NDArray[np.uint8], *, size: int = FRAME) -> bool:
    """Whether a photo has exactly the size of an aligned face: 112 x 112, or ``size`` x ``size``.

    Args:
        pixels: uint8 RGB of shape ``(H, W, 3)``.
        size: Side of the faces that are asked for, in pixels.
    """
    return pixels.shape[:2] in {(FRAME, FRAME), (size, size)}


def paste_back(
    photo: NDArray[np.uint8],
    face: NDArray[np.uint8],
    landmarks: Landmarks | NDArray[np.float64],
    *,
    size: int = FRAME,
) -> NDArray[np.uint8]:
    """Lay a processed face over the place of the photo from which :func:`align_face` cut it.

    The corners of the frame stay the photo's, and the edge of the face fades into it: what is seen there is partly the original.

    Args:
        photo: uint8 RGB of shape ``(H, W, 3)``; it is not changed.
        face: uint8 RGB of shape ``(size, size, 3)``.
        landmarks: The landmarks that the face was aligned with.
        size: Side of ``face``.

    Returns:
        A new photo, uint8 RGB of shape ``(H, W, 3)``.

    Raises:
        ImageError: If the landmarks are degenerate; see :func:`similarity_transform`.
        InputRangeError: If ``photo`` is not uint8 RGB or ``face`` not uint8 RGB of that size.
    """
    require_rgb(photo)
    require_rgb(face)
    if face.shape != (size, size, 3):
        raise InputRangeError(
            f"The face has shape {face.shape}, not ({size}, {size}, 3).", hint="Give its size."
        )
    matrix = similarity_transform(landmarks, size=size)
    out = photo.copy()
    back = _invert(matrix)
    area = x1, y1, x2, y2 = _covered(back, (size, size), photo)
    to_area = back - np.array([[0.0, 0.0, x1], [0.0, 0.0, y1]])
    laid = _warp(face, to_area, (x2 - x1, y2 - y1)).astype(np.float64)
    weight = _soft_mask(matrix, area, size)[..., None]
    patch = out[y1:y2, x1:x2]
    patch[:] = np.rint(weight * laid + (1.0 - weight) * patch).astype(np.uint8)
    return out


def _soft_mask(
    matrix: NDArray[np.float64], area: tuple[int, int, int, int], size: int
) -> NDArray[np.float64]:
    """Weight of the face at each pixel of ``area``: 0 outside the patch, 1 inside its soft edge."""
    x1, y1, x2, y2 = area
    x, y = np.meshgrid(np.arange(x1, x2, dtype=np.float64), np.arange(y1, y2, dtype=np.float64))
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    across, down, wide, high = (size * share for share in _PATCH)
    sides = np.abs((u + 0.5 - across) / wide) ** _ROUND + np.abs((v + 0.5 - down) / high) ** _ROUND
    apart = sides ** (1.0 / _ROUND)
    ramp = np.clip((1.0 - apart) / _FEATHER, 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp))  # smoothstep: no visible crease at either end


def _warp(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], side: tuple[int, int]) -> NDArray[np.uint8]:
    """``pixels`` under the similarity ``matrix``, on a canvas of ``side`` = (width, height)."""
    x1, y1, x2, y2 = _covered(_invert(matrix), side, pixels)
    part = pixels[y1:y2, x1:x2]  # OpenCV refuses sides above 32,767, and small is fast
    matrix = matrix @ np.array([[1.0, 0.0, x1], [0.0, 1.0, y1], [0.0, 0.0, 1.0]])
    shrink = int(1.0 / math.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink >= 2:
        height, width = part.shape[:2]
        small = _resize(part, max(1, round(width / shrink)), max(1, round(height / shrink)))
        fx, fy = width / small.shape[1], height / small.shape[0]
        matrix = matrix @ np.array([[fx, 0.0, 0.5 * fx - 0.5], [0.0, fy, 0.5 * fy - 0.5], [0.0, 0.0, 1.0]])
        part = small
    warped = cv2.warpAffine(
        np.ascontiguousarray(part), matrix, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def _covered(
    matrix: NDArray[np.float64], side: tuple[int, int], image: NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    """The part (x1, y1, x2, y2) of ``image`` under a canvas of ``side`` taken by ``matrix``; one pixel of its border at least."""
    width, height = side
    corners = np.array([[-1, width, -1, width], [-1, -1, height, height], [1, 1, 1, 1]], np.float64)
    points = matrix @ corners
    bounds = image.shape[1::-1]
    margin = 2.0
    x1, y1 = (int(v) for v in np.clip(np.floor(points.min(axis=1) - margin), 0, np.subtract(bounds, 1)))
    x2, y2 = (int(v) for v in np.clip(np.ceil(points.max(axis=1) + margin) + 1, 1, bounds))
    return x1, y1, x2, y2


def _invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.linalg.inv(matrix[:, :2])
    return np.asarray(np.hstack([linear, -linear @ matrix[:, 2:]]), np.float64)


def _resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    shrinks = width < pixels.shape[1] or height < pixels.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=mode), np.uint8)


def _require_size(size: int) -> None:
    if size < 1:
        raise InputRangeError(f"The size is {size} pixels, it must be at least 1.", hint="112 is usual.")


def require_rgb(pixels: NDArray[np.uint8]) -> None:
    """Refuse what is not uint8 RGB, ``(H, W, 3)``."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputRangeError(
            f"Expected uint8 RGB pixels of shape (H, W, 3), got {pixels.dtype} {pixels.shape}.",
            hint="Decode the photo with privface.images.decode_image.",
        )
