"""A narrow code without its most telling directions, transported region by region and put together again from signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_consistent_length, validate_data

from privface.erasers.base import Eraser, Promise, label_codes, require_range, unit_rows
from privface.erasers.transport import GaussianMap

_LEAST = 20
"""Rows of each label that a stratum needs to be balanced by itself; chosen by hand."""


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class RegionalTransport(ClassNamePrefixFeaturesOutMixin, Eraser):  # type: ignore[misc]  # scikit-learn has no types
    """Takes a label out of a narrow code in three steps, each where the one before leaves most.

    1. Directions in which the labels' Gaussians differ most are projected out: what is not there need not be mended. For more than
       two labels that is the symmetric Kullback-Leibler divergence to second order, summed over them. For two labels it is taken
       along the generalised eigenvectors of both covariances, and a difference of covariances counts double.
    2. Optimal transport of all labels onto their middle, as :class:`~privface.erasers.GaussianTransport` does it, but with a
       map for each region of the code (k-means on what one map for all gives). Labels differ otherwise in one group of
       people than in another, and one map cannot mend both.
    3. Nothing but the signs of random orthogonal projections is kept (as in locality-sensitive hashing, Charikar, STOC 2002), and
       the row is put together again from them. Angles between people survive, small differences between two clouds do not.

    Promise: empirical. An attacker with thousands of labelled people still reads a little.

    Args:
        size: Principal components (about zero, so that cosines change least) that rows are brought to first; 0 keeps all. A
            narrow code hides most: what is not there, nobody reads.
        drop: Directions to project out, of these.
        regions: Maps; 1 is one map for all.
        prior: Weight, in [0, 1], that rows of other regions have in a region's map. At 0 a region that lacks a label has the map for
            all.
        bits: Projections of which the sign is kept; 0 gives the transported rows themselves.
        shrinkage: As for :class:`~privface.erasers.GaussianTransport`.
        ridge: Likewise.
        random_state: Seed of regions and projections.

    Attributes:
        axes_: Orthonormal basis of what is kept, shape ``(D, K)``.
        means_, maps_, middle_: Of :class:`~privface.erasers.transport.GaussianMap`, first for all rows, then for each region:
            shapes ``(1 + R, C, K)``, ``(1 + R, C, K, K)``, ``(1 + R, K)``.
        gate_, slope_, offset_: Likewise, ``C - 1`` for each map: ``((1 + R) * (C - 1), K, K)`` and so on.
        centres_: Centres of the regions, shape ``(R, K)``.
        projection_: Shape ``(K, B)``.
        thresholds_: Medians of the projections, shape ``(B,)``.
    """

    method: ClassVar[str] = "regional"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "Means and covariances of all labels agree in each region of the weighted fitting data; an attacker with thousands of "
        "labelled people reads a little of what is left.",
    )
    several: ClassVar[bool] = True
    arrays: ClassVar[tuple[str, ...]] = (
        *("axes_", "means_", "maps_", "middle_", "gate_", "slope_", "offset_", "centres_"),
        *("projection_", "thresholds_"),
    )

    size: int = 0
    drop: int = 0
    regions: int = 16
    prior: float = 0.1
    bits: int = 0
    shrinkage: float = 0.1
    ridge: float = 1e-3
    random_state: int = 0

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, sets: ArrayLike | None = None, strata: ArrayLike | None = None
    ) -> Self:
        """Fit on embeddings ``(N, D)`` with labels ``(N,)`` of two classes or more.

        ``sets`` says which data set each row is of, ``(N,)``: sets weigh the same, and all labels in each, or the eraser would learn to tell sets apart.
        ``strata`` says of which class each row is of what shall be kept, ``(N,)``: all labels weigh the same in each stratum of
        a set, or the eraser would take along what the label merely occurs with. A stratum weighs as much as it has rows. Strata
        with fewer than 20 rows of some label are put together, with further ones until there are 20 of each.

        Raises:
            ValueError: As for :meth:`Eraser.fit`, if a set lacks a label, or lengths differ.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self.classes_, codes = label_codes(labels, several=True)
        require_range("size", self.size, 0, rows.shape[1])
        size = self.size or rows.shape[1]
        require_range("drop", self.drop, 0, max(size - 1, 0))
        require_range("regions", self.regions, 1, 1024)
        require_range("prior", self.prior, 0.0, 1.0)
        require_range("bits", self.bits, 0, 65_536)
        check_consistent_length(rows, sets, strata)
        alike = np.zeros(len(codes), np.int64)
        weights = _weights(
            codes,
            alike if sets is None else np.asarray(sets),
            alike if strata is None else np.asarray(strata),
            self.classes_,
        )
        units = unit_rows(rows)
        if self.size:
            # basis (D, size) of the principal components about zero
            main = np.linalg.eigh((units * weights[:, None]).T @ units)[1][:, : -size - 1 : -1]
            self.axes_ = main @ _quiet_axes(unit_rows(units @ main), codes, weights, drop=self.drop)
        else:
            self.axes_ = _quiet_axes(units, codes, weights, drop=self.drop)
        kept = unit_rows(units @ self.axes_)
        whole = self._map(kept, codes, weights)
        moved = whole.move(kept)
        maps, self.centres_ = [whole], np.zeros((0, kept.shape[1]))
        regions = min(self.regions, len(kept))
        if regions > 1:
            clusters = KMeans(regions, n_init=3, random_state=self.random_state).fit(moved)
            self.centres_ = clusters.cluster_centers_
            region = _nearest(moved, self.centres_)
            for number in range(regions):
                own = weights * np.where(region == number, 1.0, self.prior)
                alone = np.bincount(codes, own).min() == 0  # without a prior a region may lack a label
                maps.append(whole if alone else self._map(kept, codes, own))
        means, linear, middles, *gates = zip(*maps, strict=True)
        self.means_, self.maps_, self.middle_ = np.stack(means), np.stack(linear), np.stack(middles)
        self.gate_, self.slope_, self.offset_ = map(np.concatenate, gates)
        self._draw_projections(self._transported(kept))
        return self

    def _map(
        self, rows: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> GaussianMap:
        moments = _label_moments(rows, codes, weights)
        return GaussianMap.between(*moments, shrinkage=self.shrinkage, ridge=self.ridge)

    def _draw_projections(self, moved: NDArray[np.float64]) -> None:
        size = moved.shape[1]
        rng = np.random.default_rng(self.random_state)
        turns = [np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(-(-self.bits // size))]
        self.projection_ = np.concatenate([np.zeros((size, 0)), *turns], axis=1)[:, : self.bits]
        self.thresholds_ = np.median(moved @ self.projection_, axis=0)

    def transported(self, X: ArrayLike) -> NDArray[np.float64]:
        """Rows ``(N, D)`` before their signs are taken: unit rows ``(N, K)``."""
        rows: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        return self._transported(unit_rows(unit_rows(rows) @ self.axes_))

    def _transported(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        gates = [np.split(part, len(self.means_)) for part in (self.gate_, self.slope_, self.offset_)]
        parts = zip(self.means_, self.maps_, self.middle_, *gates, strict=True)
        maps = [GaussianMap(*part) for part in parts]
        moved = maps[0].move(kept)
        if len(maps) == 1:
            return moved
        region = _nearest(moved, self.centres_)
        for number in np.unique(region):
            moved[region == number] = maps[1 + number].move(kept[region == number])
        return moved

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        moved = self._transported(unit_rows(unit_rows(rows.astype(np.float64)) @ self.axes_))
        if not self.bits:
            return moved.astype(rows.dtype)
        signs = np.where(moved @ self.projection_ > self.thresholds_, 1.0, -1.0)
        return unit_rows(signs @ self.projection_.T).astype(rows.dtype)

    @property
    def _n_features_out(self) -> int:
        return int(self.axes_.shape[1])


def _weights(
    codes: NDArray[np.int64], sets: NDArray[Any], strata: NDArray[Any], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Weights with which all labels sum to the same in each stratum of a set, and all sets to the same; no row is thrown away."""
    weights = np.zeros(len(codes))
    for name in np.unique(sets):
        rows = np.flatnonzero(sets == name)
        counts = np.bincount(codes[rows], minlength=len(classes))
        if counts.min() == 0:
            raise ValueError(
                f"The set {name!r} has no row of the label {classes[counts.argmin()]!r}; each set needs all labels."
            )
        for part in _parts(codes[rows], strata[rows], labels=len(classes)):
            counts = np.bincount(codes[rows[part]], minlength=len(classes))
            weights[rows[part]] = len(part) / len(rows) / counts[codes[rows[part]]]
    return np.asarray(weights / weights.mean())


def _parts(codes: NDArray[np.int64], strata: NDArray[Any], *, labels: int) -> list[NDArray[np.int64]]:
    """Rows of each stratum; those with the fewest rows of some label are put together until there are enough of each."""
    _, members = np.unique(strata, return_inverse=True)
    counts = np.zeros((members.max() + 1, labels), np.int64)
    np.add.at(counts, (members, codes), 1)
    order = np.argsort(counts.min(axis=1), kind="stable")
    rarest, together = counts[order].min(axis=1), counts[order].cumsum(axis=0).min(axis=1)
    joined = max(int(np.sum(rarest < _LEAST)), int(np.sum(together < _LEAST)) + 1)
    first = np.flatnonzero(np.isin(members, order[:joined]))
    return [first, *(np.flatnonzero(members == number) for number in order[joined:])]


def _label_moments(
    rows: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean ``(C, D)`` and covariance ``(C, D, D)`` of each label."""
    means, covariances = [], []
    for label in range(int(codes.max()) + 1):
        share = weights * (codes == label)
        share = share / share.sum()
        means.append(share @ rows)
        centred = rows - means[-1]
        covariances.append((centred * share[:, None]).T @ centred)
    return np.stack(means), np.stack(covariances)


def _quiet_axes(
    rows: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64], *, drop: int
) -> NDArray[np.float64]:
    """Basis ``(D, D - drop)`` of what is left when the directions that tell most are projected out."""
    size = rows.shape[1]
    if not drop:
        return np.eye(size)
    means, covariances = _label_moments(rows, codes, weights)
    values, vectors = np.linalg.eigh(covariances.mean(axis=0))
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))) @ vectors.T
    directions = _two_apart if len(means) == 2 else _several_apart
    loud = np.linalg.qr(whiten @ directions(means, covariances, whiten)[:, :drop])[0]
    return np.asarray(np.linalg.svd(np.eye(size) - loud @ loud.T)[0][:, : size - drop])


def _two_apart(
    means: NDArray[np.float64], covariances: NDArray[np.float64], whiten: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Directions ``(D, D)`` of white rows, those first in which the Gaussians of two labels differ most.

    With gap d of the means and s of the variances that is d^2 + s^2 / (1 - s^2 / 4); the symmetric divergence of Kullback and Leibler is
    (d^2 + s^2 / 2) / (1 - s^2 / 4).
    """
    spread, turn = np.linalg.eigh(whiten @ (covariances[1] - covariances[0]) @ whiten)
    spread = np.clip(spread, -1.9, 1.9)
    apart = turn.T @ whiten @ (means[1] - means[0])
    divergence = apart**2 + spread**2 / (1 - spread**2 / 4)
    return np.asarray(turn[:, np.argsort(-divergence, kind="stable")])


def _several_apart(
    means: NDArray[np.float64], covariances: NDArray[np.float64], whiten: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Directions ``(D, D)`` of white rows, those first in which any number of labels differ most.

    Measured by the scatter of means plus half the squared deviations of covariances: to second order the symmetric divergence, which
    weighs covariances half as much as :func:`_two_apart` does.
    """
    apart = (means - means.mean(axis=0)) @ whiten
    spread = whiten @ (covariances - covariances.mean(axis=0)) @ whiten
    _, turn = np.linalg.eigh(apart.T @ apart + 0.5 * (spread @ spread).sum(axis=0))
    return np.asarray(turn[:, ::-1])


def _nearest(rows: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    scores = rows @ centres.T - 0.5 * (centres**2).sum(axis=1)
    return np.asarray(scores.argmax(axis=1), np.int64)
