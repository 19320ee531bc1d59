"""Matching figures over 10^9 pairs in bounded memory: no score array, no sort, and the same numbers.

The similarity matrix is formed tile by tile, twice. The first pass counts scores in 65,536 bins; the second
keeps only the scores of the few bins in which a threshold must lie, and those above the highest of them.
Kept scores are computed again in float64, so rates at thresholds equal those of the sorted scores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import DetCurve, OperatingPoint, crossing
from privface.audit.intervals import TAIL, thin_impostors
from privface.errors import ScoreError
from privface.records import Embeddings, Scores

_T = TypeVar("_T")

BINS = 65_536
# a cosine of 1 + 1e-4 stays inside the bins, and no simple fraction lies on an edge between two of them, where
# float32 and float64 could disagree about the bin of a tie
_SCALE, _OFFSET = 32_760.0, 32_768.3717
_MARGIN = 2
"""Bins kept beside one that decides: rounding moves a float32 score by one bin at most, and so may split a tie."""

_TILE = 2_048
_CHUNK = 2_048
_HEAVY = 4_000_000
"""Scores in one bin above which they count as tied: someone maps everybody to one face."""

SAMPLE = 200_000
"""Random impostor pairs that stand for those below the exact tail when intervals are drawn."""


@dataclass(frozen=True)
class Rows:
    """Photos in the order in which they are compared.

    Attributes:
        gallery: As given, float32, shape ``(N, D)``.
        probe: The same photos as probes.
        units: Both in unit length, zeros where not enrolled.
        gallery_ok: Which gallery rows are enrolled, shape ``(N,)``.
        probe_ok: Which probe rows are enrolled.
        person: Person numbers, shape ``(N,)``.
        gender: 0 or 1, ascending, shape ``(N,)``.
    """

    gallery: Embeddings
    probe: Embeddings
    units: tuple[Embeddings, Embeddings]
    gallery_ok: NDArray[np.bool_]
    probe_ok: NDArray[np.bool_]
    person: NDArray[np.int64]
    gender: NDArray[np.int64]

    @classmethod
    def build(
        cls, gallery: Embeddings, probe: Embeddings, person: NDArray[np.int64], gender: NDArray[np.int64]
    ) -> Rows:
        """Normalise; rows of NaN failed to enrol.

        Raises:
            ScoreError: If genders are not sorted.
        """
        if (np.diff(gender) < 0).any():
            raise ScoreError("Streaming needs photos sorted by gender.", hint="Sort the rows first.")
        (g_unit, g_ok), (p_unit, p_ok) = _unit(gallery), _unit(probe)
        return cls(gallery, probe, (g_unit, p_unit), g_ok, p_ok, person, gender)

    def scores(self, pairs: NDArray[np.int64]) -> Scores:
        """Cosine similarity in float64, rounded to 1e-10 so that equal faces tie, of pairs ``(K, 2)``."""
        out = np.empty(len(pairs), np.float64)
        for start in range(0, len(pairs), _CHUNK):
            part = pairs[start : start + _CHUNK]
            g, p = self.gallery[part[:, 0]].astype(np.float64), self.probe[part[:, 1]].astype(np.float64)
            norms = np.sqrt(np.einsum("kd,kd->k", g, g) * np.einsum("kd,kd->k", p, p))
            out[start : start + _CHUNK] = np.einsum("kd,kd->k", g, p) / norms
        return np.asarray(np.clip(np.round(out, 10), -1.0, 1.0), np.float64)


@dataclass(frozen=True)
class ImpostorScores:
    """All impostor scores of one kind, summarised so that every figure can be read off.

    Attributes:
        counts: Scores by bin, lowest first, shape ``(BINS,)``.
        exact: Distinct scores and how often each occurs, ascending, of the bins that were kept.
        tail: Scores of the highest bins, shape ``(T,)``.
        tail_people: Their two people, shape ``(T, 2)``.
        moments: Sum and sum of squares of all scores.
        sample: Scores of random pairs below the tail.
        sample_people: Their two people.
    """

    counts: NDArray[np.int64]
    exact: Mapping[int, tuple[Scores, NDArray[np.int64]]]
    tail: Scores
    tail_people: NDArray[np.int64]
    moments: tuple[float, float]
    sample: Scores
    sample_people: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of impostor pairs."""
        return int(self.counts.sum())

    def tmr_at_fmr(self, genuine: Scores, *, fmr: float) -> OperatingPoint:
        """As :func:`privface.audit.curves.tmr_at_fmr`, for one of the rates that were streamed for."""
        allowed = math.floor(fmr * self.size + 1e-9)
        values, counts, above = self._around(rank_bin(self.counts, allowed))
        over = above + np.concatenate([np.cumsum(counts[::-1])[::-1][1:], [0]])  # above each value
        first = int(np.argmax(over <= allowed))  # the lowest value with no more above it than allowed
        genuine = self._snapped(genuine)
        return OperatingPoint(
            threshold=float(np.nextafter(values[first], np.inf)),
            fmr=float(over[first] / self.size),
            tmr=float(np.count_nonzero(genuine > values[first]) / genuine.size),
        )

    def eer(self, genuine: Scores) -> float:
        """As :func:`privface.audit.curves.eer`."""
        genuine = self._snapped(genuine)
        bin_ = crossing_bin(self.counts, genuine)
        values, counts, above = self._around(bin_)
        where = bin_of(genuine)
        higher = np.count_nonzero(where > bin_ + _MARGIN)
        mine = np.sort(genuine[np.abs(where - bin_) <= _MARGIN])
        levels = np.unique(np.concatenate([mine, values]))[::-1]
        g = higher + mine.size - np.searchsorted(mine, levels, side="left")
        below = np.concatenate([[0], np.cumsum(counts)])
        i = above + below[-1] - below[np.searchsorted(values, levels, side="left")]
        tmr = np.concatenate([[higher], g]) / genuine.size
        fmr = np.concatenate([[above], i]) / self.size
        return float(crossing(tmr[:, None], fmr[:, None])[0])

    def auc(self, genuine: Scores) -> float:
        """As :func:`privface.audit.curves.auc`, but for ties in bins that were not kept: there, scores count as spread evenly."""
        genuine = self._snapped(genuine)
        below = np.concatenate([[0], np.cumsum(self.counts)])
        where = bin_of(genuine)
        finite = np.where(np.isfinite(genuine), genuine, -1.0)
        share = np.where(np.isneginf(genuine), 0.0, np.clip(finite * _SCALE + _OFFSET - where, 0.0, 1.0))
        rank = below[where] + share * self.counts[where]
        for bin_, (values, counts) in self.exact.items():
            mine = where == bin_
            passed = np.concatenate([[0], np.cumsum(counts)])
            ends = [passed[np.searchsorted(values, genuine[mine], side=side)] for side in ("left", "right")]
            rank[mine] = below[bin_] + (ends[0] + ends[1]) / 2.0
        return float(np.clip(rank.sum() / (self.size * genuine.size), 0.0, 1.0))

    def d_prime(self, genuine: Scores) -> float:
        """As :func:`privface.audit.curves.d_prime`."""
        g = self._snapped(genuine)[np.isfinite(genuine)]
        if self.size < 2 or g.size < 2:
            return math.nan
        mean = self.moments[0] / self.size
        # float32 products leave noise on constant scores: 1e-7 relative, on squares as well
        spread = math.sqrt((g.var() + max(self.moments[1] / self.size - mean * mean, 0.0)) / 2.0)
        return float((g.mean() - mean) / spread) if spread > 1e-3 else math.nan

    def det(self, genuine: Scores, *, points: int = 200) -> DetCurve:
        """As :func:`privface.audit.curves.det_curve`, with thresholds at the edges of bins."""
        from_top = np.cumsum(self.counts[::-1])[::-1]
        ranks = np.unique(np.round(np.geomspace(1, self.size, points // 2)).astype(np.int64))
        chosen = {rank_bin(self.counts, int(rank) - 1) for rank in ranks}
        ordered = np.sort(genuine)
        places = np.unique(np.round(np.geomspace(1, genuine.size, points // 2)).astype(np.int64))
        chosen |= set(bin_of(ordered[places - 1]).tolist())
        bins = np.array(sorted(chosen, reverse=True))
        threshold = (bins - _OFFSET) / _SCALE
        fnmr = np.searchsorted(ordered, threshold, side="left") / genuine.size
        return DetCurve(fmr=from_top[bins] / self.size, fnmr=fnmr, threshold=threshold)

    def thinned(self) -> tuple[Scores, NDArray[np.int64], NDArray[np.float64]]:
        """Scores, people ``(K, 2)`` and weights that stand for all pairs when people are resampled."""
        rest = self.size - self.tail.size
        if not rest or not self.sample.size:
            return self.tail, self.tail_people, np.ones(self.tail.size)
        order = np.argsort(-self.sample, kind="stable")
        ranks, weights = thin_impostors(self.sample.size, tail=TAIL // 2)
        kept = order[ranks]
        return (
            np.concatenate([self.tail, self.sample[kept]]),
            np.concatenate([self.tail_people, self.sample_people[kept]]),
            np.concatenate([np.ones(self.tail.size), weights * (rest / self.sample.size)]),
        )

    def _around(self, bin_: int) -> tuple[Scores, NDArray[np.int64], int]:
        """Distinct scores of a bin and its neighbours, ascending, how often each occurs, and how many lie above."""
        near = _near(bin_)
        values, place = np.unique(np.concatenate([self.exact[b][0] for b in near]), return_inverse=True)
        counts = np.zeros(values.size, np.int64)
        np.add.at(counts, place, np.concatenate([self.exact[b][1] for b in near]))
        return values, counts, int(self.counts[near[-1] + 1 :].sum())

    def _snapped(self, genuine: Scores) -> Scores:
        """Genuine scores, those in a bin of ties at the value of the tie."""
        out = genuine.copy()
        where = bin_of(genuine)
        for bin_, (values, _) in self.exact.items():
            if self.counts[bin_] > _HEAVY:
                out[where == bin_] = values[0]
        return out


def bin_of(scores: Scores) -> NDArray[np.int64]:
    """The bin of each score; ``-inf`` lies in the lowest."""
    return np.clip(np.floor(np.maximum(scores, -1.0) * _SCALE + _OFFSET), 0, BINS - 1).astype(np.int64)


def bin_centres() -> Scores:
    """The middle of each bin, shape ``(BINS,)``."""
    return np.asarray((np.arange(BINS) + 0.5 - _OFFSET) / _SCALE, np.float64)


def _near(bin_: int) -> range:
    return range(max(bin_ - _MARGIN, 0), min(bin_ + _MARGIN, BINS - 1) + 1)


def rank_bin(counts: NDArray[np.int64], rank: int) -> int:
    """The bin that holds the score with ``rank`` scores above it."""
    from_top = np.cumsum(counts[::-1])
    return BINS - 1 - int(np.searchsorted(from_top, rank, side="right"))


def crossing_bin(counts: NDArray[np.int64], genuine: Scores) -> int:
    """The bin in which TMR + FMR reaches 1 from above."""
    mine = np.bincount(bin_of(genuine), minlength=BINS)
    total = np.cumsum(counts[::-1]) / counts.sum() + np.cumsum(mine[::-1]) / genuine.size
    return BINS - 1 - int(np.argmax(total >= 1.0 - 1e-12))


def stream_impostors(
    rows: Rows,
    genuine: Scores,
    *,
    fmrs: tuple[float, ...],
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImpostorScores | None, ImpostorScores | None]:
    """Impostor scores of all pairs of photos, and of those of the same gender.

    Memory is bounded by a few tiles of 2,048 x 2,048 scores per thread and the kept tails; time grows
    with the number of pairs.

    Args:
        rows: Photos; a pair's earlier photo is the gallery, its later one the probe.
        genuine: Genuine scores, which decide where the equal error rate lies.
        fmrs: False match rates whose thresholds must be exact.
        seed: Seed of the random sample for intervals.
        threads: Worker threads; by default one per core.
        progress: Called with (tiles done, tiles) over both passes.

    Returns:
        The two summaries; ``None`` where there is no such pair.
    """
    stream = _Stream(rows, threads or os.cpu_count() or 1, progress)
    counts, moments = stream.count()
    kinds = ((counts.sum(axis=0), moments.sum(axis=0)), (counts[1], moments[1]))
    plans = [_Plan.make(kind, genuine, fmrs) if kind.any() else None for kind, _ in kinds]
    keep = np.zeros(BINS, np.bool_)
    for plan in plans:
        if plan is not None:
            keep[list(plan.bins)] = True
            keep[plan.tail :] = True
    pairs, bins, same = stream.gather(keep)
    scores = rows.scores(pairs)
    found: list[ImpostorScores | None] = []
    for number, (plan, (kind, sums)) in enumerate(zip(plans, kinds, strict=True)):
        if plan is None:
            found.append(None)
            continue
        mine = same if number else np.ones(len(pairs), np.bool_)
        tail = mine & (bins >= plan.tail)
        sample, people = _sample(rows, plan.tail, same_gender=bool(number), seed=seed)
        exact = {b: plan.values(b, kind, scores[mine & (bins == b)]) for b in sorted(plan.bins | plan.ties)}
        tails = (scores[tail], rows.person[pairs[tail]])
        found.append(ImpostorScores(kind, exact, *tails, (float(sums[0]), float(sums[1])), sample, people))
    return found[0], found[1]


@dataclass(frozen=True)
class _Plan:
    """Which bins' scores are needed one by one (``bins``), which hold one tied value, and where the tail begins."""

    bins: frozenset[int]
    ties: frozenset[int]
    tail: int

    @classmethod
    def make(cls, counts: NDArray[np.int64], genuine: Scores, fmrs: tuple[float, ...]) -> _Plan:
        total = int(counts.sum())
        decisive = {rank_bin(counts, math.floor(fmr * total + 1e-9)) for fmr in fmrs}
        decisive.add(crossing_bin(counts, genuine))
        wanted = {near for bin_ in decisive for near in _near(bin_)}
        ties = {b for b in wanted if counts[b] > _HEAVY}
        tail = rank_bin(counts, min(TAIL, total - 1)) + 1
        return cls(frozenset(wanted - ties), frozenset(ties), tail)

    def values(
        self, bin_: int, counts: NDArray[np.int64], scores: Scores
    ) -> tuple[Scores, NDArray[np.int64]]:
        if bin_ in self.ties:
            return bin_centres()[[bin_]], counts[bin_ : bin_ + 1]
        values, found = np.unique(scores, return_counts=True)
        return values, found.astype(np.int64)


@dataclass(frozen=True)
class _Tile:
    rows: slice
    columns: slice
    same_gender: bool
    masked: bool  # some of its pairs are no impostor pairs, or are met in the other order


class _Stream:
    """The similarity matrix, tile by tile and twice."""

    def __init__(self, rows: Rows, threads: int, progress: Callable[[int, int], None] | None) -> None:
        self._rows, self._threads, self._progress = rows, threads, progress
        self._tiles = list(_tiles(rows))
        self._gallery, self._probe = rows.units[0] * np.float32(_SCALE), rows.units[1]
        self._done = 0

    def count(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Scores by bin and their sums, of pairs of different and of the same gender."""
        counts, moments = np.zeros((2, BINS), np.int64), np.zeros((2, 2))
        for tile, (found, sums) in self._over_tiles(self._count):
            counts[int(tile.same_gender)] += found
            moments[int(tile.same_gender)] += sums
        return counts, moments

    def gather(
        self, keep: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Pairs, bins and same-gender flags of the scores in the bins to keep."""
        tail = BINS - int(np.argmin(keep[::-1]))
        single = np.flatnonzero(keep[:tail]).astype(np.uint16)
        pairs, bins, same = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
        for tile, (found, where) in self._over_tiles(lambda tile: self._pick(tile, tail, single)):
            pairs.append(found)
            bins.append(where)
            same.append(np.full(len(found), tile.same_gender))
        return np.concatenate(pairs), np.concatenate(bins), np.concatenate(same)

    def _over_tiles(self, work: Callable[[_Tile], _T]) -> Iterator[tuple[_Tile, _T]]:
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        # one thread per tile: counting and comparing would leave BLAS threads idle
        with threadpool_limits(limits=1), ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(self._tiles), 64):  # a bounded number of results at a time
                part = self._tiles[start : start + 64]
                yield from zip(part, pool.map(work, part), strict=True)
                self._done += len(part)
                if self._progress is not None:
                    self._progress(self._done, 2 * len(self._tiles))

    def _bins(self, tile: _Tile) -> tuple[NDArray[np.uint16], Embeddings]:
        scores = np.asarray(self._gallery[tile.rows] @ self._probe[tile.columns].T, np.float32)
        scores += np.float32(_OFFSET)
        return scores.astype(np.uint16), scores

    def _impostors(self, tile: _Tile) -> NDArray[np.bool_]:
        rows, a, b = self._rows, tile.rows, tile.columns
        valid = rows.person[a][:, None] != rows.person[b][None]
        valid &= rows.gallery_ok[a][:, None] & rows.probe_ok[b][None]
        return np.triu(valid, 1) if a == b else valid

    def _count(self, tile: _Tile) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        bins, scores = self._bins(tile)
        if tile.masked:
            valid = self._impostors(tile)
            bins, scores = bins[valid], scores[valid]
            if not bins.size:
                return np.zeros(BINS, np.int64), np.zeros(2)
        found = cv2.calcHist([bins.reshape(1, -1)], [0], None, [BINS], [0, BINS]).ravel().astype(np.int64)
        values = scores.ravel()
        values -= np.float32(_OFFSET)
        total, squares = float(values.sum(dtype=np.float64)), float(np.vdot(values, values))
        return found, np.array([total / _SCALE, squares / _SCALE**2])

    def _pick(
        self, tile: _Tile, tail: int, single: NDArray[np.uint16]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        bins, _ = self._bins(tile)
        mask = bins >= tail  # a Python integer, so that BINS itself is above every bin
        for bin_ in single:
            mask |= bins == bin_
        if tile.masked:
            mask &= self._impostors(tile)
        i, j = np.nonzero(mask)
        return np.stack([i + tile.rows.start, j + tile.columns.start], axis=1), bins[i, j].astype(np.int64)


def _tiles(rows: Rows) -> Iterator[_Tile]:
    edges = (0, int(np.searchsorted(rows.gender, 1)), len(rows.gender))
    blocks = [
        slice(start, min(start + _TILE, high))
        for low, high in pairwise(edges)
        for start in range(low, high, _TILE)
    ]
    ok = rows.gallery_ok & rows.probe_ok
    for number, a in enumerate(blocks):
        for b in blocks[number:]:
            met = a == b or not (ok[a].all() and ok[b].all())
            met = met or bool(np.isin(rows.person[a], rows.person[b]).any())
            yield _Tile(a, b, bool(rows.gender[a.start] == rows.gender[b.start]), met)


def _sample(rows: Rows, tail: int, *, same_gender: bool, seed: int) -> tuple[Scores, NDArray[np.int64]]:
    """Scores and people of random impostor pairs below the tail."""
    rng = np.random.default_rng([seed, 9])
    pairs = np.sort(rng.integers(0, len(rows.person), (SAMPLE, 2)), axis=1)
    kept = rows.person[pairs[:, 0]] != rows.person[pairs[:, 1]]
    kept &= rows.gallery_ok[pairs[:, 0]] & rows.probe_ok[pairs[:, 1]]
    if same_gender:
        kept &= rows.gender[pairs[:, 0]] == rows.gender[pairs[:, 1]]
    pairs = pairs[kept]
    scores = rows.scores(pairs)
    low = bin_of(scores) < tail
    return scores[low], rows.person[pairs[low]]


def _unit(embeddings: Embeddings) -> tuple[Embeddings, NDArray[np.bool_]]:
    array = np.asarray(embeddings, np.float64)
    norm = np.linalg.norm(array, axis=1)
    ok = np.isfinite(norm) & (norm > 0)
    unit = np.where(ok[:, None], array / np.where(ok, norm, 1.0)[:, None], 0.0)
    return np.ascontiguousarray(unit, np.float32), ok
