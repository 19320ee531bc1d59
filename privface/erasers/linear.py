"""What erasers share that subtract a few directions from every embedding."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin

from privface.erasers.base import BLOCK, Eraser, unit_rows


class LinearEraser(OneToOneFeatureMixin, Eraser):  # type: ignore[misc]  # scikit-learn has no types
    """Subtracts from a row what it holds of some directions: ``x - (x - mean_) @ right_ @ left_.T``.

    Attributes:
        mean_: Mean of the embeddings, shape ``(D,)``.
        left_: Columns that are subtracted, shape ``(D, K)``.
        right_: What each row is multiplied with, shape ``(D, K)``.
    """

    arrays: ClassVar[tuple[str, ...]] = ("mean_", "left_", "right_")
    normalize: bool
    mean_: NDArray[np.float64]
    left_: NDArray[np.float64]
    right_: NDArray[np.float64]

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        left, right = self.left_.T.astype(rows.dtype), self.right_.astype(rows.dtype)
        middle = (self.mean_ @ self.right_).astype(rows.dtype)
        erased = np.array(rows)
        for start in range(0, len(rows), BLOCK):
            part = erased[start : start + BLOCK]
            part -= (part @ right - middle) @ left
        return unit_rows(erased) if self.normalize else erased
