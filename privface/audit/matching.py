"""Does matching still work: originals against originals, protected against protected, and across.

A photo is never compared with its own protected version: genuine pairs are two different photos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from privface.audit.curves import (
    DetCurve,
    OperatingPoint,
    auc,
    best_threshold,
    d_prime,
    det_curve,
    eer,
    tmr_at_fmr,
)
from privface.audit.intervals import (
    BootstrapParams,
    PairSample,
    draw_pairs,
    measure_mean,
    percentile_interval,
    rate_interval,
)
from privface.audit.streaming import ImpostorScores, bin_centres, cosine_scores, stream_impostors
from privface.errors import AuditError
from privface.records import NO_GENDER, Embeddings, Measured, Scores

Mode: TypeAlias = Literal["O-O", "P-P", "P-O"]
"""Gallery - probe: O original, P protected."""

Impostors: TypeAlias = Literal["all", "same-gender"]

MODES: tuple[Mode, ...] = ("O-O", "P-P", "P-O")
IMPOSTORS: tuple[Impostors, ...] = ("all", "same-gender")
FMRS: tuple[float, ...] = (1e-2, 1e-3, 1e-4)

HISTOGRAM_BINS = 60

MAX_GENUINE = 45
"""Genuine pairs of one person that count: all of ten photos."""

RULE_OF_30 = 30
"""Expected false matches below which a rate counts as not measurable (Doddington's rule of 30)."""


@dataclass(frozen=True)
class Pairs:
    """Which photos are compared: positions (gallery, probe) with gallery < probe.

    Attributes:
        genuine: Same person, shape ``(G, 2)``.
        impostor: Different people, shape ``(I, 2)``.
    """

    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]


@dataclass(frozen=True)
class MatchingResult:
    """Matching figures of one matcher in one mode against one kind of impostor.

    Attributes:
        matcher: Name of the matcher.
        seen: Whether the protector trained against it; ``None`` if unknown.
        mode: Gallery - probe.
        impostors: All different-person pairs, or those of the same gender.
        genuine_pairs: Number of genuine pairs, failed ones included.
        impostor_pairs: Number of impostor pairs between enrolled photos.
        impostors_possible: Impostor pairs before the cap.
        eer: Equal error rate.
        auc: Area under the ROC curve.
        d_prime: Separation over the comparisons that could be made.
        tmr: True match rate by false match rate.
        fte: Share of photos on the protected (or, in O-O, original) side that failed to enrol.
        det: Curve for drawing, or ``None`` where there are no scores.
        histogram: Spread of scores for drawing, or ``None``: rising ``edges``, shape ``(K + 1,)``, and the share of ``genuine`` and
            of ``impostor`` scores in each interval, shape ``(K,)``; failed comparisons are in none.
        thresholds: Where ``tmr`` could be measured, the similarity from which a pair matches, by false match rate.
    """

    matcher: str
    seen: bool | None
    mode: Mode
    impostors: Impostors
    genuine_pairs: int
    impostor_pairs: int
    impostors_possible: int
    eer: Measured
    auc: Measured
    d_prime: Measured
    tmr: Mapping[float, Measured]
    fte: Measured
    det: DetCurve | None
    histogram: Mapping[str, NDArray[np.float64]] | None = None
    thresholds: Mapping[float, float] = field(default_factory=dict)


def choose_pairs(identities: NDArray[np.str_], *, max_impostors: int = 2_000_000, seed: int = 0) -> Pairs:
    """Genuine pairs, capped per person, and impostor pairs, all of them if they fit.

    Above ``max_impostors`` the photos per person are limited first, to the largest number that fits, so
    that people with many photos do not crowd out the others; if one photo each is still too many, pairs are
    drawn at random.

    Args:
        identities: Who is on each photo, shape ``(N,)``.
        max_impostors: Largest number of impostor pairs.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng([seed, 45])
    _, person = np.unique(identities, return_inverse=True)
    return Pairs(choose_genuine(person, rng), _choose_impostors(person, max_impostors, rng))


def choose_genuine(person: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of photos of one person, ``(G, 2)``, at most :data:`MAX_GENUINE` of each, from person numbers ``(N,)``."""
    genuine = [np.empty((0, 2), np.int64)]
    for members in _groups(person):
        pairs = np.stack(np.triu_indices(members.size, 1), axis=1)
        if len(pairs) > MAX_GENUINE:
            pairs = pairs[np.sort(rng.choice(len(pairs), MAX_GENUINE, replace=False))]
        genuine.append(members[pairs])
    return np.concatenate(genuine)


