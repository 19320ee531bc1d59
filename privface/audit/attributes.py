"""Section: what attackers read of further attributes, such as race or age in bands, whether they were to be hidden or kept.

An attacker on an attribute of ``K`` classes is one of the audit's attackers for each class (one for two), who tells it from the rest, and a
logistic regression that makes one decision of their scores. Each sees labelled people of the attacker's share; the regression
is fitted on validation people, and all are judged on people that none has met.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.attributes import Attribute
from privface.audit.attacks import Attack, Attacks, plain_attacks
from privface.audit.curves import auc, by_label
from privface.audit.intervals import (
    BootstrapParams,
    draw_probe,
    mean_recall,
    probe_interval,
    rate_interval,
    weighted_auc,
)
from privface.audit.part import Line, Part
from privface.audit.probes import RetrainedProbe
from privface.audit.subjects import WHITE_BOX, View
from privface.records import Measured

if TYPE_CHECKING:
    from privface.audit.context import Context

MIN_AUC: Final = 0.75
"""Macro AUC that an attacker must reach, on originals or on protected data, to count. Lower than for gender: people agree less
about age. Drawn faces are easier for some attackers than photos, so either side proves that it can read."""

_MEDIA: Final = ("image", "embedding", WHITE_BOX)


def run(context: Context) -> dict[str, Any]:
    """``attributes``, the worst attacker of each attribute by what it looks at, and ``attribute_readings``, all of them."""
    wanted = context.attributes
    if not wanted:
        return {}
    found: list[dict[str, Any]] = []
    for number, (attribute, codes) in enumerate(wanted):
        found += _readings(context, attribute, codes)
        context.report("read attributes", number + 1, len(wanted))
    names = [attribute.name for attribute, _ in wanted]
    worst = [row for name in names for row in _worst([r for r in found if r["attribute"] == name])]
    return {"attributes": worst, "attribute_readings": found}


def _readings(context: Context, attribute: Attribute, codes: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Rows of all attackers on one attribute, and the one that reads most of each view once more on what was recovered of it."""
    subjects = context.whole
    count = len(attribute.classes)
    attacks = [
        # attackers call their two labels genders
        Attacks(context.settings, replace(subjects, genders=(codes == code).astype(np.int64)), context.people)
        for code in range(1 if count == 2 else 0, count)  # of two classes one is told from the other
    ]

    def on_labelled(probe: RetrainedProbe, view: View) -> list[Attack]:
        return [replace(a, ok=a.ok & (codes >= 0)) for a in plain_attacks(probe, view).values()]

    def read(probe: RetrainedProbe, view: View, title: str) -> dict[str, Any]:
        sides = []
        for side in on_labelled(probe, view):
            scores = [one.scores_of(side, title=f"{attribute.name}: {title}") for one in attacks]
            sides.append(np.stack(scores if count > 2 else [-scores[0], scores[0]], axis=1))
        return _reading(context, attribute, codes, title, view, sides)

    sent = [(probe, view) for view in context.views for probe in context.settings.attackers(view.medium)]
    for number, one in enumerate(attacks):
        stage = f"train networks on {attribute.name}, {number + 1} of {len(attacks)}"
        one.ahead([attack for pair in sent for attack in on_labelled(*pair)], stage=stage)
    plain = [(read(probe, view, probe.name), probe) for probe, view in sent]
    found = [row for row, _ in plain]
    for view, _, back in context.backs:
        able = [(row, probe) for row, probe in plain if row["input"] == view.source]
        able = [(row, probe) for row, probe in able if not math.isnan(row["validation"])]
        if back is not None and able:
            _, probe = max(able, key=lambda item: (item[0]["measurable"], item[0]["validation"]))
            both = view.original_ok & view.protected_ok
            turned = replace(view, protected=back, protected_ok=both)
            found.append(read(probe, turned, f"recover+{probe.name}"))
    return found


def _reading(
    context: Context,
    attribute: Attribute,
    codes: NDArray[np.int64],
    probe: str,
    view: View,
    sides: Sequence[NDArray[np.float64]],
) -> dict[str, Any]:
    """A row: scores ``(N, K)`` of both sides made into figures.

    ``validation`` is the macro AUC on protected data of validation people, by which the worst attacker is chosen.
    """
    figures: list[Measured] = []
    people, params = context.people, context.params
    for scores, ok in zip(sides, (view.original_ok, view.protected_ok), strict=True):
        lacking = [
            f"{attribute.classes[code]} {title} photo"
            for code in range(len(attribute.classes))
            for title, part in people.parts().items()
            if not (codes[part & ok] == code).any()
        ]
        if lacking:
            none = Measured.undefined(f"too few photos: no {lacking[0]}")
            figures += [none, none]
            validation = math.nan
            continue
        known = ~np.isnan(scores).any(axis=1)
        val, test = known & people.val, known & people.test
        decided, who = _decide(scores, codes, val, test), context.whole.identities[test]
        validation = _mean_auc(scores[val], codes[val])
        figures.append(_balanced_accuracy(decided, codes[test], who, params))
        figures.append(_macro_auc(scores[test], codes[test], who, params))
    original, original_auc, protected, area = figures
    return {
        "attribute": attribute.name,
        "classes": list(attribute.classes),
        "chance": attribute.chance,
        "probe": probe,
        "input": view.source,
        "seen": view.seen,
        "original": original,
        "protected": protected,
        "normalised": _normalised(protected, attribute.chance),
        "original_auc": original_auc,
        "auc": area,
        "validation": validation,
        "measurable": original_auc.value >= MIN_AUC or area.value >= MIN_AUC,
    }


