"""Experiment 04: what erasers hide in stored embeddings, from whom, and what it costs.

Claim under test: on embeddings of people the eraser never met, the worst attacker of the battery reads gender at a balanced
accuracy of at most 0.65, while TMR@1e-3 falls by at most 2 points (4 against same-gender impostors).

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/04_erasers/run.py --out runs/04 --matcher a
    ... --matcher b; ... --matcher mini        each can run beside the others
    ... --matcher a --own-people               erasers of one half of LFW `train`, attackers who know the other half
    python experiments/04_erasers/run.py --table | --transfer | --own-people | --plot

Every eraser is fitted on LFW `train` (at most five photos a person; `adversarial` also on UTKFace `train`, ages from ten on)
and audited on the 875 people of LFW `val`. Finished steps are skipped, so it can be run again after a stop.

PE-MIU was measured here and is no longer in the package: commit 715e5df is the last one that has it. It is a broken method.
An attacker who knows it brings its blocks back into order and reads gender at an AUC of 0.910 on *a* and 0.991 on *b*. Its
templates also needed a comparator of their own, which every stage of the audit had to know. Its results stay in `results/`
and in the tables. To measure it again, check out 715e5df and run this script from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from privface.audit import EmbeddingData, EmbeddingProbe
from privface.audit.curves import auc, by_label, leakage
from privface.audit.intervals import BootstrapParams, leakage_interval, probe_interval, weighted_auc
from privface.audit.probes import ProbeKind
from privface.audit.subjects import People
from privface.data import LabelFile, read_embeddings
from privface.images import write_atomic
from privface.pipeline import AuditOptions, audit_tables, embed
from privface.pipeline.erase import EraserSource, apply_eraser, fit_eraser
from privface.pipeline.inspect import AttackerSet
from privface.pipeline.tables import pair_tables

HERE = Path(__file__).parent
RESULTS = HERE / "results"
sys.path.append(str(HERE.parent / "02_illusion_gap"))
MATCHERS = ("a", "b", "mini")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One eraser of the table."""

    words: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    more: bool = False  # UTKFace beside LFW
    dropped: bool = False  # no longer in the package: its results are printed, it cannot be run


ROWS = {
    "leace": Row("LEACE", "leace"),
    "leace-normalized": Row("LEACE, brought back to unit length", "leace", {"normalize": True}),
    "mean-projection": Row("mean projection", "mean-projection"),
    "inlp": Row("INLP", "inlp"),
    "rlace": Row("R-LACE, rank 1", "rlace"),
    "rlace-8": Row("R-LACE, rank 8", "rlace", {"rank": 8}),
    "ive": Row("IVE, half of the variables", "ive"),
    "multi-ive": Row("Multi-IVE (PCA), half of the components", "multi-ive"),
    "pe-miu": Row("PE-MIU, own comparator", "pe-miu", dropped=True),
    "pfrnet": Row("PFRNet-like autoencoder", "pfrnet"),
    "vleed": Row("VLEED-like variational autoencoder", "vleed"),
    "sensitivenets": Row("adversarial, without transport", "adversarial", {"transport": False}),
    "transport": Row("Gaussian transport (ours)", "transport"),
    "regional-80": Row("regional (ours), 80 values of 128", "regional", {"size": 128, "drop": 48}),
    "regional-48": Row("regional (ours), 48 values of 96", "regional", {"size": 96, "drop": 48}),
    "regional-32": Row("regional (ours), 32 values of 64", "regional", {"size": 64, "drop": 32}),
    "adversarial-lfw": Row("adversarial (ours), LFW alone", "adversarial"),
    "adversarial": Row("adversarial (ours)", "adversarial", more=True),
    "adversarial-60": Row(
        "adversarial (ours), similarity 60", "adversarial", {"similarity": 60.0}, more=True
    ),
    "adversarial-15": Row(
        "adversarial (ours), similarity 15", "adversarial", {"similarity": 15.0}, more=True
    ),
    "adversarial-seed1": Row("adversarial (ours), seed 1", "adversarial", {"random_state": 1}, more=True),
    "adversarial-seed2": Row("adversarial (ours), seed 2", "adversarial", {"random_state": 2}, more=True),
}
IN_PACKAGE = tuple(name for name, row in ROWS.items() if not row.dropped)
MANY_LABELS = ("leace", "transport", "adversarial")
"""Methods that are also attacked by someone who knows the gender of thousands, and carried over to other matchers and sets."""


