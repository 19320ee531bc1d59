"""The tables and the picture of experiment 06, from results files and from nothing else."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rows import Row as Method
from rows import all_rows
from run import RESULTS, ROWS, Row
from tables import MATCHER, Audit, cell, of_reading

from privface.audit.result import read_figure
from privface.records import Measured

_NONE = Measured.undefined("not measured")
Target = tuple[str, str, float, float, Measured]
"""What it is about, ``<=``, ``>=`` or ``+-`` (around 0.5, by so much), what must be reached, what is aimed at, and what was measured."""


def _read(name: str) -> Any:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def audit_of(row: Row) -> Audit:
    """A row's audit, empty where there is none."""
    return Audit(Method(row.name, row.name, "ready"), _read(f"{row.name}.json"))


def targets_of(row: Row) -> list[Target]:
    """The issue's targets and a row's figures."""
    audit, more, white = audit_of(row), _read(f"{row.name}-further.json") or {}, white_box(row)
    leak, on_cfp = more.get("leakage", {}), more.get("cfp_matching")
    utk, cfp = (_highest(leak.get(name, {}).values()) for name in ("utkface adults", "cfp"))
    worst, kept = ((0.70, 0.62), (0.85, 0.97)) if row.name == "bundled" else ((0.68, 0.60), (0.98, 1.0))
    pairs = [(rate, who) for rate in ("0.01", "0.001") for who in ("all", "same-gender")]
    shares = [
        (f"*b*, {who} impostors: P-P TMR@{rate}, share of O-O", ">=", *limits, share(audit, "P-P", rate, who))
        for (rate, who), limits in zip(pairs, (kept, kept, (0.96, 1.0), (0.96, 1.0)), strict=True)
    ]
    return [
        ("worst attacker that learns", "<=", *worst, of_reading(audit.worst(), "balanced_accuracy")),
        ("the same, chosen with hindsight", "<=", *worst, audit.highest()),
        (
            "white-box code, eraser from one half, attackers with all others",
            *("<=", 0.66, 0.58),
            _highest([white["lfw_alone"]["lfw"], white["all"]["lfw"]]) if white else _NONE,
        ),
        ("P-P TMR@0.01 of that code", ">=", 0.97, 0.97, Measured(white["tmr"]["0.01"]) if white else _NONE),
        ("worst attacker on UTKFace adults, on *b* or the code", "<=", 0.68, 0.60, utk),
        ("worst attacker on cfp, on *b* or the code", "<=", 0.75, 0.65, cfp),
        (
            "*b* on cfp: P-P TMR@0.01, share of O-O",
            *(">=", 0.95, 0.99),
            _share(*(read_figure(on_cfp[mode]) for mode in ("P-P", "O-O"))) if on_cfp else _NONE,
        ),
        ("unseen frozen classifier, AUC", "+-", 0.12, 0.05, of_reading(audit.frozen(), "auc")),
        *shares,
        ("*b*: P-O TMR@0.01, share of O-O", ">=", 0.96, 0.99, share(audit, "P-O", "0.01", "all")),
        ("worst gender cohort's FNMR, after over before", "<=", 2.0, 1.25, audit.figure("fnmr_ratio")),
        ("faces found", ">=", 0.99, 1.0, Measured(more["faces_found"]["after"]) if more else _NONE),
    ]


def white_box(row: Row) -> dict[str, Any] | None:
    """The white-box figures of a row's code; its seed is that of the halves."""
    wanted = {**row.code, "seed": row.seed, "pooled": True, "rounds": 0}
    return next((found for found in _read("white_box.json") or [] if wanted.items() <= found.items()), None)


def _highest(found: Iterable[dict[str, Any]]) -> Measured:
    return Measured(max((f["worst"]["balanced_accuracy"] for f in found), default=math.nan))


def share(audit: Audit, mode: str, fmr: str, impostors: str) -> Measured:
    """TMR of the unseen matcher as a share of that between originals."""
    rates = {
        found["mode"]: read_figure(found["tmr"][fmr])
        for found in (audit.document or {}).get("matching", ())
        if (found["matcher"], found["impostors"]) == (MATCHER, impostors)
    }
    return _share(rates[mode], rates["O-O"]) if mode in rates else _NONE


def _share(kept: Measured, whole: Measured) -> Measured:
    return Measured(*(end / whole.value for end in (kept.value, kept.low, kept.high)), kept.n)


def _gap(value: float, sign: str, limit: float) -> float:
    return abs(value - 0.5) - limit if sign == "+-" else value - limit if sign == "<=" else limit - value


def _lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def table() -> str:
    """The targets against what was measured, the worst of the seeds judged, and the white-box variants, as Markdown."""
    there = [row for row in ROWS.values() if audit_of(row).document or _read(f"{row.name}-further.json")]
    groups = [[row for row in there if (row.name == "bundled") is alone] for alone in (False, True)]
    parts = [
        _lines(
            ["target", "must", "aim", *(row.name for row in group), "worst"],
            [judged(found) for found in zip(*map(targets_of, group), strict=True)],
        )
        for group in groups
        if group
    ]
    return "\n\n".join([*parts, *([variants()] if _read("white_box.json") else [])]) or "Nothing is measured."


