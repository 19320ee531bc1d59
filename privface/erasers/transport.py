"""Optimal transport of both labels' embeddings onto their common middle, chosen row by row by a quadratic gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils.validation import validate_data

from privface.erasers.base import BLOCK, Eraser, Promise, known_codes, require_range, require_two, unit_rows
from privface.erasers.moments import ClassMoments


class GaussianTransport(OneToOneFeatureMixin, Eraser):  # type: ignore[misc]  # scikit-learn has no types
    """Gives both labels the same mean and the same covariance, moving rows as little as possible.

    Strong matchers keep gender less in a direction than in the *shape* of two clouds: a quadratic probe reads it where a
    linear one hardly does. Each row is judged by a quadratic discriminant (no true label is asked for) and then moved by
    the optimal transport map of its side, from that side's Gaussian to the Wasserstein barycentre of both (Knott and
    Smith, 1984; Agueh and Carlier, 2011). Two rows of one side keep their similarity almost unchanged, so
    matching does.

    Promise: empirical. First and second moments agree on the fitting data where the gate is right; what is left is of
    third order, and an attacker with very many labelled people reads some of it.

    Works on directions: rows are brought to unit length before and after, so a norm cannot leak. Streams as
    :class:`~privface.erasers.LEACE` does.

    Args:
        shrinkage: Share of the identity mixed into the gate's covariances, in [0, 1].
        ridge: Added to the variances of the maps, relative to the mean variance; larger than 0.

    Attributes:
        means_: Mean of each label, shape ``(2, D)``.
        maps_: Linear part of each label's transport, shape ``(2, D, D)``.
        middle_: Mean of the barycentre, shape ``(D,)``.
        gate_: Quadratic form of the gate, shape ``(D, D)``.
        slope_: Linear part of the gate, shape ``(D,)``.
        offset_: Its constant, shape ``(1,)``.
        classes_: The two labels.
        n_features_in_: ``D``.
    """

    method: ClassVar[str] = "transport"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "Means and covariances of both labels agree on the fitting data; an attacker with thousands of labelled people "
        "reads what is left.",
    )
    arrays: ClassVar[tuple[str, ...]] = ("means_", "maps_", "middle_", "gate_", "slope_", "offset_")

    def __init__(self, *, shrinkage: float = 0.1, ridge: float = 1e-3) -> None:
        self.shrinkage, self.ridge = shrinkage, ridge

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803  # scikit-learn's names
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``.

        Raises:
            ValueError: If shapes do not fit, values are not finite, there are not exactly two labels, one has a
                single row, or a setting is out of range.
        """
        if hasattr(self, "_moments"):
            del self._moments
        return self.partial_fit(X, y, classes=np.unique(np.asarray(y)))

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:  # noqa: N803
        """Add rows; the first call names both labels in ``classes``, as a part may hold only one.

        Raises:
            ValueError: As for :meth:`fit`.
        """
        require_range("shrinkage", self.shrinkage, 0.0, 1.0)
        require_range("ridge", self.ridge, 1e-9, 1e3)
        first = not hasattr(self, "_moments")
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=first)
        if first:
            self.classes_ = np.unique(np.asarray(labels if classes is None else classes))
            require_two(self.classes_)
            self._moments = ClassMoments(rows.shape[1])
        codes = known_codes(labels, self.classes_)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            self._moments.add(unit_rows(rows[part].astype(np.float64)), codes[part])
        if self._moments.counts.min() > 0:
            self._solve()
        return self

    def side(self, X: NDArray[Any]) -> NDArray[np.float64]:  # noqa: N803
        """The gate's log-odds for the second label, shape ``(N,)``, of unit rows ``(N, D)``."""
        return self._fitted.side(np.asarray(X, np.float64))

    @property
    def _fitted(self) -> GaussianMap:
        return GaussianMap(
            self.means_, self.maps_, self.middle_, self.gate_, self.slope_, float(self.offset_[0])
        )

    def _solve(self) -> None:
        covariances = [self._moments.covariance(label) for label in (0, 1)]
        solved = GaussianMap.between(
            self._moments.means, covariances, shrinkage=self.shrinkage, ridge=self.ridge
        )
        self.means_, self.maps_, self.middle_ = solved.means, solved.maps, solved.middle
        self.gate_, self.slope_, self.offset_ = solved.gate, solved.slope, np.array([solved.offset])

    def move(self, units: NDArray[np.float64], sides: NDArray[np.int64]) -> NDArray[np.float64]:
        """Transport unit rows ``(N, D)`` from the sides ``(N,)`` that they are on; unit rows again."""
        return self._fitted.move(units, sides)

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        return self._fitted.move(unit_rows(rows.astype(np.float64))).astype(rows.dtype)


@dataclass(frozen=True)
class GaussianMap:
    """Transport of two Gaussians onto their barycentre, and the gate that says which one a row is of.

    Attributes:
        means: Mean of each label, shape ``(2, D)``.
        maps: Linear part of each label's transport, shape ``(2, D, D)``.
        middle: Mean of the barycentre, shape ``(D,)``.
        gate: Quadratic form of the gate, shape ``(D, D)``.
        slope: Linear part of the gate, shape ``(D,)``.
        offset: Its constant.
    """

    means: NDArray[np.float64]
    maps: NDArray[np.float64]
    middle: NDArray[np.float64]
    gate: NDArray[np.float64]
    slope: NDArray[np.float64]
    offset: float

    @classmethod
    def between(
        cls,
        means: NDArray[np.float64],
        covariances: Sequence[NDArray[np.float64]],
        *,
        shrinkage: float,
        ridge: float,
    ) -> GaussianMap:
        """Solve for two labels' means ``(2, D)`` and covariances, each ``(D, D)``; settings as for :class:`GaussianTransport`."""
        size = means.shape[1]
        first, second = covariances
        level = max(float(np.trace(first + second)) / (2 * size), 1e-12)
        gates = [(1 - shrinkage) * c + (shrinkage + 1e-9) * level * np.eye(size) for c in (first, second)]
        inverses = [np.linalg.inv(c) for c in gates]
        constants = [
            float(mean @ inverse @ mean + np.linalg.slogdet(gate)[1])
            for mean, inverse, gate in zip(means, inverses, gates, strict=True)
        ]
        first, second = (c + ridge * level * np.eye(size) for c in (first, second))
        # the map from the second label to the first; the inverse leads back, and half-way is the barycentre
        root = _root(second)
        back = np.linalg.inv(root)
        over = back @ _root(root @ first @ root) @ back
        eye = np.eye(size)
        return cls(
            means.copy(),
            np.stack([0.5 * (eye + np.linalg.inv(over)), 0.5 * (eye + over)]),
            means.mean(axis=0),
            0.5 * (inverses[0] - inverses[1]),
            inverses[1] @ means[1] - inverses[0] @ means[0],
            0.5 * (constants[0] - constants[1]),
        )

    def side(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gate's log-odds for the second label, shape ``(N,)``, of unit rows ``(N, D)``."""
        return np.asarray(np.einsum("nd,nd->n", rows @ self.gate, rows) + rows @ self.slope + self.offset)

    def move(self, units: NDArray[np.float64], sides: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Transport unit rows ``(N, D)`` from the sides ``(N,)`` that they are on, by default the gate's; unit rows again."""
        chosen = (self.side(units) > 0).astype(np.int64) if sides is None else sides
        moved = np.empty_like(units)
        for label in (0, 1):
            part = chosen == label
            moved[part] = (units[part] - self.means[label]) @ self.maps[label].T + self.middle
        return unit_rows(moved)


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
