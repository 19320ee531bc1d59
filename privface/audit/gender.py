"""Section: what attackers read, who reads most, and how far pretrained classifiers are from that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privface.audit.context import white_box_mark
from privface.audit.information import pic, privacy_gain, suppression_rate
from privface.audit.matching import MatchingResult
from privface.audit.readings import Reading, illusion_gap, worst_by_validation
from privface.records import NO_GENDER, Measured

if TYPE_CHECKING:
    from privface.audit.context import Context


def run(context: Context) -> dict[str, Any]:
    """``leakage`` rows, the worst of each kind, and the illusion gaps; undefined where the set has no gender labels."""
    if not context.whole.gendered:
        nobody = _nobody(NO_GENDER)
        kinds = ["retrained", "upper", "frozen", *["white_box"] * bool(context.codes)]
        gaps = {"illusion_gap": nobody["leakage"], "frozen_gaps": {"seen": None, "unseen": None}}
        return {"leakage": [], **{f"worst_{kind}": nobody for kind in kinds}, **gaps}
    adaptive, frozen = context.adaptive, context.frozen
    worst, worst_frozen = context.worst, worst_by_validation(frozen)
    found = {
        "leakage": [_row(reading, context.matching) for reading in (*frozen, *adaptive)],
        "worst_retrained": _worst_row(worst, "retrained"),
        "worst_upper": _upper_row(adaptive),
        "worst_frozen": _worst_row(worst_frozen, "frozen"),
        "illusion_gap": illusion_gap(worst, worst_frozen, context.whole, context.params),
        "frozen_gaps": _frozen_gaps(context, worst),
    }
    if context.codes:  # the worst retrained probe may be the same
        on_code = worst_by_validation([r for r in adaptive if r.source in context.codes])
        found["worst_white_box"] = _worst_row(on_code, "white-box")
    return found


def _frozen_gaps(context: Context, worst: Reading | None) -> dict[str, Any]:
    """The illusion gap against probes that the protector met and against those it did not."""
    gaps: dict[str, Any] = {}
    for title, seen in (("seen", True), ("unseen", False)):
        mine = worst_by_validation([reading for reading in context.frozen if reading.seen is seen])
        gap = illusion_gap(worst, mine, context.whole, context.params)
        gaps[title] = mine and {"probe": mine.probe, "leakage": mine.leakage, "gap": gap}
    return gaps


def _row(reading: Reading, matching: Sequence[MatchingResult]) -> dict[str, Any]:
    """A reading's row with the ratios that papers give; on images, recognition is that of an unseen matcher."""
    on_code = bool(white_box_mark(reading.source))
    mine = [
        row
        for row in matching
        if row.impostors == "all"
        and bool(white_box_mark(row.matcher)) == on_code
        and reading.source in ("image", row.matcher, f"embedding:{row.matcher}")
    ]
    chosen = next((row.matcher for row in mine if row.seen is False), mine[0].matcher if mine else None)
    eers = {row.mode: row.eer for row in mine if row.matcher == chosen}
    none = Measured.undefined("no matcher was audited")
    gender = (reading.original_eer, reading.eer)
    return {
        **reading.row(),
        **white_box_mark(reading.source),
        "privacy_gain": privacy_gain(*gender),
        "pic": pic(gender, (eers["O-O"], eers["P-P"])) if eers else none,
        "suppression_rate": suppression_rate(reading.original_accuracy, reading.balanced_accuracy),
    }


def _worst_row(reading: Reading | None, kind: str) -> dict[str, Any]:
    if reading is None:
        return _nobody(f"no {kind} probe of this battery reads the originals at AUC 0.90 or more")
    return {
        "probe": reading.probe,
        "input": reading.source,
        **white_box_mark(reading.source),
        "seen": reading.seen,
        "leakage": reading.leakage,
        "auc": reading.auc,
        "chosen_by": "leakage on validation people",
    }


def _nobody(reason: str) -> dict[str, Any]:
    return {"probe": None, "input": None, "seen": None, "leakage": Measured.undefined(reason)}


def _upper_row(readings: Sequence[Reading]) -> dict[str, Any]:
    known = [r for r in readings if not math.isnan(r.leakage.high)]
    if not known or not any(r.measurable for r in readings):
        return _worst_row(None, "retrained")
    top = max(known, key=lambda r: r.leakage.high)
    figure = Measured(top.leakage.high, top.leakage.low, top.leakage.high, top.leakage.n)
    return {"probe": top.probe, "input": top.source, "seen": top.seen, "leakage": figure}