OWN_PEOPLE = ("none", "leace", "transport", "regional-80", "regional-48", "regional-32", "adversarial")
"""What attackers with people of their own are sent at; all fitted on LFW alone."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/04"), help="embeddings and erasers (biometric data)"
    )
    parser.add_argument("--matcher", choices=MATCHERS, help="run all steps of this matcher")
    parser.add_argument("--only", nargs="*", choices=IN_PACKAGE, default=IN_PACKAGE)
    parser.add_argument("--table", action="store_true", help="print the table of the committed results")
    parser.add_argument("--summary", action="store_true", help="print the README's short table")
    parser.add_argument("--transfer", action="store_true", help="print the transfer tables")
    parser.add_argument(
        "--own-people",
        action="store_true",
        help="with --matcher: attackers with people of their own; without: print their table",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the halves of --own-people")
    parser.add_argument("--plot", action="store_true", help="draw results/tradeoff.png")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
    if arguments.summary:
        print(summary())
    if arguments.transfer:
        print(transfer_tables())
    if arguments.plot:
        from plot import draw

        draw(RESULTS / "tradeoff.png")
    if arguments.own_people and not arguments.matcher:
        print(own_people_table())
    if arguments.matcher:
        from privface.cli.show import progress_bars

        with progress_bars() as progress:
            if arguments.own_people:
                own_people(arguments.matcher, arguments.out, arguments.only, arguments.seed, progress)
            else:
                run(arguments.matcher, arguments.out, arguments.only, progress)


def run(matcher: str, out: Path, only: tuple[str, ...], progress: Progress) -> None:
    """All steps of one matcher; results appear one by one."""
    for name in ("lfw", "utkface"):
        prepare(matcher, name, out, progress)
    if not (RESULTS / matcher / "none.json").is_file():
        save(matcher, "none", audit("none", matcher, out, "lfw", progress))
    for name in only:
        fit(name, matcher, out, progress)
        if not (RESULTS / matcher / f"{name}.json").is_file():
            result = audit(name, matcher, out, "lfw", progress)
            if name in MANY_LABELS:
                result["many_labels"] = attack_with_many_labels(name, matcher, out)
                result["utkface"] = audit(name, matcher, out, "utkface", progress)
            save(matcher, name, result)
            print(matcher, name, line(result), flush=True)
    for name in MANY_LABELS if matcher != "mini" else ():
        other = "b" if matcher == "a" else "a"
        path = RESULTS / matcher / f"{name}-of-{other}.json"
        if name in only and not path.is_file():
            fit(name, other, out, progress)
            save(matcher, path.stem, audit(name, matcher, out, "lfw", progress, fitted_on=other))


def own_people(matcher: str, out: Path, only: tuple[str, ...], seed: int, progress: Progress) -> None:
    """Erasers fitted on one half of LFW `train`, attacked by who knows the other half; all people of `val` are attacked."""
    from methods import write_halves

    prepare(matcher, "lfw", out, progress)
    wanted = {*only, *(() if seed else ("none",))}
    mark, halves = _mark(seed), out / f"halves{seed}.csv"
    write_halves(labels("lfw", out), halves, seed=seed)
    table = embeddings(matcher, "lfw", out)
    for name in OWN_PEOPLE:
        if load(matcher, f"{name}-{mark}") is not None or name not in wanted:
            continue
        folder, after = out / "erasers" / matcher / f"{name}-half{seed}", table
        if name != "none":
            after = out / "erased" / f"lfw_{matcher}_{name}_half{seed}.parquet"
            source = EraserSource(table, halves, "train")
            row = ROWS[name]
            fit_eraser(
                source, folder, method=row.method, settings=row.settings, overwrite=True, progress=progress
            )
            apply_eraser(folder, table, after, overwrite=True)
        result = audit_tables(
            table,
            after,
            labels=halves,
            split="val",
            attackers=AttackerSet(table, after, halves, "attackers"),
            eraser=None if name == "none" else folder,
            out=out / "audits" / f"lfw_{matcher}_{name}_{mark}",
            options=AuditOptions(effort="standard", cache=out / "cache"),
            progress=progress,
        )
        document = result.to_dict()
        more = {key: document[key] for key in ("label_budget", "learning_curve")}
        save(matcher, f"{name}-{mark}", {**figures(document), **more})
        print(matcher, name, line(figures(document)), flush=True)


def _mark(seed: int) -> str:
    return f"own-people{f'-seed{seed}' if seed else ''}"


def save(matcher: str, name: str, result: dict[str, Any]) -> None:
    write_atomic(
        RESULTS / matcher / f"{name}.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode()
    )


# --- steps --------------------------------------------------------------------------------------------------------------


def embeddings(matcher: str, name: str, out: Path) -> Path:
    return out / "emb" / f"{name}_{matcher}.parquet"


def labels(name: str, out: Path) -> Path:
    return out / f"{name}.csv"


def prepare(matcher: str, name: str, out: Path, progress: Progress) -> None:
    """Embeddings of all photos of a set, and its labels: of UTKFace, small children are left out."""
    data, models = Path(os.environ["PRIVFACE_DATA"]), Path(os.environ["PRIVFACE_MODELS"])
    frame = pd.read_csv(data / f"{name}.csv")
    if name == "utkface":
        frame = frame[frame["age"] >= 10]
    kept = [c for c in ("file", "identity", "gender", "split") if c in frame]
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(labels(name, out), frame[kept].to_csv(index=False).encode())
    path = embeddings(matcher, name, out)
    if path.is_file():
        return
    spec = (
        f"mini:{train_mini(out, progress)}"
        if matcher == "mini"
        else f"onnx:{models / f'matcher_mobilefacenet_{matcher}.onnx'}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    embed(
        Path(f"table:{data}"),
        path,
        matcher=spec,
        labels=data / f"{name}.csv",
        faces="landmarks",
        progress=progress,
    )


def train_mini(out: Path, progress: Progress) -> Path:
    """A small matcher of our own, trained on the people of LFW `train` who have two photos or more."""
    from privface.config import DataSettings
    from privface.models import save_network
    from privface.pipeline import load_aligned, open_data
    from privface.pipeline.methods.base import classifier_spec
    from privface.training import ArraySource, train_matcher

    folder = out / "mini"
    if (folder / "model.safetensors").is_file():
        return folder
    data = Path(os.environ["PRIVFACE_DATA"])
    people = open_data(DataSettings(source=f"table:{data}", labels=str(data / "lfw.csv"), split="train"))
    _, person, counts = np.unique(people.identities, return_inverse=True, return_counts=True)
    loaded = load_aligned(
        people.take(np.flatnonzero(counts[person] > 1)),
        mode="landmarks",
        size=112,
        progress=progress,
        stage="align",
    )
    spec = classifier_spec(size=64, crop="frame")
    network = train_matcher(
        ArraySource(loaded.pixels),
        loaded.table.identities,
        spec=spec,
        epochs=12,
        width=24,
        progress=lambda done, total, _: progress("train mini", done, total),
    )
    save_network(folder, network, kind="matcher", meta={"input_size": spec.size[0], "crop": list(spec.crop)})
    return folder


def fit(name: str, matcher: str, out: Path, progress: Progress) -> Path:
    folder = out / "erasers" / matcher / name
    if (folder / "eraser.safetensors").is_file():
        return folder
    row = ROWS[name]
    source = EraserSource(embeddings(matcher, "lfw", out), labels("lfw", out), "train")
    more = (
        [EraserSource(embeddings(matcher, "utkface", out), labels("utkface", out), "train")]
        if row.more
        else []
    )
    fit_eraser(
        source, folder, method=row.method, settings=row.settings, more=more, overwrite=True, progress=progress
    )
    return folder


def erased(name: str, matcher: str, out: Path, data: str, fitted_on: str) -> Path:
    """The erased table of a set; ``none`` is the table itself."""
    if name == "none":
        return embeddings(matcher, data, out)
    path = out / "erased" / f"{data}_{matcher}_{name}_{fitted_on}.parquet"
    if not path.is_file():
        apply_eraser(out / "erasers" / fitted_on / name, embeddings(matcher, data, out), path)
    return path


def audit(
    name: str, matcher: str, out: Path, data: str, progress: Progress, *, fitted_on: str | None = None
) -> dict[str, Any]:
    """Every attacker on the people of the split `val`; the figures that the tables need, with intervals."""
    folder = out / "audits" / f"{data}_{matcher}_{name}_{fitted_on or matcher}"
    eraser = None if name == "none" or fitted_on else out / "erasers" / matcher / name
    result = audit_tables(
        embeddings(matcher, data, out),
        erased(name, matcher, out, data, fitted_on or matcher),
        labels=labels(data, out),
        split="val",
        out=folder,
        options=AuditOptions(effort="standard", cache=out / "cache"),
        eraser=eraser,
        progress=progress,
    )
    return figures(result.to_dict())


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """What the tables need of an audit."""
    chosen = document["worst_retrained"]["probe"]
    # no probe counts where none reads the originals: then nothing can be said of any eraser
    worst = next((row for row in document["leakage"] if row["probe"] == chosen), None)
    unknown = {"probe": "none counts", "leakage": {"value": None}, "balanced_accuracy": {"value": None}}
    return {
        "worst": unknown if worst is None else {k: worst[k] for k in unknown},
        "probes": [
            {k: row[k] for k in ("probe", "kind", "leakage", "balanced_accuracy")}
            for row in document["leakage"]
        ],
        "matching": [
            {
                "mode": m["mode"],
                "impostors": m["impostors"],
                "tmr": m["tmr"]["0.001"],
                "tmr_1e-2": m["tmr"]["0.01"],
            }
            for m in document["matching"]
        ],
        "people": document["data"]["people"],
    }


def attack_with_many_labels(name: str, matcher: str, out: Path) -> list[dict[str, Any]]:
    """Attackers trained on all erased embeddings of LFW `train`: the eraser's own people, five times as many.

    Settings are chosen on the validation people of the audit, figures come from its test people.
    """
    table = LabelFile(labels("lfw", out)).join(read_embeddings(erased(name, matcher, out, "lfw", matcher)))
    rows = (table.labels["split"] == "train").to_numpy()
    data = audited(name, matcher, out)
    known = Known(
        table.vectors[rows],
        (table.labels["gender"] == "male").to_numpy(np.int64)[rows],
        table.labels["identity"].to_numpy(str)[rows],
    )
    return attack(known, data, next(iter(data.embeddings.values()))[1], ("rbf-svm", "mlp", "quadratic"))


@dataclass(frozen=True)
class Known:
    """What an attacker learns from."""

    x: np.ndarray
    genders: np.ndarray
    people: np.ndarray


SHARES = (0.5, 0.15, 0.35)
"""The audit's own division of people."""


