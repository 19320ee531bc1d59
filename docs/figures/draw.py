"""Draws the figures of the docs: ``python docs/figures/draw.py [FOLDER]``.

The SVG files beside this script are what it writes. Those of docs/concepts/ are of made-up numbers, ``rooms`` is of the imports in
the source. Nothing here comes from a face.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from pathlib import Path

import grimp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import SVC

from privface.audit import auc

WOMEN, MEN = "#b4531f", "#205a64"
INK, FAINT, PALE = "#22313a", "#5f6d73", "#e3e9ea"
STYLE = {
    "svg.hashsalt": "privface",  # the same bytes every time
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def main(folder: Path) -> None:
    """Write every figure into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for draw in (attackers, people, scores, leakage, illusion, intervals, rooms):
            figure = draw()
            figure.savefig(
                folder / f"{draw.__name__}.svg",
                bbox_inches="tight",
                pad_inches=0.12,
                metadata={"Date": None, "Creator": None},
            )


def rooms() -> Figure:
    """The rooms of the package in the layers of the import contract; a line is thicker where more modules import."""
    root = Path(__file__).parents[2]
    contract = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = [
        [name.strip().removeprefix("privface.") for name in row.split("|")] for row in contract["layers"]
    ]
    imports: Counter[tuple[str, str]] = Counter()
    graph = grimp.build_graph("privface", cache_dir=None)
    for module in graph.modules - {"privface"}:
        others = graph.find_modules_directly_imported_by(module) - {"privface"}
        imports.update({(module.split(".")[1], other.split(".")[1]) for other in others})
    tall = next(number for number, row in enumerate(layers) if "sessions" in row)
    layers = [*layers[:tall], [room for row in layers[tall:] for room in row]]  # what all of them may use
    place = {}
    for number, row in enumerate(layers):
        shift = (0.0, -1.3, 1.3)[number % 3] if len(row) == 1 else 0.0
        for k, room in enumerate(row):
            place[room] = ((k - (len(row) - 1) / 2) * (10 / max(len(row) - 1, 1.8)) + shift, -number)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for (room, other), count in sorted(imports.items()):
        if room != other and room in place and other in place and other not in layers[-1]:
            (x, y), (u, v) = place[room], place[other]
            axes.plot((x, u), (y, v), color=MEN, alpha=0.5, lw=0.6 + 0.12 * count, zorder=1)
    for room, (x, y) in place.items():
        axes.text(
            x, y, room.strip("_"), ha="center", va="center", fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": PALE, "edgecolor": FAINT}, zorder=2,
        )  # fmt: skip
    axes.text(0, 0.55 - len(layers) + 1, "used by all rooms above", ha="center", fontsize=9, color=FAINT)
    axes.set(xlim=(-5.8, 5.8), ylim=(0.4 - len(layers), 0.5))
    axes.axis("off")
    return figure


def scores() -> Figure:
    """Genuine and impostor scores, a threshold, and the two rates beyond it."""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    axes = figure.subplots()
    x = np.linspace(-3.4, 6.8, 205)
    threshold = float(norm.isf(0.05))
    for mean, colour in ((0.0, WOMEN), (3.2, MEN)):
        height = norm.pdf(x, mean)
        beyond = x >= threshold
        axes.plot(x, height, color=colour, lw=2)
        axes.fill_between(x[beyond], height[beyond], color=colour, alpha=0.28, lw=0)
    axes.axvline(threshold, color=INK, lw=1.4)
    axes.text(threshold + 0.08, 0.485, "threshold: accepted from here", va="top")
    axes.text(-0.1, 0.415, "impostor pairs", color=WOMEN, ha="center")
    axes.text(3.3, 0.415, "genuine pairs", color=MEN, ha="center")
    _point(axes, "FMR: impostors accepted", (1.93, 0.025), (-4.7, 0.12), WOMEN)
    _point(axes, "TMR: genuine accepted", (4.1, 0.17), (4.75, 0.25), MEN)
    axes.set(xlabel="similarity score", ylim=(0, 0.5), xlim=(-4.7, 6.8), yticks=[], xticks=[])
    axes.spines["left"].set_visible(False)
    return figure


