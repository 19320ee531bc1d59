"""Experiment 01: does a semi-adversarial autoencoder hide gender on people that it has never seen?

Claim under test: trained on LFW `train` against matcher a, the autoencoder keeps an unseen matcher working on LFW `val`
and lowers what frozen and retrained gender probes read there.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/01_san_on_lfw/run.py --out runs/01

Stops may happen at any time: run it again with --resume. The figures go to results/audit.json and the table in
experiments/README.md is printed from that file by `--table`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/01"), help="run folder")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--audit-only", action="store_true", help="the run is trained already")
    parser.add_argument("--name", default="audit", help="results/NAME.json")
    parser.add_argument(
        "--sheet", action="store_true", help="write a contact sheet into the run folder (shows photos)"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table of the committed results and stop"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads((RESULTS / f"{arguments.name}.json").read_text())))
        return
    from privface.cli.show import progress_bars
    from privface.config import load_settings
    from privface.pipeline import train

    settings = load_settings(arguments.config, arguments.overrides)
    with progress_bars() as progress:
        if not arguments.audit_only:
            train(settings, arguments.out, resume=arguments.resume, progress=progress)
        audit(arguments, progress)
    print(table(json.loads((RESULTS / f"{arguments.name}.json").read_text())))


def audit(arguments: argparse.Namespace, progress: Any) -> None:
    from privface.config import DataSettings
    from privface.images import encode_image, write_atomic
    from privface.models import Protector
    from privface.pipeline import (
        AuditOptions,
        audit_protector,
        load_aligned,
        open_data,
        read_provenance,
        write_results,
    )
    from privface.report import contact_sheet

    data, models = Path(os.environ["PRIVFACE_DATA"]), Path(os.environ["PRIVFACE_MODELS"])
    people = open_data(DataSettings(source=f"table:{data}", labels=str(data / "lfw.csv"), split="val"))
    faces = load_aligned(people, mode="landmarks", size=112, progress=progress)
    run = arguments.out
    own = sorted((run / "classifiers").iterdir()) if (run / "classifiers").is_dir() else []
    result, protected = audit_protector(
        faces,
        Protector.load(run),
        matchers=[f"onnx:{models}/matcher_mobilefacenet_{letter}.onnx" for letter in "ab"],
        probes=[
            f"onnx:{models}/gender_tinyxception.onnx@{HERE / 'gender_tinyxception.yaml'}",
            *(f"mini:{folder}" for folder in own),
        ],
        model=run,
        options=AuditOptions(seed=0, device="cpu", precision="fp32"),
        progress=progress,
    )
    write_results(result, run)
    result.save(RESULTS / f"{arguments.name}.json")
    (RESULTS / f"{arguments.name}_training.json").write_text(
        json.dumps(training_facts(read_provenance(run)), indent=2, sort_keys=True) + "\n"
    )
    if arguments.sheet:
        pick = slice(0, None, max(1, len(faces) // 20))
        write_atomic(
            run / "contact_sheet.png",
            encode_image(contact_sheet(faces.pixels[pick][:20], protected[pick][:20]), ".png"),
        )


def training_facts(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance without the list of people (hashes of LFW names say nothing that a reader needs)."""
    return {key: value for key, value in provenance.items() if key != "people"}


def table(document: dict[str, Any]) -> str:
    """The committed results as Markdown."""
    lines = [
        document["verdict"]["headline"],
        "",
        "| matcher | | mode | impostors | TMR@1e-2 | TMR@1e-3 | EER |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["matching"]:
        tmr = row["tmr"]
        lines.append(
            f"| {row['matcher']} | {_seen(row['seen'])} | {row['mode']} | {row['impostors']} | {_figure(tmr['0.01'])} | {_figure(tmr['0.001'])} | {_figure(row['eer'])} |"
        )
    lines += [
        "",
        "| probe | kind | reads | | AUC on originals | AUC on protected | leakage | balanced accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in document["leakage"]:
        lines.append(
            f"| {row['probe']} | {row['kind']} | {row['input']} | {_seen(row['seen'])} | {_figure(row['original_auc'])} | {_figure(row['auc'])} | {_figure(row['leakage'])} | {_figure(row['balanced_accuracy'])} |"
        )
    worst = document["worst_retrained"]
    lines += [
        "",
        (
            f"Worst retrained probe: {worst['probe']} on {worst['input']}, leakage {_figure(worst['leakage'])}. "
            f"Illusion gap: {_figure(document['illusion_gap'])}. "
            f"PSNR {_figure(document['quality']['psnr'])} dB, SSIM {_figure(document['quality']['ssim'])}."
        ),
    ]
    return "\n".join(lines)


def _figure(data: dict[str, Any] | None) -> str:
    if not data or data.get("value") is None:
        return "not measurable"
    interval = "" if data.get("low") is None else f" [{data['low']:.3f}, {data['high']:.3f}]"
    return f"{data['value']:.3f}{interval}"


def _seen(seen: bool | None) -> str:
    return {True: "seen", False: "unseen", None: "unknown"}[seen]


if __name__ == "__main__":
    main()
