"""What erasers share that are trained as a game between a network and its opponents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from privface.descent import moving_average, set_rate
from privface.erasers.base import Eraser, known_codes, label_codes, require_range, unit_rows

_WEIGHTS = "network."
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class FittingSets:
    """Unit rows ``(N, D)`` of one or more labelled sets, one after the other, with labels 0 and 1 and the number of the set, ``(N,)``."""

    units: NDArray[np.float64]
    codes: NDArray[np.int64]
    sets: NDArray[np.int64]

    @property
    def groups(self) -> list[Tensor]:
        """Positions of each label of each set, labels next to each other."""
        return [
            torch.from_numpy(np.flatnonzero((self.sets == number) & (self.codes == label)))
            for number in range(int(self.sets.max()) + 1)
            for label in (0, 1)
        ]


class Game(nn.Module):
    """One method's networks and losses on the fitting rows ``units``, ``(N, D)``.

    ``kept`` is the transform, ``parts`` learn with it; erased rows have ``size`` values. Of the ``opponents``, readers of the label, each in turn
    begins anew after ``restart`` steps, never for 0.
    """

    def __init__(
        self,
        kept: nn.Module,
        units: NDArray[np.float64],
        *,
        size: int,
        parts: Mapping[str, nn.Module] = MappingProxyType({}),
        opponents: int = 0,
        opponent_rate: float = 1e-3,
        restart: int = 0,
    ) -> None:
        super().__init__()
        self.kept, self.size = kept, size
        self.parts = nn.ModuleDict(parts)
        self.units = torch.from_numpy(units.astype(np.float32))
        self.opponent_rate, self.restart = opponent_rate, restart
        self.opponents = nn.ModuleList(self.opponent(number) for number in range(opponents))

    def outputs(self, rows: Tensor) -> Tensor:
        """Erased rows for positions ``(B,)`` of the fitting data."""
        return torch.as_tensor(self.kept(self.units[rows]))

    @abstractmethod
    def loss(self, erased: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        """What the protector minimises for erased rows, as :meth:`outputs` gave them for positions ``rows``, ``(B,)``, with labels ``codes``.

        There are equally many rows of each group of :attr:`FittingSets.groups`, group by group.
        """

    def opponent(self, number: int) -> Opponent:
        """A new opponent for the place ``number``."""
        return Opponent(dimensions=self.size, number=number)


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class NetworkEraser(Eraser):
    """Base of erasers whose transform is a network; embeddings are brought to unit length before and after.

    Args:
        width: Hidden units.
        steps: Training steps.
        batch_size: Rows a step, half of each label.
        learning_rate: Highest rate (one cosine).
        random_state: Seed of everything drawn.

    Attributes:
        network_: The trained network.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    width: int = 256
    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-3
    random_state: int = 0

    @abstractmethod
    def _network(self, dimensions: int) -> nn.Module:
        """The protector, untrained; its ``forward`` takes unit rows ``(N, D)``."""

    @abstractmethod
    def _game(self, data: FittingSets) -> Game:
        """Networks and losses."""

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        more: Sequence[tuple[ArrayLike, ArrayLike]] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``; same data and seed on a CPU, same eraser.

        Args:
            X: Embeddings.
            y: Labels.
            more: Further labelled sets of the same matcher, as ``(X, y)``. Labels of one set are made alike among
                themselves, never across sets, so that a difference between sets is not taken for one of labels.
            progress: Called with (steps done, all steps).

        Raises:
            ValueError: As for :meth:`Eraser.fit`.
        """
        require_range("steps", self.steps, 1, 10_000_000)
        require_range("batch_size", self.batch_size, 4, 1_000_000)
        require_range("learning_rate", self.learning_rate, 1e-9, 10.0)
        data = self._sets(X, y, more)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            game = self._game(data)
            self._play(game, data.groups, progress)
        self.network_ = game.kept.double().eval()
        return self

    def _sets(self, X: ArrayLike, y: ArrayLike, more: Sequence[tuple[ArrayLike, ArrayLike]]) -> FittingSets:
        parts = [validate_data(self, X, y, dtype=np.float64)]
        parts += [validate_data(self, a, b, dtype=np.float64, reset=False) for a, b in more]
        self.classes_, _ = label_codes(parts[0][1], several=False)
        codes = [known_codes(labels, self.classes_) for _, labels in parts]
        for number, part in enumerate(codes):
            if part.min() == part.max():
                raise ValueError(f"Set {number} of {len(parts)} holds 1 class. Give labels with both.")
        return FittingSets(
            np.concatenate([unit_rows(rows) for rows, _ in parts]),
            np.concatenate(codes),
            np.repeat(np.arange(len(parts)), [len(part) for part in codes]),
        )

    def _play(self, game: Game, groups: list[Tensor], progress: Callable[[int, int], None] | None) -> None:
        each = max(4, self.batch_size // len(groups))  # a covariance is taken of halves
        truth = torch.tensor([0.0, 1.0]).repeat_interleave(each).repeat(len(groups) // 2)
        protector = nn.ModuleDict({"kept": game.kept, **game.parts})
        optimizer = torch.optim.AdamW(
            protector.parameters(), lr=self.learning_rate, weight_decay=1e-4, foreach=True
        )
        average = moving_average(protector, 0.995)
        chasers = [_chaser(game, opponent) for opponent in game.opponents]
        for step in range(self.steps):
            set_rate(optimizer, step, self.steps, rise=self.steps / 10)
            rows = torch.cat([g[torch.randint(len(g), (each,))] for g in groups])
            erased = game.outputs(rows)
            game.opponents.requires_grad_(True)
            for opponent, chaser in zip(game.opponents, chasers, strict=True):
                chaser.zero_grad(set_to_none=True)
                reading = opponent(erased.detach())[:, 0]
                F.binary_cross_entropy_with_logits(reading, truth).backward()  # type: ignore[no-untyped-call]
                chaser.step()
            self._begin_anew(game, chasers, step)
            # the protector's loss passes through the opponents, whose own weights it leaves alone
            game.opponents.requires_grad_(False)
            optimizer.zero_grad(set_to_none=True)
            game.loss(erased, rows, truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            average.update_parameters(protector)
            if progress is not None:
                progress(step + 1, self.steps)
        protector.load_state_dict(average.module.state_dict())

    def _begin_anew(self, game: Game, chasers: list[torch.optim.Optimizer], step: int) -> None:
        """Opponents that start afresh find what the old ones were led away from."""
        if not game.restart or (step + 1) % game.restart or step > 0.85 * self.steps or not chasers:
            return
        number = (step // game.restart) % len(chasers)
        game.opponents[number] = game.opponent(number)
        chasers[number] = _chaser(game, game.opponents[number])

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                units = unit_rows(rows[start : start + _ROWS_AT_ONCE].astype(np.float64))
                parts.append(self.network_(torch.from_numpy(units)).numpy())
        return np.concatenate(parts).astype(rows.dtype)

    def state(self) -> dict[str, NDArray[Any]]:
        """The network's arrays by name, behind ``network.``."""
        check_is_fitted(self)
        return {f"{_WEIGHTS}{name}": t.numpy() for name, t in self.network_.state_dict().items()}

    def restore(self, state: Mapping[str, NDArray[Any]], *, dimensions: int) -> Self:
        """Become the fitted eraser that :meth:`state` described.

        Raises:
            RuntimeError: If weights do not fit the network that the parameters describe.
        """
        self.n_features_in_ = dimensions
        self.network_ = self._network(dimensions).double().eval()
        self.network_.load_state_dict(
            {name.removeprefix(_WEIGHTS): torch.from_numpy(np.array(array)) for name, array in state.items()}
        )
        return self


