"""The trade-off of experiment 03: how many people are still matched against what the worst attacker reads."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from tables import Audit, Plane, all_audits, points

from privface.images import write_atomic
from privface.report.labels import place_labels
from privface.report.reading import Reading

_OURS, _TRAINED, _READY, _INK, _FAINT = "#d55e00", "#0072b2", "#6b7280", "#1b1f24", "#c9ced6"
_TITLES: dict[Plane, str] = {
    "image": "balanced accuracy of the worst attacker on images",
    "all": "balanced accuracy of the worst attacker on images or embeddings",
}
Point = tuple[Reading, Reading, Mapping[str, Any]]
_CROWD = 0.85
"""From this TMR on methods stand close together."""

_STEP = 12
"""Pixels between the places that stand for an area which names must not cover; less than a line of text is high."""

_LIMITS: dict[Plane, float] = {"image": 0.70, "all": 0.80}


def draw(path: Path) -> None:
    """Write the PNG: a panel for attackers on images, one for all; shaded is what issue 8 aims at."""
    everything = all_audits()
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(13.5, 7.0))
        FigureCanvasAgg(figure)
        for place, plane in enumerate(_TITLES):
            axes = figure.add_axes((0.055 + 0.485 * place, 0.13, 0.445, 0.84))
            _panel(axes, everything, plane)
        words = "bars: 95 % intervals over people; dotted: 0.95 of what is matched between originals; shaded: aimed at; orange: ours; blue: trained for this comparison; grey: not trained here"
        figure.text(0.5, 0.02, words, ha="center", fontsize=9, fontstyle="italic")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _panel(axes: Axes, audits: Sequence[Audit], plane: Plane) -> None:
    rows = {audit.row.name: audit.row for audit in audits}
    known = [
        (leak, match, p)
        for p in points(audits, plane)
        if (leak := Reading.of(p["leakage"])).known and (match := Reading.of(p["tmr"])).known
    ]
    left = min([leak.low if leak.has_interval else leak.value for leak, _, _ in known], default=0.5)
    axes.set(xlim=(min(0.48, left - 0.01), 1.02), ylim=(-0.04, 1.06), xlabel=_TITLES[plane])
    axes.set_ylabel("same person recognised by the unseen matcher: TMR at FMR 1e-2, P-P")
    axes.axvline(0.5, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.grid(visible=True, color=_FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    before = [Reading.of(p["tmr_before"]).value for _, _, p in known]
    if before:
        axes.axhline(0.95 * before[0], color=_OURS, linewidth=0.9, linestyle=":")
        axes.fill_between(
            [axes.get_xlim()[0], _LIMITS[plane]], 0.95 * before[0], 1.06, color=_OURS, alpha=0.08, linewidth=0
        )
    crowd = [k for k in known if k[1].value >= _CROWD]
    apart = [k for k in known if k not in crowd] if len(crowd) > 3 else known
    _mark(axes, known, rows)
    taken = _enlarge(axes, crowd, rows) if apart is not known else []
    _name(axes, apart, known, rows, taken=taken)


def _enlarge(axes: Axes, crowd: Sequence[Point], rows: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corner where people are still matched once more, larger, in the empty middle of the panel; the places in pixels that this covers."""
    ends = [
        [end for r in readings for end in ((r.low, r.high) if r.has_interval else (r.value, r.value))]
        for readings in ([leak for leak, _, _ in crowd], [match for _, match, _ in crowd])
    ]
    inset = axes.inset_axes((0.05, 0.245, 0.58, 0.52))
    inset.set(
        xlim=(min(ends[0]) - 0.01, max(ends[0]) + 0.01), ylim=(min(ends[1]) - 0.01, max(ends[1]) + 0.01)
    )
    inset.grid(visible=True, color=_FAINT, linewidth=0.5)
    inset.set_axisbelow(True)
    inset.tick_params(labelsize=8)
    inset.yaxis.tick_right()
    for spine in inset.spines.values():
        spine.set(visible=True, color=_FAINT)
    axes.indicate_inset_zoom(inset, edgecolor=_INK, alpha=0.35)
    _mark(inset, crowd, rows)
    _name(inset, crowd, crowd, rows)
    box = inset.get_tightbbox(axes.figure.canvas.get_renderer())  # type: ignore[attr-defined]
    steps = (np.arange(low, high, _STEP) for low, high in ((box.x0, box.x1), (box.y0, box.y1)))
    return [(float(x), float(y)) for x, y in product(*steps)]


def _mark(axes: Axes, known: Sequence[Point], rows: Mapping[str, Any]) -> None:
    """Points with their intervals."""
    for leak, match, point in known:
        row = rows[point["name"]]
        colour = _OURS if row.ours else _TRAINED if row.source == "trained" else _READY
        if leak.has_interval:
            axes.plot([leak.low, leak.high], [match.value] * 2, color=colour, linewidth=1.1, alpha=0.55)
        if match.has_interval:
            axes.plot([leak.value] * 2, [match.low, match.high], color=colour, linewidth=1.1, alpha=0.55)
        axes.plot(leak.value, match.value, "o", markersize=7, color=colour, markeredgecolor="white", zorder=4)


def _along_bars(known: Sequence[Point]) -> list[tuple[float, float]]:
    """Places on the intervals, which names should not lie on either."""
    found = []
    for leak, match, _ in known:
        if leak.has_interval:
            found += [(float(x), match.value) for x in np.linspace(leak.low, leak.high, 7)]
        if match.has_interval:
            found += [(leak.value, float(y)) for y in np.linspace(match.low, match.high, 5)]
    return found


def _name(
    axes: Axes,
    named: Sequence[Point],
    known: Sequence[Point],
    rows: Mapping[str, Any],
    *,
    taken: Sequence[tuple[float, float]] = (),
) -> None:
    """Names beside the points of ``named`` and neither on ``known`` nor on ``taken``, led to by a line where there is no room beside it."""
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    spots = [(leak.value, match.value) for leak, match, _ in named]
    sizes = []
    for _, _, point in named:
        text = axes.text(0, 0, point["name"], fontsize=9)
        box = text.get_window_extent(renderer)
        sizes.append((float(box.width) + 4, float(box.height) + 2))
        text.remove()
    anchors = [tuple(map(float, axes.transData.transform((x, y)))) for x, y in spots]
    frame = axes.get_window_extent(renderer)
    bars = [tuple(map(float, axes.transData.transform(end))) for end in _along_bars(known)]
    places = place_labels(
        anchors,
        sizes,
        marks=[*anchors, *bars, *taken],
        bounds=(frame.x0 + 3, frame.y0 + 3, frame.x1 - 3, frame.y1 - 3),
    )
    for (_, _, point), spot, (centre, height, far) in zip(named, spots, places, strict=True):
        ours = rows[point["name"]].ours
        axes.annotate(
            point["name"],
            spot,
            xytext=tuple(axes.transData.inverted().transform((centre, height))),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if ours else "normal",
            color=_OURS if ours else _INK,
            arrowprops={"arrowstyle": "-", "color": _INK, "alpha": 0.4, "linewidth": 0.7} if far else None,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )
