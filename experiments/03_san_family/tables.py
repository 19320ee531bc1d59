"""The tables of experiment 03, computed from the committed audits and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rows import LAST, Row, all_rows, find_row, images_trained

from privface.audit import AuditResult
from privface.audit.comparison import standing, trade_off
from privface.audit.result import read_figure
from privface.records import Measured
from privface.report.card import markdown_table

MATCHER = "onnx:matcher_mobilefacenet_b"
"""The matcher that no row's training has met."""

FROZEN = "onnx:gender_tinyxception"
"""The gender classifier that no row's training has met."""

MISSING = "not measured"
_NONE = Measured.undefined(MISSING)


# figures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """One row's audit, read by what the tables ask of it; every figure of a row without an audit is undefined."""

    row: Row
    document: Mapping[str, Any] | None

    @classmethod
    def of(cls, row: Row) -> Audit:
        """The audit of a row, as far as it was run."""
        return cls(row, row.document())

    def figure(self, name: str) -> Measured:
        """A figure of :attr:`privface.audit.AuditResult.figures`."""
        return _NONE if self.document is None else AuditResult(self.document).figure(name)

    def tmr(self, mode: str, impostors: str = "all") -> Measured:
        """TMR at FMR 1e-2 of the unseen matcher."""
        for found in (self.document or {}).get("matching", ()):
            if (found["matcher"], found["mode"], found["impostors"]) == (MATCHER, mode, impostors):
                return read_figure(found["tmr"]["0.01"])
        return _NONE

    def share(self, mode: str, impostors: str = "all") -> Measured:
        """TMR as a share of that between originals; the interval is that of the TMR, the originals' figure taken as known."""
        kept, whole = self.tmr(mode, impostors), self.tmr("O-O", impostors)
        if math.isnan(kept.value) or math.isnan(whole.value):
            return _NONE
        return Measured(*(end / whole.value for end in (kept.value, kept.low, kept.high)), kept.n)

    def frozen(self) -> Mapping[str, Any] | None:
        """The reading of the unseen frozen classifier."""
        rows = (self.document or {}).get("leakage", ())
        return next((r for r in rows if r["kind"] == "frozen" and r["probe"] == FROZEN), None)

    def worst(
        self, medium: str = "", kinds: Sequence[str] = ("retrained", "recovered")
    ) -> Mapping[str, Any] | None:
        """The reading that leaks most on validation people among those that count.

        Args:
            medium: ``image``, ``embedding``, or nothing for both.
            kinds: Of attackers that learn.
        """
        counted = [
            r
            for r in (self.document or {}).get("leakage", ())
            if r["kind"] in kinds
            and r["measurable"]
            and r["validation_leakage"] is not None
            and r["input"].startswith(medium)
        ]
        return max(counted, key=lambda r: float(r["validation_leakage"]), default=None)

    def highest(self, medium: str = "") -> Measured:
        """The highest balanced accuracy of any attacker that learns and counts, chosen with hindsight."""
        found = [
            read_figure(r["balanced_accuracy"])
            for r in (self.document or {}).get("leakage", ())
            if r["kind"] != "frozen" and r["measurable"] and r["input"].startswith(medium)
        ]
        return max((f for f in found if not math.isnan(f.value)), key=lambda f: f.value, default=_NONE)

    @property
    def effort(self) -> str:
        """How hard the audit looked, by the attackers that it names."""
        if self.document is None:
            return MISSING
        settings = self.document["provenance"]["settings"]
        if settings["image_recoverers"]:
            return "full"
        return "standard" if "cnn" in settings["image_probes"] else "quick"


def all_audits() -> list[Audit]:
    """Every row's audit, in the order of the tables."""
    return [Audit.of(row) for row in all_rows()]


def of_reading(reading: Mapping[str, Any] | None, key: str) -> Measured:
    """A figure of a reading, undefined where there is no reading."""
    return _NONE if reading is None else read_figure(reading[key])


def cell(figure: Measured, digits: int = 3) -> str:
    """A figure with its 95 % interval."""
    if math.isnan(figure.value):
        return MISSING if figure.reason == MISSING else f"{MISSING}: {figure.reason or 'no reason given'}"
    text = f"{figure.value:.{digits}f}"
    known = not math.isnan(figure.low) and not math.isnan(figure.high)
    return f"{text} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]" if known else f"{text} (no interval)"


# tables ---------------------------------------------------------------------------------------------------


def _seen(audit: Audit) -> str:
    figure = audit.figure("worst_frozen_seen")
    unmet = audit.document is not None and math.isnan(figure.value)
    return "met none" if unmet else cell(figure)


