"""The training loop of everything that learns alone, without an opponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.descent import set_rate
from privface.errors import TrainingError
from privface.training.source import ImageSource, Prefetcher

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called as ``progress(steps done, steps, loss)``."""


# nine arguments: what all loops share, and no more
def descend(
    optimizer: torch.optim.Optimizer,
    source: ImageSource,
    batches: Sequence[NDArray[np.int64]],
    loss: Callable[[int, NDArray[np.int64], Tensor], Tensor],
    *,
    rise: int,
    floor: float = 0.0,
    clip: float | None = None,
    start: int = 0,
    progress: Progress | None = None,
) -> Iterator[tuple[int, float]]:
    """Take one step a batch; gives the steps done and the loss after each of them.

    Args:
        optimizer: Made with the highest rate.
        source: Images.
        batches: Index arrays of all steps, in order.
        loss: Gives the loss from the steps done, the batch's index and its images.
        rise: Steps over which the rate rises, before it falls along a cosine.
        floor: Share of the highest rate at which it ends.
        clip: Largest gradient norm.
        start: Steps done already (resuming).
        progress: Told about each step.
    """
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for done, index, images in Prefetcher(source, batches, start=start):
        set_rate(optimizer, done, len(batches), rise=rise, floor=floor)
        value = loss(done, index, images)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(learned, clip)
        optimizer.step()
        figure = float(value.detach())
        if not math.isfinite(figure):
            raise TrainingError(
                f"The loss is {figure} after {done + 1} steps.", hint="Lower the learning rate."
            )
        if progress is not None:
            progress(done + 1, len(batches), figure)
        yield done + 1, figure
