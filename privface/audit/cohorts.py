"""Do some groups of people pay more than others: FNMR and leakage by cohort (ISO/IEC 19795-10)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.attributes import GENDER, Attribute
from privface.audit.intervals import (
    BootstrapParams,
    drawn_means,
    measure_mean,
    people_multiplicities,
    percentile_interval,
)
from privface.audit.matching import choose_genuine
from privface.audit.readings import leakage_within
from privface.audit.streaming import cosine_scores
from privface.audit.subjects import Subjects
from privface.records import GENDERS, Measured

if TYPE_CHECKING:
    from privface.audit.context import Context

MIN_COHORT = 30
"""Photos below which a cohort is not reported."""

COHORT_FMR = 1e-2
_FIGURES: Final = ("fnmr_before", "fnmr_after", "ratio")


@dataclass(frozen=True)
class _Failures:
    """Which genuine pairs ``(G, 2)`` fail before and after protection, each ``(G,)``, and whose photos there are.

    At one threshold for everybody on each side, as in operation: cohorts then differ in FNMR.
    """

    pairs: NDArray[np.int64]
    missed: Sequence[NDArray[np.bool_]]
    identities: NDArray[np.str_]

    @classmethod
    def of(cls, context: Context, matcher: str) -> _Failures | None:
        """At the matcher's thresholds over all impostors; ``None`` where too few pairs support the FMR."""
        rows = {row.mode: row for row in context.matching if (row.matcher, row.impostors) == (matcher, "all")}
        limits = [rows[mode].thresholds.get(COHORT_FMR) for mode in ("O-O", "P-P")]
        _, person = np.unique(context.data.identities, return_inverse=True)
        pairs = choose_genuine(person, np.random.default_rng([context.settings.seed, 45]))
        missed = [
            ~(cosine_scores(side, side, pairs) >= limit)  # a photo that failed to enrol scores NaN
            for side, limit in zip(context.audited(context.templates)[matcher], limits, strict=True)
            if limit is not None
        ]
        return cls(pairs, missed, context.data.identities) if len(missed) == len(limits) else None

    def rates(self, inside: NDArray[np.bool_], params: BootstrapParams) -> dict[str, Measured]:
        """FNMR before, after and their ratio for the genuine pairs whose both photos are in a cohort."""
        kept = inside[self.pairs].all(axis=1)
        if not kept.any():
            return _undefined("no genuine pair in this cohort")
        missed, people = [side[kept] for side in self.missed], self.identities[self.pairs[kept, 0]]
        before, after = (measure_mean(side, people, params) for side in missed)
        ratio = Measured.undefined("no false non-match before protection", n=before.n)
        if before.value > 0:
            names, person = np.unique(people, return_inverse=True)
            draws = people_multiplicities(len(names), params)
            lost = [drawn_means(side, person, draws) for side in missed]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = lost[1] / lost[0]
            ends = percentile_interval(np.where(np.isfinite(ratios), ratios, np.nan), params.level)
            ratio = ends.of(after.value / before.value, before.n)
            if math.isnan(ratio.low):
                ratio = replace(ratio, reason="too few false non-matches before for an interval")
        return dict(zip(_FIGURES, (before, after, ratio), strict=True))


def _undefined(reason: str) -> dict[str, Measured]:
    return dict.fromkeys(_FIGURES, Measured.undefined(reason))


def _crossed(
    subjects: Subjects, attributes: Sequence[tuple[Attribute, NDArray[np.int64]]]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Cohorts of one gender and one class: who pays may show only where both meet."""
    for attribute, codes in attributes:
        if attribute.name != GENDER and subjects.gendered:
            crossed = itertools.product(enumerate(GENDERS), enumerate(attribute.classes))
            for (gender, word), (code, name) in crossed:
                inside = (subjects.genders == gender) & (codes[: len(subjects)] == code)
                yield f"{GENDER} x {attribute.name}", f"{word}, {name}", inside


def run(context: Context) -> dict[str, Any]:
    """Section: ``cohorts`` rows, matched by a matcher that the protection has not met, if there is one.

    FNMR before and after and what the worst probe reads, for every cohort of 30 photos or more.
    """
    data, worst = context.data, context.worst
    unseen = [name for name in context.templates if context.seen(name) is False]
    matcher = next(iter([*unseen, *context.templates]), None)
    failures, reason = None, "no matcher was audited"
    if matcher is not None:
        failures = _Failures.of(context, matcher)
        reason = f"too few genuine or impostor pairs for FMR {COHORT_FMR:g}"
    if worst is not None:  # of the audited people alone
        worst = replace(worst, scores=worst.scores[: len(data)])
    rows = [
        {
            "cohort": cohort,
            "value": value,
            "n": int(inside.sum()),
            "matcher": matcher,
            "fmr": COHORT_FMR,
            **(_undefined(reason) if failures is None else failures.rates(inside, context.params)),
            "leakage": leakage_within(worst, inside, data, context.params),
        }
        for cohort, value, inside in (*data.groups(), *_crossed(data, context.attributes))
        if inside.sum() >= MIN_COHORT
    ]
    return {"cohorts": rows}
