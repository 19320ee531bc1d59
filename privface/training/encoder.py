"""A student encoder, taught by regression: photos in, the code that larger matchers give them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from privface.device import has_bf16
from privface.errors import TrainingError
from privface.models.encoder import FaceEncoder
from privface.training.checkpoint import read_checkpoint, write_checkpoint
from privface.training.source import ImageSource, Prefetcher, step_generator

CHECKPOINT = "encoder.ckpt"
_EVERY = 500
"""Steps between checkpoints."""


def train_encoder(
    source: ImageSource,
    targets: NDArray[np.float32],
    *,
    images: int = 256_000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    relation: float = 4.0,
    network: FaceEncoder | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
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
        relation: Weight of the cosine matrices.
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
    average = AveragedModel(network, multi_avg_fn=_average, use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    batches = _batches(len(source), images, batch_size, seed)
    key = str([images, batch_size, learning_rate, relation, seed, network.config, len(source)])
    done = _resume(folder, key, network, average, optimizer)
    for position, index, photos in Prefetcher(source, batches, start=done):
        for group in optimizer.param_groups:
            warm = min(1.0, (position + 1) / 200)
            cosine = 0.01 + 0.495 * (1 + math.cos(math.pi * position / len(batches)))
            group["lr"] = learning_rate * warm * cosine
        generator = step_generator(seed=seed, epoch=0, step=position)
        shown, aim = mixed(views(photos, generator), wanted[torch.from_numpy(index)], generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            given = network(shown.to(memory_format=torch.channels_last) * 2 - 1)
        given = F.normalize(given.float())
        loss = (1 - (given * aim).sum(1)).mean() + relation * (given @ given.T - aim @ aim.T).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(network)
        if progress is not None:
            progress(position + 1, len(batches), float(loss.detach()))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {float(loss)} in step {position + 1}.", hint="Lower learning_rate."
            )
        if folder is not None and (position + 1) % _EVERY == 0:
            parts = [part.state_dict() for part in (network, average, optimizer)]
            write_checkpoint(folder / CHECKPOINT, key, {"done": position + 1, "parts": parts})
    result: Any = average.module
    return result.eval()  # type: ignore[no-any-return]


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


def _average(averages: Any, values: Any, steps: Tensor | int) -> None:
    """Moving average with a short memory at first, so that the untrained start does not linger."""
    decay = min(0.999, (float(steps) + 1) / (float(steps) + 10))
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)


def _batches(count: int, images: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    passes = -(-images // count)
    order = np.concatenate([np.random.default_rng([seed, k]).permutation(count) for k in range(passes)])
    return [order[start : start + size] for start in range(0, images - size + 1, size)]


def _resume(folder: Path | None, key: str, *parts: Any) -> int:
    """Steps done by an earlier attempt, whose weights are put into ``parts``."""
    if folder is None or not (folder / CHECKPOINT).is_file():
        return 0
    state = read_checkpoint(folder / CHECKPOINT, key)
    for part, saved in zip(parts, state["parts"], strict=True):
        part.load_state_dict(saved)
    return int(state["done"])