def audited(name: str, matcher: str, out: Path) -> EmbeddingData:
    return pair_tables(
        read_embeddings(embeddings(matcher, "lfw", out)),
        read_embeddings(erased(name, matcher, out, "lfw", matcher)),
        labels=labels("lfw", out),
        split="val",
    )


def attack(
    known: Known, data: EmbeddingData, x: np.ndarray, kinds: Sequence[ProbeKind]
) -> list[dict[str, Any]]:
    """Leakage of ``x``: settings chosen on the audit's validation people, figures from its test people."""
    people = People.split(data, SHARES, seed=0)
    found = []
    for kind in kinds:
        probe = EmbeddingProbe(kind).fit(
            known.x, known.genders, known.people, x[people.val], data.genders[people.val], seed=0
        )
        found.append(read(kind, probe.scores(x[people.test]), data))
    return found


def read(name: str, scores: np.ndarray, data: EmbeddingData) -> dict[str, Any]:
    """Leakage of an attacker's scores of the audit's test people, with its interval."""
    test = People.split(data, SHARES, seed=0).test
    truth = data.genders[test]
    fold = leakage_interval(
        probe_interval(scores, truth, data.identities[test], weighted_auc, BootstrapParams())
    )
    value = leakage(auc(*by_label(scores, truth)))
    return {"probe": name, "leakage": {"value": value, "low": fold.low, "high": fold.high}}


