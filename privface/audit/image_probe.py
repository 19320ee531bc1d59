"""The adaptive attacker on pixels: a small residual CNN trained from scratch to read gender.

The only module of this room that needs torch, and it is imported when a probe is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, by_label
from privface.errors import AuditError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class CNNProbe:
    """A convolutional gender classifier, trained from scratch on the images it is given.

    A compact residual network (He et al., CVPR 2016): a stride-2 stem, three stride-2 blocks of 2, 4 and 6
    times ``width`` channels, and a linear layer on their 4 x 4 map. The map is not averaged away: faces are
    aligned, so where a cue lies tells much, and on 900 training faces that is worth 0.07 in AUC.
    Training images are mirrored, shifted by up to a twenty-eighth of their side (whole pixels: resampling
    would erase fine-grained cues) and changed in brightness and contrast. Both genders are drawn equally
    often. AdamW with a one-cycle schedule; of the later epochs the one with the best validation AUC is kept.
    Scores are averaged over the image and its mirror image.

    Attributes:
        epochs: Passes over as many draws as there are training images.
        width: Channels of the stem.
        batch_size: Images per optimiser step.
        learning_rate: Peak of the schedule.
        progress: Called with (epochs done, epochs) after each epoch.
    """

    epochs: int = 14
    width: int = 8
    batch_size: int = 16
    learning_rate: float = 2e-3
    progress: Callable[[int, int], None] | None = None

    @property
    def name(self) -> str:
        """Name in the report."""
        return "cnn"

    def fit(
        self,
        train: NDArray[np.uint8],
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: NDArray[np.uint8],
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedCNN:
        """Train on one set of people and choose the epoch on another.

        The CPU result depends on the arguments only; torch's global generator is left as it was.

        Args:
            train: uint8 RGB, shape ``(N, H, W, 3)``, at least 16 x 16 pixels.
            train_genders: 0 (female) or 1 (male), shape ``(N,)``.
            train_people: Identities, shape ``(N,)``.
            val: uint8 RGB of other people, shape ``(M, H, W, 3)``.
            val_genders: Shape ``(M,)``.
            seed: Seed of initial weights, order and augmentation.

        Raises:
            AuditError: If the images are too small or one gender is missing.
        """
        import torch  # noqa: PLC0415

        if train.ndim != 4 or train.shape[-1] != 3 or min(train.shape[1:3]) < 16:
            raise AuditError(
                f"The CNN probe needs images (N, H, W, 3) of 16 pixels or more, it got {train.shape}.",
                hint="Audit aligned face crops, 112 x 112 pixels for example.",
            )
        if len(np.unique(train_genders)) != 2 or len(np.unique(val_genders)) != 2:
            raise AuditError(
                "The CNN probe needs both genders among its training and its validation people.",
                hint="Give more people.",
            )
        faces = _Faces(train, train_genders, _draw_weights(train_genders, train_people))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mean, std = _channel_statistics(train)
            fitted = FittedCNN(network=_build(self.width), mean=mean, std=std, val_auc=math.nan)
            best = _train(self, fitted, faces, val, val_genders, seed=seed)
        return FittedCNN(network=fitted.network, mean=mean, std=std, val_auc=best)


@dataclass(frozen=True)
class FittedCNN:
    """A trained :class:`CNNProbe`.

    Attributes:
        network: The torch module, in evaluation mode.
        mean: Per-channel mean of the training images, shape ``(3,)``, in 0..255.
        std: Per-channel standard deviation, shape ``(3,)``.
        val_auc: AUC on validation people of the epoch that was kept.
    """

    network: nn.Module
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    val_auc: float

    def scores(self, data: NDArray[np.uint8], *, batch_size: int = 64) -> NDArray[np.float64]:
        """Male scores (logits, higher is more male), shape ``(N,)``, of uint8 RGB ``(N, H, W, 3)``."""
        import torch  # noqa: PLC0415

        self.network.eval()
        out = np.empty(len(data), np.float64)
        with torch.inference_mode():
            for start in range(0, len(data), batch_size):
                x = self.standardise(data[start : start + batch_size])
                both = self.network(x) + self.network(x.flip(-1))
                out[start : start + batch_size] = both.squeeze(1).numpy().astype(np.float64) / 2
        return out

    def standardise(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """The network's input, float32 ``(N, 3, H, W)``."""
        import torch  # noqa: PLC0415

        scaled = (images.astype(np.float32) - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, -1, 1)))


