"""Means and covariances of each label, summed up part by part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ClassMoments:
    """Exact running sums of each label's rows, merged as by Chan, Golub and LeVeque (1983).

    Args:
        dimensions: Values a row.
        labels: How many labels there are.

    Attributes:
        counts: Rows of each label so far, shape ``(C,)``.
        means: Shape ``(C, D)``.
    """

    def __init__(self, dimensions: int, *, labels: int = 2) -> None:
        self.counts = np.zeros(labels)
        self.means = np.zeros((labels, dimensions))
        self._scatters = np.zeros((labels, dimensions, dimensions))

    def add(self, rows: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        """Add rows ``(N, D)`` with labels 0 to C - 1, ``(N,)``."""
        for label in range(len(self.counts)):
            part = rows[codes == label]
            if not len(part):
                continue
            mean = part.mean(axis=0)
            total = self.counts[label] + len(part)
            shift = mean - self.means[label]
            centred = part - mean
            weight = self.counts[label] * len(part) / total
            self._scatters[label] += centred.T @ centred + weight * np.outer(shift, shift)
            self.means[label] += shift * (len(part) / total)
            self.counts[label] = total

    def covariance(self, label: int) -> NDArray[np.float64]:
        """Covariance of a label's rows, shape ``(D, D)``."""
        return np.asarray(self._scatters[label] / max(self.counts[label], 1.0))
