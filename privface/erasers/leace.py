"""LEACE: the smallest change of an embedding after which no linear probe can read a label.

Belrose et al., "LEACE: Perfect linear concept erasure in closed form", NeurIPS 2023, theorem 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privface.erasers.base import Promise, StreamingEraser
from privface.erasers.linear import LinearEraser


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class LEACE(StreamingEraser, LinearEraser):
    """Least-squares concept erasure with a linear guarantee on the data it was fitted on, for two labels or more (``C``).

    Promise: see :attr:`promise`. The erased embeddings have zero covariance with the label, so every linear classifier with
    a convex loss does no better than a constant. Streams: :meth:`partial_fit` gives the same eraser as :meth:`fit`, up to rounding.

    Args:
        tolerance: Directions whose variance is below this share of the largest count as constant.
        normalize: Bring erased rows back to unit length; this breaks the linear guarantee.

    Attributes:
        left_, right_: As for :class:`LinearEraser`; fewer columns than labels.
    """

    method: ClassVar[str] = "leace"
    promise: ClassVar[Promise] = Promise(
        "linear",
        "On the fitting data no linear classifier reads the label (Belrose et al., 2023); curved probes still do.",
    )

    tolerance: float = 1e-10
    normalize: bool = False

    def _begin(self, dimensions: int) -> None:
        labels = len(self.classes_) - 1  # the share of the first one follows from the others'
        self.mean_, self._label_mean = np.zeros(dimensions), np.zeros(labels)
        self._cross, self._scatter = np.zeros((dimensions, labels)), np.zeros((dimensions, dimensions))

    def _add(self, rows: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        """Merge means and centred products of a part (Chan, Golub and LeVeque, 1983)."""
        labels = np.eye(len(self.classes_))[codes][:, 1:]
        count, mean, label_mean = len(rows), rows.mean(axis=0), labels.mean(axis=0)
        centred = rows - mean
        total = self._count + count
        weight = self._count * count / total
        shift, label_shift = mean - self.mean_, label_mean - self._label_mean
        self._scatter += centred.T @ centred + weight * np.outer(shift, shift)
        self._cross += centred.T @ (labels - label_mean) + weight * np.outer(shift, label_shift)
        self.mean_ = self.mean_ + shift * (count / total)
        self._label_mean += label_shift * (count / total)

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