def _groups(person: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(person, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(person[order])) + 1) if person.size else []


def _pair_count(sizes: NDArray[np.int64]) -> int:
    return int((sizes.sum() ** 2 - np.square(sizes).sum()) // 2)


def _choose_impostors(person: NDArray[np.int64], limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    sizes = np.bincount(person)
    possible = _pair_count(sizes)
    photos = np.arange(person.size)
    if possible > limit:
        low, high = 1, int(sizes.max())
        while low < high:  # largest number of photos per person that fits, at least one
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if _pair_count(np.minimum(sizes, middle)) <= limit else (low, middle - 1)
            )
        kept = [np.sort(rng.permutation(members)[:low]) for members in _groups(person)]
        photos = np.sort(np.concatenate(kept))
    if possible > limit and _pair_count(np.bincount(person[photos])) > limit:
        return _random_pairs(photos, limit, rng)
    rows = [np.empty((0, 2), np.int64)]
    for k, first in enumerate(photos):
        others = photos[k + 1 :][person[photos[k + 1 :]] != person[first]]
        rows.append(np.stack([np.full(others.size, first), others], axis=1))
    return np.concatenate(rows)


def _random_pairs(photos: NDArray[np.int64], limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    # one photo per person is left here, so every pair of distinct photos is an impostor pair
    n = photos.size
    codes = np.sort(rng.choice(n * (n - 1) // 2, limit, replace=False, shuffle=False))
    # invert code = j (j - 1) / 2 + i for i < j; the float root may be off by one
    j = np.floor((1.0 + np.sqrt(1.0 + 8.0 * codes)) / 2.0).astype(np.int64)
    j -= j * (j - 1) // 2 > codes
    j += (j + 1) * j // 2 <= codes
    pairs = np.stack([photos[codes - j * (j - 1) // 2], photos[j]], axis=1)
    return np.asarray(pairs, np.int64)


def enrolled(embeddings: Embeddings) -> NDArray[np.bool_]:
    """Which rows hold an embedding: finite and not null, shape ``(N,)``."""
    return np.asarray(np.isfinite(embeddings).all(axis=1) & (np.abs(embeddings) > 0).any(axis=1), np.bool_)


# many arguments: two sides with their labels, and what an experiment may leave out
def evaluate_matching(
    original: Embeddings,
    protected: Embeddings,
    identities: NDArray[np.str_],
    genders: NDArray[np.int64],
    *,
    matcher: str,
    seen: bool | None = None,
    params: BootstrapParams | None = None,
    max_impostors: int = 2_000_000,
    progress: Callable[[int, int], None] | None = None,
    modes: Sequence[Mode] = MODES,
    impostors: Sequence[Impostors] = IMPOSTORS,
) -> list[MatchingResult]:
    """Matching figures in the modes O-O, P-P and P-O, against all and against same-gender impostors.

    Cosine similarity; every impostor pair counts. All modes compare the same pairs of photos, in the order of
    genders and then of the rows: in P-O the earlier photo of a pair is the protected gallery and the later
    one the original probe. A genuine pair with a photo that failed to enrol is a non-match (score ``-inf``);
    an impostor pair with such a photo is left out, as counting it as a correct rejection would flatter a
    system that enrols little. Above ``max_impostors`` pairs the scores are streamed
    (:mod:`privface.audit.streaming`), and intervals rest on the highest scores and a random sample of the others.

    Args:
        original: Embeddings of the originals, shape ``(N, D)``; rows of NaN failed to enrol.
        protected: Embeddings of the protected photos, same order; of another dimension if protected
            templates cannot be compared with originals, then P-O is undefined.
        identities: Who is on each photo, shape ``(N,)``.
        genders: 0 (female) or 1 (male), shape ``(N,)``; -1 throughout without gender labels: same-gender figures are then undefined.
        matcher: Name for the result.
        seen: Whether the protector trained against this matcher.
        params: Bootstrap settings; their seed also chooses among more than 45 genuine pairs of a person, and samples impostors.
        max_impostors: Impostor pairs up to which all scores are held at once.
        progress: Called with (work done, all work).
        modes: Which comparisons are made.
        impostors: Against whom; each mode gives a result for each.

    Raises:
        AuditError: If shapes do not fit.
    """
    count = len(identities)
    if original.ndim != 2 or protected.ndim != 2 or {len(original), len(protected), len(genders)} != {count}:
        raise AuditError(
            f"{matcher}: embeddings {original.shape} and {protected.shape} do not fit {count} identities and"
            f" {len(genders)} genders.",
            hint="Give one row per photo in both sets.",
        )
    params = params or BootstrapParams()
    order = np.argsort(genders, kind="stable")
    sides = {"O": original[order], "P": protected[order]}
    genders, (_, person) = genders[order], np.unique(identities[order], return_inverse=True)
    genuine = choose_genuine(person, np.random.default_rng([params.seed, 45]))
    possible = _pair_count(np.bincount(person)) if count else 0
    results: list[MatchingResult] = []
    kinds: Sequence[_Impostors | None]
    reason: str | None
    for number, mode in enumerate(modes):
        gallery, probe = sides[mode[0]], sides[mode[2]]
        fte = measure_mean(~enrolled(gallery), person, params) if count else Measured.undefined("no photos")

        def tell(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * 100 + 90 * done // max(total, 1), 100 * len(modes))

        scores, kinds, reason = np.empty(0), (None, None), None
        if gallery.shape[1] == probe.shape[1]:
            scores = np.nan_to_num(cosine_scores(gallery, probe, genuine), nan=-np.inf)
            if scores.size and possible > max_impostors:
                labels = (person, genders, scores)
                kinds = stream_impostors(gallery, probe, *labels, fmrs=FMRS, seed=params.seed, progress=tell)
            elif scores.size:
                kinds = _held_impostors(gallery, probe, person, genders)
        else:
            reason = "protected templates have a dimension of their own"
        for kind in impostors:
            impostor = kinds[IMPOSTORS.index(kind)]
            if kind == "same-gender" and count and genders.max() < 0:
                impostor, reason = None, reason or NO_GENDER  # all rows have the same label, which is none
            figures = _measure(
                scores, person[genuine[:, 0]], impostor, len(np.unique(person)), params, reason
            )
            size = 0 if impostor is None else impostor.size
            counts = (len(genuine), size, possible)
            results.append(MatchingResult(matcher, seen, mode, kind, *counts, fte=fte, **figures))
        tell(100, 90)
    return results


@dataclass(frozen=True)
class _HeldScores:
    """Impostor scores in memory."""

    scores: Scores
    people: NDArray[np.int64]

    @property
    def size(self) -> int:
        return self.scores.size

    def thinned(self) -> tuple[Scores, NDArray[np.int64], None]:
        return self.scores, self.people, None

    def tmr_at_fmr(self, genuine: Scores, *, fmr: float) -> OperatingPoint:
        return tmr_at_fmr(genuine, self.scores, fmr=fmr)

    def eer(self, genuine: Scores) -> float:
        return eer(genuine, self.scores)

    def auc(self, genuine: Scores) -> float:
        return auc(genuine, self.scores)

    def d_prime(self, genuine: Scores) -> float:
        return d_prime(genuine, self.scores)

    def det(self, genuine: Scores) -> DetCurve:
        return det_curve(genuine, self.scores)


_Impostors: TypeAlias = _HeldScores | ImpostorScores
"""All impostor scores of one kind, in memory or streamed."""


def _held_impostors(
    gallery: Embeddings, probe: Embeddings, person: NDArray[np.int64], genders: NDArray[np.int64]
) -> list[_Impostors | None]:
    """Impostor scores of all pairs and of same-gender pairs; ``None`` where there is no such pair."""
    pairs = _choose_impostors(person, len(person) ** 2, np.random.default_rng(0))
    scores = cosine_scores(gallery, probe, pairs)
    made = ~np.isnan(scores)
    same = made & (genders[pairs[:, 0]] == genders[pairs[:, 1]])
    return [_HeldScores(scores[rows], person[pairs[rows]]) if rows.any() else None for rows in (made, same)]


def _measure(
    genuine: Scores,
    genuine_people: NDArray[np.int64],
    impostor: _Impostors | None,
    people: int,
    params: BootstrapParams,
    reason: str | None,
) -> dict[str, Any]:
    """The fields of a :class:`MatchingResult` that come from its scores."""
    if reason is None and not genuine.size:
        reason = "no person has two photos, so there is no genuine pair"
    if reason is not None or impostor is None:
        none = Measured.undefined(reason or "no impostor pair between enrolled photos")
        return {"eer": none, "auc": none, "d_prime": none, "tmr": dict.fromkeys(FMRS, none), "det": None}
    measurable = tuple(fmr for fmr in FMRS if impostor.size * fmr >= RULE_OF_30 - 1e-9)
    scores, pair_people, weights = impostor.thinned()
    sample = PairSample(genuine, genuine_people, scores, pair_people, people, weights)
    draws = draw_pairs(sample, params, fmrs=measurable)

    def measured(value: float, draw: NDArray[np.float64]) -> Measured:
        return rate_interval(value, draw, people, level=params.level).of(value, genuine.size)

    points = {fmr: impostor.tmr_at_fmr(genuine, fmr=fmr) for fmr in measurable}
    tmr = {fmr: measured(point.tmr, draws.tmr[fmr]) for fmr, point in points.items()}
    for fmr in FMRS[len(points) :]:  # they fall, so the last ones lack pairs
        few = f"{impostor.size} impostor pairs leave {impostor.size * fmr:.2g} expected false matches, fewer than {RULE_OF_30}"
        tmr[fmr] = Measured.undefined(few, n=genuine.size)
    separation = impostor.d_prime(genuine)
    apart = percentile_interval(draws.d_prime, params.level).of(separation, genuine.size)
    if math.isnan(separation):
        apart = Measured.undefined("the scores do not vary, or fewer than two comparisons could be made")
    return {
        "eer": measured(impostor.eer(genuine), draws.eer),
        "auc": measured(impostor.auc(genuine), draws.auc),
        "d_prime": apart,
        "tmr": tmr,
        "det": impostor.det(genuine),
        "histogram": _histogram(genuine, impostor),
        "thresholds": {fmr: point.threshold for fmr, point in points.items()},
    }


def _histogram(genuine: Scores, impostor: _Impostors) -> dict[str, NDArray[np.float64]]:
    values, weights = genuine[np.isfinite(genuine)], None
    if isinstance(impostor, ImpostorScores):
        others, weights = bin_centres()[impostor.counts > 0], impostor.counts[impostor.counts > 0]
    else:
        others = impostor.scores
    every = np.concatenate([values, others])
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1)
    counts = np.histogram(others, edges, weights=weights)[0]
    shares = {"impostor": counts / max(float(counts.sum()), 1.0)}
    return {"edges": edges, "genuine": np.histogram(values, edges)[0] / genuine.size, **shares}


def fold_accuracy(scores: Scores, same: NDArray[np.bool_], folds: NDArray[np.int64]) -> Measured:
    """Mean accuracy over folds, each at the threshold that is best on the others (Huang et al., 2007).

    Pairs lists hold as many genuine as impostor pairs, so plain accuracy is balanced here. A comparison that
    could not be made counts as different people.

    Args:
        scores: Similarities, shape ``(K,)``; NaN where a photo failed to enrol.
        same: Which pairs are genuine, shape ``(K,)``.
        folds: Fold of each pair, shape ``(K,)``.

    Returns:
        The mean, with a 95 % interval from the spread between folds (Student's t).
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    labels = same.astype(np.int64)
    numbers = np.unique(folds)
    if len(numbers) < 2:
        return Measured.undefined("one fold leaves none to choose the threshold on", n=len(scores))
    right = []
    for number in numbers:
        inside = folds == number
        threshold = best_threshold(scores[~inside], labels[~inside])
        right.append(float(np.mean((scores[inside] >= threshold) == same[inside])))
    half = float(student_t.ppf(0.975, len(right) - 1) * np.std(right, ddof=1) / math.sqrt(len(right)))
    mean = float(np.mean(right))
    return Measured(mean, max(mean - half, 0.0), min(mean + half, 1.0), len(scores))
