"""Error rates of a comparator or of a probe, from two score arrays and nothing else (NumPy only).

*Genuine* scores come from same-person pairs (for a probe: from the positive class, ``male``), *impostor*
scores from different-person pairs (the negative class). Higher is more alike, always. A score of ``-inf``
stands for a comparison that could not be made and never matches.

Curves are step functions: ``FMR(t)`` is the share of impostor scores >= t, ``FNMR(t)`` of genuine ones < t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privface.errors import ConfigError, ScoreError, TooFewPairsError
from privface.records import Scores

MIN_FALSE_MATCHES = 10
"""Expected false matches below which a false match rate is refused."""

# floor(fmr * I) must not lose one to binary rounding: 0.29 * 100 is 28.999999999999996
_ROUNDING = 1e-9


@dataclass(frozen=True)
class OperatingPoint:
    """One point of a comparator's curve.

    Attributes:
        threshold: Scores at or above it match.
        fmr: Achieved false match rate at the threshold.
        tmr: True match rate at the threshold.
    """

    threshold: float
    fmr: float
    tmr: float

    @property
    def fnmr(self) -> float:
        """False non-match rate, ``1 - tmr``; at FMR 1e-2 and 1e-3 the fingerprint field's FMR100 and FMR1000."""
        return 1.0 - self.tmr


@dataclass(frozen=True)
class DetCurve:
    """A detection error trade-off curve (Martin et al., 1997), by rising false match rate.

    Attributes:
        fmr: False match rates, shape ``(K,)``.
        fnmr: False non-match rates, shape ``(K,)``.
        threshold: The thresholds that give them, shape ``(K,)``.
    """

    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    threshold: NDArray[np.float64]


def check_scores(scores: NDArray[np.floating], *, name: str = "scores") -> Scores:
    """Scores as float64, refused if they cannot be ranked.

    Raises:
        ScoreError: If the array is empty, not 1-D or has NaN.
    """
    array = np.asarray(scores, np.float64)
    if array.ndim != 1:
        raise ScoreError(f"{name} has shape {array.shape}; scores are 1-D.", hint="Flatten it first.")
    if array.size == 0:
        raise ScoreError(
            f"{name} is empty; at least one score is needed.", hint="Check that such pairs exist."
        )
    missing = int(np.isnan(array).sum())
    if missing:
        raise ScoreError(
            f"{name} has {missing} NaN among {array.size} scores; scores must be ranked.",
            hint="Give failed comparisons -inf, or leave them out and count them.",
        )
    return array


def tmr_at_fmr(genuine: Scores, impostor: Scores, *, fmr: float) -> OperatingPoint:
    """True match rate at the lowest threshold that keeps the false match rate.

    FMR(t) is the share of impostor scores >= t and TMR(t) the share of genuine scores >= t
    (ISO/IEC 19795-1; TMR = 1 - FNMR; elsewhere called TAR@FAR). The curve is a step function and is not
    interpolated: the returned ``fmr`` is the achieved one, at most the one asked for. Impostors that tie
    stay together, so the threshold is the next float above the best impostor that must be kept out.

    Args:
        genuine: Same-person similarities, shape ``(G,)``; higher is more alike.
        impostor: Different-person similarities, shape ``(I,)``.
        fmr: Allowed false match rate, in (0, 1).

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
        TooFewPairsError: If ``I * fmr < 10``; the rate cannot be measured.
        ConfigError: If ``fmr`` is not in (0, 1).
    """
    genuine, impostor = check_scores(genuine, name="genuine"), check_scores(impostor, name="impostor")
    if not 0.0 < fmr < 1.0:
        raise ConfigError(f"fmr is {fmr}; it must lie in (0, 1).", hint="Use 0.01, 0.001 or 0.0001.")
    if impostor.size * fmr < MIN_FALSE_MATCHES - _ROUNDING:
        raise TooFewPairsError(
            f"{impostor.size} impostor scores at fmr {fmr:g} leave {impostor.size * fmr:.2g} expected false"
            f" matches, below the limit of {MIN_FALSE_MATCHES}.",
            hint=f"Give {math.ceil(MIN_FALSE_MATCHES / fmr)} impostor scores or more, or a higher fmr.",
        )
    allowed = math.floor(fmr * impostor.size + _ROUNDING)
    kept_out = float(np.partition(impostor, impostor.size - 1 - allowed)[impostor.size - 1 - allowed])
    return OperatingPoint(
        threshold=float(np.nextafter(kept_out, np.inf)),
        fmr=float(np.count_nonzero(impostor > kept_out) / impostor.size),
        tmr=float(np.count_nonzero(genuine > kept_out) / genuine.size),
    )


