"""Experiment 06: faces drawn from a code that gender was taken out of; what is hidden and what is kept.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/06_erased_code/run.py audit | further | white-box ROW [ROW ...]

`audit`: that of experiments 02 and 03, with all four matchers (results/ROW.json). `further`: attackers on UTKFace adults and on the cfp
people, whom nothing has met, and faces found (results/ROW-further.json). `white-box`: erasers from one half of the people against attackers
with all others, for a row's encoders (results/white_box.json). `halves` writes LFW's labels with one half of the training people kept for
attackers (runs/06/half.csv), from which configs/half.yaml trains `half-0`; `own-people half-0` lets attackers who know the other half read
all people of `val` (results/half-0.json). `standards` tries to turn methods back and to link two protections of one person
(results/standards.json). What has a result is left alone. From the results:

    python experiments/06_erased_code/run.py table | dominates | plot
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results"
sys.path += [str(HERE.parent / "02_illusion_gap"), str(HERE.parent / "03_san_family")]
MATCHERS = ("mobilefacenet_a", "mobilefacenet_b", "facefeature", "dlib_resnet")


@dataclass(frozen=True)
class Row:
    """A trained model: name in the tables, run folder, configuration and seed."""

    name: str
    run: str
    config: str
    seed: int = 0

    @property
    def code(self) -> dict[str, Any]:
        """What makes its code, and the code's size, drop and bits."""
        settings = yaml.safe_load((HERE / "configs" / self.config).read_text(encoding="utf-8"))
        options = settings["method_options"]
        made_by = [Path(spec).stem for spec in options.get("encoders") or settings["matchers"]]
        return {
            "made_by": made_by,
            "size": max(options["code_sizes"]),
            "drop": options["drop"],
            "bits": options["bits"],
        }


ROWS = {
    row.name: row
    for row in (
        *(Row(f"strong-{seed}", f"runs/06/strong-{seed}", "strong.yaml", seed) for seed in range(3)),
        Row("five-0", "runs/06/five-0", "five.yaml"),
        Row("bundled", "bundled:erased", "bundled.yaml"),
    )
}
HALF = Row("half-0", "runs/06/half-0", "half.yaml")
"""Learnt from one half of LFW's training people; attackers know the other half."""
HALVES = Path("runs/06/half.csv")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=(
            "audit",
            "further",
            "white-box",
            "halves",
            "own-people",
            "standards",
            "table",
            "dominates",
            "plot",
        ),
    )
    parser.add_argument("row", nargs="*", help=f"rows: {', '.join([*ROWS, HALF.name])}")
    parser.add_argument("--effort", choices=("quick", "standard", "full"), default="full")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="halves of `white-box`")
    parser.add_argument("--only", default="", help="`white-box`: variants whose name has these words")
    parser.add_argument("--run", help="another run folder, for a trial")
    parser.add_argument("--photos", type=int, help="a trial with about so many of each set")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where a trial's figures go")
    arguments = parser.parse_args()
    if arguments.what in {"table", "dominates", "plot"}:
        import targets

        print(getattr(targets, arguments.what)())
        return
    if arguments.what == "halves":
        from methods import data_folder, write_halves

        write_halves(data_folder() / "lfw.csv", HALVES)
        return
    if arguments.what == "standards":
        from standards import standards

        from privface.cli.show import progress_bars

        with progress_bars() as progress:
            standards(RESULTS / "standards.json", progress=progress)
        return
    rows = {HALF.name: HALF} if arguments.what == "own-people" else ROWS
    if not arguments.row or not set(arguments.row) <= set(rows):
        raise SystemExit(f"Name one row or more of {', '.join(rows)}.")
    if (arguments.photos or arguments.run) and arguments.results == RESULTS:
        raise SystemExit("A trial's figures do not belong to the results: give --results FOLDER.")
    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        for name in arguments.row:
            work(replace(rows[name], run=arguments.run or rows[name].run), arguments, progress)


def work(row: Row, arguments: argparse.Namespace, progress: Any) -> None:
    """Do one row's part."""
    if arguments.what == "white-box":
        from white_box import white_box

        from privface.config import load_settings

        settings = load_settings(HERE / "configs" / row.config)
        specs = settings.method_options.get("encoders") or settings.matchers
        path, seeds = arguments.results / "white_box.json", arguments.seeds
        white_box(specs, path, seeds=seeds, only=arguments.only, progress=progress)
        return
    path = arguments.results / f"{row.name}{'-further' if arguments.what == 'further' else ''}.json"
    if path.is_file():
        print(f"{path.name} is there; delete it to measure anew.")
    elif arguments.what in {"audit", "own-people"}:
        audit(row, path, arguments, progress)
    else:
        further(row, path, arguments.photos, progress)


