"""R-LACE: a subspace is found in a game against a linear probe, and projected out.

Ravfogel, Twiton, Goldberg and Cotterell, "Linear Adversarial Concept Erasure", ICML 2022, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from privface.erasers.base import Promise, require_range
from privface.erasers.linear import LinearEraser


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class RLACE(LinearEraser):
    """Relaxed linear adversarial concept erasure.

    A probe descends on its cross-entropy while a relaxed projection (a symmetric matrix with eigenvalues in [0, 1] that
    sum to ``rank``, the Fantope) ascends on it. Every ``check`` steps the relaxed matrix is rounded to a projection and judged by a
    newly trained probe; the one that leaves it least is kept.

    Promise: empirical: unlike LEACE there is no certificate, the game may stop short of its equilibrium.

    Args:
        rank: Directions to remove, 1 to D - 1.
        steps: Steps of the game.
        check: Steps between judgements.
        batch_size: Rows a step, half of each label.
        rate: Learning rate of the projection.
        probe_rate: Learning rate of the probe.
        normalize: Bring erased rows back to unit length.
        random_state: Seed of batches and of the first probe.

    Attributes:
        left_: Orthonormal directions, shape ``(D, rank)``; ``right_`` is the same.
        loss_: Cross-entropy in bits of the probe trained on what is left; 1 is a coin.
    """

    method: ClassVar[str] = "rlace"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "A linear probe trained against it finds little; there is no certificate, curved probes still read.",
    )

    rank: int = 1
    steps: int = 1000
    check: int = 100
    batch_size: int = 256
    rate: float = 0.05
    probe_rate: float = 0.2
    normalize: bool = False
    random_state: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``; errors as for :meth:`Eraser.fit`."""
        rows, codes = self._labelled(X, y)
        size = rows.shape[1]
        require_range("rank", self.rank, 1, max(size - 1, 1))
        require_range("steps", self.steps, 1, 1_000_000)
        require_range("check", self.check, 1, 1_000_000)
        self.mean_ = rows.mean(axis=0)
        centred = rows - self.mean_
        # one scale for all directions: it makes rates mean the same for every matcher and leaves the projection as it is
        scaled = centred / max(float(centred.std()), 1e-12)
        rng = np.random.default_rng(self.random_state)
        groups = [np.flatnonzero(codes == label) for label in (0, 1)]
        half = max(1, self.batch_size // 2)
        relaxed = np.eye(size) * (self.rank / size)
        weights, bias = rng.normal(size=size) / size**0.5, 0.0
        best: tuple[float, NDArray[np.float64]] | None = None
        for step in range(1, self.steps + 1):
            batch = np.concatenate([rng.choice(group, half) for group in groups])
            part, truth = scaled[batch], codes[batch]
            left = part - part @ relaxed
            error = (expit(left @ weights + bias) - truth) / len(batch)
            # d loss / d P is minus the sum of error * x w', made symmetric; the projection ascends
            push = np.outer(part.T @ error, weights)
            relaxed = _fantope(relaxed - self.rate * 0.5 * (push + push.T), self.rank)
            weights = weights - self.probe_rate * (left.T @ error + 1e-4 * weights)
            bias -= self.probe_rate * float(error.sum())
            if step % self.check == 0 or step == self.steps:
                basis = np.linalg.eigh(relaxed)[1][:, -self.rank :]
                remains = scaled - (scaled @ basis) @ basis.T
                probe = LogisticRegression(class_weight="balanced", max_iter=200).fit(remains, codes)
                chance = np.where(codes == 1, (codes == 0).mean(), (codes == 1).mean())
                value = float(log_loss(codes, probe.predict_proba(remains), sample_weight=chance) / np.log(2))
                if best is None or value > best[0]:
                    best = value, basis
        assert best is not None  # noqa: S101  # the last step is always judged
        self.loss_, self.left_ = best
        self.right_ = self.left_
        return self


def _fantope(matrix: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """The nearest symmetric matrix with eigenvalues in [0, 1] that sum to ``rank`` (Vu et al., NeurIPS 2013)."""
    values, vectors = np.linalg.eigh(matrix)

    def excess(shift: float) -> float:
        return float(np.clip(values - shift, 0.0, 1.0).sum() - rank)

    shift = brentq(excess, float(values.min()) - 1.0, float(values.max()) + 1e-9)
    return np.asarray((vectors * np.clip(values - shift, 0.0, 1.0)) @ vectors.T)
