"""What every training shares: how the learning rate goes, and the moving average of the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def set_rate(
    optimizer: torch.optim.Optimizer, done: int, total: int, *, rise: float, floor: float = 0.0
) -> None:
    """Set the rate of the next step: it rises to the optimiser's own over ``rise`` steps, then falls along a cosine to a share ``floor`` of it."""
    warm = min(1.0, (done + 1) / max(1.0, rise))
    factor = warm * (floor + 0.5 * (1 - floor) * (1 + float(np.cos(np.pi * done / total))))
    for group in optimizer.param_groups:
        group["lr"] = optimizer.defaults["lr"] * factor


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """A moving average of weights and buffers, with a short memory at first: the untrained start does not linger.

    It begins with the weights that the network has now; ``decay`` is that after many steps, and 0 takes the last weights.
    """

    def update(means: list[Tensor], values: list[Tensor], steps: Tensor) -> None:
        share = 1 - min(decay, float(steps) / (float(steps) + 9))
        for mean, value in zip(means, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
    average.n_averaged += 1  # it holds the network as it begins
    return average
