"""What erasers share that subtract a few directions from every embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class LinearEraser(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Subtracts from a row what it holds of some directions: ``x - (x - mean_) @ right_ @ left_.T``.

    Attributes:
        mean_: Mean of the embeddings, shape ``(D,)``.
        left_: Columns that are subtracted, shape ``(D, K)``.
        right_: What each row is multiplied with, shape ``(D, K)``.
    """

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803  # scikit-learn's names
        """Erase: ``(N, D)`` to ``(N, D)``; float32 stays float32.

        Raises:
            ValueError: If the dimension differs from that of the fit, or values are not finite.
        """
        check_is_fitted(self, "left_")
        rows: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        kind = rows.dtype
        along = (rows - self.mean_.astype(kind)) @ self.right_.astype(kind)
        return np.asarray(rows - along @ self.left_.T.astype(kind))


def two_labels(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The two labels, and which rows have the second one.

    Raises:
        ValueError: If there are not exactly two.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    require_two(classes)
    return classes, codes.astype(np.int64)


def require_two(classes: NDArray[Any]) -> None:
    """Refuse any other number of labels.

    Raises:
        ValueError: If there are not exactly two.
    """
    if len(classes) != 2:
        raise ValueError(
            f"Only 2 classes can be erased, y holds {len(classes)} classes: {classes[:5].tolist()}."
            " Give labels with both."
        )
