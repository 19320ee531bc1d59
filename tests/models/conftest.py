"""A small network, and real photos for what is checked on real matchers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from privface.models import SemiAdversarialAutoencoder


def san(seed: int = 0, **changes: object) -> SemiAdversarialAutoencoder:
    """A small network with a head that does something."""
    torch.manual_seed(seed)
    made = SemiAdversarialAutoencoder(**{"width": 4, "depth": 2, "blocks": 1, **changes})  # type: ignore[arg-type]
    torch.nn.init.normal_(made.head.weight, std=0.3)
    return made.eval()


@pytest.fixture(scope="session")
def lfw(real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """200 aligned validation photos of LFW, float32 in [0, 1], and who they show: 80 people of two to four photos."""
    from privface.config import DataSettings
    from privface.images import to_unit
    from privface.pipeline import load_aligned, open_data

    settings = DataSettings(source=f"table:{real_data}", labels=str(real_data / "lfw.csv"), split="val")
    table = open_data(settings)
    people, counts = np.unique(table.identities, return_counts=True)
    chosen = people[(counts >= 2) & (counts <= 4)][:80]
    faces = load_aligned(table.take(np.flatnonzero(np.isin(table.identities, chosen))[:200]), size=112)
    return to_unit(faces.pixels), faces.table.identities
