"""What a protector is, and the checks on what goes into one and comes out of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from privface.errors import InputRangeError, ModelError
from privface.images import to_pixels

RANGE_SLACK = 1e-4
"""How far a protector's output may leave [0, 1] by rounding; far below one 8-bit step (1/255)."""


class ImageProtector(Protocol):
    """Turns original faces into protected faces. Needs no label.

    Calling it maps float32 ``(N, 3, size, size)`` in [0, 1] to an array of the same shape and range, one
    output per input, in order. An image's output may depend on nothing but that image, so that order,
    batch size and interruption do not matter.
    """

    @property
    def fingerprint(self) -> str:
        """Names the model and all of its settings; two protectors with equal fingerprints act alike."""

    @property
    def size(self) -> int:
        """Side in pixels of the aligned faces it takes and gives."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Protect a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""


@runtime_checkable
class KeyedProtector(ImageProtector, Protocol):
    """A protector that must know which photo an image comes from, because it looks up a label.

    Label-free protectors are the rule; this is for methods of others that cannot work without (``san-2018``). The
    output for an image may depend on the image and on its photo's label.
    """

    @property
    def needs_keys(self) -> bool:
        """True."""

    def lacks(self, key: str) -> str | None:
        """Why the photo of this key cannot be protected; ``None`` where it can."""

    def __call__(self, images: NDArray[np.float32], keys: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Protect a batch, float32 ``(N, 3, size, size)`` in [0, 1], of the photos of these keys, ``N``."""


def check_images(images: NDArray[Any], *, size: int) -> None:
    """Refuse what is not a batch of aligned faces.

    Args:
        images: Expected float32 ``(N, 3, size, size)`` in [0, 1].
        size: Side in pixels.

    Raises:
        InputRangeError: If type, shape or value range differ; the message names the range met.
    """
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise InputRangeError(
            f"Expected float32 images of shape (N, 3, {size}, {size}), got {images.dtype} {images.shape}.",
            hint="Align the faces to the protector's size and convert them with privface.images.to_unit.",
        )
    if images.size and not (float(images.min()) >= 0.0 and float(images.max()) <= 1.0):
        raise InputRangeError(
            f"Expected values in [0, 1], got {float(images.min()):g} to {float(images.max()):g}.",
            hint="Convert 8-bit pixels with privface.images.to_unit.",
        )


def check_batch(protected: NDArray[Any], *, count: int, size: int) -> None:
    """Refuse a protector's answer that cannot be matched to its inputs.

    Raises:
        ModelError: If the answer is not float32 ``(count, 3, size, size)``.
    """
    if protected.dtype != np.float32 or protected.shape != (count, 3, size, size):
        raise ModelError(
            f"The protector gave {protected.dtype} {protected.shape} for {count} images of side {size}.",
            hint="It must return float32 of the shape that it was given.",
        )


def face_fault(protected: NDArray[np.float32], face: NDArray[np.uint8]) -> str | None:
    """Why the answer for one face must not be given; ``None`` where it may.

    Args:
        protected: The protector's answer, float32 ``(3, size, size)``.
        face: What it was asked to protect, uint8 RGB ``(size, size, 3)``.
    """
    if not np.isfinite(protected).all():
        return "protector gave NaN or infinity"
    low, high = float(protected.min()), float(protected.max())
    if low < -RANGE_SLACK or high > 1.0 + RANGE_SLACK:
        return f"protector gave values from {low:.4g} to {high:.4g}, outside [0, 1]"
    return "protector returned the original" if np.array_equal(to_pixels(protected), face) else None
