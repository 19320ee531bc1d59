"""An autoencoder that puts the label into one part of its code and keeps the other part.

In the line of PFRNet (Bortolato et al., "Learning privacy-enhancing face representations through feature disentanglement", FG 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.erasers.base import Promise, require_range
from privface.erasers.networks import Encoder, EncodingEraser, FittingSets, Game


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class PFRNet(EncodingEraser):
    """Feature disentanglement: identity and label in two parts of a code; the template is the identity part.

    Losses: reconstruction of the embedding from both parts; the label read from its own part; central moments
    up to ``order`` of the identity part equal for both labels; cosines of the identity part as they were.

    Promise: broken, see :attr:`promise`. Settings beside those of ``EncodingEraser``:

    Args:
        order: Highest central moment that is matched, 1 to 8.
        moments: Weight of the matched moments.
    """

    method: ClassVar[str] = "pfrnet"
    promise: ClassVar[Promise] = Promise(
        "broken",
        "A few matched moments leave the label to curved probes and to learned recovery "
        "(Rot et al., PrivacyProber, TDSC 2022).",
    )

    order: int = 4
    moments: float = 1.0

    def _network(self, dimensions: int) -> nn.Module:
        size = self.code_size(dimensions)
        return Encoder(dimensions=dimensions, size=size, width=self.width, unit=True)

    def _game(self, data: FittingSets) -> Game:
        require_range("order", self.order, 1, 8)
        return _DisentanglingGame(self, self._network(data.units.shape[1]), data.units)


class _DisentanglingGame(Game):
    def __init__(self, settings: PFRNet, encoder: nn.Module, units: NDArray[np.float64]) -> None:
        dimensions = units.shape[1]
        size = settings.code_size(dimensions)
        label_size = max(2, dimensions // 8)
        parts = {
            "label": Encoder(dimensions=dimensions, size=label_size, width=settings.width),
            "read": nn.Linear(label_size, 1),
            "decoder": Encoder(dimensions=size + label_size, size=dimensions, width=settings.width),
        }
        super().__init__(encoder, units, size=size, parts=parts)
        self.settings = settings

    def loss(self, erased: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        before, settings, parts = self.units[rows], self.settings, self.parts
        label = parts["label"](before)
        back = parts["decoder"](torch.cat([erased, label], 1))
        total = (1 - F.cosine_similarity(back, before, dim=1)).mean()
        total = total + F.binary_cross_entropy_with_logits(parts["read"](label)[:, 0], codes)
        total = total + settings.similarity * ((erased @ erased.T - before @ before.T) ** 2).mean()
        first, second = (erased[codes == k] * erased.shape[1] ** 0.5 for k in (0, 1))
        return total + settings.moments * _moments(first, second, settings.order)


def _moments(first: Tensor, second: Tensor, order: int) -> Tensor:
    centred = [part - part.mean(0) for part in (first, second)]
    gap = (first.mean(0) - second.mean(0)).pow(2).mean()
    for power in range(2, order + 1):
        gap = gap + (centred[0].pow(power).mean(0) - centred[1].pow(power).mean(0)).pow(2).mean()
    return gap
