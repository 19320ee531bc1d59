"""Intervals by resampling people (no torch, no scikit-learn).

Photos of one person are alike and pairs share people, so neither photos nor pairs may be resampled as if
they were independent: that makes intervals several times too narrow. Here a resample draws as many people
as there are, with replacement. A photo, or a genuine pair, then counts as often as its person was drawn
and an impostor pair as often as the product of its two people's draws (Bolle, Ratha and Pankanti, CVIU
2004; the product rule is Poh and Bengio's for crossed pairs). The product rule counts what is peculiar to a
single pair three times (Owen, Annals of Applied Statistics 2007, "The pigeonhole bootstrap"), which matters where few
impostors decide; :func:`draw_pairs` measures that part and takes the excess out. Intervals of rates are
symmetric on the logit scale with the spread of the resamples, as percentiles fall short near 0 and 1;
others are percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from privface.audit.curves import check_scores, crossing
from privface.errors import ConfigError, ScoreError
from privface.records import Measured, Scores
from privface.threads import core_count

Statistic: TypeAlias = Callable[[Scores, NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]
"""From scores ``(N,)``, labels ``(N,)`` and weights ``(B, N)`` to one value per weighting, ``(B,)``."""

TAIL = 32_768
"""Highest impostor scores that are always all kept, see :func:`thin_impostors`."""

_BATCH = 16  # resamples at a time: one gathered row of float32 is one cache line
_PAIR_DRAWS = 192  # for a variance that is small beside the one it is taken from


@dataclass(frozen=True)
class BootstrapParams:
    """How intervals are drawn.

    Attributes:
        resamples: Number of resamples, 2 or more; 1,000 for a figure that is published.
        seed: Same seed, same people drawn.
        level: Coverage, in (0, 1).
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ConfigError(f"resamples is {self.resamples}; it must be 2 or more.", hint="Use 1000.")
        if not 0.0 < self.level < 1.0:
            raise ConfigError(f"level is {self.level}; it must lie in (0, 1).", hint="Use 0.95.")


@dataclass(frozen=True)
class Interval:
    """An interval; both ends are NaN where fewer than nine tenths of the resamples were defined.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float

    def of(self, value: float, n: int) -> Measured:
        """The figure of which this is the interval, resting on ``n``."""
        return Measured(value, self.low, self.high, n)


@lru_cache(maxsize=2)
def people_multiplicities(n_people: int, params: BootstrapParams) -> NDArray[np.int64]:
    """How often each person is drawn in each resample, shape ``(R, P)``, read-only; rows sum to ``P``.

    An audit asks for the same draws a hundred times; the last are kept.

    Raises:
        ScoreError: If ``n_people`` is below 1.
    """
    if n_people < 1:
        raise ScoreError(f"{n_people} people; a resample needs at least one.")
    rng = np.random.default_rng(params.seed)
    draws = rng.multinomial(n_people, np.full(n_people, 1.0 / n_people), size=params.resamples)
    draws.flags.writeable = False
    return np.asarray(draws, np.int64)


def drawn_means(
    values: NDArray[np.float64] | NDArray[np.bool_], people: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of ``values`` ``(N,)`` of ``people`` ``(N,)`` under each resample ``(R, P)``, shape ``(R,)``."""
    count = draws.shape[1]
    with np.errstate(invalid="ignore"):  # a draw without any of them is undefined
        means = (draws @ np.bincount(people, values, count)) / (draws @ np.bincount(people, minlength=count))
    return np.asarray(means, np.float64)


def percentile_interval(draws: NDArray[np.float64], level: float) -> Interval:
    """The central ``level`` share of the defined draws."""
    defined = draws[~np.isnan(draws)]
    if defined.size < 0.9 * draws.size:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(low), float(high))


def rate_interval(value: float, draws: NDArray[np.float64], people: int, *, level: float) -> Interval:
    """Interval of a rate or of an AUC, from its value and the spread of its resamples.

    ``logit(value) +- t * sd / (value (1 - value))`` with Student's t of ``people - 1`` degrees of freedom:
    symmetric on the scale on which rates near 0 and 1 are, so that 600 simulated audits held the truth in 93 to
    97 of 100 where percentiles held it in 88 to 95 (``experiments/05_interval_coverage``). A rate of exactly
    0 or 1 has no spread; it gets that of half a person in error, and itself as one end.

    Args:
        value: The estimate, in [0, 1].
        draws: The same under each resample, shape ``(R,)``; NaN where undefined.
        people: How many people it rests on, 1 or more.
        level: Coverage, in (0, 1).
    """
    defined = draws[~np.isnan(draws)]
    if math.isnan(value) or defined.size < max(0.9 * draws.size, 2):
        return Interval(math.nan, math.nan)
    centre = min(max(value, 0.5 / people), 1.0 - 0.5 / people)
    spread = float(defined.std(ddof=1)) or math.sqrt(centre * (1.0 - centre) / people)
    reach = float(stdtrit(max(people - 1, 1), (1.0 + level) / 2.0)) * spread / (centre * (1.0 - centre))
    middle = math.log(centre / (1.0 - centre))
    low, high = (1.0 / (1.0 + math.exp(min(-x, 700.0))) for x in (middle - reach, middle + reach))
    return Interval(min(low, value), max(high, value))