def _chaser(game: Game, opponent: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(opponent.parameters(), lr=game.opponent_rate, weight_decay=1e-2, foreach=True)


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class EncodingEraser(ClassNamePrefixFeaturesOutMixin, NetworkEraser):  # type: ignore[misc]  # scikit-learn has no types
    """Base of erasers whose template is a code of ``size`` values, 0 for the embedding's own; ``similarity`` weighs the kept cosines."""

    size: int = 0
    similarity: float = 20.0

    def code_size(self, dimensions: int) -> int:
        """Values of the code for embeddings of ``dimensions`` values."""
        require_range("size", self.size, 0, 1_000_000)
        return self.size or dimensions

    @property
    def _n_features_out(self) -> int:
        return self.code_size(int(self.n_features_in_))


class Residual(nn.Module):
    """Two residual blocks of ``width`` hidden units that begin as the identity, then unit length."""

    def __init__(self, *, dimensions: int, width: int, dropout: float) -> None:
        super().__init__()
        self.scale = dimensions**0.5
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dimensions, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, dimensions)
            )
            for _ in range(2)
        )
        for block in self.blocks:
            for parameter in block[-1].parameters():  # type: ignore[index]
                nn.init.zeros_(parameter)

    def forward(self, units: Tensor) -> Tensor:
        """Unit rows ``(N, D)`` to unit rows ``(N, D)``."""
        rows = units * self.scale
        for block in self.blocks:
            rows = rows + block(rows)
        return F.normalize(rows, dim=1)


