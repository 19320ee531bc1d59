"""The trade-off of experiment 04 as a picture: what the best attacker reads against who is still matched."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from run import MATCHERS, ROWS, highest, load, tmr

OURS = {
    "transport",
    "adversarial",
    "adversarial-lfw",
    "adversarial-60",
    "adversarial-15",
    "adversarial-seed1",
    "adversarial-seed2",
}
TITLES = {"a": "matcher a", "b": "matcher b", "mini": "mini"}
SHORT = {
    "none": "nothing",
    "leace": "LEACE",
    "multi-ive": "Multi-IVE",
    "pe-miu": "PE-MIU*",
    "pfrnet": "PFRNet-like",
    "vleed": "VLEED-like",
    "sensitivenets": "no transport",
    "transport": "transport",
    "adversarial": "adversarial",
}


def draw(path: Path) -> None:
    """One panel a matcher; the shaded corner is the target."""
    shown = [matcher for matcher in MATCHERS if load(matcher, "leace")]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.6 * len(shown), 4.4), squeeze=False)
    for axis, matcher in zip(axes[0], shown, strict=True):
        base = tmr(load(matcher, "none") or {})["value"]
        axis.axvspan(0.5, 0.65, ymin=0, ymax=1, color="#2a7f62", alpha=0.08, lw=0)
        axis.axhline(base - 0.02, color="#2a7f62", lw=0.8, ls=":")
        points = []
        for name in ("none", *ROWS):
            result = load(matcher, name)
            if result is None:
                continue
            x, y = highest(result), tmr(result)["value"]
            colour = "#2a7f62" if name in OURS else "#222222" if name == "none" else "#8a8a8a"
            ends = tmr(result)
            axis.plot([x, x], [ends["low"], ends["high"]], color=colour, lw=0.8, alpha=0.5)
            axis.plot(x, y, "o" if name in OURS else "s", color=colour, ms=5, alpha=0.9)
            if name in SHORT:
                points.append((x, y, SHORT[name], colour))
        bottom, top = axis.get_ylim()
        _label(axis, points, (top - bottom) * 0.045)
        axis.set(title=TITLES[matcher], xlim=(0.5, 1.02), xlabel="highest balanced accuracy of any attacker")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("people still matched: TMR at FMR 1e-3, P-P")
    figure.text(
        0.01, 0.01, "Shaded: at most 0.65. Dotted: two points below the originals. Lines: 95 % intervals. 0.5 is chance. *Read at an AUC of 0.91 and more once its blocks are lined up.",
        fontsize=8, color="#555555",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _label(axis: plt.Axes, points: list[tuple[float, float, str, str]], gap: float) -> None:
    """Names beside their points, pushed apart where points crowd; those far right are named on their left."""
    for side in (False, True):
        lowest = None
        for x, y, text, colour in sorted((p for p in points if (p[0] > 0.8) == side), key=lambda p: -p[1]):
            place = y if lowest is None else min(y, lowest - gap)
            lowest = place
            axis.annotate(
                text, (x, y), (x + (-0.035 if side else 0.02), place), fontsize=7.5, color=colour,
                va="center", ha="right" if side else "left",
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6} if place != y else None,
            )  # fmt: skip
