"""Sheets of images: originals above protected ones (only where a person asked for images), or one kind side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privface.errors import InputRangeError

_GAP = 4


def contact_sheet(
    original: NDArray[np.uint8], protected: NDArray[np.uint8], *, columns: int = 10
) -> NDArray[np.uint8]:
    """Lay out pairs of images, each original directly above its protected version.

    Args:
        original: uint8 RGB, shape ``(N, S, S, 3)``.
        protected: Same shape, same order.
        columns: Pairs a row.

    Returns:
        uint8 RGB, shape ``(H, W, 3)``, on white.

    Raises:
        InputRangeError: If shapes differ or there is nothing to show.
    """
    if original.shape != protected.shape or original.ndim != 4 or not len(original):
        raise InputRangeError(
            f"Contact sheet of {original.shape} and {protected.shape}: need two equal stacks (N, S, S, 3)."
        )
    count, side = original.shape[:2]
    pairs = np.full((count, 2 * (side + _GAP), side, 3), 255, np.uint8)
    pairs[:, :side] = original
    pairs[:, side + 1 : 2 * side + 1] = protected
    return tile(pairs, columns=columns)[:-_GAP]


def tile(pixels: NDArray[np.uint8], *, columns: int | None = None) -> NDArray[np.uint8]:
    """Images ``(N, H, W, 3)`` side by side on white, by default in rows of about the root of their number."""
    count, height, width = pixels.shape[:3]
    if columns is None:
        columns = max(1, round(count**0.5))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for number, image in enumerate(pixels):
        top, left = (number // columns) * (height + _GAP) + _GAP, (number % columns) * (width + _GAP) + _GAP
        sheet[top : top + height, left : left + width] = image
    return sheet
