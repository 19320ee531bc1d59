"""Experiment 02: what a test with fixed classifiers misses.

Claim under test: for common protections, the leakage that retrained attackers find is far above what frozen gender
classifiers report. Nine protections and the originals, of the same LFW photos (split `val`), one battery, the same people.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/02_illusion_gap/run.py --run runs/01 --out runs/02

Each method is one audit, written to results/METHOD.json as soon as it is done; run it again to go on after a stop.
`--table` prints the table of the committed results, `--report FILE` writes the comparison page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from methods import METHODS, lfw_faces, load_models, own_classifiers, protected_pixels
from numpy.typing import NDArray

from privface.audit import AuditResult, Cache, EmbeddingData
from privface.audit.comparison import trade_off
from privface.audit.result import match_rates
from privface.data import LoadedFaces
from privface.images import to_unit
from privface.models import GenderProbe, Matcher
from privface.pipeline import AuditOptions, audit_data, build_auditor
from privface.report.card import markdown_table
from privface.report.compare import COLUMNS, compared, write_comparison

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ALL = (*METHODS, "leace")


@dataclass(frozen=True)
class Setup:
    """What every audit of this experiment shares."""

    run: Path
    out: Path
    faces: LoadedFaces
    options: AuditOptions
    progress: Callable[[str, int, int], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/01"), help="run folder of experiment 01")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/02"), help="protected pixels and the cache (biometric data)"
    )
    parser.add_argument("--only", nargs="*", choices=ALL, default=ALL, help="audit these methods only")
    parser.add_argument("--effort", choices=("quick", "standard", "full"), default="full")
    parser.add_argument("--again", action="store_true", help="audit methods that have a result, too")
    parser.add_argument(
        "--table", action="store_true", help="print the table of the committed results and stop"
    )
    parser.add_argument("--summary", action="store_true", help="print the README's short table and stop")
    parser.add_argument("--report", type=Path, help="write the comparison of the committed results and stop")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary())
        return
    if arguments.table or arguments.report:
        paths = {name: result(name) for name in ALL if result(name).is_file()}
        documents = [(name, json.loads(path.read_text())) for name, path in paths.items()]
        if arguments.report:
            write_comparison(documents, arguments.report)
        else:
            print(table(documents))
        return

    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        setup = Setup(
            arguments.run,
            arguments.out,
            lfw_faces("val", progress=progress),
            AuditOptions(
                effort=arguments.effort, cache=arguments.out / "cache", device="cpu", precision="fp32"
            ),
            progress,
        )
        for name in arguments.only:
            if arguments.again or not result(name).is_file():
                audit = audit_leace(setup) if name == "leace" else audit_images(name, setup)
                audit.save(result(name))
                print(f"{name}: {audit.document['verdict']['headline']}", flush=True)


WORDS = {
    "none": "nothing (originals)",
    "blur": "Gaussian blur",
    "pixelation": "pixelation",
    "noise": "Gaussian noise",
    "jpeg-10": "JPEG, quality 10",
    "down-up": "down- and up-sampling",
    "pgd": "per-image PGD against a classifier",
    "k-same": "k-same averaging",
    "san": "semi-adversarial autoencoder (experiment 01)",
    "leace": "LEACE, on embeddings",
}


def table(documents: list[tuple[str, dict[str, Any]]]) -> str:
    """The figures of the comparison page, as Markdown."""
    lines = [
        [row["name"], *(row["figures"][key].text for key, *_ in COLUMNS), row["dominated_by"] or ""]
        for row in compared(documents, trade_off(documents))
    ]
    return markdown_table(["method", *(heading for _, heading, *_ in COLUMNS), "beaten by"], lines)


def summary() -> str:
    """Leakage to frozen and to retrained attackers, and matching, in one line a method."""
    heads = [
        "protection",
        "frozen classifier it was built against",
        "frozen classifier it never met",
        "attackers that adapt",
        "people still matched",
    ]
    lines = []
    for name, words in WORDS.items():
        audit = AuditResult.load(result(name))
        frozen_seen, frozen_unseen, adapts = (
            "-" if math.isnan(audit.figures[key].value) else f"{audit.figures[key].value:.2f}"
            for key in ("worst_frozen_seen", "worst_frozen_unseen", "worst_retrained")
        )
        rates = match_rates(audit.document["matching"])
        matched = min(
            rate["value"]
            for (matcher, mode), rate in rates.items()
            if mode == "P-P" and matcher.endswith("_b")
        )
        lines.append([words, frozen_seen, frozen_unseen, f"**{adapts}**", f"{matched:.0%}"])
    return markdown_table(heads, lines)


def result(name: str) -> Path:
    return RESULTS / f"{name}.json"


def audit_images(name: str, setup: Setup) -> AuditResult:
    def gallery() -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
        people = lfw_faces("train", progress=setup.progress, one_each=True)
        return people.pixels, people.table.identities

    after = protected_pixels(
        name, setup.faces.pixels, run=setup.run, out=setup.out, gallery=gallery, progress=setup.progress
    )
    matchers, probes = models(name, setup.run)
    auditor = build_auditor(setup.options, matchers=matchers, probes=probes, progress=setup.progress)
    return auditor.run(audit_data(setup.faces, after))


def models(name: str, run: Path) -> tuple[list[Matcher], list[GenderProbe]]:
    """Matchers and frozen probes, marked with what the method was fitted against."""
    own = own_classifiers(run)
    met = {"san": ("a", *own), "pgd": own[:1]}.get(name, ())
    return load_models(run, met)


def audit_leace(setup: Setup) -> AuditResult:
    """LEACE on each matcher's embeddings, fitted on people of the split `train`; audited without images."""
    from privface.erasers import LEACE

    matchers, _ = models("leace", setup.run)
    cache = Cache(setup.out / "cache")
    people = lfw_faces("train", progress=setup.progress)
    sides = {}
    for matcher in matchers:
        before = embed(matcher, setup.faces.pixels, cache, setup.progress)
        fitting = embed(matcher, people.pixels, cache, setup.progress)
        eraser = LEACE().fit(fitting, people.table.genders)
        sides[matcher.name] = (before, np.asarray(eraser.transform(before), np.float32))
    table = setup.faces.table
    data = EmbeddingData(
        embeddings=sides,
        seen=dict.fromkeys(sides, True),
        files=tuple(table.files),
        identities=table.identities,
        genders=table.genders,
        name=table.name,
    )
    return build_auditor(setup.options, progress=setup.progress).run(data)


def embed(
    matcher: Matcher, pixels: NDArray[np.uint8], cache: Cache, progress: Callable[[str, int, int], None]
) -> NDArray[np.float32]:
    def compute() -> dict[str, NDArray[Any]]:
        parts = []
        for start in range(0, len(pixels), 64):
            parts.append(matcher.embed(to_unit(pixels[start : start + 64])))
            progress(f"embed with {matcher.name}", min(start + 64, len(pixels)), len(pixels))
        return {"embeddings": np.concatenate(parts)}

    return np.asarray(cache.arrays(("experiment 02", matcher.fingerprint, pixels), compute)["embeddings"])


if __name__ == "__main__":
    main()