def _name(reading: Mapping[str, Any] | None) -> str:
    if reading is None:
        return MISSING
    where = reading["input"].partition(":")[2].rpartition("_")[2]
    probe = reading["probe"].replace("onnx:gender_", "").replace("mini:", "own:")
    return f"{probe} on *{where}*" if where else str(probe)


Column = tuple[str, Callable[[Audit], str]]

_MATCHING: tuple[Column, ...] = (
    ("method", lambda a: a.row.name),
    ("needs the label", lambda a: "**yes**" if a.row.needs_label else "no"),
    ("images trained on", lambda a: images_trained(a.row)),
    ("TMR, P-P", lambda a: cell(a.tmr("P-P"))),
    ("share of O-O", lambda a: cell(a.share("P-P"))),
    ("TMR, P-P, same gender", lambda a: cell(a.tmr("P-P", "same-gender"))),
    ("share of O-O, same gender", lambda a: cell(a.share("P-P", "same-gender"))),
    ("TMR, P-O", lambda a: cell(a.tmr("P-O"))),
    ("worst cohort's FNMR, after over before", lambda a: cell(a.figure("fnmr_ratio"), 2)),
)

_LEAKAGE: tuple[Column, ...] = (
    ("method", lambda a: a.row.name),
    ("frozen, unseen: AUC", lambda a: cell(of_reading(a.frozen(), "auc"))),
    ("its EER", lambda a: cell(of_reading(a.frozen(), "eer"))),
    ("worst frozen, seen", _seen),
    ("worst on images", lambda a: _name(a.worst("image"))),
    ("its AUC", lambda a: cell(of_reading(a.worst("image"), "auc"))),
    ("its balanced accuracy", lambda a: cell(of_reading(a.worst("image"), "balanced_accuracy"))),
    ("worst on embeddings", lambda a: _name(a.worst("embedding"))),
    ("its balanced accuracy", lambda a: cell(of_reading(a.worst("embedding"), "balanced_accuracy"))),
    ("recovery gains", lambda a: cell(a.figure("recovery_gain"))),
    ("illusion gap", lambda a: cell(a.figure("illusion_gap"))),
)

_LOOKS: tuple[Column, ...] = (
    ("method", lambda a: a.row.name),
    ("what", lambda a: a.row.words),
    ("SSIM", lambda a: cell(a.figure("ssim"))),
    ("PSNR, dB", lambda a: cell(a.figure("psnr"), 1)),
    ("effort of the audit", lambda a: a.effort),
    ("command", lambda a: f"`{a.row.command(effort='full' if a.document is None else a.effort)}`"),
)

TABLES: tuple[tuple[str, tuple[Column, ...]], ...] = (
    (
        "Matching, of the unseen matcher *b* at FMR 1e-2. A ratio has no interval where too few pairs were missed before:",
        _MATCHING,
    ),
    (
        "Leakage. The worst attackers learn from protected photos, plainly or after recovery, and are chosen on validation people:",
        _LEAKAGE,
    ),
    ("Looks, effort and command:", _LOOKS),
)


def tables() -> str:
    """All tables of the rows that have a result, as Markdown, and what is missing."""
    audits = all_audits()
    there = [audit for audit in audits if audit.document is not None]
    parts = [f"{title}\n\n{_table(columns, there)}" for title, columns in TABLES]
    missing = [f"{a.row.name} (`{a.row.command()}`)" for a in audits if a.document is None]
    drawn = {audit.row.name: document for audit in audits if (document := audit.row.draw_document())}
    parts += [averaging(drawn)] if drawn else []
    return "\n\n".join([*parts, alike(there), *([f"Not measured: {', '.join(missing)}."] if missing else [])])


