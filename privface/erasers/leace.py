"""LEACE: the smallest change of an embedding after which no linear probe can read a label.

Belrose et al., "LEACE: Perfect linear concept erasure in closed form", NeurIPS 2023, theorem 4.3.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import validate_data

from privface.erasers.base import BLOCK, Promise, known_codes, require_several
from privface.erasers.linear import LinearEraser


class LEACE(LinearEraser):
    """Least-squares concept erasure with a linear guarantee on the data it was fitted on, for two labels or more (``C``).

    Promise: on the fitting data, the erased embeddings have zero covariance with the label, so every linear
    classifier with a convex loss does no better than a constant. Nothing is promised about curved probes (an
    RBF-SVM retrained on the output reads gender nearly as well as before), and re-normalising the output breaks
    the linear guarantee too.

    Streams: :meth:`partial_fit` adds rows to exact running sums, so a table larger than memory gives the same
    eraser as :meth:`fit`, up to rounding.

    Args:
        tolerance: Directions whose variance is below this share of the largest count as constant.
        normalize: Bring erased rows back to unit length; this breaks the linear guarantee.

    Attributes:
        mean_: Mean of the embeddings, shape ``(D,)``.
        left_: Columns that are subtracted, shape ``(D, R)`` with ``R < C``.
        right_: What each row is multiplied with, shape ``(D, R)``; ``transform`` is
            ``x - (x - mean_) @ right_ @ left_.T``.
        classes_: The labels.
        n_features_in_: ``D``.
    """

    method: ClassVar[str] = "leace"
    promise: ClassVar[Promise] = Promise(
        "linear",
        "On the fitting data no linear classifier reads the label (Belrose et al., 2023); curved probes still do.",
    )

    several: ClassVar[bool] = True

    def __init__(self, *, tolerance: float = 1e-10, normalize: bool = False) -> None:
        self.tolerance, self.normalize = tolerance, normalize

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803  # scikit-learn's names
        """Fit on embeddings ``(N, D)`` with labels ``(N,)`` of two classes or more.

        Raises:
            ValueError: If shapes do not fit, values are not finite or there is one label alone.
        """
        if hasattr(self, "_count"):
            del self._count
        return self.partial_fit(X, y, classes=np.unique(np.asarray(y)))

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:  # noqa: N803
        """Add rows; the first call names all labels in ``classes``, as a part may lack some.

        Raises:
            ValueError: As for :meth:`fit`.
        """
        first = not hasattr(self, "_count")
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=first)
        if first:
            self.classes_ = np.unique(np.asarray(labels if classes is None else classes))
            require_several(self.classes_)
            self._count, self._cross = 0, np.zeros((rows.shape[1], len(self.classes_) - 1))
            self.mean_, self._label_mean = np.zeros(rows.shape[1]), np.zeros(len(self.classes_) - 1)
            self._scatter = np.zeros((rows.shape[1], rows.shape[1]))
        # one column for each label but the first, whose share follows from the others'
        codes = np.eye(len(self.classes_))[known_codes(labels, self.classes_)][:, 1:]
        for start in range(0, len(rows), BLOCK):  # float32 rows are widened block by block, not all at once
            part = slice(start, start + BLOCK)
            self._add(rows[part].astype(np.float64), codes[part])
        self._solve()
        return self

    def _add(self, rows: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
        """Merge means and centred products of a part (Chan, Golub and LeVeque, 1983)."""
        count, mean, label_mean = len(rows), rows.mean(axis=0), labels.mean(axis=0)
        centred = rows - mean
        total = self._count + count
        weight = self._count * count / total
        shift, label_shift = mean - self.mean_, label_mean - self._label_mean
        self._scatter += centred.T @ centred + weight * np.outer(shift, shift)
        self._cross += centred.T @ (labels - label_mean) + weight * np.outer(shift, label_shift)
        self.mean_ = self.mean_ + shift * (count / total)
        self._label_mean += label_shift * (count / total)
        self._count = total

    def _solve(self) -> None:
        values, vectors = np.linalg.eigh(self._scatter / self._count)
        kept = values > self.tolerance * max(float(values[-1]), 0.0)
        root = np.sqrt(values[kept])
        basis = vectors[:, kept]
        # the covariance with the labels in whitened coordinates, and a basis of its columns
        columns, lengths, _ = np.linalg.svd((basis.T @ self._cross) / root[:, None], full_matrices=False)
        columns = columns[:, lengths > 1e-12 * max(float(lengths.max(initial=0.0)), 1e-300)]
        self.left_ = basis @ (root[:, None] * columns)
        self.right_ = basis @ (columns / root[:, None])
