"""Other ways to state what is hidden: bits of information, and the ratios that papers give.

The ratios divide by error rates that are near zero for good classifiers and matchers, so a change of the third
digit there changes them by several units. They are given for comparison with papers and decide nothing here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import by_label
from privface.records import Measured, Scores

_FLOOR = 1e-6  # a probability below this would let a single photo decide the mean


def calibrated(scores: Scores, val_scores: Scores, val_genders: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities of "male" from scores, by logistic regression on validation people (Platt, 1999).

    Both genders count equally, so 0.5 is what a score that tells nothing gets.

    Args:
        scores: To be turned into probabilities, shape ``(N,)``.
        val_scores: Scores of validation people, shape ``(M,)``.
        val_genders: Their genders, 0 or 1.

    Returns:
        Shape ``(N,)``; NaN where the score is.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    by_label(val_scores, val_genders)  # refuses NaN and a missing gender
    centre, spread = float(np.mean(val_scores)), float(np.std(val_scores)) or 1.0
    model = LogisticRegression(C=10.0, class_weight="balanced")
    model.fit((val_scores[:, None] - centre) / spread, val_genders)
    out = np.full(np.shape(scores), np.nan)
    known = ~np.isnan(scores)
    if known.any():
        out[known] = model.predict_proba((np.asarray(scores)[known, None] - centre) / spread)[:, 1]
    return out


def mutual_information_bits(probability: NDArray[np.float64], genders: NDArray[np.int64]) -> float:
    """A lower bound of the information between gender and what the probe read, in bits.

    One bit minus the cross-entropy of calibrated probabilities, genders weighted equally: by the chain rule,
    no reader can do with fewer bits than it proves to have. At least 0.

    Args:
        probability: Of "male", shape ``(N,)``, in [0, 1].
        genders: 0 (female) or 1 (male), shape ``(N,)``.
    """
    return float(information_statistic(probability, genders, np.ones((1, len(genders))))[0])


def information_statistic(
    probability: Scores, genders: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted :func:`mutual_information_bits`, a :data:`~privface.audit.intervals.Statistic`."""
    right = np.where(genders == 1, probability, 1.0 - probability)
    bits = -np.log2(np.clip(right, _FLOOR, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = [(weights @ (bits * (genders == g))) / (weights @ (genders == g)) for g in (0, 1)]
    return np.asarray(np.maximum(1.0 - (sides[0] + sides[1]) / 2.0, 0.0), np.float64)


def privacy_gain(before: Measured, after: Measured) -> Measured:
    """Relative growth of a gender classifier's equal error rate, ``(after - before) / before``.

    The first term of the privacy-gain identity-loss coefficient (Terhoerst et al., ICPR 2020).
    """
    return _relative(before, after, "the probe makes no error on originals")


def pic(gender: tuple[Measured, Measured], recognition: tuple[Measured, Measured]) -> Measured:
    """Privacy-gain identity-loss coefficient (Terhoerst et al., ICPR 2020).

    Growth of the gender classifier's equal error rate minus growth of the matcher's; above 0 more privacy was
    gained than recognition lost, in relative terms.

    Args:
        gender: Equal error rate of gender classification before and after.
        recognition: Equal error rate of matching before and after.
    """
    gain = privacy_gain(*gender)
    loss = _relative(*recognition, "the matcher makes no error on originals")
    if np.isnan(gain.value) or np.isnan(loss.value):
        return Measured.undefined(gain.reason or loss.reason or "not measured")
    return Measured(gain.value - loss.value, n=gain.n)


def suppression_rate(before: Measured, after: Measured) -> Measured:
    """Relative loss of a gender classifier's accuracy, ``(before - after) / before`` (Terhoerst et al., 2019).

    Balanced accuracy takes the place of accuracy, so the most that can be suppressed is ``1 - 0.5 / before``.
    """
    loss = _relative(before, after, "the probe was never right on originals")
    return Measured.undefined(loss.reason or "") if np.isnan(loss.value) else Measured(-loss.value, n=loss.n)


def _relative(before: Measured, after: Measured, reason: str) -> Measured:
    if np.isnan(before.value) or np.isnan(after.value):
        return Measured.undefined(before.reason or after.reason or "not measured")
    if before.value <= 0:
        return Measured.undefined(reason, n=after.n)
    return Measured((after.value - before.value) / before.value, n=after.n)
