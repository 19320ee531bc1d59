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

from methods import kept_pixels, label_budgets, lfw_faces, protector

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
        faces, file = lfw_faces(split, progress=progress), Path(f"runs/02/pixels/{name}-{split}.npy")
        after = kept_pixels(file, lambda x, _: method(x), faces.pixels, title=name, progress=progress)
        return audit_data(faces, after)

    folder = os.environ["PRIVFACE_MODELS"]
    auditor = build_auditor(
        AuditOptions(effort=effort, cache=Path("runs/02/cache"), device="cpu", precision="fp32"),
        matchers=[load_matcher(f"onnx:{folder}/matcher_mobilefacenet_{letter}.onnx") for letter in "ab"],
        progress=progress,
    )
    result = auditor.run(replace(photos("val"), attackers=photos("train")))
    result.save(path)
    print(f"{name}: {result.document['verdict']['headline']}", flush=True)


def table() -> str:
    """AUC of the worst attacker of each kind by the people that he knows, as Markdown."""
    lines: list[list[str]] = []
    heads: list[str] = []
    for name in METHODS:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        for curve, read in label_budgets(document):
            heads = [f"{people:,} people" for people in read]
            cells = [f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" for figure in read.values()]
            lines.append([name, f"{curve['probe']} on {curve['input'].replace('onnx:matcher_', '')}", *cells])
    return markdown_table(["protection", "attacker", *heads], lines)


if __name__ == "__main__":
    main()
