"""Experiment 14: dropout makes a code that can lose units.

Claim under test: with 30 % of the code's units dropped, the error of an autoencoder that was trained with dropout on the
code rises at most half as much as that of the same network trained without. Digits, held out; 20 draws of units.

    python experiments/14_dropout/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import Autoencoder, variant
from privface.training import FitSettings

DROPPED = 0.3


def work(folder: Path) -> dict[str, Any]:
    parts = family.digits()
    rows, shown = {}, [parts.test[:16]]
    for name, share in (("plain", 0.0), ("dropout", DROPPED)):
        network = family.fit(
            variant("fully-connected", shape=(1, 8, 8), code=32, hidden=(256,), code_dropout=share),
            parts,
            FitSettings(epochs=120, batch_size=50, learning_rate=2e-3),
        )
        whole = family.mse(family.reproduce(network, parts.test), parts.test)
        images, torch_seed = torch.from_numpy(parts.test), torch.random.fork_rng(devices=[])
        with torch_seed, torch.inference_mode():
            torch.manual_seed(0)
            draws = [family.mse(thinned(network, images), parts.test) for _ in range(20)]
            shown.append(thinned(network, images[:16]))
        rows[name] = {
            "mse": whole,
            "mse_thinned": float(np.mean(draws)),
            "rise": float(np.mean(draws)) - whole,
        }
    family.sheet(folder / "digits_30_percent_dropped.png", shown, enlarge=6)
    ratio = rows["dropout"]["rise"] / rows["plain"]["rise"]
    return {
        "claim": "the error rises at most half as much as without dropout in training",
        **rows,
        "ratio_of_rises": ratio,
        "holds": ratio <= 0.5,
    }


def thinned(network: Autoencoder, images: torch.Tensor) -> np.ndarray:
    """Both networks lose units in the same way: set to 0, the others scaled up."""
    return network.decode(F.dropout(network.encode(images), DROPPED, training=True)).numpy()


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
