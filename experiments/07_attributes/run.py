"""Experiment 07: gender, race and age hidden one by one and all at once, by one model; what is kept of the others.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/07_attributes/run.py audit CHOICE [CHOICE ...]

A choice is nothing, gender, race, age or all. `audit`: attackers on UTKFace `val` adults, retrained for each attribute on images, on an unseen
matcher's embeddings and on the model's own code, and how a matcher that nothing has met recognises people of LFW `val`
(results/CHOICE.json). What has a result is left alone. `splits CHOICE ...`: the few attackers of effort `quick`,
with three divisions of the photos into the attackers' and the victims' (results/splits.json). From the results:

    python experiments/07_attributes/run.py table | kept | divisions | trainings | efforts | codes | plot

`divisions` sets audits of one model beside one another that divide the photos otherwise (`audit --seed N --results FOLDER/division-N`),
`trainings` those of models that were trained with other seeds (`audit --model MODEL --results FOLDER/training-N`),
`efforts` those that sent other attackers (`audit --effort full --results FOLDER/effort-full`).

`measure-codes` comes before all of it: chains of erasers on codes alone (results/codes.json).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import codes
import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ATTRIBUTES = ("gender", "race", "age=16,30,45,60")
CHOICES = {
    "nothing": (),
    "gender": ("gender",),
    "race": ("race",),
    "age": ("age",),
    "all": ("gender", "race", "age"),
}
BESIDE = {"divisions": "0", "trainings": "0", "efforts": "standard"}
"""What audits are set beside one another for, and which of them lies in the folder itself."""
ENCODERS = ("mobilefacenet_a", "facefeature", "dlib_resnet")
UNSEEN = "matcher_mobilefacenet_b"
SEEDS = range(3)
SPLITS = "splits.json"
KEPT = (
    "attribute",
    "medium",
    "probe",
    "input",
    "chance",
    "original",
    "protected",
    "highest",
    "original_auc",
    "auc",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=("audit", "splits", "table", "kept", *BESIDE, "measure-codes", "codes", "plot"),
    )
    parser.add_argument("choice", nargs="*", help="what to hide")
    parser.add_argument("--model", type=Path, default=Path("runs/07/model"))
    parser.add_argument(
        "--effort", choices=("quick", "standard", "full"), default="standard", help="of `audit`"
    )
    parser.add_argument("--seed", type=int, default=0, help="of `audit`'s division of the photos")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where a trial's figures go")
    parser.add_argument(
        "--hidden-only", action="store_true", help="`audit` attacks what is hidden, not what is kept"
    )
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(table(arguments.results))
    elif arguments.what == "kept":
        print(kept(arguments.results))
    elif arguments.what in BESIDE:
        print(beside(arguments.results, arguments.what.removesuffix("s"), BESIDE[arguments.what]))
    elif arguments.what == "codes":
        print(codes.table(arguments.results / "codes.json"))
    elif arguments.what == "plot":
        plot(arguments.results, HERE / "trade_off.png")
    else:
        from privface.cli.show import progress_bars

        with progress_bars() as progress:
            if arguments.what == "measure-codes":
                from privface.attributes import parse_attributes

                specs = [model(f"matcher_{name}") for name in ENCODERS]
                path = arguments.results / "codes.json"
                codes.measure(specs, parse_attributes(ATTRIBUTES), path, progress)
                return
            if arguments.what == "splits":
                splits(arguments, progress)
                return
            for choice in arguments.choice or CHOICES:
                path = place(arguments.results, choice)
                if path.is_file():
                    print(f"{path.name} is there; delete it to measure anew.")
                else:
                    audit(choice, path, arguments, progress)


def faces(name: str, progress: Any, **filters: Any) -> Any:
    """Aligned faces of a set's split `val`."""
    from privface.config import DataSettings
    from privface.pipeline.faces import load_aligned, open_data

    data = Path(os.environ["PRIVFACE_DATA"])
    settings = DataSettings(
        source=f"table:{data}", labels=str(data / f"{name}.csv"), split="val", faces="landmarks", **filters
    )
    return load_aligned(open_data(settings).labelled(), mode="landmarks", size=112, progress=progress)


