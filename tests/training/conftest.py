"""Generated faces whose lower half is lighter for men: a planted gender cue that a small network finds at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from privface.losses import AlignmentLoss, AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import GenderProbe, Matcher, SemiAdversarialAutoencoder
from privface.records import InputSpec
from privface.training import (
    EmbeddingAdversary,
    LoopSettings,
    LossWeights,
    PixelAdversary,
    SemiAdversarialStep,
    SemiAdversarialTrainer,
)

SIDE = 32
SPEC = InputSpec(size=(SIDE, SIDE))


def people(count: int = 48, *, seed: int = 0, cue: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 32, 32, 3) and genders."""
    rng = np.random.default_rng(seed)
    genders = np.arange(count) % 2
    upper = np.kron(rng.uniform(60, 195, (count, 4, 8, 3)), np.ones((1, 4, 4, 1)))
    lower = np.broadcast_to(128 + cue * (2 * genders - 1)[:, None, None, None], (count, 16, SIDE, 3))
    pixels = np.concatenate([upper, lower], 1) + rng.normal(0, 6, (count, SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), genders.astype(np.int64)


class Upper(torch.nn.Module):
    """A matcher that sees the upper half at 8 x 4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x[:, :, :16] - 0.5, 4).flatten(1)


class Lower(torch.nn.Module):
    """A gender classifier: brightness of the lower half against the middle, less what the upper half has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (x[:, :, 20:28, 6:26].mean((1, 2, 3)) - 0.5)[:, None]


def make_step(
    *,
    seed: int = 0,
    adversaries: int = 1,
    watch: bool = False,
    align: bool = False,
    weights: LossWeights | None = None,
    objective: str = "uninformative",
) -> SemiAdversarialStep:
    torch.manual_seed(seed)
    return SemiAdversarialStep(
        SemiAdversarialAutoencoder(width=8, depth=2, blocks=1),
        matchers=[Matcher(Upper(), spec=SPEC, name="upper", weights_sha256="u")],
        classifiers=[GenderProbe(Lower(), spec=SPEC, name="lower", weights_sha256="l")],
        pixel_adversaries=[
            PixelAdversary(spec=SPEC, network={"width": 8, "stages": 1}) for _ in range(adversaries)
        ],
        embedding_adversaries=[EmbeddingAdversary(inputs=96)] if watch else [],
        alignments=[AlignmentLoss(96, decay=0.5)] if align else [],
        weights=weights or LossWeights(frozen=1.0, adversary=1.0),
        reconstruction=ReconstructionLoss(),
        matching=MatchingLoss(),
        attribute=AttributeLoss(objective),  # type: ignore[arg-type]
    )


def make_trainer(step: SemiAdversarialStep | None = None, **changes: Any) -> SemiAdversarialTrainer:
    told = {name: changes.pop(name, None) for name in ("progress", "validate", "on_epoch")}
    short = {"epochs": 3, "batch_size": 8, "epoch_images": 16, "warmup_steps": 0}
    settings = LoopSettings(**{**short, "device": "cpu", "precision": "32-true", **changes})
    return SemiAdversarialTrainer(step or make_step(), settings=settings, **told)


@pytest.fixture(scope="session")
def toy(one_thread: None) -> SimpleNamespace:
    """The toy's parts (importlib mode has no sibling imports)."""
    return SimpleNamespace(people=people, step=make_step, trainer=make_trainer, spec=SPEC, lower=Lower)