def _shares(genuine: Scores, impostor: Scores) -> tuple[Scores, NDArray[np.float64], NDArray[np.float64]]:
    """Distinct scores from high to low, ``(K,)``, with TMR and FMR above all of them and then at each, ``(K + 1,)``."""
    values, inverse = np.unique(np.concatenate([genuine, impostor]), return_inverse=True)
    sides = (inverse[: genuine.size], inverse[genuine.size :])
    masses = (np.bincount(side, minlength=values.size)[::-1] for side in sides)
    tmr, fmr = (np.cumsum(np.append(0, mass)) / mass.sum() for mass in masses)
    return values[::-1], tmr, fmr


def eer(genuine: Scores, impostor: Scores) -> float:
    """Equal error rate: where false match rate and false non-match rate are the same.

    The two step curves rarely meet in a step. The ROC's vertices, one per distinct score, are joined by
    straight lines and cut with FMR = FNMR; tied scores so count half, as in :func:`auc`. Hence all scores
    equal give 0.5 and ``eer(-genuine, -impostor) == 1 - eer(genuine, impostor)``: above 0.5 the scores are
    flipped.

    Args:
        genuine: Same-person similarities, shape ``(G,)``; higher is more alike.
        impostor: Different-person similarities, shape ``(I,)``.

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
    """
    genuine, impostor = check_scores(genuine, name="genuine"), check_scores(impostor, name="impostor")
    _, tmr, fmr = _shares(genuine, impostor)
    return float(crossing(tmr[:, None], fmr[:, None])[0])


