"""A student encoder, taught by regression: photos in, the code that larger matchers give them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from privface.descent import moving_average
from privface.device import has_bf16
from privface.errors import TrainingError
from privface.models.encoder import FaceEncoder
from privface.training.checkpoint import read_checkpoint, write_checkpoint
from privface.training.loop import Progress, descend
from privface.training.source import ImageSource, step_generator

CHECKPOINT = "encoder.ckpt"
_EVERY = 500
"""Steps between checkpoints."""

_RELATION = 4.0
"""Weight of the cosine matrices."""


# nine arguments, most of them settings; more than sixty lines with what they mean
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
    progress: Progress | None = None,
) -> FaceEncoder:
    """Train a :class:`~privface.models.encoder.FaceEncoder` to give the targets (Hinton et al., arXiv 1503.02531).

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


def views(photos: Tensor, generator: torch.Generator, *, gentle: bool = False) -> Tensor:
    """Each photo flipped or not, turned, moved, scaled and with other contrast and colours; differentiable.

    Args:
        photos: ``(N, 3, H, W)`` in [0, 1].
        generator: Source of randomness.
        gentle: Half as much of it, and no photo loses detail or colour, as photos of other kinds have lost.
    """
    count = len(photos)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand((count, *shape), generator=generator).to(photos.device)
        return low + (high - low) * drawn

    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    much = 0.5 if gentle else 1.0
    angle, size = draw(-0.09, 0.09) * much, 1 + draw(-0.06, 0.06) * much
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    across, down = draw(-0.06, 0.06) * much, draw(-0.06, 0.06) * much
    rows = [cosine * flip, -sine, across, sine * flip, cosine, down]
    grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(photos.shape), align_corners=False)
    turned = F.grid_sample(photos, grid, padding_mode="border", align_corners=False)
    if not gentle:
        soft = F.interpolate(F.avg_pool2d(turned, 2), size=photos.shape[-2:], mode="bilinear")
        turned = torch.lerp(turned, soft, draw(-1, 1, 1, 1, 1).clamp_min(0))
        grey = turned.mean(1, keepdim=True)
        turned = torch.lerp(turned, grey.expand_as(turned), (draw(0, 1, 1, 1, 1) < 0.1).float())
    middle = turned.mean((1, 2, 3), keepdim=True)
    contrast, light = 1 + draw(-0.25, 0.25, 1, 1, 1) * much, 1 + draw(-0.15, 0.15, 1, 1, 1) * much
    cast = 1 + draw(-0.07, 0.07, 3, 1, 1) * much
    return (((turned - middle) * contrast + middle * light) * cast).clamp(0, 1)


def mixed(photos: Tensor, aims: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The second half of a batch mixed with the first: photos ``(N, ...)`` and unit aims ``(N, K)``."""
    half = len(photos) // 2
    share = (0.3 + 0.4 * torch.rand(half, generator=generator)).to(photos.device)
    first, second = photos[:half], photos[-half:]
    image = torch.lerp(first, second, share.view(-1, *[1] * (photos.ndim - 1)))
    aim = F.normalize(torch.lerp(aims[:half], aims[-half:], share[:, None]))
    return torch.cat([photos[:-half], image]), torch.cat([aims[:-half], aim])


def _batches(count: int, images: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    passes = -(-images // count)
    order = np.concatenate([np.random.default_rng([seed, k]).permutation(count) for k in range(passes)])
    return [order[start : start + size] for start in range(0, images - size + 1, size)]
