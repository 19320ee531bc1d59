"""How leakage grows with the labels that an attacker has, and what ten times as many would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, by_label, leakage
from privface.audit.intervals import BootstrapParams, draw_probe, percentile_interval, weighted_auc
from privface.audit.part import Line, Part
from privface.audit.readings import Reading, measure_leakage
from privface.audit.subjects import WHITE_BOX, Subjects
from privface.records import Measured, Scores

if TYPE_CHECKING:
    from privface.audit.context import Context

FACTOR: Final = 10
"""How many times the labels the curve is drawn out to."""

_LEAST: Final = 0.005
"""Leakage above chance that counts as this much: a logarithm needs more than nothing."""


MIN_SET_PEOPLE = 5
"""People of each gender below which a set attack is not reported."""


def learning_curve(
    found: Sequence[tuple[int, Scores]], subjects: Subjects, test: NDArray[np.bool_], params: BootstrapParams
) -> tuple[Measured, Measured]:
    """A power law through the leakage of attackers with more and more labels: ``leakage - 0.5 = c * people ** exponent``.

    Learning curves follow power laws over wide ranges (Hestness et al., arXiv 1712.00409). The line is fitted by least squares
    on logarithms. Its exponent is not below 0, as labels can be left aside. Intervals draw test people; they do not hold
    the error of the law itself.

    Args:
        found: Labelled people and the attacker's male scores ``(N,)``, one pair for each number of people.
        subjects: Labels.
        test: Rows that are scored, shape ``(N,)``.
        params: Bootstrap settings.

    Returns:
        The exponent, and leakage with ten times the largest number of people; undefined with fewer than three numbers.
    """
    counts = np.array([count for count, _ in found])
    if len(np.unique(counts)) < 3:
        none = Measured.undefined(f"{len(np.unique(counts))} numbers of labelled people; a curve needs 3")
        return none, none
    values, draws = [], []
    for _, scores in found:
        rows = test & ~np.isnan(scores)
        genders = subjects.genders[rows]
        values.append([leakage(auc(*by_label(scores[rows], genders)))])
        drawn = draw_probe(scores[rows], genders, subjects.identities[rows], weighted_auc, params)
        draws.append(np.maximum(drawn, 1 - drawn))
    value, spread = _fit(counts, np.array(values)), _fit(counts, np.array(draws))
    exponent, later = (
        percentile_interval(drawn, params.level).of(float(part[0]), int(test.sum()))
        for part, drawn in zip(value, spread, strict=True)
    )
    return exponent, later


def _fit(
    counts: NDArray[np.int64], leaks: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exponents and later leakages ``(R,)`` from leakages ``(K, R)`` at K numbers of people."""
    x, y = np.log(counts), np.log(np.maximum(leaks - 0.5, _LEAST))
    x = x - x.mean()
    slope = np.maximum(x @ y / (x @ x), 0.0)
    end = y.mean(axis=0) + slope * (x[-1] + np.log(FACTOR))
    return slope, np.minimum(0.5 + np.exp(end), 1.0)


def set_attack(
    reading: Reading, subjects: Subjects, sizes: Sequence[int], *, seed: int, params: BootstrapParams
) -> list[dict[str, Any]]:
    """Leakage when scores are averaged over several protected photos of one person.

    One set of photos (``sizes`` says of how many) is drawn for each test person who has enough of them; beside the leakage of
    sets stands that of the first photo of each set, so that the same people are compared.
    """
    rows = []
    scored = np.flatnonzero(~np.isnan(reading.scores))
    names, person = np.unique(subjects.identities[scored], return_inverse=True)
    groups = [scored[person == k] for k in range(len(names))]
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        sets = [rng.permutation(group)[:size] for group in groups if group.size >= size]
        genders = np.array([subjects.genders[photos[0]] for photos in sets], np.int64)
        row = {"probe": reading.probe, "input": reading.source, "photos": size, "people": len(sets)}
        counts = np.bincount(genders, minlength=2)
        if counts.min() < MIN_SET_PEOPLE:
            reason = f"{counts[0]} women and {counts[1]} men among test people have {size} photos, fewer than {MIN_SET_PEOPLE}"
            together = alone = Measured.undefined(reason, n=len(sets))
        else:
            people = np.arange(len(sets))
            pooled = np.array([reading.scores[photos].mean() for photos in sets])
            single = np.array([reading.scores[photos[0]] for photos in sets])
            together, alone = (measure_leakage(s, genders, people, params) for s in (pooled, single))
        rows.append({**row, "leakage": together, "single": alone})
    return rows


def _line(row: Mapping[str, Any]) -> Line:
    figures = [row.get(key) for key in ("leakage", "ten_times", "exponent")]
    return f"{row.get('probe')} on {row.get('input')}", f"{row.get('people')} labelled people", figures


PART: Final = Part(
    key="learning_curve",
    title="What would more labels read?",
    lead=(
        "The worst attacker was trained with few people and with more, up to all there are. A power law is drawn through what it"
        f" read and out to {FACTOR} times as many people. That last figure is an extrapolation: nobody has trained such an"
        " attacker, and the law may bend. It is here because an attacker may have more labels than this audit. An exponent of 0"
        " means that more labels did not help."
    ),
    caption="Leakage with all labels of this audit, and drawn out",
    first="Attacker",
    columns=(
        ("now", "leakage with these people"),
        (f"x {FACTOR}", f"leakage with {FACTOR} times as many, extrapolated"),
        ("exponent", "of the power law"),
    ),
    line=_line,
    percent=False,
)
"""The part of the report."""


def run(context: Context) -> dict[str, Any]:
    """Section: what more photos of a person and fewer labels do to the worst attacker on embeddings, images and the code.

    Gives ``set_attack``, ``label_budget`` and ``learning_curve`` rows.
    """
    found: dict[str, Any] = {"set_attack": [], "label_budget": [], "learning_curve": []}
    for medium in ("embedding", "image", WHITE_BOX):
        mine = [item for item in context.plain if item[2].medium == medium and item[0].measurable]
        if mine:
            reading, probe, view = max(mine, key=lambda item: item[0].val_leakage)
            settings, attacks = context.settings, context.attacks
            found["set_attack"] += set_attack(
                reading, context.whole, settings.set_sizes, seed=settings.seed, params=context.params
            )
            budget, curve = attacks.label_budget(probe, view, settings.label_budgets)
            found["label_budget"] += budget
            found["learning_curve"] += curve
    return found
