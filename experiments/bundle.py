"""Puts trained models into the package: halves their weights, writes hashes and cards, checks that they load.

    python experiments/bundle.py RUN [GENDER] --audit AUDIT/audit.json --trained-by erased="privface train --config ... --out ..."

RUN is a run folder of `privface train` with the method erased-code and one encoder, a network of ours (`bundled:erased`, and its
encoder is `bundled:matcher`); GENDER is the folder of a `mini:` gender classifier, by default the one in the package. Kernels
and matrices are kept in half precision, an eraser's arrays as they are. Nothing else of the folders is taken: no photo, no name
or digest of a person, no path. Of each card (`README.md` in the model's folder, written by hand) only what stands between its
marks is replaced. A figure of a card is one of AUDIT, an audit of photos that `bundled:erased` protected; without AUDIT the
cards say that nothing was measured. So: once without, audit with `--model bundled:erased`, once with; then `experiments/graphs.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from privface.audit import AuditResult
from privface.audit.result import read_figure
from privface.audit.subjects import WHITE_BOX
from privface.models import bundled, load_gender_probe, load_matcher
from privface.models.bundled import MANIFEST, MODEL_CARD, PREFIX, SCHEMA
from privface.models.checkpoint import CARD, WEIGHTS, SavedNetwork, load_network
from privface.models.erased_code import ErasedCode
from privface.models.face_model import network_sha256
from privface.models.inventory import verify_model
from privface.models.onnx_models import GRAPH, MATCHER_GRAPH
from privface.models.protector import Protector
from privface.pipeline.fit import CONFIG_FILE
from privface.pipeline.provenance import PROVENANCE_FILE

PACKAGE = Path(__file__).parents[1] / "privface" / "models" / "weights"
ROLES = {"erased": "protector", "matcher": "matcher", "gender": "gender classifier"}
LIMIT = 12_000_000
"""Bytes of all files together."""

TERMS = {
    "lfw": "LFW (research use)",
    "utkface": "UTKFace (non-commercial research use)",
    "extra": "crops of further web photos (CelebA and UTKFace, non-commercial research use)",
    "mobilefacenet_a": "the embeddings of a MobileFaceNet that states no licence (research use)",
    "facefeature": "the embeddings of a matcher under the MIT licence",
    "dlib_resnet": "the embeddings of dlib's face recognition network (public domain)",
    "drawn": "drawn people (MIT)",
    "nothing": "nothing: initial weights, a placeholder",
}
"""Data sets and teachers, and what their terms allow."""

EXACT = ("erasers.", "axes")
"""What of an erased-code network keeps its precision, by the beginning of its name: the verdict hangs on it."""

KEPT = ("method", "privface", "torch", "precision", "seed", "settings", "data", "matchers", "classifiers")
KEPT += ("steps", "minutes", "start")
"""What is taken over of a run's provenance; digests of people's names, which a list of names would undo, are not."""


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _arguments(arguments)
    audits = [AuditResult.load(file).to_dict() for file in asked.audit]
    data = _pairs(asked.data)
    learnt = {
        "erased": data["erased"].split(",") if "erased" in data else _learnt_from(asked.run),
        "gender": data.get("gender", "lfw,utkface").split(","),
    }
    learnt["matcher"] = data["matcher"].split(",") if "matcher" in data else learnt["erased"]
    commands = _pairs(asked.trained_by)
    _refuse_paths(commands, where="--trained-by")
    terms = {name: ", ".join(TERMS[one] for one in learnt[name]) for name in ROLES}
    files = _copy(asked)
    models = {
        name: {
            "role": ROLES[name],
            "licence": f"MIT for the weights; learnt from {terms[name]}",
            "source": f"trained by privface on {', '.join(learnt[name])}",
            "files": files[name],
        }
        for name in ROLES
    }
    models["matcher"]["folder"] = "erased"
    manifest = {"schema": SCHEMA, "models": models}
    (asked.to / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for audit in audits:
        _require_audit_of(asked.to / "erased", audit)
    bundled._ROOT = asked.to  # noqa: SLF001 - checked where they were written, by the package's own reader
    for name in ROLES:
        found = verify_model(f"{PREFIX}{name}")
        _write_card(
            asked.to / name / MODEL_CARD,
            facts=_facts(name, learnt[name], commands.get(name)),
            figures=_figures(name, audits, asked.audited_by),
        )
        print(*found, sep="  ")
    total = sum(file.stat().st_size for file in asked.to.rglob("*") if file.is_file())
    if total > LIMIT:
        raise SystemExit(f"All files together have {total:,} bytes; the limit is {LIMIT:,}.")
    print(f"{asked.to.name}: {total:,} bytes")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of `privface train`")
    parser.add_argument(
        "gender", type=Path, nargs="?", default=PACKAGE / "gender", help="folder of a gender classifier"
    )
    parser.add_argument(
        "--audit",
        type=Path,
        action="append",
        default=[],
        help="audit.json of photos that bundled:erased protected; of several, a card takes the first that has its model",
    )
    parser.add_argument(
        "--audited-by", action="append", default=[], metavar="COMMAND", help="what made them, in their order"
    )
    parser.add_argument("--trained-by", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--data", action="append", default=[], metavar=f"NAME={','.join(TERMS)}")
    parser.add_argument("--to", type=Path, default=PACKAGE, help="another folder with cards, for trying")
    return parser.parse_args(arguments)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    found = {name: value for name, _, value in (item.partition("=") for item in given)}
    if unknown := set(found) - set(ROLES):
        raise SystemExit(f"There is no model {sorted(unknown)[0]!r}; there are {', '.join(ROLES)}.")
    return found


def _learnt_from(run: Path) -> list[str]:
    """Sets, by the names of their tables, and matchers of others that taught."""
    settings = yaml.safe_load((run / CONFIG_FILE).read_text(encoding="utf-8"))
    sets = [settings["data"], *settings.get("method_options", {}).get("more_data", ())]
    met = json.loads((run / PROVENANCE_FILE).read_text(encoding="utf-8"))["matchers"]
    teachers = [
        name.removeprefix("onnx:").removeprefix("matcher_")
        for name in (model["name"] for model in met)
        if not name.startswith("mini:")
    ]
    return [*(Path(one["labels"] or one["source"]).stem for one in sets), *teachers]


def _require_audit_of(folder: Path, audit: Mapping[str, Any]) -> None:
    """An audit does not name the protector, but it marks what the protector has met."""
    run = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    met = {model["sha256"] for key in ("matchers", "classifiers") for model in run[key]}
    audited = [model for key in ("matchers", "probes") for model in audit["provenance"][key]]
    for model in audited:
        # audits made before a fingerprint covered the input had the hash of the weights there
        if model["seen"] is not ((model.get("weights_sha256") or model["fingerprint"]) in met):
            raise SystemExit(
                f"The audit is of another run: it says of {model['name']} seen={model['seen']}. Audit with --model bundled:erased."
            )


# files ----------------------------------------------------------------------------------------------------


def _copy(asked: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Weights, their descriptions and what the run was trained on and against; gives their hashes."""
    run = load_network(asked.run)
    if run.kind != ErasedCode.kind or [one["form"] == "onnx" for one in run.config["encoders"]] != [False]:
        raise SystemExit(
            f"{asked.run.name} is no erased-code with one encoder of ours; a network of others is not passed on."
        )
    for graph in (GRAPH, MATCHER_GRAPH):  # they are of the model before; graphs.py makes them anew
        (asked.to / "erased" / graph).unlink(missing_ok=True)
    _write_halved(asked.run, run, asked.to / "erased")
    _write_halved(asked.gender, load_network(asked.gender), asked.to / "gender")
    encoder = Protector.load(asked.to / "erased").network.get_submodule("encoders.0.network")
    provenance = json.loads((asked.run / PROVENANCE_FILE).read_text(encoding="utf-8"))
    kept = {key: provenance[key] for key in KEPT if key in provenance}
    kept["people_not_listed"] = len(provenance["people"]) + provenance.get("people_not_listed", 0)
    # rounded weights have a hash of their own
    ours = {"name": f"{PREFIX}matcher", "sha256": network_sha256(encoder)}
    kept["matchers"] = [*kept["matchers"], ours]
    _refuse_paths(kept, where=str(asked.run / PROVENANCE_FILE))
    text = json.dumps(kept, indent=1, sort_keys=True) + "\n"
    (asked.to / "erased" / PROVENANCE_FILE).write_text(text, encoding="utf-8")
    files = {"erased": [WEIGHTS, CARD, PROVENANCE_FILE], "gender": [WEIGHTS, CARD]}
    hashes = {
        name: {file: hashlib.sha256((asked.to / name / file).read_bytes()).hexdigest() for file in held}
        for name, held in files.items()
    }
    return {**hashes, "matcher": {file: hashes["erased"][file] for file in (WEIGHTS, CARD)}}


