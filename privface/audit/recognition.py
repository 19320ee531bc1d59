"""Section: are people still recognised? Rates of every matcher and code, curves, and LFW's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from privface.audit.context import white_box_mark
from privface.audit.matching import MODES, MatchingResult, fold_accuracy
from privface.audit.streaming import cosine_scores

if TYPE_CHECKING:
    from privface.audit.context import Context


def run(context: Context) -> dict[str, Any]:
    """``matching`` and ``pairs_protocol`` rows, and the ``curves`` of the matchers."""
    rows = context.matching
    faces = [row for row in rows if not white_box_mark(row.matcher)]
    return {
        "matching": [_row(row) for row in rows],
        "pairs_protocol": _pairs_protocol(context),
        "curves": {
            "det": [{**_names(row), "fmr": row.det.fmr, "fnmr": row.det.fnmr} for row in faces if row.det],
            "scores": [{**_names(row), **row.histogram} for row in faces if row.histogram],
        },
    }


def _pairs_protocol(context: Context) -> list[dict[str, Any]]:
    """Accuracy over the folds of a pairs list, in every mode."""
    pairs, rows = context.settings.pairs, []
    if pairs is None:
        return []
    for name, (original, protected) in context.audited(context.templates).items():
        sides = {"O": original, "P": protected}
        for mode in MODES:
            gallery, probe = sides[mode[0]], sides[mode[2]]
            if gallery.shape[1] == probe.shape[1]:
                scores = cosine_scores(gallery, probe, pairs.pairs)
                accuracy = fold_accuracy(scores, pairs.same, pairs.folds)
                counts = {"folds": len(np.unique(pairs.folds)), "pairs": len(scores)}
                rows.append({"matcher": name, "mode": mode, "accuracy": accuracy, **counts})
    return rows


def _row(row: MatchingResult) -> dict[str, Any]:
    figures = {
        name: value for name, value in vars(row).items() if name not in {"det", "histogram", "thresholds"}
    }
    tmr = {f"{fmr:.4f}".rstrip("0"): figure for fmr, figure in row.tmr.items()}
    return {**figures, **white_box_mark(row.matcher), "tmr": tmr}


def _names(row: MatchingResult) -> dict[str, Any]:
    return {"matcher": row.matcher, "mode": row.mode, "impostors": row.impostors}