def model(name: str) -> str:
    """Specification of a matcher or gender classifier of others."""
    sidecar = f"@{HERE.parent / '01_san_on_lfw' / name}.yaml" if name.startswith("gender") else ""
    return f"onnx:{os.environ['PRIVFACE_MODELS']}/{name}.onnx{sidecar}"


def audit(row: Row, path: Path, arguments: argparse.Namespace, progress: Any) -> None:
    """The audit of experiments 02 and 03: LFW `val`, the same attackers and seed; more matchers. `own-people`: attackers know others."""
    from methods import lfw_faces

    from privface.data import LoadedFaces
    from privface.device import Device
    from privface.models import Protector
    from privface.pipeline import AuditOptions, audit_protector

    def photos(split: str, labels: Path | None = None) -> LoadedFaces:
        faces, first = lfw_faces(split, progress=progress, labels=labels), arguments.photos
        return LoadedFaces(faces.pixels[:first], faces.table.take(range(first))) if first else faces

    result, _ = audit_protector(
        photos("val"),
        Protector.load(Path(row.run), device=Device.choose()),
        matchers=[model(f"matcher_{name}") for name in MATCHERS],
        probes=[model("gender_tinyxception")],
        model=Path(row.run),
        attackers=photos("attackers", HALVES) if arguments.what == "own-people" else None,
        options=AuditOptions(effort=arguments.effort, cache=Path("runs/06/cache")),
        progress=progress,
    )
    result.save(path)
    print(f"{row.name}: {result.document['verdict']['headline']}", flush=True)


def further(row: Row, path: Path, first: int | None, progress: Any) -> None:
    """Attackers on other kinds of photos, matching of the cfp people, faces found and SSIM."""
    from attackers import READ, between_halves, in_parts, prepare
    from methods import kept_pixels

    from privface.audit import auc, evaluate_matching, ssim
    from privface.audit.result import to_json_data
    from privface.device import Device
    from privface.images import write_atomic
    from privface.models import Protector, load_gender_probe, load_matcher

    here = Device.choose()
    protector = Protector.load(Path(row.run), device=here)
    matcher = load_matcher(model("matcher_mobilefacenet_b")).on(here)
    probe = load_gender_probe(model("gender_tinyxception"))
    digest = hashlib.sha256(protector.fingerprint.encode()).hexdigest()[:12]
    found: dict[str, Any] = {"row": row.name, "seed": row.seed, "leakage": {}, "frozen_auc": {}}
    for name, words in READ.items():
        pixels, table = prepare(name, progress)
        keep = (table["split"] == "val") if name == "extra" else table["read"]  # all cfp people are matched
        step = max(1, int(keep.sum()) // (first or len(keep)))
        pixels, table = np.asarray(pixels[np.flatnonzero(keep)[::step]]), table[keep][::step]
        people, male = table["identity"].to_numpy(str), table["male"].to_numpy()
        file = Path(f"runs/06/pixels/{row.name}-{name}-{len(male)}-{digest}.npy")
        after = kept_pixels(file, lambda x, _: protector(x), pixels, title=row.name, progress=progress)
        if name == "lfw":
            found["ssim"] = float(ssim(pixels, after).mean())
            found["faces_found"] = {"before": faces_found(pixels), "after": faces_found(after)}
            continue
        shown = in_parts(matcher.embed, after, f"b on protected {words}", progress)
        if name == "extra":
            original = in_parts(matcher.embed, pixels, f"b on {words}", progress)
            every = {"max_impostors": len(male) ** 2}
            results = evaluate_matching(original, shown, people, male, matcher="b", **every)
            found["cfp_matching"] = {r.mode: r.tmr[1e-2] for r in results if r.impostors == "all"}
        known = male >= 0
        people, male = people[known], male[known]
        scores = in_parts(probe.male_scores, after[known], f"frozen on {words}", progress)
        found["frozen_auc"][words] = float(auc(scores[male == 1], scores[male == 0]))
        code = in_parts(lambda x: protector.codes(x)[1], pixels[known], f"code of {words}", progress)
        seen = {"b": shown[known], "code": code}
        found["leakage"][words] = {key: between_halves(part, male, people) for key, part in seen.items()}
    write_atomic(path, (json.dumps(to_json_data(found), indent=1, sort_keys=True) + "\n").encode())


def faces_found(pixels: Any) -> float:
    """Share of crops in which MTCNN finds a face; it enlarges crops of 112 px to 200 px by itself, and nothing is padded."""
    from privface.faces import MTCNNDetector

    return float(np.mean([len(faces) > 0 for faces in MTCNNDetector().detect(list(pixels))]))


if __name__ == "__main__":
    main()
