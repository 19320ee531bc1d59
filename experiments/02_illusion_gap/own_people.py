"""Protections that learnt nothing from LFW, against attackers who know all of its training people.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/02_illusion_gap/own_people.py [METHOD ...]

Attackers have the 8,528 photos of split `train` before and after protection and read all people of `val`; by the number of
labelled people that they know. One audit a method (results/own-people/METHOD.json); what has a result is left alone. `--table`
prints them.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from methods import lfw_faces, protector
from numpy.typing import NDArray

from privface.audit.result import read_figure
from privface.images import to_pixels, to_unit
from privface.models import load_matcher
from privface.options import AuditOptions
from privface.pipeline import audit_data, build_auditor
from privface.report.card import markdown_table

RESULTS = Path(__file__).parent / "results" / "own-people"
METHODS = ("pixelation", "noise", "blur", "down-up", "jpeg-10")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", nargs="*", help=f"of {', '.join(METHODS)}; all by default")
    parser.add_argument("--effort", choices=("quick", "standard", "full"), default="quick")
    parser.add_argument("--table", action="store_true", help="print the table of the results and stop")
    arguments = parser.parse_args()
    if not set(arguments.method) <= set(METHODS):
        raise SystemExit(f"There are {', '.join(METHODS)}.")
    if arguments.table:
        print(table())
        return
    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        for name in arguments.method or METHODS:
            path = RESULTS / f"{name}.json"
            if not path.is_file():
                audit(name, path, arguments.effort, progress)


def audit(name: str, path: Path, effort: Any, progress: Any) -> None:
    """Audit one method."""
    no_gallery: Any = None  # none of these has one, or opens the run
    method: Any = protector(name, Path("runs/01"), no_gallery)

    def photos(split: str) -> Any:
        faces = lfw_faces(split, progress=progress)
        return audit_data(faces, in_parts(method, faces.pixels))

    folder = os.environ["PRIVFACE_MODELS"]
    auditor = build_auditor(
        AuditOptions(effort=effort, cache=Path("runs/02/cache"), device="cpu", precision="fp32"),
        matchers=[load_matcher(f"onnx:{folder}/matcher_mobilefacenet_{letter}.onnx") for letter in "ab"],
        progress=progress,
    )
    result = auditor.run(replace(photos("val"), attackers=photos("train")))
    result.save(path)
    print(f"{name}: {result.document['verdict']['headline']}", flush=True)


def in_parts(method: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Protected photos, rounded to 8 bits as a file would be."""
    parts = (pixels[start : start + 64] for start in range(0, len(pixels), 64))
    return np.concatenate([to_pixels(method(to_unit(part))) for part in parts])


def table() -> str:
    """AUC of the worst attacker of each kind by the people that he knows, as Markdown."""
    lines: list[list[str]] = []
    heads: list[str] = []
    for name in METHODS:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        for curve in document["learning_curve"]:
            who = {key: curve[key] for key in ("probe", "input")}
            rows = [row for row in document["label_budget"] if who.items() <= row.items()]
            read = [read_figure(row["leakage"]) for row in rows]
            heads = [f"{row['people']:,} people" for row in rows]
            cells = [f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" for figure in read]
            lines.append([name, f"{who['probe']} on {who['input'].replace('onnx:matcher_', '')}", *cells])
    return markdown_table(["protection", "attacker", *heads], lines)


if __name__ == "__main__":
    main()
