"""The tables and the picture of experiment 06, from results files and from nothing else."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from methods import label_budgets
from rows import Row as Method
from rows import all_rows
from run import HALF, RESULTS, ROWS, Row
from tables import MATCHER, Audit, _limit, cell, of_reading, verdict

from privface.audit.result import read_figure
from privface.records import Measured

_NONE = Measured.undefined("not measured")
Limits = tuple[float | None, float | None]
Target = tuple[str, Limits, Limits, Measured]
"""What it is about, the limits that must be kept and those that are aimed at, and what was measured."""


def _most(must: float, aim: float) -> tuple[Limits, Limits]:
    return (None, must), (None, aim)


def _least(must: float, aim: float) -> tuple[Limits, Limits]:
    return (must, None), (aim, None)


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
    code = _highest([white["lfw_alone"]["lfw"], white["all"]["lfw"]] if white else [])
    utk, cfp = (_highest(leak.get(name, {}).values()) for name in ("utkface adults", "cfp"))
    cfp_kept = _share(*(read_figure(on_cfp[mode]) for mode in ("P-P", "O-O"))) if on_cfp else _NONE
    of_bundled = row.name == "bundled"
    worst, kept = (
        (_most(0.70, 0.62), _least(0.85, 0.97)) if of_bundled else (_most(0.68, 0.60), _least(0.98, 1))
    )
    shares = [
        (f"*b*, {who} impostors: P-P TMR@{rate}, share of O-O", *limits, share(audit, "P-P", rate, who))
        for rate, limits in (("0.01", kept), ("0.001", _least(0.96, 1)))
        for who in ("all", "same-gender")
    ]
    return [
        ("worst attacker that learns", *worst, of_reading(audit.worst(), "balanced_accuracy")),
        ("the same, chosen with hindsight", *worst, audit.highest()),
        ("white-box code, eraser from one half, attackers with all others", *_most(0.66, 0.58), code),
        (
            "P-P TMR@0.01 of that code",
            *_least(0.97, 0.97),
            Measured(white["tmr"]["0.01"]) if white else _NONE,
        ),
        ("worst attacker on UTKFace adults, on *b* or the code", *_most(0.68, 0.60), utk),
        ("worst attacker on cfp, on *b* or the code", *_most(0.75, 0.65), cfp),
        ("*b* on cfp: P-P TMR@0.01, share of O-O", *_least(0.95, 0.99), cfp_kept),
        ("unseen frozen classifier, AUC", (0.40, 0.62), (0.45, 0.55), of_reading(audit.frozen(), "auc")),
        *shares,
        ("*b*: P-O TMR@0.01, share of O-O", *_least(0.96, 0.99), share(audit, "P-O", "0.01", "all")),
        ("worst gender cohort's FNMR, after over before", *_most(2, 1.25), audit.figure("fnmr_ratio")),
        ("faces found", *_least(0.99, 1), Measured(more["faces_found"]["after"]) if more else _NONE),
    ]


def white_box(row: Row) -> dict[str, Any] | None:
    """The white-box figures of a row's code; its seed is that of the halves."""
    wanted = {**row.code, "seed": row.seed, "pooled": True, "rounds": 0}
    return next((found for found in _read("white_box.json") or [] if wanted.items() <= found.items()), None)


def _highest(found: Iterable[dict[str, Any]]) -> Measured:
    values = [part["worst"]["balanced_accuracy"] for part in found]
    return Measured(max(values)) if values else _NONE


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


def _lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def table() -> str:
    """The targets against what was measured, the worst of the seeds judged, and the white-box variants, as Markdown."""
    there = [row for row in ROWS.values() if audit_of(row).document or _read(f"{row.name}-further.json")]
    groups = [
        [row for row in there if row.config == config] for config in dict.fromkeys(r.config for r in there)
    ]
    parts = [
        _lines(
            ["target", "must", "aim", *(row.name for row in group), "worst: must", "worst: aim"],
            [judged(found) for found in zip(*map(targets_of, group), strict=True)],
        )
        for group in groups
    ]
    parts += [variants()] if _read("white_box.json") else []
    parts += [own_people()] if audit_of(HALF).document else []
    parts += [standards()] if _read("standards.json") else []
    return "\n\n".join(parts) or "Nothing is measured."


def judged(found: Sequence[Target]) -> list[str]:
    """Cells of one target: limits, figures, and what the worst of them means."""
    words, must, (low, high), _ = found[0]
    floor, ceiling = -math.inf if low is None else low, math.inf if high is None else high
    figures = [target[-1] for target in found]
    known = [figure for figure in figures if not math.isnan(figure.value)]
    worst = max(known, key=lambda f: max(floor - f.value, f.value - ceiling), default=_NONE)
    limits = [must, (low, high)]
    verdicts = [verdict(worst, limit) for limit in limits]
    return [words, *map(_limit, limits), *map(cell, figures), *verdicts]


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


def own_people() -> str:
    """What attackers read who know the half of LFW's training people that the model has not learnt from."""
    audit = audit_of(HALF)
    document, worst = audit.document or {}, audit.worst()
    rows = []
    for curve, budget in label_budgets(document):
        read = [(f"{people:,} people", figure) for people, figure in budget.items()]
        for people, figure in [*read, ("ten times as many (extrapolated)", read_figure(curve["ten_times"]))]:
            rows.append((f"AUC of {curve['probe']} on {curve['input']}, with {people}", figure))
    rows += [
        (f"worst attacker that learns: {worst['probe']} on {worst['input']}, balanced accuracy" if worst else "-", of_reading(worst, "balanced_accuracy")),
        ("the same, chosen with hindsight", audit.highest()),
        ("unseen frozen classifier, AUC", of_reading(audit.frozen(), "auc")),
        *((f"*b*: {mode} TMR@{rate}, share of O-O", share(audit, mode, rate, "all")) for mode, rate in (("P-P", "0.01"), ("P-P", "0.001"), ("P-O", "0.01"))),
    ]  # fmt: skip
    return _lines(
        ["attackers with people of their own", HALF.name], [[words, cell(figure)] for words, figure in rows]
    )


def standards() -> str:
    """How well recovered photos and embeddings match other originals of the person, and how surely two protections are linked."""
    rows = []
    for name, row in _read("standards.json").items():
        links = {link["matcher"]: link for link in row["unlinkability"]}
        for back in row["irreversibility"]:
            tmr = [
                back[side][fmr]
                for fmr in ("0.01", "0.001")
                for side in ("original", "protected", "recovered")
            ]
            linked = [links[back["matcher"]][key] for key in ("d_sys", "d_sys_same_photo")]
            figures = [cell(read_figure(figure)) for figure in (*tmr, *linked)]
            source = back["input"].partition(":")[0]
            rows.append([f"{name} ({row['differ']})", f"{source}, *{back['matcher'][-1]}*", *figures])
    modes = [f"{mode} TMR@{fmr}" for fmr in ("0.01", "0.001") for mode in ("O-O", "P-O", "R-O")]
    return _lines(
        ["method", "recovered, matcher", *modes, "D_sys, two photos of a person", "D_sys, one photo"], rows
    )


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
    axes.set(xlim=(-0.03, 1.06), ylim=(0.44, 1.03))
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