def model(name: str) -> str:
    """Specification of a matcher or gender classifier of others."""
    sidecar = f"@{HERE.parent / '01_san_on_lfw' / name}.yaml" if name.startswith("gender") else ""
    return f"onnx:{os.environ['PRIVFACE_MODELS']}/{name}.onnx{sidecar}"


def audit(choice: str, path: Path, arguments: argparse.Namespace, progress: Any) -> None:
    """Leakage on UTKFace adults, matching on LFW; one file."""
    from privface.audit import evaluate_matching
    from privface.audit.result import to_json_data
    from privface.device import Device
    from privface.images import to_unit, write_atomic
    from privface.models import Protector, load_matcher
    from privface.pipeline import AuditOptions, audit_protector
    from privface.pipeline.inspect import protected_pixels

    here, hidden = Device.choose(), CHOICES[choice]
    by: Any = Protector.load(arguments.model, hide=hidden, device=here) if hidden else (lambda images: images)
    attacked = tuple(a for a in ATTRIBUTES if not arguments.hidden_only or a.partition("=")[0] in hidden)
    options = AuditOptions(
        effort=arguments.effort, seed=arguments.seed, attributes=attacked, cache=Path("runs/07/cache")
    )
    result, _ = audit_protector(
        faces("utkface", progress, minimum_age=18),
        by,
        matchers=[model(UNSEEN)],
        probes=[model("gender_tinyxception")],
        model=arguments.model if hidden else None,
        options=options,
        progress=progress,
    )
    people = faces("lfw", progress)
    matcher = load_matcher(model(UNSEEN)).on(here)

    def embed(pixels: Any) -> Any:
        parts = np.array_split(pixels, len(pixels) // 64)
        return np.concatenate([matcher.embed(to_unit(part)) for part in parts])

    rows = evaluate_matching(
        embed(people.pixels),
        embed(protected_pixels(by, people.pixels, progress)),
        people.table.identities,
        people.table.genders,
        matcher="b",
        max_impostors=len(people) ** 2,
    )
    found = {
        "hidden": list(hidden),
        "effort": arguments.effort,
        "seed": arguments.seed,
        "photos_attacked": result.document["attributes"][0]["protected"]["n"],
        "attributes": [{key: row[key] for key in KEPT} for row in result.document["attributes"]],
        "matching": {
            f"{row.mode} {row.impostors}": {f"{fmr:g}": row.tmr[fmr] for fmr in (1e-2, 1e-3)} for row in rows
        },
    }
    write_atomic(path, (json.dumps(to_json_data(found), indent=1, sort_keys=True) + "\n").encode())
    print(f"{choice}: written", flush=True)


class Once:
    """A protector that remembers what it made of each batch; attackers of several seeds see the same faces."""

    def __init__(self, protector: Any) -> None:
        self.has_code, self._protector = getattr(protector, "has_code", False), protector
        self._made: dict[bytes, Any] = {}

    def __call__(self, images: Any) -> Any:
        return self._remembered(b"faces", self._protector, images)

    def codes(self, images: Any) -> Any:
        return self._remembered(b"codes", self._protector.codes, images)

    def _remembered(self, what: bytes, make: Any, images: Any) -> Any:
        key = what + hashlib.sha256(images.tobytes()).digest()
        if key not in self._made:
            self._made[key] = make(images)
        return self._made[key]


def splits(arguments: argparse.Namespace, progress: Any) -> None:
    """Balanced accuracy of the worst attacker on each attribute, for each choice and seed; the file is written after each."""
    from privface.device import Device
    from privface.images import write_atomic
    from privface.models import Protector
    from privface.pipeline import AuditOptions, audit_protector

    path = arguments.results / SPLITS
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    people = faces("utkface", progress, minimum_age=18)
    for choice in arguments.choice or CHOICES:
        hidden = CHOICES[choice]
        by: Any = Once(
            Protector.load(arguments.model, hide=hidden, device=Device.choose())
            if hidden
            else lambda images: images
        )
        for seed in SEEDS:
            if any((row["choice"], row["seed"]) == (choice, seed) for row in rows):
                continue
            result, _ = audit_protector(
                people,
                by,
                matchers=[model(UNSEEN)],
                probes=[],
                model=arguments.model if hidden else None,
                options=AuditOptions(
                    effort="quick", seed=seed, attributes=ATTRIBUTES, cache=Path("runs/07/cache")
                ),
                progress=progress,
            )
            read = {
                row["attribute"]: round(row["protected"]["value"], 4)
                for row in result.to_dict()["attributes"]
                if row["medium"] == "any"
            }
            rows.append({"choice": choice, "seed": seed, "read": read})
            write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())


