"""A variational autoencoder whose code has a part for the label and a part that knows as little of it as possible.

In the line of VLEED (Öztürk, Krivokuća Hahn, Bhattacharjee and Marcel, arXiv 2604.11250, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.erasers.base import Promise
from privface.erasers.networks import Encoder, EncodingEraser, FittingSets, Game


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class VLEED(EncodingEraser):
    """Split latent code: the template is the mean of the part that is to be free of the label.

    Losses: reconstruction from a drawn code; divergence of the free part from a standard normal and of the label's part
    from a normal around its label's own mean; and the entropy of the label given the free part, as opponents that keep learning
    estimate it, is pushed up to one bit.

    Promise: empirical. Settings beside those of ``EncodingEraser``:

    Args:
        entropy: Weight of the label's entropy: higher hides more and matches worse.
        divergence: Weight of both divergences (beta).
    """

    method: ClassVar[str] = "vleed"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "Opponents of the architectures it trained against read little; nothing is proved, curved probes may read on.",
    )

    entropy: float = 1.0
    divergence: float = 1e-3

    def _network(self, dimensions: int) -> _FreePart:
        return _FreePart(dimensions=dimensions, size=self.code_size(dimensions), width=self.width)

    def _game(self, data: FittingSets) -> Game:
        return _VariationalGame(self, self._network(data.units.shape[1]), data.units)


class _FreePart(nn.Module):
    """Mean and log-variance of the free part; called, it gives the mean at unit length."""

    def __init__(self, *, dimensions: int, size: int, width: int) -> None:
        super().__init__()
        self.mean = Encoder(dimensions=dimensions, size=size, width=width)
        self.log_variance = Encoder(dimensions=dimensions, size=size, width=width)

    def forward(self, units: Tensor) -> Tensor:
        """Unit rows ``(N, D)`` to unit rows ``(N, size)``."""
        return F.normalize(self.mean(units), dim=1)


class _VariationalGame(Game):
    def __init__(self, settings: VLEED, free: _FreePart, units: NDArray[np.float64]) -> None:
        dimensions = units.shape[1]
        size = settings.code_size(dimensions)
        label_size = max(2, dimensions // 16)
        parts = {
            "label": Encoder(dimensions=dimensions, size=2 * label_size, width=settings.width),
            "centres": nn.Embedding(2, label_size),
            "decoder": Encoder(dimensions=size + label_size, size=dimensions, width=settings.width),
        }
        super().__init__(free, units, size=size, parts=parts, opponents=4, restart=settings.steps // 4)
        self.settings, self.free = settings, free

    def loss(self, erased: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        before, settings, parts = self.units[rows], self.settings, self.parts
        mean = self.free.mean(before)
        spread = self.free.log_variance(before).clamp(-8, 4)
        label, label_spread = parts["label"](before).chunk(2, 1)
        label_spread = label_spread.clamp(-8, 4)
        centre = parts["centres"](codes.long())
        drawn = [
            m + torch.exp(0.5 * s) * torch.randn_like(m) for m, s in ((mean, spread), (label, label_spread))
        ]
        back = parts["decoder"](torch.cat(drawn, 1))
        total = (1 - F.cosine_similarity(back, before, dim=1)).mean()
        divergence = _divergence(mean, spread) + _divergence(label - centre, label_spread)
        total = total + settings.divergence * divergence
        total = total + settings.similarity * ((erased @ erased.T - before @ before.T) ** 2).mean()
        for reading in self.opponents:
            logits = reading(erased)[:, 0]
            entropy = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(logits)) / float(np.log(2))
            total = total + settings.entropy * (1 - entropy)
        return total


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence from a standard normal in nats, summed over values, mean over rows."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