def measure_mean(
    values: NDArray[np.float64] | NDArray[np.bool_],
    people: NDArray[np.str_] | NDArray[np.int64],
    params: BootstrapParams,
) -> Measured:
    """Mean of ``values`` ``(N,)``, not empty, with an interval over ``people`` ``(N,)``; of truth values it is a rate."""
    names, person = np.unique(people, return_inverse=True)
    draws = drawn_means(values, person, people_multiplicities(len(names), params))
    value = float(values.mean())
    if values.dtype == np.bool_:
        return rate_interval(value, draws, len(names), level=params.level).of(value, values.size)
    return percentile_interval(draws, params.level).of(value, values.size)


def leakage_interval(auc_interval: Interval) -> Interval:
    """Interval of ``max(AUC, 1 - AUC)`` from that of the AUC: the image of the interval under the fold.

    An interval of the AUC that holds 0.5 gives a lower end of 0.5. Percentiles of folded resamples would
    stay above 0.5 even where nothing leaks.
    """
    low, high = auc_interval.low, auc_interval.high
    ends = (max(low, 1.0 - low), max(high, 1.0 - high))
    return Interval(0.5 if low <= 0.5 <= high else min(ends), max(ends))


def draw_probe(
    scores: Scores,
    labels: NDArray[np.int64],
    people: NDArray[np.str_] | NDArray[np.int64],
    statistic: Statistic,
    params: BootstrapParams,
) -> NDArray[np.float64]:
    """A statistic of per-photo scores under each resample of people, shape ``(R,)``; NaN where undefined.

    Two probes that score the same people draw the same resamples, so differences may be taken draw by draw.

    Args:
        scores: Male scores, shape ``(N,)``.
        labels: 0 (female) or 1 (male), shape ``(N,)``.
        people: Who is on each photo, shape ``(N,)``.
        statistic: For example :func:`weighted_auc`.
        params: Resamples and seed.

    Raises:
        ScoreError: If the arrays differ in length or the scores cannot be ranked.
    """
    scores = check_scores(scores)
    labels = np.asarray(labels, np.int64)
    if labels.shape != scores.shape or np.shape(people) != scores.shape:
        raise ScoreError(
            f"{scores.size} scores, {labels.size} labels and {np.size(people)} people do not fit."
        )
    names, inverse = np.unique(people, return_inverse=True)
    draws = people_multiplicities(len(names), params)
    parts = [
        statistic(scores, labels, draws[start : start + 64][:, inverse].astype(np.float64))
        for start in range(0, len(draws), 64)
    ]
    return np.concatenate(parts)


def probe_interval(
    scores: Scores,
    labels: NDArray[np.int64],
    people: NDArray[np.str_] | NDArray[np.int64],
    statistic: Statistic,
    params: BootstrapParams,
) -> Interval:
    """Interval of a rate or AUC of per-photo scores; arguments as in :func:`draw_probe`."""
    figure = measure_probe(scores, labels, people, statistic, params)
    return Interval(figure.low, figure.high)


def measure_probe(
    scores: Scores,
    labels: NDArray[np.int64],
    people: NDArray[np.str_] | NDArray[np.int64],
    statistic: Statistic,
    params: BootstrapParams,
) -> Measured:
    """A rate or AUC of per-photo scores with its interval; arguments as in :func:`draw_probe`."""
    draws = draw_probe(scores, labels, people, statistic, params)
    value = float(statistic(scores, np.asarray(labels, np.int64), np.ones((1, len(scores))))[0])
    return rate_interval(value, draws, len(np.unique(people)), level=params.level).of(value, len(scores))


