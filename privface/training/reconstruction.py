"""Training of an autoencoder to give back what it is shown, or to give something else for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from privface.config import MadeSettings
from privface.errors import TrainingError
from privface.models import Autoencoder
from privface.training.checkpoint import read_checkpoint, write_checkpoint
from privface.training.loop import Progress, descend
from privface.training.source import ImageSource, Prefetcher

Loss: TypeAlias = Literal["mse", "bce", "l1"]

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
    "l1": F.l1_loss,
}


class UnitSource:
    """Images held in memory: float32 ``(N, C, H, W)``, in [0, 1] unless the network's output is linear."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images at ``index``."""
        return self._images[index]


class FitSettings(MadeSettings):
    """How an autoencoder learns.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images a step.
        learning_rate: AdamW's highest rate; rises over a twentieth of the steps, then falls along a cosine.
        weight_decay: AdamW's.
        loss: ``"mse"``, ``"bce"`` (binary cross-entropy, for values in [0, 1]) or ``"l1"``, mean over all values.
        penalty: Weight of the code's penalty: of the mean absolute code (sparse), or of the divergence in nats per
            value of the image (variational): 1 with ``"bce"`` is the evidence lower bound, ``2 s^2`` with ``"mse"`` that of
            a Gaussian likelihood of standard deviation ``s``.
        seed: Of order, corruption, dropout and drawn codes. Initial weights come with the network.

    Raises:
        ConfigError: If a number is out of range or the loss unknown.
    """

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = 0.0
    loss: Loss = "mse"
    penalty: float = Field(1.0, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to, numbered from 1: mean loss with penalty over the steps, and on validation images (NaN where there are none).

    It is ``kept`` if it is the best so far.
    """

    number: int
    training: float
    validation: float
    kept: bool


# ten arguments and one long body: what may be left out of a training, and its epochs in the order they happen
def train_autoencoder(
    network: Autoencoder,
    source: ImageSource,
    settings: FitSettings,
    *,
    validation: ImageSource | None = None,
    targets: ImageSource | None = None,
    validation_targets: ImageSource | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> list[Epoch]:
    """Train in place; the network ends in evaluation mode with its best epoch's weights.

    Args:
        network: The autoencoder; its own part spoils the input where it is a denoising one.
        source: What it is shown, and what it is to give back where there are no ``targets``.
        settings: Schedule, loss and seed.
        validation: Other images; without them the last epoch is kept.
        targets: What it is to give instead, row by row.
        validation_targets: The same for ``validation``.
        progress: Called as ``progress(steps done, steps, loss)``.
        on_epoch: Told about each epoch, when the network already holds the weights that it ended with.
        checkpoint: File that each epoch ends with; removed at the end.
        resume: Whether to go on from the checkpoint. The weights are those of a training that was not stopped.

    Returns:
        One record an epoch. Same arguments, same weights on a CPU.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged or of other settings.
        TrainingError: If there are no images, sources differ in length, or the loss stops being finite.
    """
    _check(source, targets)
    if validation is not None:
        _check(validation, validation_targets)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    network.train().to(memory_format=torch.channels_last)
    key = f"{settings!r} {network.settings!r} {len(source)}"
    parts = {"network": network, "optimizer": optimizer}
    plans = [_order(len(source), settings, epoch) for epoch in range(settings.epochs)]
    batches, each = list(chain(*plans)), len(plans[0])
    epochs: list[Epoch] = []
    kept: dict[str, Tensor] = {}
    losses: list[float] = []

    def loss(_: int, index: NDArray[np.int64], images: Tensor) -> Tensor:
        return _loss(network, images, index, targets, settings)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if checkpoint is not None and resume:
            state = read_checkpoint(checkpoint, key, parts)
            kept, epochs = state["kept"], [Epoch(*epoch) for epoch in state["epochs"]]
            torch.set_rng_state(state["random"])
        for done, value in descend(
            optimizer, source, batches, loss,
            rise=len(batches) // 20, clip=1.0, start=each * len(epochs), progress=progress,
        ):  # fmt: skip
            losses.append(value)
            if done % each:
                continue
            held = np.nan
            if validation is not None:
                held = evaluate(network, validation, settings, targets=validation_targets)
            better = not held >= min((epoch.validation for epoch in epochs), default=np.inf)
            if better:
                kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
            epochs.append(Epoch(len(epochs) + 1, float(np.mean(losses)), float(held), better))
            losses.clear()
            if on_epoch is not None:
                on_epoch(epochs[-1])
            if checkpoint is not None:
                rows, random = [astuple(epoch) for epoch in epochs], torch.get_rng_state()
                write_checkpoint(checkpoint, key, parts, kept=kept, epochs=rows, random=random)
            network.train()
    if checkpoint is not None:
        checkpoint.unlink()
    network.load_state_dict(kept)
    network.eval()
    return epochs


def _check(source: ImageSource, targets: ImageSource | None) -> None:
    if not len(source):
        raise TrainingError("There is no image to learn from.", hint="Give a folder with photos.")
    if targets is not None and len(source) != len(targets):
        raise TrainingError(f"{len(source)} images, but {len(targets)} targets.")


def evaluate(
    network: Autoencoder, source: ImageSource, settings: FitSettings, *, targets: ImageSource | None = None
) -> float:
    """Mean loss with penalty over all images, in evaluation mode."""
    network.eval()
    total = 0.0
    plan = np.array_split(np.arange(len(source)), max(1, -(-len(source) // 64)))
    with torch.inference_mode():
        for _, index, images in Prefetcher(source, plan):
            total += float(_loss(network, images, index, targets, settings)) * len(index)
    return total / len(source)


def _order(count: int, settings: FitSettings, epoch: int) -> list[NDArray[np.int64]]:
    rows = np.random.default_rng([settings.seed, epoch, 5]).permutation(count)
    return np.array_split(rows, max(1, round(count / settings.batch_size)))


def _loss(
    network: Autoencoder,
    images: Tensor,
    index: NDArray[np.int64],
    targets: ImageSource | None,
    settings: FitSettings,
) -> Tensor:
    wanted = images if targets is None else torch.from_numpy(targets.batch(index))
    passed = network.learn(images.to(memory_format=torch.channels_last))
    return _LOSSES[settings.loss](passed.output, wanted) + settings.penalty * network.cost(passed)