@dataclass(frozen=True)
class _Faces:
    images: NDArray[np.uint8]
    genders: NDArray[np.int64]
    weights: NDArray[np.float64]  # probability of being drawn


def _channel_statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    flat = images.reshape(-1, 3).astype(np.float64)
    # a floor of one grey level keeps a constant set of images from dividing by zero
    return flat.mean(axis=0).astype(np.float32), np.maximum(flat.std(axis=0), 1.0).astype(np.float32)


def _build(width: int) -> nn.Module:
    from torch import nn  # noqa: PLC0415

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(inplace=True),
                nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
                nn.BatchNorm2d(outside),
            )
            self.skip: nn.Module = nn.Identity()
            if stride != 1 or inside != outside:
                self.skip = nn.Sequential(
                    nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
                )
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.relu(self.body(x) + self.skip(x))
            return y

    return nn.Sequential(
        nn.Conv2d(3, width, 5, 2, 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        Block(width, width * 2, 2),
        Block(width * 2, width * 4, 2),
        Block(width * 4, width * 6, 2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(width * 6 * 16, 1),
    )


def _train(
    probe: CNNProbe,
    fitted: FittedCNN,
    faces: _Faces,
    val: NDArray[np.uint8],
    val_genders: NDArray[np.int64],
    *,
    seed: int,
) -> float:
    import torch  # noqa: PLC0415

    rng, network = np.random.default_rng([seed, 112]), fitted.network
    steps = max(1, round(len(faces.images) / probe.batch_size))
    optimiser = torch.optim.AdamW(network.parameters(), lr=probe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=probe.learning_rate, total_steps=steps * probe.epochs, pct_start=0.2
    )
    best, kept = -1.0, {}
    for epoch in range(probe.epochs):
        network.train()
        for _ in range(steps):
            index = rng.choice(len(faces.images), probe.batch_size, p=faces.weights)
            x = _augment(fitted.standardise(faces.images[index]), rng)
            # smoothed targets: labels of faces are sometimes wrong
            target = torch.from_numpy(faces.genders[index].astype(np.float32)) * 0.9 + 0.05
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x).squeeze(1), target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if epoch >= probe.epochs // 2:
            value = auc(*by_label(fitted.scores(val), val_genders))
            if value > best:
                best, kept = value, {k: v.clone() for k, v in network.state_dict().items()}
        if probe.progress is not None:
            probe.progress(epoch + 1, probe.epochs)
    network.load_state_dict(kept)
    network.eval()
    return best


def _draw_weights(genders: NDArray[np.int64], people: NDArray[np.str_]) -> NDArray[np.float64]:
    """Probabilities under which genders are drawn equally often, and so are the people of one gender.

    A person's share grows with the square root of its photos, so that a single photo is not seen thirty
    times as often as each of a celebrity's thirty.
    """
    _, inverse, counts = np.unique(people, return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(counts[inverse])
    for gender in (0, 1):
        weights[genders == gender] /= weights[genders == gender].sum()
    return np.asarray(weights / weights.sum(), np.float64)


def _augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    import torch  # noqa: PLC0415

    count, _, height, width = x.shape
    reach = max(1, round(min(height, width) / 28))
    padded = torch.nn.functional.pad(x, (reach, reach, reach, reach), mode="replicate")
    shifts = rng.integers(0, 2 * reach + 1, (count, 2))
    flips = rng.random(count) < 0.5
    rows = []
    for image, (dy, dx), flip in zip(padded, shifts, flips, strict=True):
        view = image[:, dy : dy + height, dx : dx + width]
        rows.append(view.flip(-1) if flip else view)
    contrast = torch.from_numpy(rng.uniform(0.8, 1.25, (count, 1, 1, 1)).astype(np.float32))
    brightness = torch.from_numpy(rng.uniform(-0.3, 0.3, (count, 1, 1, 1)).astype(np.float32))
    return torch.stack(rows) * contrast + brightness
