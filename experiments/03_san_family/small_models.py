"""The gender classifier that ships with privface as `bundled:gender`; the figures of experiment 03 on it stand in results/small_models.json.

    PRIVFACE_DATA=... python experiments/03_san_family/small_models.py --out runs/small/gender

It learns from the split `train` of LFW and UTKFace; `--check` prints what it does on the people of LFW `val`.
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
from privface.models import load_gender_probe, save_network
from privface.pipeline import load_aligned, open_data
from privface.pipeline.faces import Progress
from privface.pipeline.methods.base import classifier_spec
from privface.training import ArraySource, train_gender_classifier

SIZE, GENDER_SIZE = 112, 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the photos")
    parser.add_argument("--check", action="store_true", help="the model is there already; measure it")
    arguments = parser.parse_args()
    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        if not arguments.check:
            gender(arguments, progress)
        print(check(arguments.out, progress))


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


def check(out: Path, progress: Progress) -> str:
    """Figures on LFW `val`, whose people it has not met."""
    from privface.audit import auc

    held = faces("lfw", "val", progress)
    scores = load_gender_probe(f"mini:{out}").male_scores(to_unit(held.pixels))
    genders = held.table.genders
    return f"{len(held)} photos of LFW val: AUC {auc(scores[genders == 1], scores[genders == 0]):.4f}"


if __name__ == "__main__":
    main()
