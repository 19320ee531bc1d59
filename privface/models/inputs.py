"""How privface's aligned images become what a given model eats, inside autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.errors import InputRangeError
from privface.records import FRAME, InputSpec

if TYPE_CHECKING:
    from torch import Tensor

_BT601 = (0.299, 0.587, 0.114)


def require_unit_images(images: Tensor | NDArray[Any], *, what: str = "images") -> None:
    """Check that a batch follows privface's contract.

    Args:
        images: Should be floating point RGB ``(N, 3, H, W)`` in [0, 1], of torch or of NumPy.
        what: Name used in the message.

    Raises:
        InputRangeError: If shape, type or range differ; the message names the usual mistake.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputRangeError(
            f"{what} have shape {tuple(images.shape)}; expected (N, 3, H, W).",
            hint="Permute NHWC arrays with images.to_unit, and add the batch axis to a single image.",
        )
    values: Any = images
    if isinstance(images, np.ndarray):
        is_float = bool(np.issubdtype(images.dtype, np.floating))
    else:
        is_float, values = images.is_floating_point(), images.detach()
    if not is_float:
        raise InputRangeError(
            f"{what} have type {images.dtype}; expected floating point in [0, 1].",
            hint="Divide uint8 pixels by 255.",
        )
    if 0 in images.shape:
        return
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails too
        cause = (
            "they look like 0..255 pixels"
            if high > 2
            else "they look normalised to [-1, 1]"
            if low < -0.5
            else "out of range or not finite"
        )
        raise InputRangeError(
            f"{what} span {low:.3g} to {high:.3g}; expected [0, 1] ({cause}).",
            hint="Hand in RGB in [0, 1]; each model normalises by itself.",
        )


def luminance(images: Tensor) -> Tensor:
    """Weighted mean of red, green and blue (ITU-R BT.601), ``(N, 1, H, W)`` of ``(N, 3, H, W)``, differentiably."""
    return (images * images.new_tensor(_BT601).view(1, 3, 1, 1)).sum(1, keepdim=True)


def to_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Convert aligned images to a model's own input, differentiably.

    Args:
        images: RGB in [0, 1], the face in the ArcFace frame, shape ``(N, 3, H, W)`` with H = W.
        spec: What the model expects.

    Returns:
        Tensor of shape ``(N, C, *spec.size)``; C is 1 for ``GRAY``, else 3.
    """
    x = _crop_resize(images, spec)
    if spec.channels == "BGR":
        x = x.flip(1)
    elif spec.channels == "GRAY":
        x = luminance(x)
    low, high = spec.value_range
    if (low, high) != (0.0, 1.0):
        x = x * (high - low) + low
    if spec.mean != (0.0, 0.0, 0.0) or spec.std != (1.0, 1.0, 1.0):
        planes = x.shape[1]  # a grey model has one plane and reads the first number
        mean = x.new_tensor(spec.mean[:planes]).view(1, planes, 1, 1)
        std = x.new_tensor(spec.std[:planes]).view(1, planes, 1, 1)
        x = (x - mean) / std
    return x


def _crop_resize(images: Tensor, spec: InputSpec) -> Tensor:
    import torch.nn.functional as F  # noqa: PLC0415

    height, width = images.shape[-2:]
    x1, y1, x2, y2 = spec.crop
    whole = (x1, y1, x2, y2) == (0.0, 0.0, float(FRAME), float(FRAME))
    if whole and spec.size == (height, width):
        return images
    if whole:
        return F.interpolate(images, size=spec.size, mode="bilinear", align_corners=False, antialias=True)
    shrink = min((x2 - x1) / FRAME * width / spec.size[1], (y2 - y1) / FRAME * height / spec.size[0])
    if shrink > 1.5:  # grid_sample does not filter, so shrink with a filter first
        small = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        images = F.interpolate(images, size=small, mode="bilinear", align_corners=False, antialias=True)
    # frame units to grid_sample's [-1, 1] with pixel edges at the ends (align_corners=False)
    theta = images.new_tensor(
        [
            [(x2 - x1) / FRAME, 0.0, (x1 + x2) / FRAME - 1.0],
            [0.0, (y2 - y1) / FRAME, (y1 + y2) / FRAME - 1.0],
        ]
    )
    grid = F.affine_grid(
        theta.expand(images.shape[0], 2, 3), [images.shape[0], 3, *spec.size], align_corners=False
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def array_input(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """What :func:`to_input` gives, to within rounding, of a NumPy batch ``(N, 3, H, W)`` in [0, 1] and without torch."""
    down, across = (_resampling(images.shape[2 + axis], spec, axis) for axis in (0, 1))
    x = down @ images @ across.T
    if spec.channels == "BGR":
        x = x[:, ::-1]
    elif spec.channels == "GRAY":
        x = (x * np.array(_BT601, np.float32).reshape(1, 3, 1, 1)).sum(1, keepdims=True)
    low, high = spec.value_range
    planes = (1, x.shape[1], 1, 1)
    mean, std = (np.array(row[: x.shape[1]], np.float32).reshape(planes) for row in (spec.mean, spec.std))
    return np.asarray((x * (high - low) + low - mean) / std, np.float32)


def _resampling(side: int, spec: InputSpec, axis: int) -> NDArray[np.float32]:
    """What cutting and resizing does along one axis (0: down, 1: across) as a matrix ``(spec.size[axis], side)``."""
    begin, end = spec.crop[1 - axis], spec.crop[3 - axis]
    if spec.crop == (0.0, 0.0, float(FRAME), float(FRAME)):
        return _averaging(side, spec.size[axis])
    x1, y1, x2, y2 = spec.crop
    shrink = min((x2 - x1) / FRAME * side / spec.size[1], (y2 - y1) / FRAME * side / spec.size[0])
    first = _averaging(side, max(1, round(side / shrink)) if shrink > 1.5 else side)
    size = len(first)
    centres = (np.arange(spec.size[axis]) + 0.5) / spec.size[axis]
    place = np.clip((begin + (end - begin) * centres) / FRAME * size - 0.5, 0, size - 1)
    nearby = np.maximum(0, 1 - np.abs(np.arange(size) - place[:, None]))
    return np.asarray(nearby @ first, np.float32)


def _averaging(side: int, wanted: int) -> NDArray[np.float32]:
    """Bilinear resizing of ``side`` pixels, wider where it shrinks so that nothing aliases, ``(wanted, side)``."""
    if wanted == side:
        return np.eye(side, dtype=np.float32)
    step = side / wanted
    distance = np.arange(side) + 0.5 - (np.arange(wanted)[:, None] + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(distance) / max(step, 1.0))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
