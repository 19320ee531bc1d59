"""Optimal transport of all labels' embeddings onto their common middle, chosen row by row by a quadratic gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin

from privface.erasers.base import Promise, StreamingEraser, require_range, unit_rows


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class GaussianTransport(OneToOneFeatureMixin, StreamingEraser):  # type: ignore[misc]  # scikit-learn has no types
    """Gives all labels the same mean and the same covariance, moving rows as little as possible.

    Strong matchers keep gender less in a direction than in the *shape* of two clouds: a quadratic probe reads it where a
    linear one hardly does. Each row is judged by a quadratic discriminant (no true label is asked for) and then moved by
    the optimal transport map of its label, from that label's Gaussian to the Wasserstein barycentre of all, which weigh the
    same (Knott and Smith, 1984; Agueh and Carlier, 2011). Two rows of one label keep their similarity almost unchanged, so
    matching does.

    Promise: empirical. First and second moments agree on the fitting data where the gate is right; what is left is of
    third order, and an attacker with very many labelled people reads some of it.

    Works on directions: rows are brought to unit length before and after, so a norm cannot leak. Streams as
    :class:`~privface.erasers.LEACE` does. Takes two labels or more (``C``).

    Args:
        shrinkage: Share of the identity mixed into the gate's covariances, in [0, 1].
        ridge: Added to the variances of the maps, relative to the mean variance; larger than 0.

    Attributes:
        means_, maps_, middle_, gate_, slope_, offset_: See :class:`GaussianMap`.
    """

    method: ClassVar[str] = "transport"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "Means and covariances of all labels agree on the fitting data; an attacker with thousands of labelled people "
        "reads what is left.",
    )
    arrays: ClassVar[tuple[str, ...]] = ("means_", "maps_", "middle_", "gate_", "slope_", "offset_")

    shrinkage: float = 0.1
    ridge: float = 1e-3

    def _begin(self, dimensions: int) -> None:
        require_range("shrinkage", self.shrinkage, 0.0, 1.0)
        require_range("ridge", self.ridge, 1e-9, 1e3)
        self._moments = ClassMoments(dimensions, labels=len(self.classes_))

    def _add(self, rows: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        self._moments.add(unit_rows(rows), codes)

    @property
    def fitted(self) -> GaussianMap:
        """The gate and the maps, as one."""
        return GaussianMap(*(getattr(self, name) for name in self.arrays))

    def _solve(self) -> None:
        if self._moments.counts.min() == 0:
            return
        solved = GaussianMap.between(
            self._moments.means, self._moments.covariances, shrinkage=self.shrinkage, ridge=self.ridge
        )
        for name, array in zip(self.arrays, solved, strict=True):
            setattr(self, name, array)

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        return self.fitted.move(unit_rows(rows.astype(np.float64))).astype(rows.dtype)


class ClassMoments:
    """Exact running sums of each of ``C`` labels' rows, merged as by Chan, Golub and LeVeque (1983): counts ``(C,)``, means ``(C, D)``."""

    def __init__(self, dimensions: int, *, labels: int) -> None:
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

    @property
    def covariances(self) -> NDArray[np.float64]:
        """Covariance of each label's rows, shape ``(C, D, D)``."""
        return np.asarray(self._scatters / np.maximum(self.counts, 1.0)[:, None, None])


class GaussianMap(NamedTuple):
    """Transport of some Gaussians onto their barycentre, and the gate that says which one a row is of.

    Attributes:
        means: Mean of each label, shape ``(C, D)``.
        maps: Linear part of each label's transport, shape ``(C, D, D)``.
        middle: Mean of the barycentre, shape ``(D,)``.
        gate: Quadratic forms of the log-odds for each label but the first, against the first; shape ``(C - 1, D, D)``.
        slope: Their linear parts, shape ``(C - 1, D)``.
        offset: Their constants, shape ``(C - 1,)``.
    """

    means: NDArray[np.float64]
    maps: NDArray[np.float64]
    middle: NDArray[np.float64]
    gate: NDArray[np.float64]
    slope: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def between(
        cls,
        means: NDArray[np.float64],
        covariances: NDArray[np.float64],
        *,
        shrinkage: float,
        ridge: float,
    ) -> GaussianMap:
        """Solve for means ``(C, D)`` and covariances ``(C, D, D)``; settings as for :class:`GaussianTransport`."""
        count, size = means.shape
        level = max(float(np.trace(sum(covariances))) / (count * size), 1e-12)
        gates = (1 - shrinkage) * covariances + (shrinkage + 1e-9) * level * np.eye(size)
        inverses = np.linalg.inv(gates)
        pulls = np.stack([inverse @ mean for mean, inverse in zip(means, inverses, strict=True)])
        lengths = [mean @ inverse @ mean for mean, inverse in zip(means, inverses, strict=True)]
        constants = np.array(lengths) + np.linalg.slogdet(gates)[1]
        return cls(
            means.copy(),
            transport_maps(covariances + ridge * level * np.eye(size)),
            means.mean(axis=0),
            0.5 * (inverses[0] - inverses[1:]),
            pulls[1:] - pulls[0],
            0.5 * (constants[0] - constants[1:]),
        )

    def judge(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        """The label that the gate sees in unit rows ``(N, D)``, shape ``(N,)``."""
        odds = [
            np.einsum("nd,nd->n", rows @ gate, rows) + rows @ slope + offset
            for gate, slope, offset in zip(self.gate, self.slope, self.offset, strict=True)
        ]
        return np.asarray(np.argmax([np.zeros(len(rows)), *odds], axis=0), np.int64)

    def move(
        self, units: NDArray[np.float64], labels: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Transport unit rows ``(N, D)`` of labels ``(N,)``, by default those that the gate sees; unit rows again."""
        chosen = self.judge(units) if labels is None else labels
        moved = np.empty_like(units)
        for label in range(len(self.means)):
            part = chosen == label
            moved[part] = (units[part] - self.means[label]) @ self.maps[label].T + self.middle
        return unit_rows(moved)


def transport_maps(covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Optimal maps ``(C, D, D)`` from centred Gaussians of ``C`` covariances ``(D, D)``, which weigh the same, to their Wasserstein barycentre."""
    if len(covariances) == 2:  # half of the way from one to the other; no iteration is needed
        over = _map_between(covariances[1], covariances[0])
        eye = np.eye(len(over))
        return np.stack([0.5 * (eye + np.linalg.inv(over)), 0.5 * (eye + over)])
    middle = barycentre(covariances)
    return np.stack([_map_between(covariance, middle) for covariance in covariances])


def barycentre(covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance ``(D, D)`` of the Wasserstein barycentre of centred Gaussians, by the fixed point of Alvarez-Esteban et al.

    "A fixed-point approach to barycenters in Wasserstein space", Journal of Mathematical Analysis and Applications, 2016.
    The ``C`` positive definite matrices ``(D, D)`` weigh the same. It stops when no value changes by 1e-12 of the largest, or
    after 1000 steps.
    """
    middle = np.mean(covariances, axis=0)
    for _ in range(1000):
        root = _root(middle)
        back = np.linalg.inv(root)
        inner = np.mean([_root(root @ covariance @ root) for covariance in covariances], axis=0)
        before, middle = middle, back @ inner @ inner @ back
        middle = (middle + middle.T) / 2
        if np.abs(middle - before).max() <= 1e-12 * np.abs(middle).max():
            break
    return np.asarray(middle)


def _map_between(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Optimal map from one centred Gaussian to another (Knott and Smith, 1984)."""
    root = _root(source)
    back = np.linalg.inv(root)
    return np.asarray(back @ _root(root @ target @ root) @ back)


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