def judged(found: Sequence[Target]) -> list[str]:
    """Cells of one target: limits, figures, and what the worst of them means."""
    words, sign, must, aim, _ = found[0]
    figures = [target[-1] for target in found]
    known = [figure.value for figure in figures if not math.isnan(figure.value)]
    verdict = "not measured"
    if known:
        worst = max(known, key=lambda value: _gap(value, sign, aim))
        missed = f"**missed** by {_gap(worst, sign, must):.3f}"
        reached = "aim reached" if _gap(worst, sign, aim) <= 0 else "reached"
        verdict = f"{worst:.3f}, {missed if _gap(worst, sign, must) > 0 else reached}"
    limits = [f"0.5 {sign} {limit:g}" if sign == "+-" else f"{sign} {limit:g}" for limit in (must, aim)]
    shown = [
        "not measured" if math.isnan(f.value) else cell(f).replace(" (no interval)", "") for f in figures
    ]
    return [words, *limits, *shown, verdict]


def variants() -> str:
    """The white-box figures of each variant: balanced accuracies, the worst of the seeds; then by the people whom attackers know."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _read("white_box.json"):
        found.setdefault((" + ".join(row["made_by"]), row["name"]), []).append(row)
    rows = []
    for (encoders, name), seeds in found.items():
        read = [[row["lfw_alone"]["lfw"] for row in seeds]]
        read += [[row["all"][key] for row in seeds] for key in ("lfw", "utkface adults", "cfp")]
        budgets = [[f["balanced_accuracy"] for f in row["label_budget"].values()] for row in seeds]
        figures = [min(row["tmr"][fmr] for row in seeds) for fmr in ("0.01", "0.001")]
        figures += [_highest(part).value for part in read]
        curve = " ".join(f"{max(step):.3f}" for step in zip(*budgets, strict=True))
        words = f"{encoders.replace('matcher_', '')}; {name.partition(', ')[2]}"
        rows.append([words, str(len(seeds)), *(f"{figure:.3f}" for figure in figures), curve])
    heads = [
        "code",
        "seeds",
        "TMR@0.01",
        "TMR@0.001",
        "LFW, by attackers of LFW",
        "LFW, by all",
        "UTKFace adults",
    ]
    return _lines([*heads, "cfp", "LFW, by 250, 500, 1,000, all people of LFW, all sets"], rows)


def points() -> list[tuple[str, bool, Measured, Measured]]:
    """Name, whether it is of this experiment, P-P TMR@1e-2 of *b* as share of O-O, and the worst attacker's balanced accuracy."""
    others = [Audit.of(method) for method in (*all_rows(), Method("leace", "LEACE on embeddings", "given"))]
    audits = [*((audit, False) for audit in others), *((audit_of(row), True) for row in ROWS.values())]
    found = [
        (a.row.name, ours, share(a, "P-P", "0.01", "all"), of_reading(a.worst(), "balanced_accuracy"))
        for a, ours in audits
    ]
    return [point for point in found if not math.isnan(point[2].value + point[3].value)]


def dominates() -> str:
    """On how many points of experiments 02 and 03 a row of this one is better in both figures; the originals are no method."""
    found = points()
    beaten = {
        name: [n for n, ours, k, v in found if ours and k.value > kept.value and v.value < leak.value]
        for name, ours, kept, leak in found
        if not ours and name != "none"
    }
    lines = [f"{name}: by {', '.join(by) or 'none'}" for name, by in beaten.items()]
    return "\n".join([f"{sum(map(bool, beaten.values()))} of {len(beaten)} points are dominated.", *lines])


def plot() -> str:
    """Draw results/tradeoff.png; says what is in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from plot import _mark, _name  # as experiment 03 draws points and names: nothing overlaps

    from privface.images import write_atomic
    from privface.report.reading import Reading

    rows = {name: Method(name, "", "ready", ours=ours) for name, ours, *_ in points()}
    known = [
        (*(Reading(f.value, f.low, f.high) for f in figures), {"name": name})
        for name, _, *figures in points()
    ]
    figure = Figure(figsize=(11, 8))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.08, 0.89, 0.85))
    axes.set(xlim=(-0.03, 1.06), ylim=(0.47, 1.03))
    axes.set_xlabel("same person recognised by the unseen matcher b: P-P TMR at FMR 1e-2, share of O-O")
    axes.set_ylabel("gender read by the worst attacker that learns: balanced accuracy")
    axes.set_title("Lower right is good: people are recognised, gender is not (orange: experiment 06)")
    axes.axhline(0.5, color="#1b1f24", linewidth=1.0, linestyle=(0, (4, 3)))
    axes.grid(visible=True, color="#c9ced6", linewidth=0.5)
    _mark(axes, known, rows)
    _name(axes, known, known, rows)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    write_atomic(RESULTS / "tradeoff.png", buffer.getvalue())
    return f"tradeoff.png: {len(known)} points"