def averaging(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """What the average of several draws tells, by the audits of rows whose network is random, as Markdown."""
    rows = [(name, row) for name, document in documents.items() for row in document["averaging"]]
    counts = sorted({row["draws"] for _, row in rows})
    found: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for name, row in rows:
        found.setdefault((name, _name(row), row["combined"]), {})[row["draws"]] = row
    heads = ["method", "attacker", "averaged", *(f"leakage, {count}" for count in counts)]
    lines = []
    for (name, attacker, combined), by_count in found.items():
        figures = [
            cell(read_figure(by_count[count]["leakage"])) if count in by_count else MISSING
            for count in counts
        ]
        gain = cell(read_figure(by_count[counts[-1]]["gain"]))
        lines.append([name, attacker, combined, *figures, gain])
    title = "Draws of a randomised protection, and the attackers who average so many of them:"
    return f"{title}\n\n{markdown_table([*heads, f'gain of {counts[-1]}'], lines)}"


def alike(audits: Sequence[Audit]) -> str:
    """Whether the attackers of all audits are the same: each was trained on the same originals first, and should read them alike."""
    found = {audit.row.name: _on_originals(audit) for audit in audits}
    first = found.get("none", next(iter(found.values()), {}))
    gaps = {}
    for name, mine in found.items():
        shared = [abs(mine[key] - first[key]) for key in mine.keys() & first.keys()]
        if max(shared, default=0.0) > 0.0 or mine.keys() != first.keys():
            gaps[name] = (
                f"{name} by {max(shared, default=0.0):.4f}, {len(mine.keys() ^ first.keys())} attackers not shared"
            )
    if not gaps:
        return f"All attackers of all {len(audits)} audits read the originals alike."
    return f"Attackers read the originals otherwise than those of the first audit, in AUC at most: {'; '.join(gaps.values())}."


def _on_originals(audit: Audit) -> dict[tuple[str, str], float]:
    """AUC on originals of each attacker that was retrained."""
    rows = (audit.document or {})["leakage"]
    return {
        (r["probe"], r["input"]): float(r["original_auc"]["value"])
        for r in rows
        if r["kind"] == "retrained" and r["original_auc"]["value"] is not None
    }


def _table(columns: Sequence[Column], audits: Sequence[Audit]) -> str:
    rows = [[read(audit).replace("|", "/") for _, read in columns] for audit in audits]
    return markdown_table([heading for heading, _ in columns], rows)


def commands() -> str:
    """Each row's command, those first that need nothing else."""
    return "\n".join(
        f"{a.row.name}: {a.row.command(effort='full' if a.document is None else a.effort)}"
        for a in all_audits()
    )


# targets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        words: What is aimed at.
        limits: Lowest and highest value that reach it; ``None`` where there is no limit.
        read: The figure of an audit.
    """

    words: str
    limits: tuple[float | None, float | None]
    read: Callable[[Audit], Measured]


TARGETS: tuple[Target, ...] = (
    Target(
        "worst retrained image probe: balanced accuracy",
        (None, 0.70),
        lambda a: of_reading(a.worst("image", ("retrained",)), "balanced_accuracy"),
    ),
    Target(
        "the same, attackers who recover first among them",
        (None, 0.70),
        lambda a: of_reading(a.worst("image"), "balanced_accuracy"),
    ),
    Target(
        "worst retrained probe on any matcher's embeddings: balanced accuracy",
        (None, 0.80),
        lambda a: of_reading(a.worst("embedding", ("retrained",)), "balanced_accuracy"),
    ),
    Target(
        "the same, attackers who recover first among them",
        (None, 0.80),
        lambda a: of_reading(a.worst("embedding"), "balanced_accuracy"),
    ),
    Target("P-P TMR@1e-2 of the unseen matcher, share of O-O", (0.95, None), lambda a: a.share("P-P")),
    Target("the same, same-gender impostors", (0.95, None), lambda a: a.share("P-P", "same-gender")),
    Target("P-O TMR@1e-2 of the unseen matcher, share of O-O", (0.85, None), lambda a: a.share("P-O")),
    Target("unseen frozen probe: EER", (0.45, 0.55), lambda a: of_reading(a.frozen(), "eer")),
    Target("illusion gap in AUC", (None, 0.10), lambda a: a.figure("illusion_gap")),
    Target("recover-then-attack gains", (None, 0.02), lambda a: a.figure("recovery_gain")),
    Target("worst gender cohort's FNMR, after over before", (None, 1.25), lambda a: a.figure("fnmr_ratio")),
    Target("SSIM to the original", (0.75, None), lambda a: a.figure("ssim")),
)


def verdict(figure: Measured, limits: tuple[float | None, float | None]) -> str:
    """Whether a figure lies within limits, by how much it misses them, and whether its interval agrees."""
    if math.isnan(figure.value):
        return MISSING
    low, high = (-math.inf if limits[0] is None else limits[0], math.inf if limits[1] is None else limits[1])
    gap = max(low - figure.value, figure.value - high)
    if math.isnan(figure.low) or math.isnan(figure.high):
        doubt = ""
    elif gap > 0:
        doubt = "" if figure.high < low or figure.low > high else "; the interval reaches it"
    else:
        doubt = "" if figure.low >= low and figure.high <= high else "; not by the whole interval"
    return (f"**missed** by {gap:.3f}" if gap > 0 else "reached") + doubt


def targets(name: str = LAST) -> str:
    """Every aim of issue 8 against what a row reached, as Markdown."""
    audit, lines = Audit.of(find_row(name)), []
    for target in TARGETS:
        figure = target.read(audit)
        lines.append([target.words, _limit(target.limits), cell(figure), verdict(figure, target.limits)])
    words = "worst age cohort's FNMR, after over before"
    lines.append([words, "at most 1.25", f"{MISSING}: LFW's labels have no age", MISSING])
    for plane, found in dominance(all_audits()).items():
        share = Measured(found.dominated / found.points) if found.points else _NONE
        words = f"`san` dominates the other methods, {plane}"
        figure_words = f"{found.dominated} of {found.points} points" if found.points else MISSING
        lines.append([words, "at least 80 %", figure_words, verdict(share, (0.80, None))])
    lines.append(["no visible artefact at 112 px", "", "contact sheets are looked at", "see NOTES.md"])
    return markdown_table([f"aim for `{name}`", "limit", "figure", "verdict"], lines)


def _limit(limits: tuple[float | None, float | None]) -> str:
    low, high = limits
    if low is not None and high is not None:
        return f"{low:.2f} to {high:.2f}"
    return f"at least {low:.2f}" if low is not None else f"at most {high:.2f}"


# who dominates --------------------------------------------------------------------------------------------

Plane = Literal["image", "all", "auc"]

PLANES: dict[str, Plane] = {
    "balanced accuracy of the worst attacker on images": "image",
    "balanced accuracy of the worst attacker on anything": "all",
    "AUC of the worst attacker on anything": "auc",
}
"""What stands beside the unseen matcher's P-P TMR@1e-2, by its words."""


@dataclass(frozen=True)
class Dominance:
    """How ``san`` stands among the points of the other methods.

    Attributes:
        points: Points of other methods with both figures.
        dominated: Those that a point of ``san`` dominates.
        clearly: Those of these where the intervals of one figure do not overlap either.
        tied: Those that agree with ``san`` on both figures.
        above: Those that dominate a point of ``san``.
        names: Which are dominated.
    """

    points: int
    dominated: int
    clearly: int
    tied: int
    above: int
    names: tuple[str, ...]


def points(audits: Sequence[Audit], plane: Plane) -> list[dict[str, Any]]:
    """One point a row that was audited: its leakage of a plane, and P-P TMR@1e-2 of the unseen matcher."""
    named = [(a.row.name, a.document) for a in audits if a.document is not None]
    if not named:
        return []
    found = trade_off(named, matchers=[MATCHER])  # refuses audits of other photos
    if plane == "auc":
        return found
    medium = "image" if plane == "image" else ""
    by_name = {a.row.name: a for a in audits}
    for point in found:
        reading = by_name[point["name"]].worst(medium)
        none = {"value": None, "low": None, "high": None}
        point["leakage"] = none if reading is None else reading["balanced_accuracy"]
    return found


def dominance(audits: Sequence[Audit]) -> dict[str, Dominance]:
    """By plane, which share of the other methods' points ours dominates.

    A point dominates another one that leaks no less and matches no more, and that differs from it. Ours are the points of ``san``
    in any of its settings here (not experiment 01's); the others' are all other rows but the originals, one point each.
    """
    rows = {a.row.name: a.row for a in audits}
    methods = {name: LAST if row.ours else name for name, row in rows.items()}
    found = {}
    for words, plane in PLANES.items():
        drawn = [p for p in points(audits, plane) if p["name"] != "none"]
        stands = standing(drawn, methods, ours=LAST)
        found[words] = (
            Dominance(
                *(sum(s[key] for s in stands) for key in ("points", "dominated", "clearly", "tied")),
                sum(s["dominates"] > 0 for s in stands),
                tuple(s["method"] for s in stands if s["dominated"]),
            )
            if any(rows[p["name"]].ours for p in drawn)
            else Dominance(0, 0, 0, 0, 0, ())
        )
    return found


def dominates() -> str:
    """:func:`dominance` as Markdown, with what it means."""
    heads = ["points", "dominated", "share", "clearly", "tied", "above", "dominated are"]
    lines = []
    for words, d in dominance(all_audits()).items():
        share = f"{d.dominated / d.points:.0%}" if d.points else MISSING
        counts = [str(number) for number in (d.clearly, d.tied, d.above)]
        names = ", ".join(d.names) or "none"
        lines.append([words, str(d.points), str(d.dominated), share, *counts, names])
    return (
        "A point of `san` dominates another method's point if it leaks no more and matches no less, and one of the two strictly. One point a row; the originals are no\n"
        "method and are left out. `clearly`: the 95 % intervals of one of the two figures do not overlap either. `above`: methods with a point that dominates one of `san`.\n\n"
        + markdown_table(["against P-P TMR@1e-2 of *b*", *heads], lines)
    )
