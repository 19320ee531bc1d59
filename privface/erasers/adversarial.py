"""A residual network that keeps similarities and takes the label away from opponents that keep learning.

In the line of SensitiveNets (Morales et al., TPAMI 2021), with alignment of both labels' distributions and optimal transport to begin with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin
from torch import Tensor, nn

from privface.erasers.base import Promise, require_range
from privface.erasers.networks import (
    FittingSets,
    Game,
    NetworkEraser,
    Residual,
    kernel_gap,
    moment_gap,
    uninformed,
)
from privface.erasers.transport import GaussianMap, GaussianTransport

_FOLDS = 5


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class AdversarialEraser(OneToOneFeatureMixin, NetworkEraser):  # type: ignore[misc]  # scikit-learn has no types
    """Transport first, then a network for each side of the gate, trained against opponents and for equal distributions.

    1. :class:`~privface.erasers.GaussianTransport` brings both labels to one mean and one covariance. While training, its gate
       judges each row by a gate fitted on other rows, so that the network meets the errors it will meet later.
    2. A residual network per side moves rows on. Its loss: squared change of the cosines between rows of a batch (pairs of
       one side count four times as much, as most comparisons that matter are made there), four opponents (three
       perceptrons and a quadratic reader, restarted in turn) that should answer one half, and two distances of
       the two labels' distributions: moments and kernel mean discrepancy.

    Promise: empirical. Settings beside those of ``NetworkEraser``:

    Args:
        transport: Begin with the transport; without it one network serves all rows, as in SensitiveNets.
        similarity: Weight of the kept cosines: higher matches better and hides less.
        adversary: Weight of the opponents.
        kernel: Weight of the kernel mean discrepancy.
        moments: Weight of the moments.
        dropout: Share of hidden units left out in training, in [0, 0.9].
        mixing: Up to this share of another row of the same label and side is mixed into each row while training, in [0, 1]:
            opponents would else learn people by heart.
        opponent_rate: Rate of the opponents.
        restart: Steps after which an opponent, each in turn, begins anew; 0 never.

    The trained ``network_`` holds the transport's arrays, too.
    """

    method: ClassVar[str] = "adversarial"
    promise: ClassVar[Promise] = Promise(
        "empirical",
        "Opponents of a few architectures read little while it trained; only an audit with retrained attackers tells more.",
    )

    transport: bool = True
    similarity: float = 150.0
    adversary: float = 0.3
    kernel: float = 300.0
    moments: float = 1.0
    dropout: float = 0.3
    mixing: float = 0.5
    learning_rate: float = 5e-4
    opponent_rate: float = 1e-3
    restart: int = 500

    def _network(self, dimensions: int) -> _Sided:
        require_range("dropout", self.dropout, 0.0, 0.9)
        return _Sided(dimensions, width=self.width, dropout=self.dropout, gated=self.transport)

    def _game(self, data: FittingSets) -> Game:
        network = self._network(data.units.shape[1])
        moved, sides = data.units, np.zeros(len(data.units), np.int64)
        if self.transport:
            first = data.sets == 0
            transport = GaussianTransport().fit(data.units[first], data.codes[first])
            network.adopt(transport)
            sides = self._crossed(data, transport.fitted)
            moved = transport.fitted.move(data.units, sides)
        return _AdversarialGame(self, network, data, moved, sides)

    def _crossed(self, data: FittingSets, whole: GaussianMap) -> NDArray[np.int64]:
        """The side of each row; rows that fitted the gate are judged by a gate of other rows."""
        sides = whole.judge(data.units)
        first = np.flatnonzero(data.sets == 0)
        fold = np.random.default_rng(self.random_state).permutation(len(first)) % _FOLDS
        for number in range(_FOLDS):
            held, others = first[fold == number], first[fold != number]
            if min(np.bincount(data.codes[others], minlength=2)) > 0:
                gate = GaussianTransport().fit(data.units[others], data.codes[others])
                sides[held] = gate.fitted.judge(data.units[held])
        return sides


class _Sided(nn.Module):
    """The transform: transport, then the residual network of the row's side."""

    def __init__(self, dimensions: int, *, width: int, dropout: float, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.sides = nn.ModuleList(
            Residual(dimensions=dimensions, width=width, dropout=dropout) for _ in range(2 if gated else 1)
        )
        if gated:
            square = (dimensions, dimensions)
            sizes = ((2, dimensions), (2, *square), (dimensions,), (1, *square), (1, dimensions), (1,))
            for name, size in zip(GaussianTransport.arrays, sizes, strict=True):
                self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def adopt(self, fitted: GaussianTransport) -> None:
        """Take over the arrays of a fitted transport."""
        for name in GaussianTransport.arrays:
            getattr(self, name).copy_(torch.from_numpy(getattr(fitted, name)))

    def on_sides(self, moved: Tensor, sides: Tensor) -> Tensor:
        """Rows already transported, through the network of their side."""
        if not self.gated:
            return torch.as_tensor(self.sides[0](moved))
        first, second = (side(moved) for side in self.sides)
        return torch.where(sides[:, None] == 0, first, second)

    def forward(self, units: Tensor) -> Tensor:
        """Unit rows ``(N, D)`` of float64 to unit rows."""
        if not self.gated:
            return self.on_sides(units, torch.zeros(len(units)))
        fitted = GaussianMap(*(getattr(self, name).numpy() for name in GaussianTransport.arrays))
        rows = units.numpy()
        sides = fitted.judge(rows)
        return self.on_sides(torch.from_numpy(fitted.move(rows, sides)), torch.from_numpy(sides))


class _AdversarialGame(Game):
    def __init__(
        self,
        settings: AdversarialEraser,
        network: _Sided,
        data: FittingSets,
        moved: NDArray[np.float64],
        sides: NDArray[np.int64],
    ) -> None:
        super().__init__(
            network,
            data.units,
            size=data.units.shape[1],
            opponents=4 if settings.adversary else 0,
            opponent_rate=settings.opponent_rate,
            restart=settings.restart,
        )
        self.settings, self.network = settings, network
        self.moved = torch.from_numpy(moved.astype(np.float32))
        self.side = torch.from_numpy(sides)
        self.count = len(data.groups)
        self.before = self.units[:0]

    def outputs(self, rows: Tensor) -> Tensor:
        side = self.side[rows]
        # the next row of the same group and side; where there is none, the row itself
        partner = torch.roll(rows, 1)
        group = torch.arange(len(rows)) * self.count // len(rows)
        fits = (self.side[partner] == side) & (torch.roll(group, 1) == group)
        share = torch.rand(len(rows), 1) * self.settings.mixing * fits[:, None]
        self.before, moved = (
            F.normalize((1 - share) * table[rows] + share * table[partner], dim=1)
            for table in (self.units, self.moved)
        )
        return torch.as_tensor(self.network.on_sides(moved, side))

    def loss(self, erased: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        weights, side = self.settings, self.side[rows]
        cosines = self.before @ self.before.T
        matters = (1 + 5 * cosines.clamp_min(0)) * torch.where(side[:, None] == side[None], 1.0, 0.25)
        total = weights.similarity * (matters * (erased @ erased.T - cosines) ** 2).mean()
        parts = erased.chunk(self.count)
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            for weight, gap in ((weights.moments, moment_gap), (weights.kernel, kernel_gap)):
                if weight:
                    total = total + weight * gap(first, second)
        if weights.adversary:
            total = total + weights.adversary * uninformed([o(erased) for o in self.opponents])
        return total
