r"""Two small models: a matcher that imitates a larger one, and a gender classifier, which comes with privface as `bundled:gender`.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/03_san_family/small_models.py gender --out runs/small/gender
    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/03_san_family/small_models.py matcher --out runs/small/matcher \
        --start runs/small/gender
    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/03_san_family/small_models.py audit --out experiments/03_san_family/results \
        --run runs/03/san

The last reads LFW `val`, protected by the run `san` of `run.py`, with the two; it was made when all three came with the package.
Both learn from the split `train` of LFW and UTKFace, the matcher on top of the classifier's layers; `--check` prints what they do on the people of LFW `val`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from privface.config import DataSettings
from privface.data import LoadedFaces
from privface.images import to_unit
from privface.models import Protector, load_gender_probe, load_matcher, save_network
from privface.pipeline import AuditOptions, audit_protector, load_aligned, open_data
from privface.pipeline.faces import Progress
from privface.pipeline.methods.base import classifier_spec
from privface.training import ArraySource, distil_matcher, train_gender_classifier

SIZE, GENDER_SIZE, MATCHER_SIZE = 112, 96, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("gender", "matcher", "audit"))
    parser.add_argument(
        "--out", type=Path, required=True, help="model folder; for `audit` where small_models.json goes"
    )
    parser.add_argument("--epochs", type=int, default=8, help="passes over the photos")
    parser.add_argument(
        "--start",
        type=Path,
        default=Path("runs/small/gender"),
        help="gender classifier that the matcher begins as",
    )
    parser.add_argument("--run", type=Path, default=Path("runs/03/san"), help="protector to audit")
    parser.add_argument("--check", action="store_true", help="the model is there already; measure it")
    arguments = parser.parse_args()
    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        if arguments.which == "audit":
            audit(arguments.out / "small_models.json", arguments.run, progress)
            return
        if not arguments.check:
            {"gender": gender, "matcher": matcher}[arguments.which](arguments, progress)
        print(check(arguments.which, arguments.out, progress))


def gender(arguments: argparse.Namespace, progress: Progress) -> None:
    lfw, utk = faces("lfw", "train", progress), faces("utkface", "train", progress, minimum_age=10)
    codes = np.concatenate([lfw.table.genders, utk.table.genders])
    network = train_gender_classifier(
        ArraySource(np.concatenate([lfw.pixels, utk.pixels])),
        codes,
        spec=classifier_spec(size=GENDER_SIZE, crop="frame"),
        epochs=arguments.epochs,
        width=32,
        progress=lambda done, total, _: progress("train the gender classifier", done, total),
    )
    save(arguments.out, network, kind="gender-classifier", size=GENDER_SIZE)


def matcher(arguments: argparse.Namespace, progress: Progress) -> None:
    start = load_gender_probe(f"mini:{arguments.start}").network
    teacher = load_matcher(f"onnx:{os.environ['PRIVFACE_MODELS']}/matcher_mobilefacenet_a.onnx")
    pixels = np.concatenate(
        [faces("lfw", "train", progress).pixels, faces("utkface", "train", progress).pixels]
    )
    targets = []
    for start in range(0, len(pixels), 64):
        part = to_unit(pixels[start : start + 64])
        both = teacher.embed(part) + teacher.embed(
            part[..., ::-1].copy()
        )  # the student sees flipped views, too
        targets.append(both)
        progress("embed with the teacher", start + len(part), len(pixels))
    network = distil_matcher(
        ArraySource(pixels),
        np.concatenate(targets),
        spec=classifier_spec(size=MATCHER_SIZE, crop="frame"),
        epochs=arguments.epochs,
        start=start,
        progress=lambda done, total, _: progress("train the matcher", done, total),
    )
    save(arguments.out, network, kind="matcher", size=MATCHER_SIZE)


def faces(name: str, split: str, progress: Progress, *, minimum_age: float | None = None) -> LoadedFaces:
    data = Path(os.environ["PRIVFACE_DATA"])
    settings = DataSettings(
        source=f"table:{data}", labels=str(data / f"{name}.csv"), split=split, minimum_age=minimum_age
    )
    table = open_data(settings)
    return load_aligned(
        table if minimum_age is None else table.labelled(),
        mode="landmarks",
        size=SIZE,
        progress=progress,
        stage=f"align {name} {split}",
    )


def save(out: Path, network: Any, *, kind: str, size: int) -> None:
    crop = list(classifier_spec(size=size, crop="frame").crop)
    save_network(out, network, kind=kind, meta={"input_size": size, "crop": crop})


def audit(file: Path, run: Path, progress: Progress) -> None:
    """What the two models read from photos before and after a protector."""
    result, _ = audit_protector(
        faces("lfw", "val", progress),
        Protector.load(run),
        matchers=["mini:runs/small/matcher"],
        probes=["mini:runs/small/gender"],
        model=run,
        options=AuditOptions(effort="quick"),
        progress=progress,
    )
    result.save(file)


def check(which: str, out: Path, progress: Progress) -> str:
    """Figures on LFW `val`, whose people neither model has met."""
    from privface.audit import auc

    held = faces("lfw", "val", progress)
    images = to_unit(held.pixels)
    if which == "gender":
        scores, genders = load_gender_probe(f"mini:{out}").male_scores(images), held.table.genders
        return f"gender classifier, {len(held)} photos of LFW val: AUC {auc(scores[genders == 1], scores[genders == 0]):.4f}"
    rows = load_matcher(f"mini:{out}").embed(images).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    cosines = (rows @ rows.T)[first, second]
    same = held.table.identities[first] == held.table.identities[second]
    threshold = np.quantile(cosines[~same], [0.99, 0.999])
    shares = [(cosines[same] > t).mean() for t in threshold]
    return (
        f"matcher, {len(held)} photos of LFW val, {same.sum()} genuine pairs: AUC "
        f"{auc(cosines[same], cosines[~same]):.4f}, TMR@1e-2 {shares[0]:.3f}, TMR@1e-3 {shares[1]:.3f}"
    )


if __name__ == "__main__":
    main()
