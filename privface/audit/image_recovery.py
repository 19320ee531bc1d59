"""Recovery of images: a convolutional network that learns the way back from protected to original photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from privface.audit.image_probe import keep_best
from privface.device import Device
from privface.errors import AuditError
from privface.images import to_pixels, to_unit

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageRecoverer:
    """A denoising autoencoder from protected to original photos of other people.

    By default a small U-Net (Ronneberger et al., MICCAI 2015) on half resolution that adds a correction to its input,
    trained with the mean absolute error. The epoch with the smallest error on validation people is kept.
    Rows of training people are recovered by this network, too.

    Attributes:
        epochs: Passes over the training pairs.
        width: Channels of the finest level.
        batch_size: Pairs per optimiser step.
        learning_rate: Peak of the one-cycle schedule.
        make: Gives a fresh network for images of a side: from images ``(N, 3, H, W)`` in [0, 1] to such images, whose
            ``penalty`` attribute, where it has one, is added to the loss after each pass.
        name: What ``make`` gives, for the report.
        progress: Called with (epochs done, epochs) after each epoch.
        device: Where it learns, and in what; by default the CPU in fp32.
    """

    epochs: int = 5
    width: int = 8
    batch_size: int = 8
    learning_rate: float = 3e-3
    progress: Callable[[int, int], None] | None = None
    make: Callable[[int], nn.Module] | None = field(default=None, repr=False)
    name: str = "denoiser"
    device: Device | None = None

    @property
    def place(self) -> str:
        """Where it learns."""
        return (self.device or Device()).name

    def fit(
        self,
        protected_train: Images,
        original_train: Images,
        train_people: NDArray[np.str_],
        protected_val: Images,
        original_val: Images,
        *,
        seed: int,
    ) -> FittedImageRecoverer:
        """Learn from some people's pairs, uint8 RGB ``(N, H, W, 3)``; same arguments, same network on a CPU.

        Raises:
            AuditError: If shapes differ or the images are below 16 pixels.
        """
        if protected_train.shape != original_train.shape or min(protected_train.shape[1:3]) < 16:
            raise AuditError(
                f"Recovery needs pairs of images of 16 pixels or more, it got {protected_train.shape} and"
                f" {original_train.shape}.",
                hint="Audit aligned face crops, 112 x 112 pixels for example.",
            )
        here = self.device or Device()
        steps = max(1, len(protected_train) // self.batch_size)
        rng = np.random.default_rng([seed, 8])

        def losses() -> Iterator[torch.Tensor]:
            order = rng.permutation(len(protected_train))
            for step in range(steps):
                rows = order[step * self.batch_size : (step + 1) * self.batch_size]
                x, y = (
                    torch.from_numpy(to_unit(images[rows])).to(here.name)
                    for images in (protected_train, original_train)
                )
                if rng.random() < 0.5:
                    x, y = x.flip(-1), y.flip(-1)
                with here.autocast():
                    given = network(x)
                yield F.l1_loss(given.float(), y) + getattr(network, "penalty", 0.0)

        def judge() -> float:
            return -float(np.abs(_apply(network, protected_val).astype(np.int16) - original_val).mean())

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _UNet(self.width) if self.make is None else self.make(protected_train.shape[1])
            network = network.to(here.name)
            keep_best(
                network,
                losses,
                judge,
                epochs=self.epochs,
                steps=steps,
                learning_rate=self.learning_rate,
                progress=self.progress,
            )
        return FittedImageRecoverer(network, _apply(network, protected_train))


@dataclass(frozen=True)
class FittedImageRecoverer:
    """A trained :class:`ImageRecoverer`.

    Attributes:
        network: The torch module, in evaluation mode.
        training: Recovered training photos, uint8 ``(N, H, W, 3)``.
    """

    network: nn.Module
    training: Images

    def recover(self, protected: Images) -> Images:
        """Estimates of the originals, uint8 RGB ``(N, H, W, 3)``."""
        return _apply(self.network, protected)


def _apply(network: nn.Module, images: Images) -> Images:
    network.eval()
    out, place = np.empty_like(images), next(network.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            x = torch.from_numpy(to_unit(images[start : start + 32])).to(place)
            out[start : start + 32] = to_pixels(network(x).cpu().numpy())
    return out


def _block(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class _UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = _block(12, width * 2)
        self.down = nn.ModuleList([_block(width * 2, width * 4, 2), _block(width * 4, width * 8, 2)])
        self.middle = _block(width * 8, width * 8)
        self.up = nn.ModuleList([_block(width * 12, width * 4), _block(width * 6, width * 2)])
        self.leave = nn.Conv2d(width * 2, 12, 3, 1, 1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)  # starts as the identity

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, breadth = image.shape[-2:]
        x = F.pad(image, (0, breadth % 2, 0, height % 2), mode="replicate")
        fine = self.enter(F.pixel_unshuffle(x - 0.5, 2))
        coarse = self.down[0](fine)
        y = self.middle(self.down[1](coarse))
        for layer, other in zip(self.up, (coarse, fine), strict=True):
            y = layer(torch.cat([F.interpolate(y, size=other.shape[-2:], mode="nearest"), other], dim=1))
        found: torch.Tensor = x + F.pixel_shuffle(self.leave(y), 2)
        return found[..., :height, :breadth]
