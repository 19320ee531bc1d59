"""The student encoder that ships with privface: it learns the code that three larger matchers give, and needs no label.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/06_erased_code/student.py --out runs/06/student

The target is 256 principal components of the matchers' unit embeddings, side by side, each less its mean. Photos are those of the split
`train` of LFW, UTKFace and the further sets, with or without a gender label. About an hour on one core with bf16 units. Run again
after a stop, it goes on. `--check` measures what is there on the people of LFW `val`, whom it has not met.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from privface.config import DataSettings
from privface.data import LoadedFaces
from privface.descent import moving_average
from privface.device import Device, has_bf16
from privface.errors import TrainingError
from privface.images import to_unit
from privface.models import load_matcher, save_network
from privface.models.networks import FaceEncoder
from privface.pipeline import load_aligned, open_data
from privface.pipeline.faces import Progress, join
from privface.training import ArraySource
from privface.training.checkpoint import read_checkpoint, write_checkpoint
from privface.training.loop import descend
from privface.training.source import ImageSource, mixed, step_generator, views

CHECKPOINT = "encoder.ckpt"
_EVERY = 500
"""Steps between checkpoints."""

_RELATION = 4.0
"""Weight of the cosine matrices."""

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
        save_network(arguments.out, network, kind=FaceEncoder.kind)


def train_encoder(
    source: ImageSource,
    targets: NDArray[np.float32],
    *,
    images: int = 256_000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    network: FaceEncoder | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> FaceEncoder:
    """Train a :class:`~privface.models.networks.FaceEncoder` to give the targets (Hinton et al., arXiv 1503.02531).

    The loss is one minus the cosine, and the squared difference of the batch's cosine matrices (relational distillation,
    Park et al., CVPR 2019). Half of each batch are mixtures of two photos with mixed targets (Zhang et al., ICLR 2018):
    endless people from a few thousand photos.

    Args:
        source: Aligned faces of 112 x 112.
        targets: Code of each face, ``(N, K)``; directions count.
        images: Faces shown in all.
        batch_size: Faces a step, half of them mixtures.
        learning_rate: AdamW's highest rate (one cosine).
        network: What is trained; by default a new one of ``K`` outputs.
        seed: Initial weights, order, views and mixtures.
        folder: Where a checkpoint is kept; one that is there is gone on with.
        progress: Called as ``progress(done, total, loss)``.

    Returns:
        The average of the last weights, in evaluation mode.

    Raises:
        TrainingError: If there is not one finite target for every face, or the loss is not finite.
        CheckpointError: If the checkpoint is damaged or of other settings.
    """
    if targets.ndim != 2 or len(targets) != len(source) or not np.isfinite(targets).all():
        raise TrainingError(
            f"Targets of shape {targets.shape} for {len(source)} faces, or not finite.",
            hint="Give one finite row for every face.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network or FaceEncoder(outputs=targets.shape[1])
    wanted = F.normalize(torch.from_numpy(np.asarray(targets, np.float32)))
    network.train().to(memory_format=torch.channels_last)
    average = moving_average(network, 0.999)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    batches = _batches(len(source), images, batch_size, seed)
    key = str([images, batch_size, learning_rate, _RELATION, seed, network.config, len(source)])
    parts = {"network": network, "average": average, "optimizer": optimizer}
    file = None if folder is None else folder / CHECKPOINT
    start = 0 if file is None or not file.is_file() else read_checkpoint(file, key, parts)["done"]

    def loss(done: int, index: NDArray[np.int64], photos: Tensor) -> Tensor:
        generator = step_generator(seed=seed, epoch=0, step=done)
        shown, aim = mixed(views(photos, generator), wanted[torch.from_numpy(index)], generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            given = network(shown.to(memory_format=torch.channels_last) * 2 - 1)
        given = F.normalize(given.float())
        return (1 - (given * aim).sum(1)).mean() + _RELATION * (given @ given.T - aim @ aim.T).square().mean()

    for done, _ in descend(
        optimizer, source, batches, loss, rise=200, floor=0.01, clip=5.0, start=start, progress=progress
    ):
        average.update_parameters(network)
        if file is not None and done % _EVERY == 0:
            write_checkpoint(file, key, parts, done=done)
    network.load_state_dict(average.module.state_dict())
    return network.eval()


def _batches(count: int, images: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    passes = -(-images // count)
    order = np.concatenate([np.random.default_rng([seed, k]).permutation(count) for k in range(passes)])
    return [order[start : start + size] for start in range(0, images - size + 1, size)]


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
