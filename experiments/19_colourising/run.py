"""Experiment 19: colours for grey faces.

Claim under test: on faces of people it has not seen, the colour error (root mean square of Cb and Cr of ITU-R BT.601) is at least
15 % lower than that of leaving the photo grey. Reported: the same for one average colour for all photos, and saturation (mean
chroma) as a share of the photos' own.

    PRIVFACE_DATA=... python experiments/19_colourising/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import Autoencoder, variant
from privface.training import FitSettings


def work(folder: Path) -> dict[str, Any]:
    parts = family.faces(side=48, count=1200)
    network = family.fit(
        variant("colourising", shape=(3, 48, 48), width=16),
        parts,
        FitSettings(epochs=5, batch_size=16, learning_rate=2e-3),
    )
    truth, found = chroma(parts.test), chroma(coloured(network, parts.test))
    average = np.broadcast_to(chroma(parts.train).mean(axis=(0, 2, 3), keepdims=True), truth.shape)
    errors = {
        "grey": rms(truth),
        "one average colour": rms(truth - average),
        "autoencoder": rms(truth - found),
    }
    drawn = family.generated(side=48, count=8).test[:10]
    family.sheet(folder / "generated_faces.png", [drawn, grey(drawn), coloured(network, drawn)], enlarge=2)
    gain = 1.0 - errors["autoencoder"] / errors["grey"]
    return {
        "claim": "colour error at least 15 % below that of the grey photo",
        "trained_on": parts.name,
        "colour_error": errors,
        "gain": gain,
        "gain_over_one_average_colour": 1.0 - errors["autoencoder"] / errors["one average colour"],
        "saturation_ratio": float(strength(found) / strength(truth)),
        "holds": gain >= 0.15,
    }


def coloured(network: Autoencoder, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate(
            [network.colour(torch.from_numpy(images[k : k + 64])).numpy() for k in range(0, len(images), 64)]
        )


def grey(images: np.ndarray) -> np.ndarray:
    luma = np.einsum("nchw,c->nhw", images, [0.299, 0.587, 0.114])
    return np.repeat(luma[:, None], 3, axis=1).astype(np.float32)


def chroma(images: np.ndarray) -> np.ndarray:
    """Cb and Cr, ``(N, 2, H, W)``; 0 is grey, 0.5 the strongest colour."""
    luma = np.einsum("nchw,c->nhw", images, [0.299, 0.587, 0.114])
    return np.stack([0.564 * (images[:, 2] - luma), 0.713 * (images[:, 0] - luma)], axis=1)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def strength(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).sum(axis=1)).mean())


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