def leakage() -> Figure:
    """Scores of women and men for a probe that guesses, one that reads, and one that is always wrong."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    x = np.linspace(-4.5, 4.5, 121)
    for axes, (title, shift) in zip(
        figure.subplots(1, 3, sharey=True),
        (("guessing", 0.0), ("reading", 3.0), ("a flip", -3.0)),
        strict=True,
    ):
        area = float(norm.cdf(shift / np.sqrt(2)))
        for mean, colour, dash in ((-shift / 2, WOMEN, "-"), (shift / 2, MEN, "--" if shift == 0 else "-")):
            axes.plot(x, norm.pdf(x, mean), color=colour, lw=2, ls=dash)
            axes.fill_between(x, norm.pdf(x, mean), color=colour, alpha=0.14, lw=0)
        if shift:
            for mean, colour, name in ((-shift / 2, WOMEN, "women"), (shift / 2, MEN, "men")):
                axes.text(mean, 0.42, name, color=colour, ha="center")
        else:
            axes.text(0, 0.42, "women and men", ha="center")
        axes.set_title(f"{title}\nAUC {area:.2f}, leakage {max(area, 1 - area):.2f}", fontsize=11, color=INK)
        axes.set(xlabel='score for "male"', ylim=(0, 0.48), xticks=[], yticks=[])
        axes.spines["left"].set_visible(False)
    return figure


def illusion() -> Figure:
    """A line that divides the originals, fails on protected points, and a new one that does not."""
    rng = np.random.default_rng(7)
    count = 160
    genders = np.repeat([0, 1], count)
    originals = rng.normal(size=(2 * count, 2)) * (0.75, 0.9) + np.where(genders, 1.5, -1.5)[:, None] * (1, 0)
    # men lie in the middle, women around them: no line divides that
    angle = rng.uniform(0, 2 * np.pi, 2 * count)
    radius = np.where(genders, np.abs(rng.normal(0, 0.55, 2 * count)), rng.normal(2.1, 0.3, 2 * count))
    protected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    learnt = np.arange(2 * count) % 2 == 0  # half of the points train, the other half is shown and scored
    frozen = LinearDiscriminantAnalysis().fit(originals[learnt], genders[learnt])
    retrained = SVC(C=10.0).fit(protected[learnt], genders[learnt])

    figure = Figure(figsize=(9.4, 3.5), layout="constrained")
    panels = (
        ("originals,\npretrained classifier", originals, frozen),
        ("protected,\nthe same classifier", protected, frozen),
        ("protected,\nretrained classifier", protected, retrained),
    )
    grid = np.stack(np.meshgrid(np.linspace(-3.6, 3.6, 70), np.linspace(-3.1, 3.1, 70)), axis=-1)
    for axes, (title, points, probe) in zip(figure.subplots(1, 3), panels, strict=True):
        shown, labels = points[~learnt], genders[~learnt]
        read = probe.decision_function(shown)
        border = probe.decision_function(grid.reshape(-1, 2)).reshape(grid.shape[:2])
        axes.contourf(
            grid[..., 0], grid[..., 1], border, levels=[-1e9, 0, 1e9], colors=[WOMEN, MEN], alpha=0.1
        )
        axes.contour(grid[..., 0], grid[..., 1], border, levels=[0], colors=[INK], linewidths=1.6)
        for label, colour, marker in ((0, WOMEN, "o"), (1, MEN, "^")):
            axes.plot(*shown[labels == label].T, marker, color=colour, ms=4.5, mec="white", mew=0.4, ls="")
        axes.set_title(f"{title}: AUC {auc(read[labels == 1], read[labels == 0]):.2f}", fontsize=11)
        axes.set(xticks=[], yticks=[], xlim=(-3.6, 3.6), ylim=(-3.1, 3.1), aspect="equal")
        for spine in axes.spines.values():
            spine.set(visible=True, color=FAINT)
    figure.axes[0].plot([], [], "o", color=WOMEN, label="women")
    figure.axes[0].plot([], [], "^", color=MEN, label="men")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def intervals() -> Figure:
    """The same simulated experiment with few and with many people, ten times each."""
    rng = np.random.default_rng(4)  # one miss in twenty, as is to be expected
    figure = Figure(figsize=(8, 3.0), layout="constrained")
    truth = float(norm.cdf(0.6 / np.sqrt(2)))
    for axes, people in zip(figure.subplots(1, 2, sharey=True), (40, 600), strict=True):
        for row in range(10):
            low, middle, high = _interval(rng, people)
            held = low <= truth <= high
            axes.plot([low, high], [row, row], color=MEN if held else WOMEN, lw=2.4, solid_capstyle="round")
            axes.plot(middle, row, "o", color=MEN if held else WOMEN, ms=5)
        axes.axvline(truth, color=INK, lw=1.2, ls=":")
        axes.set_title(f"{people} people", fontsize=11)
        axes.set(xlabel="AUC of the same probe", xlim=(0.36, 0.95), ylim=(-0.6, 10.6), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.text(truth + 0.008, 9.6, "truth", va="bottom", fontsize=10)
    figure.axes[0].set_ylabel("ten repeats")
    return figure


def _interval(rng: np.random.Generator, people: int) -> tuple[float, float, float]:
    genders = np.arange(people) % 2
    read = rng.normal(0.6 * genders, 1.0)
    drawn = [_auc(read[rows], genders[rows]) for rows in rng.integers(0, people, (300, people))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), _auc(read, genders), float(high)


def _auc(read: NDArray[np.float64], genders: NDArray[np.int64]) -> float:
    return auc(read[genders == 1], read[genders == 0])


def people() -> Figure:
    """Groups of people that share nobody."""
    figure, axes = _sheet(9, 3.4)
    groups = (
        ("train the\nprotector", 0.0, 3.0, PALE, "refused by the audit"),
        ("train the\nattacker", 3.15, 2.85, "#cfe0e3", "50 %"),
        ("choose its\nsettings", 6.15, 0.86, "#cfe0e3", "15 %"),
        ("victims", 7.16, 2.0, "#f0d9c9", "35 %"),
    )
    for name, left, width, colour, note in groups:
        _box(axes, (left, 1.15), (width, 1.25), colour, name, size=9.5 if width < 1 else 11)
        axes.text(left + width / 2, 0.95, note, ha="center", va="top", color=FAINT, fontsize=10)
    axes.plot([3.15, 9.16], [0.45, 0.45], color=FAINT, lw=1)
    axes.text(6.15, 0.33, "people of the audit", ha="center", va="top", fontsize=10.5)
    axes.plot([0, 3.0], [0.45, 0.45], color=FAINT, lw=1)
    axes.text(1.5, 0.33, "people of the training", ha="center", va="top", fontsize=10.5)
    _arrow(axes, (4.6, 2.45), (8.1, 2.45), bend=-0.22)
    axes.text(6.3, 3.05, "reads gender of people it has never met", ha="center")
    axes.set(xlim=(-0.1, 9.3), ylim=(-0.1, 3.3))
    return figure


def attackers() -> Figure:
    """What each of four attackers does, from left to right."""
    figure, axes = _sheet(9.4, 4.6)
    rows = (
        ("1  frozen", (("finished\nclassifier", PALE),), "usually reported"),
        ("2  retrained", (("trained on protected\nphotos of others", "#cfe0e3"),), "always sent"),
        (
            "3  recover,\n    then read",
            (("turns the\nprotection back", "#cfe0e3"), ("classifier", "#cfe0e3")),
            "sent with more effort",
        ),
        ("4  pooling", (("mean over several\nphotos of a person", "#cfe0e3"),), "beside the others"),
    )
    for number, (name, steps, note) in enumerate(rows):
        y = 3.45 - 1.08 * number
        axes.text(0.0, y + 0.4, name, va="center", fontweight="bold")
        _box(axes, (1.75, y), (1.35, 0.8), "#f0d9c9", "protected\n" + ("photos" if number == 3 else "photo"))
        width, left = (3.5 - 0.55 * (len(steps) - 1)) / len(steps), 3.6
        for step, colour in steps:
            _arrow(axes, (left - 0.45, y + 0.4), (left - 0.05, y + 0.4))
            _box(axes, (left, y), (width, 0.8), colour, step, size=10)
            left += width + 0.55
        _arrow(axes, (7.15, y + 0.4), (7.5, y + 0.4))
        axes.text(7.6, y + 0.53, "gender?", va="center", fontweight="bold")
        axes.text(7.6, y + 0.22, note, va="center", color=FAINT, fontsize=9.5)
    axes.set(xlim=(-0.05, 9.4), ylim=(0.1, 4.4))
    return figure


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    return figure, axes


def _box(
    axes: Axes,
    corner: tuple[float, float],
    size_: tuple[float, float],
    colour: str,
    text: str,
    *,
    size: float = 11,
) -> None:
    axes.add_patch(
        FancyBboxPatch(corner, *size_, boxstyle="round,pad=0,rounding_size=0.1", fc=colour, ec="none")
    )
    axes.text(
        corner[0] + size_[0] / 2, corner[1] + size_[1] / 2, text, ha="center", va="center", fontsize=size
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0.0) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            color=INK,
            lw=1.3,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def _point(axes: Axes, text: str, at: tuple[float, float], to: tuple[float, float], colour: str) -> None:
    axes.annotate(
        text,
        xy=at,
        xytext=to,
        color=colour,
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 1},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
