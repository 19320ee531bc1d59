"""Do some groups of people pay more than others: FNMR and leakage by cohort (ISO/IEC 19795-10)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.attributes import GENDER, Attribute
from privface.audit.intervals import (
    BootstrapParams,
    people_multiplicities,
    percentile_interval,
    rate_interval,
)
from privface.audit.matching import choose_pairs, cohort_fnmr
from privface.audit.readings import Reading, leakage_within
from privface.audit.subjects import Subjects
from privface.records import GENDERS, Embeddings, Measured

if TYPE_CHECKING:
    from privface.audit.context import Context

MIN_COHORT = 30
"""Photos below which a cohort is not reported."""

COHORT_FMR = 1e-2


@dataclass(frozen=True)
class CohortMatching:
    """Which genuine pairs fail before and after protection, at one threshold each for everybody."""

    matcher: str | None
    pairs: NDArray[np.int64] | None
    person: NDArray[np.int64] | None
    before: NDArray[np.bool_] | None
    after: NDArray[np.bool_] | None
    reason: str | None

    def row(self, inside: NDArray[np.bool_], params: BootstrapParams) -> dict[str, Any]:
        """FNMR before, after and their ratio for the genuine pairs whose both photos are in a cohort."""
        base = {"matcher": self.matcher, "fmr": COHORT_FMR}
        if self.pairs is None or self.person is None or self.before is None or self.after is None:
            none = Measured.undefined(self.reason or "not measured")
            return {**base, "fnmr_before": none, "fnmr_after": none, "ratio": none}
        kept = inside[self.pairs].all(axis=1)
        if not kept.any():
            none = Measured.undefined("no genuine pair in this cohort")
            return {**base, "fnmr_before": none, "fnmr_after": none, "ratio": none}
        names, person = np.unique(self.person[kept], return_inverse=True)
        draws = people_multiplicities(len(names), params)
        total = draws @ np.bincount(person)
        lost = [draws @ np.bincount(person, side[kept]) for side in (self.before, self.after)]
        n = int(kept.sum())

        def rate(value: float, draw: NDArray[np.float64]) -> Measured:
            interval = rate_interval(value, draw, len(names), level=params.level)
            return Measured(value, interval.low, interval.high, n)

        before, after = (float(side[kept].mean()) for side in (self.before, self.after))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = lost[1] / lost[0]
        ratio = Measured.undefined("no false non-match before protection", n=n)
        if before > 0:
            ends = percentile_interval(np.where(np.isfinite(ratios), ratios, np.nan), params.level)
            ratio = Measured(after / before, ends.low, ends.high, n)
            if math.isnan(ratio.low):
                ratio = Measured(ratio.value, n=n, reason="too few false non-matches before for an interval")
        return {
            **base,
            "fnmr_before": rate(before, lost[0] / total),
            "fnmr_after": rate(after, lost[1] / total),
            "ratio": ratio,
        }


def match_cohorts(
    matcher: str | None,
    embeddings: tuple[Embeddings, Embeddings] | None,
    subjects: Subjects,
    *,
    max_impostors: int,
    seed: int,
) -> CohortMatching:
    """Which genuine pairs fail at FMR 1e-2 before and after protection, for one matcher.

    Args:
        matcher: Its name; ``None`` if none was audited.
        embeddings: Original and protected, rows as in ``subjects``.
        subjects: Labels.
        max_impostors: Cap of impostor pairs for the threshold.
        seed: Seed of the caps.
    """
    if matcher is None or embeddings is None:
        return CohortMatching(None, None, None, None, None, "no matcher was audited")
    pairs = choose_pairs(subjects.identities, max_impostors=max_impostors, seed=seed)
    _, person = np.unique(subjects.identities, return_inverse=True)
    original, protected = embeddings
    before = cohort_fnmr(original, original, pairs, fmr=COHORT_FMR)
    after = cohort_fnmr(protected, protected, pairs, fmr=COHORT_FMR)
    if before is None or after is None:
        reason = f"too few genuine or impostor pairs for FMR {COHORT_FMR:g}"
        return CohortMatching(matcher, None, None, None, None, reason)
    return CohortMatching(matcher, pairs.genuine, person[pairs.genuine[:, 0]], before[0], after[0], None)


def cohort_rows(
    subjects: Subjects,
    fnmr: CohortMatching,
    worst: Reading | None,
    params: BootstrapParams,
    attributes: Sequence[tuple[Attribute, NDArray[np.int64]]] = (),
) -> list[dict[str, Any]]:
    """FNMR before and after and what the worst probe reads, for every cohort of 30 photos or more.

    Args:
        subjects: Labels.
        fnmr: Which genuine pairs fail.
        worst: The attacker.
        params: Bootstrap settings.
        attributes: Their classes are crossed with gender; each with the class of every row, ``(N,)``.
    """
    rows = []
    for cohort, value, inside in (*subjects.groups(), *_crossed(subjects, attributes)):
        if inside.sum() < MIN_COHORT:
            continue
        row: dict[str, Any] = {"cohort": cohort, "value": value, "n": int(inside.sum())}
        row.update(fnmr.row(inside, params))
        row["leakage"] = leakage_within(worst, inside, subjects, params)
        rows.append(row)
    return rows


def _crossed(
    subjects: Subjects, attributes: Sequence[tuple[Attribute, NDArray[np.int64]]]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Cohorts of one gender and one class: who pays may show only where both meet."""
    for attribute, codes in attributes:
        if attribute.name != GENDER and subjects.gendered:
            for (gender, word), (code, name) in itertools.product(
                enumerate(GENDERS), enumerate(attribute.classes)
            ):
                inside = (subjects.genders == gender) & (codes[: len(subjects)] == code)
                yield f"{GENDER} x {attribute.name}", f"{word}, {name}", inside


def run(context: Context) -> dict[str, Any]:
    """Section: ``cohorts`` rows, matched by a matcher that the protection has not met, if there is one."""
    data, templates, worst = context.data, context.audited(context.templates), context.worst
    unseen = [name for name in templates if context.seen(name) is False]
    name = next(iter([*unseen, *templates]), None)
    fnmr = match_cohorts(
        name,
        None if name is None else templates[name],
        data,
        max_impostors=context.settings.max_impostors,
        seed=context.settings.seed,
    )
    if worst is not None:  # of the audited people alone
        worst = replace(worst, scores=worst.scores[: len(data)])
    return {"cohorts": cohort_rows(data, fnmr, worst, context.params, context.attributes)}