def _write_halved(source: Path, saved: SavedNetwork, folder: Path) -> None:
    _refuse_paths({"config": saved.config, "meta": saved.meta}, where=str(source / CARD))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_bytes((source / CARD).read_bytes())
    (folder / WEIGHTS).write_bytes(save({name: _halved(name, one) for name, one in saved.weights.items()}))


def _halved(name: str, weights: Tensor) -> Tensor:
    """Kernels and matrices in half precision; a running variance, a row of its own, would become 0."""
    keeps = weights.ndim < 2 or not weights.is_floating_point() or name.startswith(EXACT)
    return weights if keeps else weights.half()


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


def _facts(name: str, learnt: Sequence[str], command: str | None) -> str:
    spec = f"{PREFIX}{name}"
    folder = bundled.find_bundled(spec).folder
    weights = folder / WEIGHTS
    kind = "encoder of `bundled:erased`" if name == "matcher" else load_network(folder).kind
    model = {"erased": Protector.load, "matcher": load_matcher, "gender": load_gender_probe}[name](spec)
    numbers = sum(tensor.numel() for tensor in model.network.state_dict().values())
    rows = [
        ["network", f"{kind}, {numbers:,} numbers; the file has {weights.stat().st_size:,} bytes"],
        ["input, output", " → ".join(verify_model(spec)[2:])],
        ["SHA-256 of `model.safetensors`", f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`"],
        ["fingerprint", f"`{model.fingerprint}`"]
        if name == "erased"
        else ["hash of the weights", f"`{model.weights_sha256}`"],
        ["learnt from", "; ".join(TERMS[one] for one in learnt)],
        ["trained by", f"`{command}`" if command else "not stated"],
    ]
    if ROLES[name] == "protector":
        rows += _facts_of_run(json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8")))
    return _table(["", ""], rows)


def _facts_of_run(run: Mapping[str, Any]) -> list[list[str]]:
    data = run["data"]
    photos = f"{data['train_images']:,} of {data['name']} to learn from, {data['validation_images']:,} to validate, and all of the further sets"
    return [
        [
            "photos, people",
            f"{photos}; {run['people_not_listed']:,} people in all, a photo without a name counted as one",
        ],
        ["matchers met", ", ".join(f"{m['name']} (`{m['sha256'][:12]}`)" for m in run["matchers"])],
        [
            "gender classifiers met",
            ", ".join(f"{c['name']} (`{c['sha256'][:12]}`)" for c in run["classifiers"]) or "none",
        ],
        ["run", f"seed {run['seed']}, {run['steps']:,} steps, {run['minutes']:.0f} minutes"],
        [
            "settings, versions",
            f"`{run['settings']}`; privface {run['privface']}, torch {run['torch']}, {run['precision']}",
        ],
    ]


def _figures(name: str, audits: Sequence[Mapping[str, Any]], commands: Sequence[str]) -> str:
    """Figures of the first audit that has the model, as a table; of the matcher and the classifier those on originals, too."""
    if not audits:
        return "Not measured."
    read = {"protector": _of_protector, "matcher": _of_matcher, "gender classifier": _of_classifier}[
        ROLES[name]
    ]
    having = [k for k, audit in enumerate(audits) if read(audit)]
    if not having:
        return "Not measured: the audit of bundled:erased was made without it."
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


ATTACKS = {
    "image": "protected photos",
    "embedding": "embeddings of protected photos",
    WHITE_BOX: "the model's erased codes (whoever holds the model can have them)",
}
"""What an attacker reads, by how an audit's rows call it."""


def _of_protector(audit: Mapping[str, Any]) -> list[list[str]]:
    rows = [["**verdict**", audit["verdict"]["headline"]]]
    rows += [
        [
            f"TMR@FMR 1e-2, {row['mode']}, {row['impostors']} impostors, {row['matcher']} ({_seen(row)})",
            _cell(row["tmr"].get("0.01")),
        ]
        for row in audit["matching"]
        if not row.get("white_box")  # people are recognised by faces
    ]
    rows += [
        [f"frozen probe {row['probe']} ({_seen(row)}), AUC before → leakage after", _before_after(row)]
        for row in audit["leakage"]
        if row["kind"] == "frozen"
    ]
    for medium, reads in ATTACKS.items():
        row = _worst(audit, medium)
        what = f"worst attacker trained on {reads} of other people"
        if row is None:
            rows.append([what, "not measured"])
            continue
        what += f": {row['probe']} on {row['input']}"
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
            [f"leakage on photos protected by bundled:erased ({_seen(row)})", _cell(row["leakage"])],
        )
    ]


if __name__ == "__main__":
    main()