def _masses(
    scores: Scores, labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cumulative shares of men and women from the highest distinct score down, each ``(K + 1, B)``."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order]) != 0), scores.size - 1)
    ranked = weights.T[order]
    shares = []
    for label in (1, 0):
        mass = np.cumsum(ranked * (labels[order] == label)[:, None], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = mass[ends] / mass[-1]  # NaN where a resample drew nobody of this gender
        shares.append(np.concatenate([np.zeros((1, share.shape[1])), share]))
    return shares[0], shares[1]


def weighted_auc(
    scores: Scores, labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted :func:`~privface.audit.curves.auc` of men over women, a :data:`Statistic`."""
    male, female = _masses(scores, labels, weights)
    area = np.sum(np.diff(female, axis=0) * (male[1:] + male[:-1]), axis=0) / 2.0
    return np.asarray(np.clip(area, 0.0, 1.0), np.float64)


def weighted_eer(
    scores: Scores, labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted :func:`~privface.audit.curves.eer` of men over women, a :data:`Statistic`."""
    male, female = _masses(scores, labels, weights)
    value = crossing(male, female)
    return np.where(np.isnan(male[-1]) | np.isnan(female[-1]), np.nan, value)


def mean_recall(
    decided: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted balanced accuracy of decisions ``(N,)`` for any number of classes, a :data:`Statistic`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            (weights @ ((labels == label) & (decided == label))) / (weights @ (labels == label))
            for label in np.unique(labels)
        ]
    return np.asarray(np.mean(parts, axis=0), np.float64)


def weighted_balanced_accuracy(threshold: float) -> Statistic:
    """Weighted :func:`~privface.audit.curves.balanced_accuracy` at a fixed threshold, a :data:`Statistic`."""
    return lambda scores, labels, weights: mean_recall(scores >= threshold, labels, weights)


@dataclass(frozen=True)
class PairSample:
    """Scored pairs and the people in them.

    Attributes:
        genuine: Same-person scores, shape ``(G,)``; ``-inf`` marks a comparison that could not be made.
        genuine_people: Person of each genuine pair, 0 to ``n_people - 1``, shape ``(G,)``.
        impostor: Different-person scores, shape ``(I,)``.
        impostor_people: The two people of each impostor pair, shape ``(I, 2)``.
        n_people: Number of people.
        impostor_weights: How many pairs each impostor score stands for, shape ``(I,)``, where the list was
            thinned already; by default one, and long lists are thinned by :func:`thin_impostors`.
    """

    genuine: Scores
    genuine_people: NDArray[np.int64]
    impostor: Scores
    impostor_people: NDArray[np.int64]
    n_people: int
    impostor_weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        check_scores(self.genuine, name="genuine")
        check_scores(self.impostor, name="impostor")
        if self.genuine_people.shape != self.genuine.shape:
            raise ScoreError(f"{self.genuine.size} genuine scores, people {self.genuine_people.shape}.")
        if self.impostor_people.shape != (self.impostor.size, 2):
            raise ScoreError(f"{self.impostor.size} impostor scores, people {self.impostor_people.shape}.")


@dataclass(frozen=True)
class PairDraws:
    """Statistics of a :class:`PairSample` under each resample, each of shape ``(R,)``.

    Attributes:
        eer: Equal error rates.
        auc: Areas under the ROC curve.
        d_prime: Separations.
        tmr: True match rates by false match rate.
    """

    eer: NDArray[np.float64]
    auc: NDArray[np.float64]
    d_prime: NDArray[np.float64]
    tmr: Mapping[float, NDArray[np.float64]] = field(default_factory=dict)


def thin_impostors(count: int, *, tail: int = TAIL) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which ranks of a long list of impostors stand for all of it, and how many each stands for.

    The ``tail`` highest are all kept; of each further octave of ranks ``(r, 2 r]`` about ``tail / 2`` are
    kept, evenly. At any false match rate at least ``tail / 2`` impostors so decide, which adds a
    relative standard error of about ``sqrt(3 / (tail / 2))``, or 1.4 %, to a resampled false match rate:
    small beside the spread between resamples. Point estimates do not use this.

    Returns:
        Ranks (0 is the highest score), shape ``(K,)``, and their weights, which sum to ``count``.
    """
    if count <= tail:
        return np.arange(count, dtype=np.int64), np.ones(count)
    parts, weights = [np.arange(tail, dtype=np.int64)], [np.ones(tail)]
    start, step = tail, 2
    while start < count:
        end = min(2 * start, count)
        edges = np.arange(start, end, step, dtype=np.int64)
        sizes = np.minimum(edges + step, end) - edges
        parts.append(edges + sizes // 2)
        weights.append(sizes.astype(np.float64))
        start, step = end, step * 2
    return np.concatenate(parts), np.concatenate(weights)


def draw_pairs(
    pairs: PairSample,
    params: BootstrapParams,
    *,
    fmrs: tuple[float, ...] = (),
    tail: int = TAIL,
    corrected: bool = True,
) -> PairDraws:
    """EER, AUC, d' and TMR at false match rates under each resample of people.

    Impostors beyond the ``tail`` highest are thinned by :func:`thin_impostors`; up to ``tail`` the result
    equals the weighted functions of :mod:`privface.audit.curves` when not ``corrected``.

    Args:
        pairs: Scores and people.
        params: Resamples and seed.
        fmrs: False match rates at which the TMR is wanted.
        tail: Impostors kept whole.
        corrected: Draw the values in towards their mean until their variance is that of the product rule less
            twice that of weighting pairs of people independently, the excess of the rule (Owen, 2007).
    """
    ranked, draws = _RankedPairs.build(pairs, tail), people_multiplicities(pairs.n_people, params)
    starts = range(0, len(draws), _BATCH)
    once = np.ones((ranked.genuine.size, _BATCH), np.float32)
    # products in several threads of BLAS, in each of these threads, would wait for one another
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(core_count()) as pool:
        drawn = pool.map(
            lambda start: ranked.statistics_of_people(draws[start : start + _BATCH], fmrs), starts
        )
        noise = ranked.pair_blocks(params.seed) if corrected else ()  # drawn here, while those are at work
        apart = pool.map(lambda weights: ranked.statistics(once, weights, fmrs), noise)
        columns, alone = _columns(drawn), _columns(apart)
    if corrected:
        columns = [_without_excess(column, noise) for column, noise in zip(columns, alone, strict=True)]
    return PairDraws(columns[0], columns[1], columns[2], dict(zip(fmrs, columns[3:], strict=True)))


def _columns(blocks: Iterable[list[NDArray[np.float64]]]) -> list[NDArray[np.float64]]:
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _without_excess(draws: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws with the variance that the product rule adds taken out, drawn in towards their mean."""
    if np.isnan(draws).all() or np.isnan(noise).all():
        return draws
    whole = float(np.nanvar(draws))
    if whole == 0.0:
        return draws
    share = max(1.0 - 2.0 * float(np.nanvar(noise)) / whole, 1.0 / 3.0)  # the rule triples at most
    mean = float(np.nanmean(draws))
    return mean + math.sqrt(share) * (draws - mean)


@dataclass(frozen=True)
class _RankedPairs:
    """Pairs sorted from high to low, once for all resamples."""

    genuine: Scores
    g_people: NDArray[np.int64]
    impostor: Scores
    i_people: NDArray[np.int64]
    i_weights: NDArray[np.float32]
    g_ends: NDArray[np.int64]  # genuine scores at or above each distinct value, and above all of them
    i_ends: NDArray[np.int64]  # the same for kept impostors

    @classmethod
    def build(cls, pairs: PairSample, tail: int) -> _RankedPairs:
        g_order = np.argsort(-pairs.genuine, kind="stable")
        i_order = np.argsort(-pairs.impostor, kind="stable")
        if pairs.impostor_weights is None:
            ranks, weights = thin_impostors(pairs.impostor.size, tail=tail)
            kept = i_order[ranks]
        else:
            kept, weights = i_order, pairs.impostor_weights[i_order]
        genuine, impostor = pairs.genuine[g_order], pairs.impostor[kept]
        values = np.unique(np.concatenate([genuine, impostor]))[::-1]
        return cls(
            genuine,
            pairs.genuine_people[g_order],
            impostor,
            pairs.impostor_people[kept],
            weights.astype(np.float32),
            np.append(0, np.searchsorted(-genuine, -values, side="right")),
            np.append(0, np.searchsorted(-impostor, -values, side="right")),
        )

    def statistics_of_people(
        self, draws: NDArray[np.int64], fmrs: tuple[float, ...]
    ) -> list[NDArray[np.float64]]:
        """EER, AUC, d' and the TMRs for draws of people, shape ``(B, P)``."""
        block = np.ascontiguousarray(draws.T, dtype=np.float32)
        i_weights = block[self.i_people[:, 0]] * block[self.i_people[:, 1]]
        return self.statistics(block[self.g_people], i_weights * self.i_weights[:, None], fmrs)

    def pair_blocks(self, seed: int) -> Iterator[NDArray[np.float32]]:
        """Weights of mean and variance 1 for every two people, times what each kept impostor stands for.

        A kept impostor that stands for ``w`` others stands for as many different pairs of people, so its
        weight is a sum of ``w`` such draws.
        """
        rng = np.random.default_rng([seed, 1])
        low, high = self.i_people.min(axis=1), self.i_people.max(axis=1)
        _, pair = np.unique(low * (int(self.i_people.max()) + 1) + high, return_inverse=True)
        alone = self.i_weights == 1.0
        others = self.i_weights[~alone, None]
        for _ in range(0, _PAIR_DRAWS, _BATCH):
            weights = np.empty((self.impostor.size, _BATCH), np.float32)
            weights[alone] = rng.standard_exponential((int(pair.max()) + 1, _BATCH), np.float32)[pair[alone]]
            weights[~alone] = rng.standard_gamma(others, (others.size, _BATCH), np.float32)
            yield weights

    def statistics(
        self, g_weights: NDArray[np.float32], i_weights: NDArray[np.float32], fmrs: tuple[float, ...]
    ) -> list[NDArray[np.float64]]:
        g_mass, i_mass = _cumulate(g_weights), _cumulate(i_weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            g_mass /= g_mass[-1].copy()
            i_mass /= i_mass[-1].copy()
        out = [
            self._eer(g_mass, i_mass),
            self._auc(g_mass, i_mass),
            _weighted_d_prime(self.genuine, g_weights, self.impostor, i_weights),
        ]
        out += [self._tmr(g_mass, i_mass, fmr) for fmr in fmrs]
        undefined = np.isnan(g_mass[-1]) | np.isnan(i_mass[-1])
        return [np.where(undefined, np.nan, column) for column in out]

    def _eer(self, g_mass: NDArray[np.float64], i_mass: NDArray[np.float64]) -> NDArray[np.float64]:
        # TMR + FMR rises along the distinct values: bisect for the first that reaches 1, all draws at once
        columns = np.arange(g_mass.shape[1])
        low, high = np.zeros(columns.size, np.int64), np.full(columns.size, self.g_ends.size - 1)
        while (high - low > 1).any():
            middle = (low + high) // 2
            total = g_mass[self.g_ends[middle], columns] + i_mass[self.i_ends[middle], columns]
            reached = total >= 1.0 - 1e-12
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        ends = np.stack([low, high])
        return crossing(g_mass[self.g_ends[ends], columns], i_mass[self.i_ends[ends], columns])

    def _auc(self, g_mass: NDArray[np.float64], i_mass: NDArray[np.float64]) -> NDArray[np.float64]:
        above = np.searchsorted(-self.impostor, -self.genuine, side="left")
        level = np.searchsorted(-self.impostor, -self.genuine, side="right")
        losing = (i_mass[above] + i_mass[level]) / 2.0  # impostor share above, ties half
        return np.asarray(1.0 - np.sum(np.diff(g_mass, axis=0) * losing, axis=0), np.float64)

    def _tmr(
        self, g_mass: NDArray[np.float64], i_mass: NDArray[np.float64], fmr: float
    ) -> NDArray[np.float64]:
        first = np.argmax(i_mass[1:] > fmr + 1e-9, axis=0)
        higher = np.searchsorted(-self.genuine, -self.impostor[first], side="left")
        return np.asarray(g_mass[higher, np.arange(g_mass.shape[1])], np.float64)


def _cumulate(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    mass = np.zeros((weights.shape[0] + 1, weights.shape[1]), np.float64)
    mass[1:] = weights  # a sum that converts its numbers on the way takes twice as long
    np.cumsum(mass, axis=0, out=mass)
    return mass


def _weighted_d_prime(
    genuine: Scores, g_weights: NDArray[np.float32], impostor: Scores, i_weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    g_mean, g_var = _moments(genuine, g_weights)
    i_mean, i_var = _moments(impostor, i_weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (g_mean - i_mean) / np.sqrt((g_var + i_var) / 2.0)
    return np.where(np.isfinite(value), value, np.nan)


def _moments(scores: Scores, weights: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    finite = np.isfinite(scores)
    if not finite.any():
        missing = np.full(weights.shape[1], np.nan)
        return missing, missing
    if not finite.all():
        scores, weights = scores[finite], weights[finite]
    centre = scores.mean()
    shifted = (scores - centre).astype(np.float32)  # centred first, so float32 sums lose nothing that matters
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weights.sum(axis=0, dtype=np.float64)
        mean = (shifted @ weights).astype(np.float64) / total
        square = ((shifted * shifted) @ weights).astype(np.float64) / total
    return mean + centre, np.maximum(square - mean * mean, 0.0)