def _decide(
    scores: NDArray[np.float64], codes: NDArray[np.int64], val: NDArray[np.bool_], test: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The class that is seen in each test photo."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes seconds to import
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(scores[val], codes[val])
    return np.asarray(model.predict(scores[test]), np.int64)


def _balanced_accuracy(
    decided: NDArray[np.int64], codes: NDArray[np.int64], people: NDArray[np.str_], params: BootstrapParams
) -> Measured:
    """Mean share of each class that is told right."""
    seen = decided.astype(np.float64)
    value = float(mean_recall(seen, codes, np.ones((1, len(codes))))[0])
    return probe_interval(seen, codes, people, mean_recall, params).of(value, len(codes))


def _macro_auc(
    scores: NDArray[np.float64], codes: NDArray[np.int64], people: NDArray[np.str_], params: BootstrapParams
) -> Measured:
    """Mean AUC of each class against the rest (Fawcett, Pattern Recognition Letters 2006, section 10)."""
    draws = [
        draw_probe(column, (codes == code).astype(np.int64), people, weighted_auc, params)
        for code, column in enumerate(scores.T)
    ]
    value = _mean_auc(scores, codes)
    ends = rate_interval(value, np.mean(draws, axis=0), len(np.unique(people)), level=params.level)
    return ends.of(value, len(codes))


def _mean_auc(scores: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    sides = [by_label(column, (codes == code).astype(np.int64)) for code, column in enumerate(scores.T)]
    return float(np.mean([auc(*side) for side in sides]))


def _normalised(figure: Measured, chance: float) -> Measured:
    """Balanced accuracy so that a guess is 0 and a perfect reader 1."""
    scale = [(part - chance) / (1 - chance) for part in (figure.value, figure.low, figure.high)]
    return replace(figure, value=scale[0], low=scale[1], high=scale[2])


def _worst(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The worst attacker of each medium and of all, chosen on validation people, and the highest that counts."""
    for medium in ("any", *_MEDIA):
        mine = [row for row in rows if medium in {"any", row["input"].partition(":")[0]}]
        if not mine:
            continue
        known = [row for row in mine if row["measurable"] and not math.isnan(row["protected"].value)]
        if known:
            worst = max(known, key=lambda row: row["validation"])
            figures = [row["protected"] for row in known]
            highest, upper = (max(figures, key=attrgetter(end)) for end in ("value", "high"))
            figured = {"highest": highest, "upper": replace(upper, value=upper.high)}
        else:
            reason = f"no attacker reaches a macro AUC of {MIN_AUC}, on originals or on protected data"
            none, worst = Measured.undefined(mine[0]["protected"].reason or reason), mine[0]
            figured = dict.fromkeys(("original", "protected", "normalised", "auc", "highest", "upper"), none)
            counts = worst["original_auc"].value >= MIN_AUC
            worst = {**worst, "probe": "none", "validation": math.nan, "measurable": counts}
        yield {**worst, **figured, "medium": medium}


def _line(row: Mapping[str, Any]) -> Line:
    medium = "of all" if row.get("medium") == "any" else f"on {row.get('medium')}"
    chance = row.get("chance")
    guess = f"{chance:.2f}" if isinstance(chance, float) else "unknown"
    figures = [row.get(key) for key in ("original", "protected", "highest", "normalised", "auc")]
    name = f"{row.get('attribute')}, worst {medium}"
    classes = f"{len(row.get('classes') or ())} classes, a guess: {guess}"
    return name, f"{row.get('probe')} on {row.get('input')}; {classes}", figures


PART: Final = Part(
    key="attributes",
    title="What is read of other attributes?",
    lead=(
        "The audit's attackers were trained anew to tell the classes of each attribute, on originals and on protected data of other"
        " people. Balanced accuracy is the mean share of each class that is told right; the chance of a guess stands in each row."
        " An attacker counts only if it reaches a macro AUC of 0.75 on originals or on protected data. The worst attacker is the"
        " one that read most of validation people. The highest figure of all attackers was chosen after the results were known, so"
        " it is a little too high. An attribute that was to be kept should lose little."
    ),
    caption="Balanced accuracy of attackers on people they have not met",
    first="Attribute",
    columns=(
        ("original", "on originals"),
        ("protected", "on protected data"),
        ("highest", "of all attackers that count"),
        ("0 to 1", "protected; 0 is a guess, 1 is perfect"),
        ("AUC", "on protected data, mean of each class against the rest"),
    ),
    line=_line,
    percent=False,
)
"""The part of the report."""
