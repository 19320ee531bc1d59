"""Scores of pairs, and matching figures over 10^9 of them in bounded memory: no score array, no sort, and the same numbers.

The similarity matrix is formed tile by tile, twice. The first pass counts scores in 65,536 bins; the second
keeps only the scores of the few bins in which a threshold must lie, and those above the highest of them.
Kept scores are computed again in float64, so rates at thresholds equal those of the sorted scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from privface.audit.curves import DetCurve, OperatingPoint, crossing
from privface.audit.intervals import TAIL, thin_impostors
from privface.errors import ScoreError
from privface.records import Embeddings, Scores
from privface.threads import core_count

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


def cosine_scores(
    gallery: Embeddings, probe: Embeddings, pairs: NDArray[np.int64], *, block: int = 512
) -> Scores:
    """Cosine similarity of gallery[i] and probe[j] for each pair (i, j), float64, shape ``(len(pairs),)``.

    Rows of NaN give NaN. Products are taken in blocks of the similarity matrix where pairs are dense.

    Args:
        gallery: Shape ``(N, D)``.
        probe: Shape ``(N, D)``.
        pairs: Positions, shape ``(K, 2)``.
        block: Gallery rows per matrix product.
    """
    whole: NDArray[np.float64] | None = None  # all probes in float64 are made only if a block is dense
    out = np.empty(len(pairs), np.float64)
    order = np.argsort(pairs[:, 0], kind="stable")
    edges = np.searchsorted(pairs[order, 0], np.arange(0, len(gallery) + block, block))
    for start, (low, high) in zip(range(0, len(gallery), block), pairwise(edges.tolist()), strict=False):
        where = order[low:high]
        rows, columns = pairs[where, 0] - start, pairs[where, 1]
        g = _unit(gallery[start : start + block])
        # fetching two rows costs as much as some 300 entries of a product
        if where.size * 256 > block * len(probe):
            whole = _unit(probe) if whole is None else whole
            out[where] = (g @ whole.T)[rows, columns]
        else:
            for part in range(0, where.size, _CHUNK):
                piece = slice(part, part + _CHUNK)
                out[where[piece]] = np.einsum("kd,kd->k", g[rows[piece]], _unit(probe[columns[piece]]))
    # equal faces must tie: a matrix product and a single product differ in the last bits, and a protector that
    # maps everybody to one face would otherwise get a ranking made of rounding errors
    return np.clip(np.round(out, 10), -1.0, 1.0)


def _unit(embeddings: Embeddings) -> NDArray[np.float64]:
    array = np.asarray(embeddings, np.float64)
    norm = np.linalg.norm(array, axis=1, keepdims=True)
    # a null vector has no direction: no face was described, so it failed to enrol
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(norm > 0, array / norm, np.nan), np.float64)


def _single_units(embeddings: Embeddings) -> tuple[Embeddings, NDArray[np.bool_]]:
    """Unit rows in float32, zeros where a photo failed to enrol, and which ones did not; in parts, as float64 takes twice the memory."""
    out: Embeddings = np.empty(embeddings.shape, np.float32)
    for start in range(0, len(out), _CHUNK):
        out[start : start + _CHUNK] = _unit(embeddings[start : start + _CHUNK])
    ok = np.asarray(np.isfinite(out).all(axis=1), np.bool_)
    out[~ok] = 0.0
    return out, ok


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
    gallery: Embeddings,
    probe: Embeddings,
    person: NDArray[np.int64],
    gender: NDArray[np.int64],
    genuine: Scores,
    *,
    fmrs: tuple[float, ...],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImpostorScores | None, ImpostorScores | None]:
    """Impostor scores of all pairs of photos, and of those of the same gender.

    Memory is bounded by a few tiles of 2,048 x 2,048 scores per core and the kept tails; time grows
    with the number of pairs.

    Args:
        gallery: Embeddings, shape ``(N, D)``; rows of NaN failed to enrol. A pair's earlier photo is the gallery.
        probe: The same photos as probes; a pair's later photo is the probe.
        person: Person numbers, shape ``(N,)``.
        gender: 0 or 1, ascending, shape ``(N,)``.
        genuine: Genuine scores, which decide where the equal error rate lies.
        fmrs: False match rates whose thresholds must be exact.
        seed: Seed of the random sample for intervals.
        progress: Called with (tiles done, tiles) over both passes.

    Returns:
        The two summaries; ``None`` where there is no such pair.

    Raises:
        ScoreError: If genders are not sorted.
    """
    if (np.diff(gender) < 0).any():
        raise ScoreError("Streaming needs photos sorted by gender.", hint="Sort the rows first.")
    stream = _Stream(gallery, probe, person, gender, progress)
    counts, moments = stream.count()
    kinds = ((counts.sum(axis=0), moments.sum(axis=0)), (counts[1], moments[1]))
    plans = [_plan(kind, genuine, fmrs) if kind.any() else None for kind, _ in kinds]
    keep = np.zeros(BINS, np.bool_)
    for plan, (kind, _) in zip(plans, kinds, strict=True):
        if plan is not None:
            decisive, lowest = plan
            keep[[bin_ for bin_ in decisive if kind[bin_] <= _HEAVY]] = True
            keep[lowest:] = True
    pairs, bins, same = stream.gather(keep)
    scores = cosine_scores(gallery, probe, pairs)
    found: list[ImpostorScores | None] = []
    for number, (plan, (kind, sums)) in enumerate(zip(plans, kinds, strict=True)):
        if plan is None:
            found.append(None)
            continue
        decisive, lowest = plan
        mine = same if number else np.ones(len(pairs), np.bool_)
        tail = mine & (bins >= lowest)
        exact = {bin_: _levels(bin_, kind, scores[mine & (bins == bin_)]) for bin_ in decisive}
        tails = (scores[tail], person[pairs[tail]])
        sample = stream.sample(lowest, same_gender=bool(number), seed=seed)
        found.append(ImpostorScores(kind, exact, *tails, (float(sums[0]), float(sums[1])), *sample))
    return found[0], found[1]


def _plan(counts: NDArray[np.int64], genuine: Scores, fmrs: tuple[float, ...]) -> tuple[list[int], int]:
    """The bins near those that decide, whose scores are needed one by one, and the lowest bin of the tail."""
    total = int(counts.sum())
    decisive = {rank_bin(counts, math.floor(fmr * total + 1e-9)) for fmr in fmrs}
    decisive.add(crossing_bin(counts, genuine))
    tail = rank_bin(counts, min(TAIL, total - 1)) + 1
    return sorted({near for bin_ in decisive for near in _near(bin_)}), tail


def _levels(bin_: int, counts: NDArray[np.int64], scores: Scores) -> tuple[Scores, NDArray[np.int64]]:
    """Distinct scores of a bin and how often each occurs; those of a bin of ties lie in its middle."""
    if counts[bin_] > _HEAVY:
        return bin_centres()[[bin_]], counts[[bin_]]
    return np.unique(scores, return_counts=True)


@dataclass(frozen=True)
class _Tile:
    rows: slice
    columns: slice
    same_gender: bool
    masked: bool  # some of its pairs are no impostor pairs, or are met in the other order


class _Stream:
    """The similarity matrix, tile by tile and twice."""

    def __init__(
        self,
        gallery: Embeddings,
        probe: Embeddings,
        person: NDArray[np.int64],
        gender: NDArray[np.int64],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._sides, self._person, self._gender, self._progress = (gallery, probe), person, gender, progress
        (self._gallery, first), (self._probe, second) = (_single_units(side) for side in self._sides)
        self._ok = (first, second)
        self._gallery *= np.float32(_SCALE)
        self._tiles, self._done = list(self._cut()), 0

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
        # one thread per tile: counting and comparing would leave BLAS threads idle
        with threadpool_limits(limits=1), ThreadPoolExecutor(core_count()) as pool:
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
        a, b = tile.rows, tile.columns
        valid = self._person[a][:, None] != self._person[b][None]
        valid &= self._ok[0][a][:, None] & self._ok[1][b][None]
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

    def _cut(self) -> Iterator[_Tile]:
        edges = (0, int(np.searchsorted(self._gender, 1)), len(self._gender))
        blocks = [
            slice(start, min(start + _TILE, high))
            for low, high in pairwise(edges)
            for start in range(low, high, _TILE)
        ]
        ok = self._ok[0] & self._ok[1]
        for number, a in enumerate(blocks):
            for b in blocks[number:]:
                met = a == b or not (ok[a].all() and ok[b].all())
                met = met or bool(np.isin(self._person[a], self._person[b]).any())
                yield _Tile(a, b, bool(self._gender[a.start] == self._gender[b.start]), met)

    def sample(self, tail: int, *, same_gender: bool, seed: int) -> tuple[Scores, NDArray[np.int64]]:
        """Scores and people of random impostor pairs below the tail."""
        pairs = np.random.default_rng([seed, 9]).integers(0, len(self._person), (SAMPLE, 2))
        pairs.sort(axis=1)
        first, second = pairs.T
        kept = (self._person[first] != self._person[second]) & self._ok[0][first] & self._ok[1][second]
        if same_gender:
            kept &= self._gender[first] == self._gender[second]
        pairs = pairs[kept]
        scores = cosine_scores(*self._sides, pairs)
        low = bin_of(scores) < tail
        return scores[low], self._person[pairs[low]]
