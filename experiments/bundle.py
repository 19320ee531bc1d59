"""Puts trained models into the package: copies them, writes their hashes and cards, checks that they load.

    python experiments/bundle.py RUN MATCHER GENDER --audit AUDIT/audit.json \
        --trained-by san="privface train --config ... --out ..." --data gender=lfw,utkface

RUN is a run folder of `privface train`, MATCHER and GENDER are folders of `mini:` models (such as `demo/matcher` and
`runs/mine/classifiers/0`). Nothing else of them is taken: no photo, no name or digest of a person, no path. Of each card
(`README.md` beside the weights, written by hand) only what stands between its marks is replaced. A figure of a card is one
of AUDIT, an audit of photos that RUN protected; without AUDIT the cards say that nothing was measured. `--grey` takes the
run folder of a second protector, `bundled:san-grey`, and `--grey-audit` its audit; left out, the one of the package stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from privface.audit import AuditResult
from privface.audit.result import read_figure
from privface.models import bundled, load_gender_probe, load_matcher
from privface.models.bundled import MANIFEST, MODEL_CARD, PREFIX, SCHEMA
from privface.models.checkpoint import CARD, WEIGHTS, load_network
from privface.models.inventory import verify_model
from privface.models.protector import Protector
from privface.pipeline.fit import PROVENANCE_FILE

PACKAGE = Path(__file__).parents[1] / "privface" / "models" / "weights"
ROLES = {"san": "protector", "san-grey": "protector", "matcher": "matcher", "gender": "gender classifier"}
LIMIT = 12_000_000
"""Bytes of all files together."""

TERMS = {
    "lfw": "LFW (research use)",
    "utkface": "UTKFace (non-commercial research use)",
    "mobilefacenet-a": "the embeddings of a MobileFaceNet that states no licence (research use)",
    "drawn": "drawn people (MIT)",
    "nothing": "nothing: initial weights, a placeholder",
}
"""Data sets and what their terms allow."""

KEPT = ("method", "privface", "torch", "precision", "seed", "settings", "data", "matchers", "classifiers")
KEPT += ("start", "steps", "minutes")
"""What is taken over of a run's provenance; digests of people's names, which a list of names would undo, are not."""


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _arguments(arguments)
    sources = {"san": asked.run, "matcher": asked.matcher, "gender": asked.gender}
    audits = {name: [AuditResult.load(file).to_dict() for file in asked.audit] for name in sources}
    audited_by = dict.fromkeys(sources, asked.audited_by)
    data = {"san": _data_of_run(asked.run), "matcher": ["lfw"], "gender": ["lfw"]}
    models: dict[str, Any] = {}
    if asked.grey is not None:
        sources["san-grey"], data["san-grey"] = asked.grey, _data_of_run(asked.grey)
        audits["san-grey"] = [AuditResult.load(file).to_dict() for file in asked.grey_audit]
        audited_by["san-grey"] = asked.grey_audited_by
    elif (asked.to / MANIFEST).is_file():
        before = json.loads((asked.to / MANIFEST).read_text(encoding="utf-8"))["models"]
        models |= {name: entry for name, entry in before.items() if name == "san-grey"}
    data |= {name: value.split(",") for name, value in _pairs(asked.data).items()}
    commands = _pairs(asked.trained_by)
    _refuse_paths(commands, where="--trained-by")
    for name, source in sources.items():
        terms = [TERMS[one] for one in data[name]]  # a set that is not listed has terms nobody looked up
        files = _copy(name, source, asked.to / name)
        models[name] = {
            "role": ROLES[name],
            "licence": "MIT for the weights; learnt from " + ", ".join(terms),
            "source": f"trained by privface on {', '.join(data[name])}",
            "files": files,
        }
    manifest = {"schema": SCHEMA, "models": models}
    (asked.to / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name in sources:
        if ROLES[name] == "protector":
            for audit in audits[name]:
                _require_audit_of(asked.to / name, audit)
    bundled._ROOT = asked.to  # noqa: SLF001 - checked where they were written, by the package's own reader
    for name in sources:
        found = verify_model(f"{PREFIX}{name}")
        _write_card(
            asked.to / name / MODEL_CARD,
            facts=_facts(name, asked.to / name, data[name], commands.get(name)),
            figures=_figures(name, audits[name], audited_by[name]),
        )
        print(*found, sep="  ")
    total = sum(file.stat().st_size for file in asked.to.rglob("*") if file.is_file())
    if total > LIMIT:
        raise SystemExit(f"All files together have {total:,} bytes; the limit is {LIMIT:,}.")
    print(f"{asked.to}: {total:,} bytes")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of `privface train`")
    parser.add_argument("matcher", type=Path, help="folder of a matcher")
    parser.add_argument("gender", type=Path, help="folder of a gender classifier")
    parser.add_argument(
        "--audit",
        type=Path,
        action="append",
        default=[],
        help="audit.json of photos that RUN protected; of several, a card takes the first that has its model",
    )
    parser.add_argument(
        "--audited-by", action="append", default=[], metavar="COMMAND", help="what made them, in their order"
    )
    parser.add_argument("--grey", type=Path, help="run folder of a protector without colour")
    parser.add_argument(
        "--grey-audit", type=Path, action="append", default=[], help="audit.json of its photos"
    )
    parser.add_argument("--grey-audited-by", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--trained-by", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--data", action="append", default=[], metavar=f"NAME={','.join(TERMS)}")
    parser.add_argument("--to", type=Path, default=PACKAGE, help="another folder with cards, for trying")
    return parser.parse_args(arguments)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    found = {name: value for name, _, value in (item.partition("=") for item in given)}
    if unknown := set(found) - set(ROLES):
        raise SystemExit(f"There is no model {sorted(unknown)[0]!r}; there are {', '.join(ROLES)}.")
    return found


def _data_of_run(run: Path) -> list[str]:
    provenance = json.loads((run / PROVENANCE_FILE).read_text(encoding="utf-8"))
    return [str(provenance["data"]["name"])]


def _require_audit_of(folder: Path, audit: Mapping[str, Any]) -> None:
    """An audit does not name the protector, but it marks what the protector has met."""
    run = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    met = {model["sha256"] for key in ("matchers", "classifiers") for model in run[key]}
    audited = [model for key in ("matchers", "probes") for model in audit["provenance"][key]]
    for model in audited:
        if model["seen"] is not (model["fingerprint"] in met):
            raise SystemExit(
                f"The audit is of another run: it says of {model['name']} seen={model['seen']}. Audit with --model RUN."
            )


# files ----------------------------------------------------------------------------------------------------


def _copy(name: str, source: Path, folder: Path) -> dict[str, str]:
    """Weights, their description and, of a run, what it was trained on and against; gives their hashes."""
    with safe_open(source / WEIGHTS, framework="pt") as weights:
        if weights.metadata():
            raise SystemExit(f"{source / WEIGHTS} holds text beside the weights: {weights.metadata()}")
    description = load_network(source)  # refuses what is no model of ours
    _refuse_paths({"config": description.config, "meta": description.meta}, where=str(source / CARD))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    shutil.copyfile(source / CARD, folder / CARD)
    files = [WEIGHTS, CARD]
    if ROLES[name] == "protector":
        provenance = json.loads((source / PROVENANCE_FILE).read_text(encoding="utf-8"))
        kept = {key: provenance[key] for key in KEPT if key in provenance}
        kept["people_not_listed"] = len(provenance["people"])
        _refuse_paths(kept, where=str(source / PROVENANCE_FILE))
        text = json.dumps(kept, indent=1, sort_keys=True) + "\n"
        (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
        files.append(PROVENANCE_FILE)
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def _refuse_paths(content: Any, *, where: str) -> None:
    """No place on the machine that trained: a string that begins a path from the root, or from a home."""
    if isinstance(content, Mapping):
        for value in content.values():
            _refuse_paths(value, where=where)
    elif isinstance(content, list | tuple):
        for value in content:
            _refuse_paths(value, where=where)
    elif isinstance(content, str) and re.search(r"(^|[\s=:'\"])(/|~|[A-Za-z]:\\)\S", content):
        raise SystemExit(f"{where} names a place on a machine: {content!r}")


# cards ----------------------------------------------------------------------------------------------------


def _write_card(card: Path, **blocks: str) -> None:
    text = card.read_text(encoding="utf-8")
    for name, block in blocks.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marks.search(text):
            raise SystemExit(f"{card} has no <!-- {name} --> ... <!-- /{name} -->.")
        text = marks.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    card.write_text(text, encoding="utf-8")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _facts(name: str, folder: Path, data: Sequence[str], command: str | None) -> str:
    spec = f"{PREFIX}{name}"
    saved = load_network(folder)
    parameters = sum(tensor.numel() for tensor in saved.weights.values())
    weights = folder / WEIGHTS
    rows = [
        ["network", f"{saved.kind}, {parameters:,} numbers, {weights.stat().st_size:,} bytes"],
        ["input, output", " → ".join(verify_model(spec)[2:])],
        ["SHA-256 of `model.safetensors`", f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`"],
        ["fingerprint", f"`{_fingerprint(name)}`"],
        ["learnt from", ", ".join(TERMS[one] for one in data)],
        ["trained by", f"`{command}`" if command else "not stated"],
    ]
    if ROLES[name] == "protector":
        rows += _facts_of_run(json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8")))
    return _table(["", ""], rows)


def _fingerprint(name: str) -> str:
    spec = f"{PREFIX}{name}"
    if ROLES[name] == "protector":
        return Protector.load(spec).fingerprint
    return (load_matcher(spec) if name == "matcher" else load_gender_probe(spec)).fingerprint


def _facts_of_run(run: Mapping[str, Any]) -> list[list[str]]:
    data = run["data"]
    photos = (
        f"{data['train_images']:,} of {data['name']} to learn from, {data['validation_images']:,} to validate"
    )
    return [
        ["photos, people", f"{photos}; {run['people_not_listed']:,} people in all"],
        ["matchers met", ", ".join(f"{m['name']} (`{m['sha256'][:12]}`)" for m in run["matchers"])],
        [
            "gender classifiers met",
            ", ".join(f"{c['name']} (`{c['sha256'][:12]}`)" for c in run["classifiers"]),
        ],
        ["run", f"seed {run['seed']}, {run['steps']:,} steps, {run['minutes']:.0f} minutes{_before(run)}"],
        [
            "settings, versions",
            f"`{run['settings']}`; privface {run['privface']}, torch {run['torch']}, {run['precision']}",
        ],
    ]


def _before(run: Mapping[str, Any]) -> str:
    """What a run began with, where that was not chance."""
    start = run.get("start")
    return (
        f", from the weights of a run of {start['steps']:,} steps (settings `{start['settings']}`)"
        if start
        else ""
    )


def _figures(name: str, audits: Sequence[Mapping[str, Any]], commands: Sequence[str]) -> str:
    """Figures of the first audit that has the model, as a table; of the matcher and the classifier those on originals, too."""
    if not audits:
        return "Not measured."
    read = {"protector": _of_protector, "matcher": _of_matcher, "gender classifier": _of_classifier}[
        ROLES[name]
    ]
    having = [k for k, audit in enumerate(audits) if read(audit)]
    if not having:
        return "Not measured: the audit of bundled:san was made without it."
    audit, rows = audits[having[0]], read(audits[having[0]])
    command = commands[having[0]] if having[0] < len(commands) else ""
    data, made = audit["data"], audit["provenance"]
    where = (
        f"{data['images']:,} photos of {data['people']:,} people of {data['name']} ({data['female_people']:,} women, "
        f"{data['male_people']:,} men). Intervals are 95 % over people. privface {made['privface']}, seed {made['seed']}."
    )
    _refuse_paths(command, where="--audited-by")
    return "\n\n".join([where, *([f"`{command}`"] if command else []), _table(["figure", "value"], rows)])


def _cell(figure: Mapping[str, Any] | None) -> str:
    found = read_figure(figure)
    if found.value != found.value:  # NaN
        return f"not measured: {found.reason}"
    if found.low != found.low:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _seen(row: Mapping[str, Any]) -> str:
    return {True: "met in training", False: "never met", None: "not known whether met"}[row["seen"]]


def _of_protector(audit: Mapping[str, Any]) -> list[list[str]]:
    rows = [["**verdict**", audit["verdict"]["headline"]]]
    rows += [
        [
            f"TMR@FMR 1e-2, {row['mode']}, {row['impostors']} impostors, {row['matcher']} ({_seen(row)})",
            _cell(row["tmr"].get("0.01")),
        ]
        for row in audit["matching"]
    ]
    rows += [
        [f"frozen probe {row['probe']} ({_seen(row)}), AUC before → leakage after", _before_after(row)]
        for row in audit["leakage"]
        if row["kind"] == "frozen"
    ]
    for medium, reads in (("image", "protected photos"), ("embedding", "embeddings of protected photos")):
        row = _worst(audit, medium)
        if row is not None:
            what = f"worst attacker trained on {reads} of other people: {row['probe']} on {row['input']}"
            rows.append([f"{what}, AUC before → leakage after", _before_after(row)])
            rows.append([f"{what}, balanced accuracy", _cell(row["balanced_accuracy"])])
    rows.append(["illusion gap", _cell(audit["illusion_gap"])])
    rows += [
        [
            f"FNMR after / before, {row['cohort']} {row['value']}, {row['matcher']}",
            _cell(row["ratio"]),
        ]
        for row in audit["cohorts"]
    ]
    rows += [
        ["SSIM to the original", _cell(audit["quality"].get("ssim"))],
        ["PSNR, dB", _cell(audit["quality"].get("psnr"))],
    ]
    return rows


def _before_after(row: Mapping[str, Any]) -> str:
    return f"{_cell(row['original_auc'])} → {_cell(row['leakage'])}"


def _worst(audit: Mapping[str, Any], medium: str) -> Mapping[str, Any] | None:
    """As the audit's own headline: chosen on validation people, so that its figure is not the luckiest of many."""
    rows = [
        row
        for row in audit["leakage"]
        if row["kind"] != "frozen" and row["measurable"] and row["validation_leakage"] is not None
        if row["input"].partition(":")[0] == medium
    ]
    return max(rows, key=lambda row: row["validation_leakage"], default=None)


def _of_matcher(audit: Mapping[str, Any]) -> list[list[str]]:
    ours = [row for row in audit["matching"] if row["matcher"] == f"{PREFIX}matcher"]
    return [
        [f"{name}, {row['mode']}, {row['impostors']} impostors", _cell(figure)]
        for row in ours
        for name, figure in (
            *((f"TMR@FMR {fmr}", figure) for fmr, figure in row["tmr"].items()),
            ("EER", row["eer"]),
        )
    ]


def _of_classifier(audit: Mapping[str, Any]) -> list[list[str]]:
    ours = [row for row in audit["leakage"] if row["probe"] == f"{PREFIX}gender"]
    return [
        line
        for row in ours
        for line in (
            ["AUC on originals", _cell(row["original_auc"])],
            [f"leakage on photos protected by bundled:san ({_seen(row)})", _cell(row["leakage"])],
        )
    ]


if __name__ == "__main__":
    main()
