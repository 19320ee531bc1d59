"""What one probe reads from originals and from protected photos of the same test people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, balanced_accuracy, best_threshold, by_label, leakage
from privface.audit.information import calibrated, information_statistic, mutual_information_bits
from privface.audit.intervals import (
    BootstrapParams,
    Interval,
    Statistic,
    draw_probe,
    leakage_interval,
    measure_probe,
    percentile_interval,
    weighted_auc,
    weighted_balanced_accuracy,
    weighted_eer,
)
from privface.audit.subjects import People, Subjects
from privface.records import NO_GENDER, Measured, Scores

MIN_ORIGINAL_AUC = 0.90
"""AUC on originals below which a probe proves nothing."""

ReadingKind: TypeAlias = Literal["frozen", "retrained", "recovered"]


@dataclass(frozen=True)
class Attacker:
    """Who reads what.

    Attributes:
        probe: Name of the probe.
        kind: Whether it was trained on originals elsewhere, retrained on protected photos, or reads what a
            learned inversion of the protection gives back.
        source: ``"image"``, ``"embedding:MATCHER"`` or ``"white-box:CODE"``.
        seen: Whether the protector trained against it (against its matcher, for embeddings).
    """

    probe: str
    kind: ReadingKind
    source: str
    seen: bool | None


@dataclass(frozen=True)
class Reading(Attacker):
    """An attacker's figures on test people.

    Attributes:
        original_auc: AUC on originals.
        auc: AUC on protected photos.
        leakage: ``max(auc, 1 - auc)``.
        balanced_accuracy: At the threshold that is best on validation people.
        eer: Equal error rate on protected photos; above 0.60 the probe is flipped.
        original_accuracy: Balanced accuracy on originals.
        original_eer: Equal error rate on originals.
        bits: Lower bound of the information between score and gender, in bits (0 to 1).
        val_leakage: Leakage on validation people, by which the worst probe is chosen.
        measurable: Whether it reads originals well enough to count.
        reason: Why it does not count, else ``None``.
        scores: Male scores of protected photos, shape ``(N,)``; NaN where not scored or no test person.
        original_scores: Male scores of originals, shape ``(N,)``; NaN where not scored.
        setting: Hyper-parameters that won on validation people; empty where there were none to choose.
    """

    original_auc: Measured
    auc: Measured
    leakage: Measured
    balanced_accuracy: Measured
    eer: Measured
    original_accuracy: Measured
    original_eer: Measured
    bits: Measured
    val_leakage: float
    measurable: bool
    reason: str | None
    scores: Scores
    original_scores: Scores
    setting: str = ""

    def row(self) -> dict[str, Any]:
        """The row of the audit document."""
        same = ("probe", "kind", "seen", "original_auc", "auc", "leakage", "balanced_accuracy", "eer", "bits")
        return {
            **{name: getattr(self, name) for name in (*same, "measurable", "reason", "setting")},
            "input": self.source,
            "validation_leakage": self.val_leakage,
        }


def undefined_reading(who: Attacker, reason: str) -> Reading:
    """A reading that could not be taken."""
    none, empty = Measured.undefined(reason), np.empty(0, np.float64)
    return Reading(
        *(who.probe, who.kind, who.source, who.seen),
        *(none,) * 8,
        val_leakage=math.nan,
        measurable=False,
        reason=reason,
        scores=empty,
        original_scores=empty,
    )


def take_reading(
    subjects: Subjects,
    people: People,
    params: BootstrapParams,
    who: Attacker,
    original: Scores,
    protected: Scores,
    setting: str = "",
) -> Reading:
    """Figures of a probe from its male scores of originals and of protected photos, ``(N,)``; NaN where there are none.

    A frozen probe keeps the threshold that suits originals, a retrained one adapts it.
    """
    genders, val, test = subjects.genders, people.val, people.test
    scored_o, scored_p = ~np.isnan(original), ~np.isnan(protected)
    o_test, p_test, o_val, p_val = scored_o & test, scored_p & test, scored_o & val, scored_p & val
    for rows, name in (
        (o_test, "original test"),
        (p_test, "protected test"),
        (o_val, "original validation"),
        (p_val, "protected validation"),
    ):
        if len(np.unique(genders[rows])) < 2:
            return undefined_reading(who, f"a gender is missing among the scored {name} photos")

    def measure(scores: Scores, rows: NDArray[np.bool_], statistic: Statistic) -> Measured:
        return measure_probe(scores[rows], genders[rows], subjects.identities[rows], statistic, params)

    original_auc = measure(original, o_test, weighted_auc)
    protected_auc = measure(protected, p_test, weighted_auc)
    original_threshold = best_threshold(original[o_val], genders[o_val])
    original_accuracy = balanced_accuracy(original[o_test], genders[o_test], original_threshold)
    frozen = who.kind == "frozen"
    threshold = original_threshold if frozen else best_threshold(protected[p_val], genders[p_val])
    chance, people_seen = calibrated(protected, protected[p_val], genders[p_val]), subjects.identities[p_test]
    # a lower bound cut off at 0 is no rate, so its ends are percentiles
    bits = draw_probe(chance[p_test], genders[p_test], people_seen, information_statistic, params)
    measurable = leakage(original_auc.value) >= MIN_ORIGINAL_AUC  # a probe may name the genders the other way
    poor = f"AUC {original_auc.value:.3f} on originals, below {MIN_ORIGINAL_AUC:.2f}"
    return Reading(
        *(who.probe, who.kind, who.source, who.seen),
        original_auc=original_auc,
        auc=protected_auc,
        leakage=_folded(protected_auc),
        balanced_accuracy=measure(protected, p_test, weighted_balanced_accuracy(threshold)),
        eer=measure(protected, p_test, weighted_eer),
        val_leakage=leakage(auc(*by_label(protected[p_val], genders[p_val]))),
        measurable=measurable,
        reason=None if measurable else poor,
        scores=np.where(test, protected, np.nan),
        original_scores=original,
        original_accuracy=Measured(original_accuracy, n=int(o_test.sum())),
        original_eer=measure(original, o_test, weighted_eer),
        bits=percentile_interval(bits, params.level).of(
            mutual_information_bits(chance[p_test], genders[p_test]), int(p_test.sum())
        ),
        setting=setting,
    )


def _folded(area: Measured) -> Measured:
    return leakage_interval(Interval(area.low, area.high)).of(leakage(area.value), area.n)


def measure_leakage(
    scores: Scores, genders: NDArray[np.int64], people: NDArray[Any], params: BootstrapParams
) -> Measured:
    """Leakage of male scores ``(N,)`` that hold both genders, with an interval over ``people``, ``(N,)``."""
    return _folded(measure_probe(scores, genders, people, weighted_auc, params))


def worst_by_validation(readings: Sequence[Reading]) -> Reading | None:
    """The measurable reading that leaks most on validation people, the first of equals."""
    counted = [r for r in readings if r.measurable]
    return max(counted, key=lambda r: r.val_leakage) if counted else None


def illusion_gap(
    retrained: Reading | None, frozen: Reading | None, subjects: Subjects, params: BootstrapParams
) -> Measured:
    """Leakage of the worst retrained probe minus that of the worst frozen one."""
    if retrained is None or frozen is None:
        kinds = [k for k, r in (("retrained", retrained), ("frozen", frozen)) if r is None]
        return Measured.undefined(f"no measurable {' and no measurable '.join(kinds)} probe")
    return leakage_difference(retrained, frozen, subjects, params)


def leakage_difference(one: Reading, other: Reading, subjects: Subjects, params: BootstrapParams) -> Measured:
    """Leakage of one reading minus that of another.

    The interval draws the same people for both. In the draws each AUC keeps the direction of its point
    estimate, as folding every draw would push both up.
    """
    value, genders = one.leakage.value - other.leakage.value, subjects.genders
    if not one.scores.size or not other.scores.size:
        return Measured.undefined(one.reason or other.reason or "one of the two was not taken")
    both = ~np.isnan(one.scores) & ~np.isnan(other.scores)
    if len(np.unique(genders[both])) < 2:
        return Measured(
            value, n=int(both.sum()), reason="the two probes share too few photos for an interval"
        )
    draws = []
    for reading in (one, other):
        people = subjects.identities[both]
        draw = draw_probe(reading.scores[both], genders[both], people, weighted_auc, params)
        draws.append(draw if reading.auc.value >= 0.5 else 1.0 - draw)
    return percentile_interval(draws[0] - draws[1], params.level).of(value, int(both.sum()))


def leakage_within(
    reading: Reading | None, inside: NDArray[np.bool_], subjects: Subjects, params: BootstrapParams
) -> Measured:
    """Leakage of a reading on the test people of one cohort."""
    genders = subjects.genders
    if not subjects.gendered:
        return Measured.undefined(NO_GENDER)
    if len(np.unique(genders[inside])) < 2:
        return Measured.undefined("one gender on its own has nothing to tell apart")
    if reading is None:
        return Measured.undefined("no measurable retrained probe")
    rows = inside & ~np.isnan(reading.scores)
    counts = np.bincount(genders[rows], minlength=2)
    if counts.min() < 5:
        return Measured.undefined(
            f"{counts[0]} photos of women and {counts[1]} of men among test people, fewer than 5",
            n=int(rows.sum()),
        )
    return measure_leakage(reading.scores[rows], genders[rows], subjects.identities[rows], params)