def crossing(tmr: NDArray[np.float64], fmr: NDArray[np.float64]) -> NDArray[np.float64]:
    """FMR at which each column's ROC polyline meets FMR = 1 - TMR, shape ``(B,)``.

    Args:
        tmr: Rising true match rates from 0 to 1, shape ``(K, B)``.
        fmr: Rising false match rates from 0 to 1, shape ``(K, B)``.
    """
    columns = np.arange(tmr.shape[1])
    after = np.argmax(tmr + fmr >= 1.0 - 1e-12, axis=0)
    before = np.maximum(after - 1, 0)
    low, high = (tmr + fmr)[before, columns], (tmr + fmr)[after, columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(high > low, (1.0 - low) / (high - low), 1.0)
    start, end = fmr[before, columns], fmr[after, columns]
    return np.asarray(start + np.clip(part, 0.0, 1.0) * (end - start), np.float64)


def auc(genuine: Scores, impostor: Scores) -> float:
    """Probability that a genuine score exceeds an impostor score, ties counting half.

    The Mann-Whitney U statistic over ``G * I``, which is the area under the ROC curve.

    Args:
        genuine: Same-person similarities (or scores of the positive class), shape ``(G,)``.
        impostor: Different-person similarities (or scores of the negative class), shape ``(I,)``.

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
    """
    genuine, impostor = check_scores(genuine, name="genuine"), check_scores(impostor, name="impostor")
    _, tmr, fmr = _shares(genuine, impostor)
    return float(np.clip(np.sum(np.diff(fmr) * (tmr[1:] + tmr[:-1])) / 2.0, 0.0, 1.0))


def d_prime(genuine: Scores, impostor: Scores) -> float:
    """Separation of the two distributions: difference of means over the root mean of their variances.

    ``d' = (m_g - m_i) / sqrt((v_g + v_i) / 2)`` (Daugman, 2000). Comparisons that could not be made
    (``-inf``) have no place on the scale and are left out.

    Returns:
        d', in standard deviations; NaN if either side has fewer than two finite scores or neither varies.

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
    """
    genuine, impostor = check_scores(genuine, name="genuine"), check_scores(impostor, name="impostor")
    g, i = genuine[np.isfinite(genuine)], impostor[np.isfinite(impostor)]
    if g.size < 2 or i.size < 2:
        return math.nan
    spread = math.sqrt((g.var() + i.var()) / 2.0)
    # constant scores leave a variance of rounding errors only
    scale = max(abs(float(g.mean())), abs(float(i.mean())), 1e-300)
    return float((g.mean() - i.mean()) / spread) if spread > 1e-12 * scale else math.nan


def det_curve(genuine: Scores, impostor: Scores, *, points: int = 200) -> DetCurve:
    """The trade-off between false matches and false non-matches, thinned for drawing.

    Half of the thresholds lie at impostor ranks and half at genuine ranks, evenly on a logarithmic scale,
    so that both tails are drawn. Each point is a true point of the step curves.

    Args:
        genuine: Same-person similarities, shape ``(G,)``.
        impostor: Different-person similarities, shape ``(I,)``.
        points: Largest number of points, 2 or more.

    Raises:
        ScoreError: If an array is empty, not 1-D or has NaN.
        ConfigError: If ``points`` is below 2.
    """
    genuine = np.sort(check_scores(genuine, name="genuine"))
    impostor = np.sort(check_scores(impostor, name="impostor"))
    if points < 2:
        raise ConfigError(f"points is {points}; a curve needs 2 or more.", hint="Use 200.")
    half = points // 2
    ranks_i = np.unique(np.round(np.geomspace(1, impostor.size, half)).astype(np.int64))
    ranks_g = np.unique(np.round(np.geomspace(1, genuine.size, half)).astype(np.int64))
    threshold = np.unique(np.concatenate([impostor[impostor.size - ranks_i], genuine[ranks_g - 1]]))[::-1]
    fmr = 1.0 - np.searchsorted(impostor, threshold, side="left") / impostor.size
    fnmr = np.searchsorted(genuine, threshold, side="left") / genuine.size
    return DetCurve(fmr=fmr, fnmr=fnmr, threshold=threshold)


def leakage(auc: float) -> float:
    """What an AUC leaks: ``max(auc, 1 - auc)``, as a deterministic flip leaks as much as the label itself.

    Returns:
        0.5 (nothing) to 1.0 (everything); NaN stays NaN.
    """
    return max(auc, 1.0 - auc)


def balanced_accuracy(scores: Scores, labels: NDArray[np.int64], threshold: float) -> float:
    """Mean of the two genders' accuracy when scores at or above ``threshold`` are called male.

    Args:
        scores: Male scores, shape ``(N,)``.
        labels: 0 (female) or 1 (male), shape ``(N,)``.
        threshold: Chosen on other people.

    Raises:
        ScoreError: If a gender is missing, or the scores cannot be ranked.
    """
    male, female = by_label(scores, labels)
    return float(np.mean(male >= threshold) + np.mean(female < threshold)) / 2.0


def best_threshold(scores: Scores, labels: NDArray[np.int64]) -> float:
    """Threshold with the highest :func:`balanced_accuracy`, halfway between neighbouring scores.

    Of several equally good ones the middle one is taken. To be chosen on validation people.

    Raises:
        ScoreError: If a gender is missing, or the scores cannot be ranked.
    """
    male, female = by_label(scores, labels)
    values, tmr, fmr = _shares(male, female)
    gain = tmr - fmr
    edges = np.concatenate([[np.inf], values, [-np.inf]])
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    index = int(best[len(best) // 2])
    upper, lower = edges[index], edges[index + 1]
    if math.isinf(upper):
        return float(np.nextafter(lower, np.inf))
    return float(upper) if math.isinf(lower) else float((upper + lower) / 2.0)


def by_label(scores: Scores, labels: NDArray[np.int64]) -> tuple[Scores, Scores]:
    """Scores of men and of women.

    Raises:
        ScoreError: If lengths differ, a gender is missing, or the scores cannot be ranked.
    """
    scores, labels = check_scores(scores), np.asarray(labels)
    if labels.shape != scores.shape:
        raise ScoreError(f"{scores.size} scores and labels of shape {labels.shape} do not fit together.")
    male, female = scores[labels == 1], scores[labels == 0]
    if not male.size or not female.size:
        raise ScoreError(
            f"{female.size} scores of women and {male.size} of men; both genders are needed.",
            hint="Label them 0 (female) and 1 (male).",
        )
    return male, female
