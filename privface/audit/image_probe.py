"""The adaptive attacker on pixels: networks that learn to read gender from the images they are given.

The only module of this room that needs torch for a probe, and it is imported when a probe is fitted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, by_label
from privface.errors import AuditError
from privface.threads import map_parts

if TYPE_CHECKING:
    import torch
    from torch import nn

Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _NetworkProbe(ABC):
    epochs: int
    batch_size: int = 16
    learning_rate: float
    progress: Callable[[int, int], None] | None = None
    place: str = "cpu"

    _weight_decay: ClassVar[float] = 0.05
    _brightness: ClassVar[float] = 0.3
    _unit: ClassVar[bool] = False  # the network takes [0, 1], and views stay there

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the report."""

    @abstractmethod
    def _network(self, side: int) -> nn.Module:
        """What is trained: from images of a side to one number each."""

    def fit(
        self,
        train: Images,
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: Images,
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedNetwork:
        """Train on one set of people and choose the epoch on another.

        The CPU result depends on the arguments only; torch's global generator is left as it was. Arguments as of
        :meth:`~privface.audit.probes.RetrainedProbe.fit`: uint8 RGB of at least 16 x 16 pixels.

        Raises:
            AuditError: If the images are too small or one gender is missing.
        """
        import torch  # noqa: PLC0415

        if train.ndim != 4 or train.shape[-1] != 3 or min(train.shape[1:3]) < 16:
            raise AuditError(
                f"The {self.name} probe needs images (N, H, W, 3) of 16 pixels or more, it got {train.shape}.",
                hint="Audit aligned face crops, 112 x 112 pixels for example.",
            )
        if len(np.unique(train_genders)) != 2 or len(np.unique(val_genders)) != 2:
            raise AuditError(
                f"The {self.name} probe needs both genders among its training and its validation people.",
                hint="Give more people.",
            )
        unit = np.zeros(3, np.float32), np.full(3, 255.0, np.float32)
        mean, std = unit if self._unit else _channel_statistics(train)
        weights = _draw_weights(train_genders, train_people)
        steps = max(1, round(len(train) / self.batch_size))
        rng = np.random.default_rng([seed, 112])

        def losses() -> Iterator[torch.Tensor]:
            for _ in range(steps):
                index = rng.choice(len(train), self.batch_size, p=weights)
                moved = _moved(train[index], rng)
                contrast, brightness = (
                    torch.from_numpy(rng.uniform(*ends, (len(index), 1, 1, 1)).astype(np.float32))
                    for ends in ((0.8, 1.25), (-self._brightness, self._brightness))
                )
                x = fitted.standardise(moved, contrast, brightness)
                x = (x.clamp_(0.0, 1.0) if self._unit else x).to(fitted.place)
                # smoothed targets: labels of faces are sometimes wrong
                target = torch.from_numpy(train_genders[index].astype(np.float32)).to(x.device) * 0.9 + 0.05
                given = fitted.network(x).squeeze(1)
                yield torch.nn.functional.binary_cross_entropy_with_logits(given, target)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(train.shape[1]).to(self.place)
            fitted = FittedNetwork(network, mean, std, _lay_out(network, side=train.shape[1]))
            best, number = keep_best(
                network,
                losses,
                lambda: auc(*by_label(fitted.scores(val), val_genders)),
                epochs=self.epochs,
                steps=steps,
                learning_rate=self.learning_rate,
                weight_decay=self._weight_decay,
                first=self.epochs // 2,
                progress=self.progress,
            )
        return replace(fitted, val_auc=best, setting=f"epoch={number}")


@dataclass(frozen=True)
class CNNProbe(_NetworkProbe):
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
        place: Where it learns, ``"cpu"`` or a GPU such as ``"cuda"``.
    """

    epochs: int = field(default=14, kw_only=True)
    learning_rate: float = field(default=2e-3, kw_only=True)
    width: int = 8
    name: ClassVar[str] = "cnn"

    def _network(self, side: int) -> nn.Module:
        return _build(self.width)


@dataclass(frozen=True)
class FineTunedProbe(_NetworkProbe):
    """A pretrained network that is taught anew on protected photos: the strongest attacker one can download.

    A gender classifier keeps what it knows and adapts; a matcher, or any other network, gets a linear layer on
    its output. All weights learn, as those of :class:`CNNProbe` do, whose other settings it has.

    Attributes:
        base: Name of the network.
        make: Gives a fresh trainable module from float32 RGB ``(N, 3, H, W)`` in [0, 1] to ``(N, K)``, where
            ``K`` is 1 for a male logit.
        fingerprint: Changes whenever the answers of the pretrained network change: weights, input, which output.
    """

    base: str
    make: Callable[[], nn.Module] = field(repr=False)
    fingerprint: str = ""
    epochs: int = field(default=4, kw_only=True)
    learning_rate: float = field(default=5e-4, kw_only=True)

    _weight_decay = 0.01
    _brightness = 0.06
    _unit = True

    @property
    def name(self) -> str:
        """Name in the report."""
        return f"fine-tuned:{self.base}"

    def _network(self, side: int) -> nn.Module:
        return _with_head(self.make(), side=side)


@dataclass(frozen=True)
class FittedNetwork:
    """A network after training.

    Attributes:
        network: The torch module, in evaluation mode.
        mean: Per-channel value that becomes 0, shape ``(3,)``, in 0..255.
        std: Per-channel difference that becomes 1, shape ``(3,)``.
        layout: How its input lies in memory.
        val_auc: AUC on validation people of the epoch that was kept.
        setting: Which epoch was kept.
    """

    network: nn.Module
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    layout: torch.memory_format
    val_auc: float = math.nan
    setting: str = ""

    @property
    def place(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def scores(self, data: Images, *, batch_size: int = 32) -> NDArray[np.float64]:
        """Male scores (logits, higher is more male), shape ``(N,)``, of uint8 RGB ``(N, H, W, 3)``."""
        import torch  # noqa: PLC0415

        self.network.eval()

        def score(part: Images) -> NDArray[np.float64]:
            with torch.inference_mode():
                x = self.standardise(part).to(self.place)
                both = self.network(x) + self.network(x.flip(-1))
                return np.asarray(both.squeeze(1).cpu().numpy().astype(np.float64) / 2)

        parts = [data[start : start + batch_size] for start in range(0, len(data), batch_size)]
        return np.concatenate(map_parts(score, parts)) if parts else np.empty(0)

    def standardise(
        self, images: Images, contrast: torch.Tensor | float = 1.0, brightness: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """The network's input, float32 ``(N, 3, H, W)``, under a contrast and a brightness for each image."""
        import torch  # noqa: PLC0415

        scale = torch.from_numpy(1 / self.std).view(1, 3, 1, 1)
        shift = -torch.from_numpy(self.mean).view(1, 3, 1, 1) * scale
        scale, shift = scale * contrast, shift * contrast + brightness
        x = torch.from_numpy(np.array(images, order="C")).permute(0, 3, 1, 2)
        x = x.float().mul_(scale).add_(shift)
        return x.contiguous(memory_format=self.layout)


def _channel_statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    grey = np.arange(256)
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
    mean = [np.average(grey, weights=count) for count in counts]
    spread = [np.sqrt(np.average((grey - m) ** 2, weights=n)) for m, n in zip(mean, counts, strict=True)]
    # a floor of one grey level keeps a constant set of images from dividing by zero
    return np.array(mean, np.float32), np.maximum(spread, 1.0).astype(np.float32)


def _build(width: int) -> nn.Module:
    from torch import nn  # noqa: PLC0415
    from torchvision.models.resnet import BasicBlock  # noqa: PLC0415

    def block(inside: int, outside: int) -> nn.Module:
        made: nn.Module = BasicBlock(inside, outside, 2)
        made.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, 2, bias=False), nn.BatchNorm2d(outside))
        return made

    return nn.Sequential(
        nn.Conv2d(3, width, 5, 2, 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        block(width, width * 2),
        block(width * 2, width * 4),
        block(width * 4, width * 6),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(width * 6 * 16, 1),
    )


def _with_head(network: nn.Module, *, side: int) -> nn.Module:
    """The network itself if it gives one number, else with a linear layer on its output."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    for parameter in network.parameters():
        parameter.requires_grad_(True)
    network.eval()
    with torch.inference_mode():
        width = int(network(torch.zeros(1, 3, side, side)).shape[1])
    return network if width == 1 else nn.Sequential(network, nn.BatchNorm1d(width), nn.Linear(width, 1))


def _lay_out(network: nn.Module, *, side: int) -> torch.memory_format:
    """Put a network's weights into channels last, a third faster on CPUs, where it can have it; gives the layout of its input.

    Some do not run with it (``x.view`` of an image). Where a convolution of 1 x 1 with a stride has fewer than eight channels,
    torch 2.14's backward pass writes past its memory (CPUs with AVX2).
    """
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    strided = [
        part
        for part in network.modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and max(part.stride) > 1
    ]
    if any(part.in_channels < 8 for part in strided):
        return torch.contiguous_format
    example = torch.zeros(2, 3, side, side, device=next(network.parameters()).device)
    network.eval().to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            network(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        network.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


# nine arguments: what the attacking networks and the recovering one differ in
def keep_best(
    network: nn.Module,
    losses: Callable[[], Iterator[torch.Tensor]],
    judge: Callable[[], float],
    *,
    epochs: int,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, int]:
    """Train a network; it ends in evaluation mode with the weights of its best epoch.

    Args:
        network: What learns.
        losses: Gives the loss of each step of an epoch.
        judge: Says after an epoch how good the network is; higher is better.
        epochs: How many.
        steps: Of an epoch.
        learning_rate: Peak of AdamW's rate, which rises over a fifth of the steps and then falls.
        weight_decay: AdamW's.
        first: The first epoch that is judged.
        progress: Called with (epochs done, epochs) after each epoch.

    Returns:
        What the best epoch was judged, and its number from 1.
    """
    import torch  # noqa: PLC0415

    total = steps * epochs
    rise = 0.3 if total == 5 else 0.2  # a fifth of 5 steps is a rise of no length, which torch divides by
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=weight_decay, foreach=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total, pct_start=rise)
    best, kept, number = -math.inf, {}, 0
    for epoch in range(epochs):
        network.train()
        for loss in losses():
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if epoch >= first and (value := judge()) > best:
            best, kept, number = value, {k: v.clone() for k, v in network.state_dict().items()}, epoch + 1
        if progress is not None:
            progress(epoch + 1, epochs)
    network.load_state_dict(kept)
    network.eval()
    return best, number


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


def _moved(images: Images, rng: np.random.Generator) -> Images:
    """Each image shifted by up to a twenty-eighth of its side, edges repeated, and half of them mirrored."""
    count, height, width, _ = images.shape
    reach = max(1, round(min(height, width) / 28))
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    shifts = rng.integers(0, 2 * reach + 1, (count, 2))
    flips = np.less(rng.random(count), 0.5)
    moved = np.empty_like(images)
    for row, ((dy, dx), flip) in enumerate(zip(shifts, flips, strict=True)):
        view = padded[row, dy : dy + height, dx : dx + width]
        moved[row] = view[:, ::-1] if flip else view
    return moved