def kept(folder: Path) -> str:
    """What is read of each attribute, mean and range over the divisions; of what is kept, how many points more than of originals."""
    rows = json.loads((folder / SPLITS).read_text(encoding="utf-8"))
    names = [text.partition("=")[0] for text in ATTRIBUTES]
    read = {(row["choice"], row["seed"]): row["read"] for row in rows}
    lines = [f"| hidden | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for choice, hidden in CHOICES.items():
        if not all((choice, seed) in read for seed in SEEDS):
            continue
        cells = []
        for name in names:
            values = np.array([read[choice, seed][name] for seed in SEEDS])
            told = f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"
            if name in hidden:
                told = f"**{told}**"
            elif hidden:
                more = 100 * (values - np.array([read["nothing", seed][name] for seed in SEEDS]))
                told += f", {more.mean():+.1f} points ({more.min():+.1f} to {more.max():+.1f})"
            cells.append(told)
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beside(folder: Path, what: str, first: str) -> str:
    """For each choice and each ``what``, the ``first`` of which lies in the folder itself: the worst attacker on each attribute, and the highest; then mean and range, but of efforts."""
    names = [text.partition("=")[0] for text in ATTRIBUTES]
    parts = {first: folder, **{p.name.partition("-")[2]: p for p in sorted(folder.glob(f"{what}-*"))}}
    audits = {label: read(part) for label, part in parts.items()}
    heads = ["hidden", what, *(f"{name}: {which}" for which in ("worst", "highest") for name in names)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for choice, hidden in CHOICES.items():
        results = {label: found[choice] for label, found in audits.items() if choice in found}
        if not hidden or len(results) < 2:
            continue
        rows = np.array(
            [
                [
                    _row(result, name, "any")[key]["value"]
                    for key in ("protected", "highest")
                    for name in names
                ]
                for result in results.values()
            ]
        )
        for label, row in zip(results, rows, strict=True):
            lines.append(_line(choice, label, [f"{value:.3f}" for value in row], names, hidden))
        if what == "effort":  # the same faces and photos: no mean of attackers
            continue
        told = [f"{column.mean():.3f} ({column.min():.3f} to {column.max():.3f})" for column in rows.T]
        lines.append(_line(choice, "mean, range", told, names, hidden))
    return "\n".join(lines)


def _line(choice: str, label: str, cells: list[str], names: list[str], hidden: tuple[str, ...]) -> str:
    """A row of such a table; what is hidden is bold."""
    marks = [name in hidden for name in names] * 2
    told = [f"**{cell}**" if mark else cell for cell, mark in zip(cells, marks, strict=True)]
    return f"| {' | '.join([choice, label, *told])} |"


def place(folder: Path, choice: str) -> Path:
    """Where a choice's figures lie; originals are the same for every model."""
    return (RESULTS if choice == "nothing" else folder) / f"{choice}.json"


def read(folder: Path) -> dict[str, Any]:
    """The results that are there, by choice."""
    files = {choice: place(folder, choice) for choice in CHOICES}
    return {c: json.loads(f.read_text(encoding="utf-8")) for c, f in files.items() if f.is_file()}


def table(folder: Path) -> str:
    """Balanced accuracy of the worst attacker of each attribute, the highest of all that count, and matching kept."""
    found = read(folder)
    names = [text.partition("=")[0] for text in ATTRIBUTES]
    plain = found["nothing"]["matching"]
    media = {"white-box": "code", "embedding": "*b*", "image": "images"}
    heads = [f"{n}: worst, highest" for n in names] + [f"{m}: {', '.join(names)}" for m in media.values()]
    heads = ["hidden", *heads, "*b* P-P 1e-2, 1e-3", "P-O"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for choice, result in found.items():
        cells = []
        for name in names:
            row = _row(result, name, "any")
            if row is None:
                cells.append("-")
                continue
            low, high = (row["protected"][end] for end in ("low", "high"))
            cell = f"{row['protected']['value']:.3f} [{low:.3f}, {high:.3f}], {row['highest']['value']:.3f}"
            cells.append(f"**{cell}**" if name in result["hidden"] else cell)
        for medium in media:
            worst = [_row(result, name, medium) for name in names]
            told = [None if row is None else row["protected"]["value"] for row in worst]
            cells.append(", ".join("-" if value is None else f"{value:.3f}" for value in told))
        shares = [_share(result, plain, "P-P all", fmr) for fmr in ("0.01", "0.001")]
        cells.append(", ".join(f"{100 * share:.1f} %" for share in shares))
        cells.append(f"{100 * _share(result, plain, 'P-O all', '0.01'):.1f} %")
        lines.append(f"| {choice} | " + " | ".join(cells) + " |")
    chance = ", ".join(f"{name} {_row(found['nothing'], name, 'any')['chance']:.2f}" for name in names)
    return "\n".join([*lines, "", f"A guess: {chance}."])


def _row(result: dict[str, Any], name: str, medium: str) -> Any:
    return next((r for r in result["attributes"] if (r["attribute"], r["medium"]) == (name, medium)), None)


def _share(result: dict[str, Any], plain: dict[str, Any], mode: str, fmr: str) -> float:
    """True match rate as a share of that of originals against originals."""
    return float(result["matching"][mode][fmr]["value"] / plain["O-O all"][fmr]["value"])


def plot(folder: Path, out: Path) -> None:
    """What is read of each attribute (0 is a guess, 1 perfect) for each choice, with matching kept beside."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("Agg")
    found = read(folder)
    names = [text.partition("=")[0] for text in ATTRIBUTES]
    figure, axes = plt.subplots(figsize=(8.4, 3.6))
    width = 0.26
    for place, name in enumerate(names):
        for position, (_, result) in enumerate(found.items()):
            row = _row(result, name, "any")
            scale = [
                (row["protected"][end] - row["chance"]) / (1 - row["chance"])
                for end in ("value", "low", "high")
            ]
            hidden = name in result["hidden"]
            axes.bar(
                position + (place - 1) * width,
                scale[0],
                width * 0.92,
                color=f"C{place}",
                alpha=1.0 if hidden else 0.35,
                label=name if hidden and name not in axes.get_legend_handles_labels()[1] else None,
                yerr=[[max(scale[0] - scale[1], 0)], [scale[2] - scale[0]]],
                ecolor="0.3",
            )
    plain = found["nothing"]["matching"]
    labels = [
        f"{choice}\n{100 * _share(result, plain, 'P-P all', '0.01'):.1f} %"
        for choice, result in found.items()
    ]
    axes.set_xticks(range(len(found)), labels)
    axes.set_xlabel("hidden, and matches kept by an unseen matcher (TMR at FMR 1e-2, share of originals)")
    axes.set_ylabel("read by the worst attacker\n(0 a guess, 1 perfect)")
    axes.set_ylim(0, 1)
    axes.legend(title="full colour: hidden", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
