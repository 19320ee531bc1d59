"""The student encoder that ships with privface: it learns the code that three larger matchers give, and needs no label.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/06_erased_code/student.py --out runs/06/student

The target is 256 principal components of the matchers' unit embeddings, side by side, each less its mean. Photos are those of the split
`train` of LFW, UTKFace and the further sets, with or without a gender label. About an hour on one core with bf16 units. Run again
after a stop, it goes on. `--check` measures what is there on the people of LFW `val`, whom it has not met.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from privface.config import DataSettings
from privface.data import LoadedFaces
from privface.device import Device
from privface.images import to_unit
from privface.models import load_matcher, save_network
from privface.models.encoder import KIND
from privface.pipeline import load_aligned, open_data
from privface.pipeline.faces import Progress, join
from privface.training import ArraySource
from privface.training.encoder import train_encoder

TEACHERS = ("matcher_mobilefacenet_a", "matcher_facefeature", "matcher_dlib_resnet")
COMPONENTS, IMAGES = 256, 560_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/06/student"), help="model folder")
    parser.add_argument("--images", type=int, default=IMAGES, help="photos shown in all")
    parser.add_argument("--check", action="store_true", help="measure it instead")
    arguments = parser.parse_args()
    from privface.cli.show import progress_bars

    with progress_bars() as progress:
        if arguments.check:
            print(check(arguments.out, progress))
            return
        learn = join([faces(name, "train", progress) for name in ("lfw", "utkface", "extra")])
        network = train_encoder(
            ArraySource(learn.pixels),
            targets(learn, progress),
            images=arguments.images,
            folder=arguments.out,
            progress=lambda done, total, _: progress("train the student", done, total),
        )
        save_network(arguments.out, network, kind=KIND)


def faces(name: str, split: str, progress: Progress) -> LoadedFaces:
    data = Path(os.environ["PRIVFACE_DATA"])
    settings = DataSettings(source=f"table:{data}", labels=str(data / f"{name}.csv"), split=split)
    mode = "aligned" if name == "extra" else "landmarks"
    return load_aligned(
        open_data(settings), mode=mode, size=112, progress=progress, stage=f"align {name} {split}"
    )


def targets(learn: LoadedFaces, progress: Progress) -> np.ndarray:
    """Principal components of the teachers' embeddings, ``(N, 256)``."""
    parts = []
    for teacher in TEACHERS:
        matcher = load_matcher(f"onnx:{os.environ['PRIVFACE_MODELS']}/{teacher}.onnx").frozen(
            Device.choose("cpu")
        )
        found = []
        with torch.inference_mode():
            for start in range(0, len(learn), 64):
                found.append(
                    F.normalize(matcher(torch.from_numpy(to_unit(learn.pixels[start : start + 64]))))
                )
                progress(f"embed with {teacher}", min(start + 64, len(learn)), len(learn))
        units = torch.cat(found)
        parts.append(F.normalize(units - units.mean(0)))
    joined = torch.cat(parts, 1).double()
    joined -= joined.mean(0)
    axes = torch.linalg.eigh(joined.T @ joined)[1].flip(1)[:, :COMPONENTS]
    return (joined @ axes).float().numpy()


def check(out: Path, progress: Progress) -> str:
    """How well it recognises the people of LFW `val`."""
    held = faces("lfw", "val", progress)
    rows = load_matcher(f"mini:{out}").embed(to_unit(held.pixels)).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    cosines = (rows @ rows.T)[first, second]
    same = held.table.identities[first] == held.table.identities[second]
    shares = [(cosines[same] > t).mean() for t in np.quantile(cosines[~same], [0.99, 0.999])]
    return f"{same.sum()} genuine pairs of LFW val: TMR@1e-2 {shares[0]:.3f}, TMR@1e-3 {shares[1]:.3f}"


if __name__ == "__main__":
    main()