class Opponent(nn.Module):
    """An opponent: log-odds of the second label from erased rows ``(N, E)``, shape ``(N, 1)``.

    Opponents differ by number in width and activation; every fourth one looks at squared projections, where a covariance shows.
    """

    def __init__(self, *, dimensions: int, number: int) -> None:
        super().__init__()
        self.scale = dimensions**0.5
        self.squares = number % 4 == 3
        if self.squares:
            self.project = nn.Linear(dimensions, 64, bias=False)
            self.read = nn.Linear(64 + dimensions, 1)
            return
        width, activation = ((256, nn.ReLU), (192, nn.GELU), (256, nn.SiLU))[number % 4]
        self.read_all = nn.Sequential(
            nn.Linear(dimensions, width),
            activation(),
            nn.Dropout(0.2),
            nn.Linear(width, width),
            activation(),
            nn.Linear(width, 1),
        )

    def forward(self, erased: Tensor) -> Tensor:
        """Log-odds, shape ``(N, 1)``."""
        rows = erased * self.scale
        if self.squares:
            return torch.as_tensor(self.read(torch.cat([self.project(rows) ** 2, rows], 1)))
        return torch.as_tensor(self.read_all(rows))


class Encoder(nn.Module):
    """Perceptron with one hidden layer of ``width`` units; ``unit`` brings what it gives to unit length."""

    def __init__(self, *, dimensions: int, size: int, width: int, unit: bool = False) -> None:
        super().__init__()
        self.scale, self.unit = dimensions**0.5, unit
        self.layers = nn.Sequential(nn.Linear(dimensions, width), nn.GELU(), nn.Linear(width, size))

    def forward(self, units: Tensor) -> Tensor:
        """Unit rows ``(N, D)`` to rows ``(N, size)``."""
        rows = self.layers(units * self.scale)
        return F.normalize(rows, dim=1) if self.unit else torch.as_tensor(rows)


def uninformed(readings: list[Tensor]) -> Tensor:
    """How far opponents are from answering one half: cross-entropy against a fair coin above ln 2, summed."""
    coin = torch.stack(
        [F.binary_cross_entropy_with_logits(r[:, 0], torch.full_like(r[:, 0], 0.5)) for r in readings]
    )
    return coin.sum() - len(readings) * float(np.log(2))


def moment_gap(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased squared distance of means, and of covariances relative to their size (after CORAL, Sun and Saenko, 2016).

    The product of the gaps that two independent halves of the batch show: the noise of each has mean zero in it, while a
    plain square rewards rows for becoming fewer-dimensional and so less noisy.
    """
    halves = [(first[part::2], second[part::2]) for part in (0, 1)]
    means = [a.mean(0) - b.mean(0) for a, b in halves]
    shapes = [(torch.cov(a.T), torch.cov(b.T)) for a, b in halves]
    gaps = [a - b for a, b in shapes]
    size = torch.stack([(x * y).sum() for x, y in zip(*shapes, strict=True)]).sum().detach().clamp_min(1e-6)
    return (means[0] * means[1]).sum() * 10 + (gaps[0] * gaps[1]).sum() / size * 6


def kernel_gap(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of unit rows, four Gaussian kernels (Gretton et al., JMLR 2012)."""
    rows = torch.cat([first, second])
    distance = (2 - 2 * rows @ rows.T).clamp_min(0)
    kernel = torch.stack([torch.exp(-distance / width) for width in (0.2, 0.5, 1.0, 2.0)]).mean(0)
    kernel = kernel - torch.diag(torch.diagonal(kernel))
    count = len(first)
    pairs = max(count * (count - 1), 1)
    inside = (kernel[:count, :count].sum() + kernel[count:, count:].sum()) / pairs
    return inside - 2 * kernel[:count, count:].mean()
