"""What autoencoders are put together from: corruptions of the input, and kinds of code with their penalties.

A corruption acts in training and leaves the shape alone. A kind of code turns the encoder's last features into the
code and says what it costs. In evaluation mode nothing is drawn unless the caller says where from (:class:`Noise`):
there is no corruption, and every code is deterministic. A code's ``weight`` is how much its cost usually counts beside
a squared error.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CorruptionKind: TypeAlias = Literal["none", "dropout", "gaussian", "salt-and-pepper"]
CodeKind: TypeAlias = Literal["plain", "sparse", "variational"]


@dataclass(frozen=True)
class Pass:
    """One pass in training: what was reproduced, the code ``(N, *code_shape)``, and what the code costs, a scalar."""

    output: Tensor
    code: Tensor
    penalty: Tensor


class Noise:
    """Where random numbers come from: torch's global generator, as in training."""

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of ``like``."""
        return torch.randn_like(like)

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers from [0, 1) of the shape, type and device of ``like``."""
        return torch.rand_like(like)


MAX_DRAW: Final = 2**64 - 1
"""Largest seed and largest number of a draw."""


class ImageNoise(Noise):
    """The numbers that one image is protected with.

    NumPy's PCG64, seeded by BLAKE2b of the image's values with seed and number as its key: the same image gets the same numbers
    whatever batch it stands in, and who does not know the seed cannot compute them.

    Args:
        image: One aligned image, float32, any shape.
        seed: Of the protection, 0 to :data:`MAX_DRAW`.
        number: Which of the draws with this seed, 0 to :data:`MAX_DRAW`.
    """

    def __init__(self, image: Tensor, *, seed: int, number: int = 0) -> None:
        content = image.detach().float().cpu().numpy().tobytes()
        key = seed.to_bytes(8, "big") + number.to_bytes(8, "big")
        digest = hashlib.blake2b(content, key=key, digest_size=32, person=b"privface draw").digest()
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))

    def normal(self, like: Tensor) -> Tensor:
        """As of :class:`Noise`."""
        drawn = self._generator.standard_normal(tuple(like.shape), dtype=np.float32)
        return torch.from_numpy(drawn).to(like)

    def uniform(self, like: Tensor) -> Tensor:
        """As of :class:`Noise`."""
        return torch.from_numpy(self._generator.random(tuple(like.shape), dtype=np.float32)).to(like)


class Corruption(nn.Module):
    """Spoils the input of a denoising autoencoder while it learns (Vincent et al., JMLR 2010).

    Args:
        kind: ``"dropout"`` sets values to 0 (masking noise), ``"gaussian"`` adds noise, ``"salt-and-pepper"``
            sets values of whole pixels to 0 or 1, as often each; ``"none"`` does nothing.
        level: Share of the values, or the noise's standard deviation in units of the [0, 1] range.
        spread: Each image's level is drawn from ``level * (1 - spread)`` to ``level * (1 + spread)``, so that
            one network serves more than one level; in [0, 1].

    :class:`~privface.models.AutoencoderConfig` checks all three.
    """

    def __init__(self, kind: CorruptionKind = "gaussian", *, level: float = 0.1, spread: float = 0.0) -> None:
        super().__init__()
        self.kind, self.level, self.spread = kind, level, spread

    @property
    def is_random(self) -> bool:
        """Whether it changes anything."""
        return self.kind != "none" and self.level > 0.0

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Spoil a batch ``(N, ...)`` in training mode, or with ``noise``, without clipping; else the batch itself."""
        if not self.is_random or not (self.training or noise is not None):
            return images
        source = noise or Noise()
        shape = (len(images), *[1] * (images.ndim - 1))
        drawn = source.uniform(torch.empty(shape, device=images.device))
        level = self.level * (1.0 + self.spread * (2.0 * drawn - 1.0))
        if self.kind == "gaussian":
            return images + level * source.normal(images)
        if self.kind == "dropout":
            # values that stay are not scaled up: the network has to see the levels it will meet in use
            return images * (source.uniform(images) >= level)
        pixels = images[:, :1] if images.ndim > 2 else images
        places = source.uniform(pixels) < level
        salt = (source.uniform(pixels) < 0.5).to(images.dtype)
        return torch.where(places, salt, images)


class PlainCode(nn.Module):
    """The features themselves: no limit but the size, no penalty."""

    kind: ClassVar[CodeKind] = "plain"
    factor: ClassVar[int] = 1
    weight: ClassVar[float] = 0.0

    def forward(self, features: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Code and penalty (0, scalar) for features of any shape; nothing is drawn."""
        return features, features.new_zeros(())


class SparseCode(nn.Module):
    """Soft-thresholded features, most of them exactly zero because their mean absolute value costs (an L1 penalty).

    ``sign(x) max(|x| - 0.05, 0)``, the proximal step of an L1 penalty (Gregor and LeCun, ICML 2010). A rectifier would
    give exact zeros, too, but more than a quarter of its units never come to life (experiment 17).
    """

    threshold: ClassVar[float] = 0.05

    kind: ClassVar[CodeKind] = "sparse"
    factor: ClassVar[int] = 1
    weight: ClassVar[float] = 0.04

    def forward(self, features: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Code and penalty: mean absolute value of all units; nothing is drawn."""
        code = F.softshrink(features, self.threshold)
        return code, code.abs().mean()


class GaussianCode(nn.Module):
    """A Gaussian for every unit, pulled towards the standard one (Kingma and Welling, ICLR 2014).

    The encoder gives twice as many features as the code has units: means, then logarithms of the variances. In training
    mode, and with a source of noise, the code is drawn; else it is the mean.
    """

    kind: ClassVar[CodeKind] = "variational"
    factor: ClassVar[int] = 2
    weight: ClassVar[float] = 0.02

    def forward(self, features: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Code and penalty: divergence from the standard normal in nats, summed over units, mean over the batch."""
        mean, log_variance = self.moments(features)
        code = mean
        if self.training or noise is not None:
            code = mean + torch.exp(0.5 * log_variance) * (noise or Noise()).normal(mean)
        return code, gaussian_divergence(mean, log_variance).mean()

    @staticmethod
    def moments(features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances; the latter are held in [-12, 12]."""
        mean, log_variance = features.chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 12.0)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of diagonal Gaussians from the standard one, in nats, shape ``(N,)``.

    ``0.5 * sum(mean^2 + variance - 1 - log variance)`` (Kingma and Welling, ICLR 2014, appendix B).
    """
    terms = mean.square() + log_variance.exp() - 1.0 - log_variance
    return 0.5 * terms.flatten(1).sum(dim=1)


CODES: dict[CodeKind, type[PlainCode] | type[SparseCode] | type[GaussianCode]] = {
    code.kind: code for code in (PlainCode, SparseCode, GaussianCode)
}
