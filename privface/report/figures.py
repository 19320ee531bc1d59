"""The report's figures as SVG text: no display, no files, the same bytes for the same audit.

Colours are the Okabe-Ito palette, which stays distinct under colour blindness, and every mark is labelled
beside itself. They are written as CSS variables with a fallback, so that a page can recolour a figure for
dark backgrounds and a lone SVG file still shows.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from privface.report.labels import place_labels
from privface.report.reading import Reading, Row, plain_text

# Drawn in these exact colours, then replaced by CSS variables; see _themed.
_INK, _FAINT = "#1b1f24", "#c9ced6"
_ORIGINAL, _PROTECTED, _MIXED = "#0072b2", "#d55e00", "#009e73"
_VARIABLES = {
    _INK: "--ink",
    _FAINT: "--line",
    _ORIGINAL: "--original",
    _PROTECTED: "--protected",
    _MIXED: "--mixed",
}
_MODE_COLOURS = {"O-O": _ORIGINAL, "P-P": _PROTECTED, "P-O": _MIXED}

_GROUPS = {
    "retrained": "Attackers trained on protected photos",
    "recovered": "Attackers who first turn the protection back",
    "frozen": "Pretrained classifiers (frozen)",
}

_WIDTH = 4.9  # inches; 353 units, so that a phone shows the text at its set size
_RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FMR_FLOOR, _FNMR_FLOOR = 1e-4, 1e-3
_TINY = 1e-9  # stands for a rate of zero on a logarithmic axis; far outside of what is shown

_STYLE: Any = {  # Any: type stubs spell the keys out as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "privface",  # ids are then a function of the drawing alone, and else random in each run
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a "$" in a probe's name is no formula
}


@mpl.rc_context(_STYLE)
def det_figure(curves: Sequence[Row], *, title: str) -> str:
    """Detection error trade-off of one matcher: FNMR over FMR, both on logarithmic axes.

    Args:
        curves: Rows of the audit's ``curves.det`` for one matcher: ``mode``, ``fmr``, ``fnmr``.
        title: What the figure shows, read aloud by screen readers.

    Returns:
        SVG text. Rates below 1e-4 (FMR) and 1e-3 (FNMR) lie outside of what is drawn.
    """
    figure, axes = _canvas(height=3.7)
    axes.set(xscale="log", yscale="log", xlim=(_FMR_FLOOR, 1.0), ylim=(_FNMR_FLOOR, 1.0))
    ends = []
    for curve in curves:
        fmr, fnmr = (np.array(curve[key], float) for key in ("fmr", "fnmr"))  # None becomes NaN
        known = np.isfinite(fmr) & np.isfinite(fnmr)
        fmr, fnmr = np.maximum(fmr[known], _TINY), fnmr[known]
        if not len(fmr):
            continue
        colour = _MODE_COLOURS.get(curve["mode"], _INK)
        dashes: Any = (0, (5, 2)) if curve["mode"] == "P-O" else "-"
        axes.plot(fmr, np.maximum(fnmr, _TINY), color=colour, linestyle=dashes, linewidth=2)
        at_floor = float(fnmr[np.argmin(np.abs(np.log(fmr / _FMR_FLOOR)))])
        ends.append((math.log10(max(at_floor, _FNMR_FLOOR)), str(curve["mode"]), colour))
    span = abs(math.log10(_FNMR_FLOOR))
    for height, (_, mode, colour) in _spread(ends, gap=0.065 * span):
        style = {"ha": "right", "va": "center", "fontweight": "bold", "annotation_clip": False}
        _beside(axes, mode, (0, 1 + height / span), colour, (-6, 0), xycoords="axes fraction", **style)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.spines["left"].set_visible(False)
    percent = FuncFormatter(lambda rate, _: f"{rate * 100:g} %")
    axes.set_xticks(_RATES)
    axes.set_yticks([r for r in _RATES if r >= _FNMR_FLOOR])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(percent)
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.grid(visible=True)
    axes.set_xlabel("impostors accepted (FMR)")
    axes.set_ylabel("same person rejected (FNMR)")
    return _svg(figure, title=title)


@mpl.rc_context(_STYLE)
def leakage_figure(rows: Sequence[Row], *, title: str) -> str:
    """What each probe reads from originals (ring) and from protected photos (dot with 95 % interval).

    Args:
        rows: The audit's ``leakage`` rows.
        title: What the figure shows, read aloud by screen readers.

    Returns:
        SVG text; retrained probes first, each group from the worst down, a line at 0.5 (guessing). Of many
        probes on one input the worst four are drawn; the tables have them all.
    """
    lines: list[tuple[str, Row | None]] = []
    for kind, heading in _GROUPS.items():
        members = _worst_of_each_input([row for row in rows if row.get("kind") == kind])
        if members:
            lines.append((heading, None))
            for member in sorted(members, key=_worst_first):
                hollow = not _counts(member) and Reading.of(member.get("leakage")).known
                label = _probe_name(member) + (" (not measurable)" if hollow else "")
                lines.append((label, member))
    named = max(range(len(lines)), key=lambda k: _distance(lines[k][1]), default=None)
    if named is not None and _distance(lines[named][1]) >= 0:
        lines.insert(named + 1, ("", None))  # room for the names of the two marks that lie furthest apart
    figure, axes = _canvas(height=0.75 + 0.40 * max(len(lines), 1))
    axes.set(ylim=(len(lines) - 0.15, -0.75))
    _leakage_axis(axes, "1.0\nalways right")
    for place, (label, row) in enumerate(lines):
        shift, weight = (0.2, "bold") if row is None else (-0.2, "normal")
        axes.text(0.508, place + shift, label, ha="left", va="center", fontweight=weight, fontsize=10)
        if row is not None:
            _draw_probe(axes, place + 0.22, row)
            if place == named and _distance(row) >= 0:
                _name_marks(axes, place + 0.62, row)
    axes.set_yticks([])
    axes.spines[["left", "right"]].set_visible(False)
    axes.grid(visible=True, axis="x")
    return _svg(figure, title=title)


def _worst_of_each_input(rows: Sequence[Row], most: int = 4) -> list[Row]:
    kept: list[Row] = []
    for source in dict.fromkeys(str(row.get("input", "image")) for row in rows):
        mine = [row for row in rows if str(row.get("input", "image")) == source]
        # one that cannot read originals proves nothing, so those that count go first
        kept += sorted(mine, key=lambda row: (not _counts(row), _worst_first(row)))[:most]
    return kept


def _before_after(row: Row) -> tuple[Reading, Reading]:
    return Reading.of(row.get("original_auc")).leakage, Reading.of(row.get("leakage"))


def _distance(row: Row | None) -> float:
    """Between the ring and the dot of a probe; below 0 where they are not both drawn."""
    before, after = _before_after(row or {})
    return abs(before.value - after.value) if before.known and after.known else -1.0


def _name_marks(axes: Axes, height: float, row: Row) -> None:
    """Words below the ring and the dot, side by side where the marks are too close for both."""
    before, after = _before_after(row)
    marks = [(before.value, "original", _ORIGINAL), (after.value, "protected", _PROTECTED)]
    places = _spread(marks, gap=0.125)
    shift = min(0.975 - places[-1][0], 0.0) + max(0.55 - places[0][0], 0.0)
    for place, (_, word, colour) in places:
        axes.text(place + shift, height, word, color=colour, ha="center", va="center", fontsize=10)


def _draw_probe(axes: Axes, height: float, row: Row) -> None:
    before, after = _before_after(row)
    if not after.known:
        axes.text(0.508, height, "not measurable", fontstyle="italic", va="center", fontsize=9)
        return
    if before.known:
        axes.plot([before.value, after.value], [height] * 2, color=_FAINT, linewidth=1.4, zorder=2)
        _ring(axes, before.value, height, markersize=9.5, zorder=6)
    if after.has_interval:
        axes.plot([after.low, after.high], [height] * 2, color=_PROTECTED, linewidth=3, zorder=3)
    # A hollow dot: a probe that cannot read originals, so what it fails to read proves nothing.
    face = _PROTECTED if _counts(row) else "none"
    axes.plot(after.value, height, "o", markersize=7, color=_PROTECTED, markerfacecolor=face, zorder=5)


def _ring(axes: Axes, x: float, y: float, **style: Any) -> None:
    style = {"markerfacecolor": "none", "markeredgecolor": _ORIGINAL, "markeredgewidth": 1.8, **style}
    axes.plot(x, y, "o", **style)


@mpl.rc_context(_STYLE)
def tradeoff_figure(points: Sequence[Row], *, title: str) -> str:
    """Matching against leakage: one arrow per matcher, from the originals to the protected photos.

    Args:
        points: One mapping per matcher, at least one: ``matcher``, ``leakage_before``,
            ``leakage_after`` (0.5 to 1), ``tmr_before``, ``tmr_after`` (0 to 1).
        title: What the figure shows, read aloud by screen readers.

    Returns:
        SVG text; up is better for recognition, left is better for privacy.
    """
    figure, axes = _canvas(height=3.6)
    starts, ends = (
        [(float(p[f"leakage_{when}"]), float(p[f"tmr_{when}"])) for p in points]
        for when in ("before", "after")
    )
    lowest = max(math.floor((min(tmr for _, tmr in starts + ends) - 0.1) * 10) / 10, 0.0)
    height = 1.03 - lowest
    axes.set(ylim=(lowest, 1.03 + 0.06 * height))
    _leakage_axis(axes)
    for start, end in zip(starts, ends, strict=True):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 1.4})
        _ring(axes, *start, markersize=7)
        axes.plot(*end, "o", markersize=8, color=_PROTECTED)
    _note(axes, "original", max(starts, key=lambda start: start[1]), _ORIGINAL, rise=13)
    named = [(tmr, _short(p["matcher"], 24), leak) for p, (leak, tmr) in zip(points, ends, strict=True)]
    places = _spread(named, gap=0.07 * height)
    for place, (_, name, leak) in places:
        _note(axes, name, (leak, place), _PROTECTED, rise=-9)
    _note(axes, "protected", (min(named)[2], places[0][0]), _PROTECTED, rise=-22, weight="bold")
    _leakage_and_tmr(axes, "↖ better")
    axes.set_xlabel("gender leakage, worst trained attacker")
    axes.set_ylabel("same person recognised (TMR)")
    return _svg(figure, title=title)


def _note(
    axes: Axes, text: str, place: tuple[float, float], colour: str, *, rise: int, weight: str = "normal"
) -> None:
    """A word beside a mark, on the side that has room."""
    aside, align = (10, "left") if place[0] < 0.72 else (-10, "right")
    style = {"ha": align, "va": "center", "fontsize": 10, "fontweight": weight}
    _beside(axes, text, place, colour, (aside, rise), **style)


def _beside(
    axes: Axes, text: str, place: tuple[float, float], colour: str, shift: tuple[float, float], **style: Any
) -> None:
    """A word in a colour, set off from a place by so many points."""
    axes.annotate(text, place, xytext=shift, textcoords="offset points", color=colour, **style)


def _leakage_axis(axes: Axes, most: str = "1.0") -> None:
    """From left to right what is read, with a line at guessing."""
    axes.set(xlim=(0.48, 1.02))
    axes.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ["0.5\nguessing", "0.6", "0.7", "0.8", "0.9", most])
    axes.axvline(0.5, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))


def _leakage_and_tmr(axes: Axes, better: str) -> None:
    """Axes on which up keeps more matches and left leaks less."""
    axes.annotate(
        better, (0.505, 0.985), xycoords=("data", "axes fraction"), va="top", fontsize=10, fontstyle="italic"
    )
    axes.spines["right"].set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate * 100:.0f} %"))
    axes.grid(visible=True)


@mpl.rc_context(_STYLE)
def score_figure(curves: Sequence[Row], *, title: str) -> str:
    """How one matcher's scores are spread: impostor and genuine pairs, each as one outline per mode (O-O and P-P).

    ``curves`` are the rows of ``curves.scores`` of the matcher.
    """
    figure, axes = _canvas(height=3.0)
    top = 0.0
    peaks = []
    for curve in curves:
        if curve.get("mode") not in ("O-O", "P-P"):
            continue
        colour = _MODE_COLOURS[str(curve["mode"])]
        edges = np.array(curve["edges"], float)
        for key, fill in (("impostor", 0.0), ("genuine", 0.22)):
            density = np.array(curve[key], float) / np.diff(edges)
            top = max(top, float(density.max(initial=0.0)))
            axes.stairs(density, edges, color=colour, linewidth=1.8)
            if fill:
                axes.stairs(density, edges, color=colour, alpha=fill, fill=True)
                best = int(density.argmax())
                word = "original" if curve["mode"] == "O-O" else "protected"
                peaks.append((float(edges[best] + edges[best + 1]) / 2, float(density[best]), word, colour))
    _name_peaks(axes, peaks, top)
    axes.set(ylim=(0, top * 1.34 if top else 1.0), yticks=[])
    for x, word, side in ((0.01, "impostor pairs", "left"), (0.99, "genuine pairs (filled)", "right")):
        axes.text(x, 0.98, word, transform=axes.transAxes, ha=side, va="top", fontsize=10, fontstyle="italic")
    axes.spines[["left", "right"]].set_visible(False)
    axes.set_xlabel("similarity score")
    return _svg(figure, title=title)


def _name_peaks(axes: Axes, peaks: Sequence[tuple[float, float, str, str]], top: float) -> None:
    """Words outside of the two humps, or both left of them, one below the other, where they coincide."""
    low, high = axes.get_xlim()
    apart = len(peaks) < 2 or abs(peaks[0][0] - peaks[1][0]) > 0.06 * (high - low)
    if apart:
        placed = list(zip(("right", "left"), sorted(peaks), strict=False))
    else:
        placed = [("right", peak) for peak in sorted(peaks, key=lambda peak: -peak[1])]
    ceiling = math.inf
    for side, (x, height, word, colour) in placed:
        level = height if apart else min(height, ceiling)
        ceiling = level - 0.13 * top
        shift = 0 if apart else -9
        _beside(axes, word, (x, level), colour, (shift, 4), ha=side)


@mpl.rc_context(_STYLE)
def growth_figure(rows: Sequence[Row], *, title: str, single: bool) -> str:
    """Leakage by the number of people whose gender the attacker knows (``label_budget``), one line per attacker.

    With ``single``, by the number of photos of one person (``set_attack``): a dot for the set, a ring for one photo.
    """
    key = "photos" if single else "people"
    figure, axes = _canvas(height=3.2)
    ticks: set[float] = set()
    ends = []
    for number, name in enumerate(dict.fromkeys(_probe_name(row) for row in rows)):
        colour = (_PROTECTED, _MIXED, _ORIGINAL)[number % 3]
        mine = [row for row in rows if _probe_name(row) == name and Reading.of(row.get("leakage")).known]
        if not mine:
            continue
        x = [float(row[key]) * (1.0 + 0.03 * number) for row in mine]
        ticks |= {float(row[key]) for row in mine}
        read = [Reading.of(row["leakage"]) for row in mine]
        axes.plot(x, [r.value for r in read], "o-", color=colour, linewidth=1.8, markersize=7)
        for place, reading, row in zip(x, read, mine, strict=True):
            if reading.has_interval:
                axes.plot([place] * 2, [reading.low, reading.high], color=colour, linewidth=2, alpha=0.5)
            one = Reading.of(row.get("single"))
            if single and one.known:
                _ring(axes, place, one.value, markeredgecolor=colour, markeredgewidth=1.0, markersize=8)
        ends.append((read[-1].value, name, colour))
        if single and number == 0:
            _name_pair(axes, x[0], read[0].value, Reading.of(mine[0].get("single")), colour)
    axes.set(xscale="log", ylim=(0.47, 1.09))
    if len(ticks) == 1:  # the axis would else run from the first attacker's dot to the last one's
        axes.set_xlim(min(ticks) / 2, max(ticks) * 2)
    # the names in the order of the curves' ends, above all curves or, where there is more room, below them; between grid lines
    top = 1.05 if 1.1 - axes.dataLim.y1 >= axes.dataLim.y0 - 0.5 else 0.45 + 0.1 * len(ends)
    axes.axhline(0.5, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
    for place, (_, name, colour) in enumerate(sorted(ends, reverse=True)):
        style: dict[str, Any] = {"ha": "right", "va": "center", "transform": axes.get_yaxis_transform()}
        axes.text(0.99, top - 0.1 * place, name, color=colour, fontsize=10, **style)
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], ["0.5", "0.6", "0.7", "0.8", "0.9", "1.0"])
    axes.grid(visible=True, axis="y")
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("photos of one person" if single else "people whose gender the attacker knows")
    axes.set_ylabel("leakage")
    return _svg(figure, title=title)


def _name_pair(axes: Axes, x: float, together: float, alone: Reading, colour: str) -> None:
    """What the dot and the ring of a set attack are called."""
    below = alone.known and alone.value <= together
    for value, word, up in ((together, "together", below), (alone.value, "one photo", not below)):
        if math.isfinite(value):
            _beside(axes, word, (x, value), colour, (7, 7 if up else -15), fontsize=10)


@mpl.rc_context(_STYLE)
def sweep_figure(points: Sequence[Row], *, title: str) -> str:
    """Methods, or the points of a sweep, by what they leak and what they keep, each with its name beside it.

    Args:
        points: Points of :func:`privface.audit.comparison.trade_off`; those of a sweep with a ``method``: ``trained`` (circle),
            ``originals`` (diamond) or a simpler one (square).
        title: What the figure shows, read aloud by screen readers.

    Returns:
        SVG text; up is better for recognition, left is better for privacy. Filled: no other point beats it. Of more than
        40 points the rest are drawn without a name, those on the front and the simpler methods last.
    """
    return _svg(_sweep(points), title=title)


@mpl.rc_context(_STYLE)
def sweep_picture(points: Sequence[Row], *, title: str) -> bytes:
    """The same as :func:`sweep_figure`, as a PNG on white."""
    metadata = {"Title": plain_text(title), "Software": None}
    return _saved(_sweep(points), format="png", dpi=150, facecolor="white", metadata=metadata)


_METHOD_STYLE = {"trained": (_PROTECTED, "o"), "originals": (_INK, "D")}
_SIMPLER = (_ORIGINAL, "s")
_MOST_NAMES = 40


def _style(point: Row) -> tuple[str, str]:
    """Colour and marker of a point."""
    return _METHOD_STYLE.get(point.get("method", "trained"), _SIMPLER)


def _sweep(points: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(_WIDTH * 1.7, 6.0))
    renderer: RendererBase = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    axes = figure.add_axes((0.1, 0.155, 0.885, 0.835))  # fixed: names are placed before anything is drawn
    known = [(Reading.of(p.get("leakage")), Reading.of(p.get("tmr")), p) for p in points]
    known = [entry for entry in known if entry[0].known and entry[1].known]
    low = min([match.value for _, match, _ in known], default=0.9)
    axes.set(ylim=(max(math.floor((low - 0.08) * 10) / 10, -0.05), 1.04))
    _leakage_axis(axes)
    front = sorted((leak.value, match.value) for leak, match, p in known if p.get("dominated_by") is None)
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=_MIXED, linewidth=1.8, zorder=3)
    for leak, match, point in known:
        colour, marker = _style(point)
        if leak.has_interval:
            axes.plot([leak.low, leak.high], [match.value] * 2, color=_FAINT, linewidth=1.2, zorder=2)
        if match.has_interval:
            axes.plot([leak.value] * 2, [match.low, match.high], color=_FAINT, linewidth=1.2, zorder=2)
        face = colour if point.get("dominated_by") is None else "white"
        axes.plot(leak.value, match.value, marker, markersize=8, markerfacecolor=face, markeredgecolor=colour,
                  markeredgewidth=1.6, zorder=4)  # fmt: skip
    _name_points(axes, renderer, known)
    _leakage_and_tmr(axes, "better")  # no arrow: the font of PNG files has none
    axes.set_xlabel("gender leakage, worst retrained attacker")
    axes.set_ylabel("same person recognised, protected with protected (TMR)")
    words = "filled and on the line: no other point beats it"
    if any("method" in point for point in points):
        words += "; circles: trained; squares: simpler methods; diamond: originals"
    figure.text(0.5, 0.012, words, ha="center", fontsize=9, fontstyle="italic")
    return figure


def _name_points(axes: Axes, renderer: RendererBase, known: Sequence[tuple[Reading, Reading, Row]]) -> None:
    """Names beside their points; what does not fit beside is set off and led to by a line."""
    order = sorted(
        known, key=lambda e: (e[2].get("dominated_by") is not None, e[2].get("method") == "trained")
    )
    named = [entry for entry in known if any(entry is kept for kept in order[:_MOST_NAMES])]
    sizes = []
    for _, _, point in named:
        text = axes.text(0, 0, _short(point["name"], 40), fontsize=9)
        box = text.get_window_extent(renderer)
        sizes.append((box.width * 1.08 + 2, box.height + 2))  # a browser's letters are a little wider
        text.remove()
    anchors, marks = (
        [tuple(axes.transData.transform((leak.value, match.value)).tolist()) for leak, match, _ in some]
        for some in (named, known)
    )
    frame = axes.get_window_extent(renderer)
    bounds = frame.x0 + 3, frame.y0 + 3, frame.x1 - 3, frame.y1 - 3
    places = place_labels(anchors, sizes, marks=marks, bounds=bounds)
    for (leak, match, point), (x, y, far) in zip(named, places, strict=True):
        line = {"arrowstyle": "-", "color": _INK, "alpha": 0.45, "linewidth": 0.7, "shrinkB": 4}
        axes.annotate(
            _short(point["name"], 40),
            (leak.value, match.value),
            tuple(axes.transData.inverted().transform((x, y))),
            ha="center",
            va="center",
            fontsize=9,
            color=_style(point)[0],
            zorder=5,
            arrowprops=line if far else None,
        )


def _canvas(*, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _counts(row: Row) -> bool:
    return row.get("measurable", True) is not False


def _probe_name(row: Row) -> str:
    medium = str(row.get("input", "image"))
    where = "" if medium == "image" else f" on {medium.removeprefix('embedding:')}"
    return _short(f"{row.get('probe', '?')}{where}", 46)


def _worst_first(row: Row) -> tuple[float, str]:
    reading = Reading.of(row.get("leakage"))
    return (-reading.value if reading.known else math.inf, _probe_name(row))


def _short(text: object, limit: int) -> str:
    """Cut in the middle: names of models tend to differ at their ends."""
    clean = plain_text(text)
    head = limit // 2
    return clean if len(clean) <= limit else f"{clean[:head]}…{clean[len(clean) - (limit - 1 - head) :]}"


def _spread(ends: Sequence[tuple[float, Any, Any]], *, gap: float) -> list[tuple[float, Any]]:
    """Heights of labels with their ends in order, pushed apart to at least ``gap``, centred as before."""
    wanted = sorted(end[0] for end in ends)
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    shift = (sum(placed) - sum(wanted)) / max(len(placed), 1)
    return [(height - shift, end) for height, end in zip(placed, sorted(ends), strict=True)]


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the letters
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _svg(figure: Figure, *, title: str) -> str:
    svg = _saved(figure, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(svg.decode("utf-8"), title=plain_text(title))


def _themed(svg: str, *, title: str) -> str:
    """Strip the prolog and metadata, name the drawing, and turn colours into CSS variables."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Several drawings share a page, so their ids must differ.
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + "-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f": {colour}", f": var({variable}, {colour})")
    svg = re.sub(r"(font: [^\"';]*?\d+(?:\.\d+)?px)[^;\"]*", r"\1 system-ui, sans-serif", svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg\b[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return re.sub(r"<svg\b([^>]*)>", lambda m: f'<svg role="img" aria-label="{label}"{m[1]}>', svg, count=1)
