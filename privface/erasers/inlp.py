"""INLP: linear probes are trained and projected out, one after the other.

Ravfogel et al., "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection", ACL 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from privface.erasers.base import Promise
from privface.erasers.linear import LinearEraser


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class INLP(LinearEraser):
    """Iterative nullspace projection.

    Each round fits a class-balanced logistic regression on what is left and projects its direction out, until
    it reads the fitting data no better than ``stop``; each costs a dimension. Promise: see :attr:`promise`.

    Args:
        rounds: Largest number of directions, 1 or more.
        stop: Balanced accuracy on the fitting data at which no further direction is sought, in [0.5, 1].
        C: Inverse regularisation of the probes.
        normalize: Bring erased rows back to unit length.

    Attributes:
        left_: Orthonormal directions, shape ``(D, K)`` with ``K`` at most ``rounds``; ``right_`` is the same.
        accuracies_: Balanced accuracy of each round's probe, shape ``(K,)``.
    """

    method: ClassVar[str] = "inlp"
    promise: ClassVar[Promise] = Promise(
        "empirical", "The directions that its own probes found are gone; other probes may find more."
    )

    rounds: int = 20
    stop: float = 0.55
    C: float = 1.0
    normalize: bool = False

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``; same data, same directions. Errors as for :meth:`Eraser.fit`."""
        if self.rounds < 1 or not 0.5 <= self.stop <= 1.0:
            raise ValueError(
                f"rounds is {self.rounds} and stop {self.stop}; rounds starts at 1, stop lies in [0.5, 1]."
            )
        rows, codes = self._labelled(X, y)
        self.mean_ = rows.mean(axis=0)
        left = rows - self.mean_
        basis = np.zeros((rows.shape[1], 0))
        accuracies = []
        for _ in range(min(self.rounds, rows.shape[1])):
            probe = LogisticRegression(C=self.C, class_weight="balanced", max_iter=2000).fit(left, codes)
            accuracy = float(balanced_accuracy_score(codes, probe.predict(left)))
            if accuracy <= self.stop:
                break
            direction = probe.coef_[0] - basis @ (basis.T @ probe.coef_[0])
            norm = float(np.linalg.norm(direction))
            if norm < 1e-12:
                break
            accuracies.append(accuracy)
            basis = np.column_stack([basis, direction / norm])
            left = left - np.outer(left @ basis[:, -1], basis[:, -1])
        self.left_ = self.right_ = basis
        self.accuracies_ = np.array(accuracies)
        return self
