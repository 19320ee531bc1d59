"""Experiment 13: sizes of transposed convolutions, and the checkerboards they leave.

Claim under test: a transposed convolution's output has side s (n - 1) + k - 2 p over a grid of settings (Dumoulin and Visin,
2016). Measured beside it: how much energy networks with transposed convolutions, nearest-neighbour and bilinear
enlargement leave at the highest frequencies, where checkerboards lie (Odena et al., 2016), over what the photos have there.

    PRIVFACE_DATA=... python experiments/13_upsampling/run.py
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import Autoencoder, variant
from privface.training import FitSettings

GRID = tuple(itertools.product((1, 2, 5, 8, 14), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6), (0, 1, 2)))


def upsampled_size(size: int, *, stride: int, kernel: int, padding: int) -> int:
    """Side of a transposed convolution's output (Dumoulin and Visin, arXiv 1603.07285, relationship 14)."""
    return stride * (size - 1) + kernel - 2 * padding


def work(folder: Path) -> dict[str, Any]:
    right = wrong = 0
    for size, stride, kernel, padding in GRID:
        expected = upsampled_size(size, stride=stride, kernel=kernel, padding=padding)
        if expected < 1:
            continue
        side = nn.ConvTranspose2d(1, 1, kernel, stride, padding)(torch.zeros(1, 1, size, size)).shape[-1]
        right, wrong = right + (side == expected), wrong + (side != expected)
    parts, drawn = family.faces(side=32, count=1200), family.generated(side=32, count=8)
    rows, shown = {"photos": {"trained": checkerboard(parts.test)}}, [drawn.test[:12]]
    for how in ("transposed", "nearest", "bilinear"):
        torch.manual_seed(0)
        config = variant("convolutional", shape=(3, 32, 32), upsampling=how, code=48)
        untrained = Autoencoder(config).eval()
        network = family.fit(config, parts, FitSettings(epochs=8, batch_size=32, learning_rate=3e-3))
        made = family.reproduce(network, parts.test)
        rows[how] = {
            "untrained": checkerboard(family.reproduce(untrained, parts.test)),
            "trained": checkerboard(made),
            "mse": family.mse(made, parts.test),
        }
        shown.append(stretched(family.reproduce(untrained, drawn.test[:12])))
    family.sheet(folder / "untrained_networks.png", shown, enlarge=3)
    return {
        "claim": "output side s (n - 1) + k - 2 p for every setting of a grid",
        "data": parts.name,
        "sizes_right": right,
        "sizes_wrong": wrong,
        "share_of_energy_at_the_highest_frequencies": rows,
        "holds": wrong == 0,
    }


def stretched(images: np.ndarray) -> np.ndarray:
    """An untrained network's output hardly varies: its range becomes 0 to 1."""
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    return (images - low) / (high - low)


def checkerboard(images: np.ndarray) -> float:
    """Share of the energy of horizontal and vertical change that lies within a sixteenth of the highest frequency."""
    centred = images - images.mean(axis=(2, 3), keepdims=True)
    power = np.square(np.abs(np.fft.fft2(centred))).mean(axis=(0, 1))
    frequency = np.abs(np.fft.fftfreq(images.shape[-1]))
    top = frequency >= 0.5 - 1 / 32
    return float(power[top[:, None] | top[None, :]].sum() / power.sum())


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