# --- what is printed ----------------------------------------------------------------------------------------------------


def load(matcher: str, name: str) -> dict[str, Any] | None:
    path = RESULTS / matcher / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def highest(result: dict[str, Any]) -> float:
    """The highest balanced accuracy that any attacker of the battery reached, chosen with hindsight."""
    return max(
        row["balanced_accuracy"]["value"]
        for row in result["probes"]
        if row["balanced_accuracy"]["value"] is not None
    )


def tmr(
    result: dict[str, Any], mode: str = "P-P", impostors: str = "all", key: str = "tmr"
) -> dict[str, Any]:
    return next(m[key] for m in result["matching"] if (m["mode"], m["impostors"]) == (mode, impostors))


def cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure.get("low") is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def line(result: dict[str, Any]) -> str:
    worst = result["worst"]
    return (
        f"{worst['probe']} BA {cell(worst['balanced_accuracy'])} highest {highest(result):.3f}"
        f" TMR@1e-3 {cell(tmr(result))} same {cell(tmr(result, impostors='same-gender'))}"
    )


def table() -> str:
    """Every eraser on every matcher, in Markdown."""
    lines = []
    for matcher in MATCHERS:
        results = {name: load(matcher, name) for name in ("none", *ROWS)}
        lines += [
            "",
            f"Matcher {matcher}:",
            "",
            "| eraser | worst attacker | its AUC | its balanced accuracy | highest of all attackers | TMR@1e-3 | same-gender | P-O |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, result in results.items():
            if result is None:
                continue
            words = "nothing" if name == "none" else ROWS[name].words
            worst = result["worst"]
            lines.append(
                f"| {words} | {worst['probe']} | {cell(worst['leakage'])} | {cell(worst['balanced_accuracy'])} | {highest(result):.3f}"
                f" | {cell(tmr(result))} | {cell(tmr(result, impostors='same-gender'))} | {cell(tmr(result, mode='P-O'))} |"
            )
    return "\n".join(lines[1:])


def summary() -> str:
    """The README's short table: two matchers, four treatments."""
    lines = [
        "| stored embeddings | matcher | best attacker of the audit reads gender (balanced accuracy) | TMR at FMR 1e-3 | among one gender |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, words in (("none", "as they are"), *((n, ROWS[n].words) for n in MANY_LABELS)):
        for matcher in ("a", "b"):
            result = load(matcher, name)
            if result is None:
                continue
            lines.append(
                f"| {words} | {matcher} | {cell(result['worst']['balanced_accuracy'])} | {tmr(result)['value']:.3f}"
                f" | {tmr(result, impostors='same-gender')['value']:.3f} |"
            )
    return "\n".join(lines)


def transfer_tables() -> str:
    """Other matchers, another set, and an attacker who knows thousands of genders."""
    lines = [
        "| eraser | matcher | battery on LFW `val` | attacker with 4,061 labelled people | eraser of the other matcher | on UTKFace `val` |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in MANY_LABELS:
        for matcher in MATCHERS:
            result = load(matcher, name)
            if result is None:
                continue
            other = load(matcher, f"{name}-of-{'b' if matcher == 'a' else 'a'}")
            many = max(result["many_labels"], key=lambda row: row["leakage"]["value"])
            lines.append(
                f"| {ROWS[name].words} | {matcher} | {cell(result['worst']['leakage'])} | {many['probe']} {cell(many['leakage'])}"
                f" | {cell(other['worst']['leakage']) if other else '-'} | {cell(result['utkface']['worst']['leakage'])} |"
            )
    lines += ["", "PE-MIU after its blocks were lined up again, by an attacker with the matcher:", ""]
    for matcher in MATCHERS:
        found = load(matcher, "pe-miu-lined-up")
        if found is not None:
            best = max(found["probes"], key=lambda row: row["leakage"]["value"])
            lines.append(
                f"- matcher {matcher}: {best['probe']} reads gender at {cell(best['leakage'])};"
                f" {best['values_in_place']:.0%} of all values are back in their place"
            )
    return "\n".join(lines)


def own_people_table() -> str:
    """What attackers read who know many people that the eraser has not met."""
    lines = [
        "| eraser | matcher | 50 people | 200 | 1,000 | all | ten times as many (extrapolated) | worst attacker | its balanced accuracy, other halves | TMR@1e-2 | TMR@1e-3 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in OWN_PEOPLE:
        for matcher in MATCHERS:
            result = load(matcher, f"{name}-{_mark(0)}")
            if result is None:
                continue
            budget = " | ".join(f"{row['leakage']['value']:.3f}" for row in result["label_budget"])
            (curve,), worst = result["learning_curve"], result["worst"]
            further = [load(matcher, f"{name}-{_mark(seed)}") for seed in (1, 2)]
            others = [f"{r['worst']['balanced_accuracy']['value']:.3f}" for r in further if r is not None]
            words = "nothing" if name == "none" else ROWS[name].words
            lines.append(
                f"| {words} | {matcher} | {budget} | {cell(curve['ten_times'])} | {worst['probe']} {cell(worst['leakage'])}"
                f" | {', '.join([cell(worst['balanced_accuracy']), *others])} | {cell(tmr(result, key='tmr_1e-2'))} | {cell(tmr(result))} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
