"""Plain supervised training of our own gender classifiers and the compact matcher ``mini``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.data.sampling import balanced_indices
from privface.errors import TrainingError
from privface.models import CompactResNet, to_input
from privface.records import InputSpec
from privface.training.loop import Progress, descend
from privface.training.source import ImageSource, random_view, step_generator

_SCALE, _MARGIN = 16.0, 0.2
"""What a matcher's cosines are multiplied with, and what is taken off the true person's before."""


# more than eight arguments, here and below: settings of a training, which callers choose one by one
def train_gender_classifier(
    source: ImageSource,
    genders: NDArray[np.int64],
    *,
    spec: InputSpec,
    epochs: int = 6,
    batch_size: int = 64,
    epoch_images: int | None = None,
    width: int = 24,
    stages: int = 4,
    separable: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompactResNet:
    """Train a gender classifier on balanced batches; ``spec`` says which part of the frame it sees, and at which size.

    ``genders`` are 0 female, 1 male, ``(N,)``. Without ``epoch_images`` a pass takes every photo of the larger gender once. ``width``,
    ``stages`` and ``separable`` are those of :class:`~privface.models.CompactResNet`; the seed is that of initial weights, order and views.
    ``progress`` is called as ``progress(done, total, loss)``.

    Returns:
        A network that maps its input to one male logit, in evaluation mode.
    """
    network = _build(outputs=1, width=width, stages=stages, separable=separable, seed=seed)
    labels = torch.from_numpy(genders)

    orders = [balanced_indices(genders, seed=seed, epoch=k)[:epoch_images] for k in range(epochs)]

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], labels[rows].float())

    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2, foreach=True)
    _fit(network, optimizer, source, orders, batch_size, loss, spec, seed, progress, colour=0.25)
    return network


def train_matcher(
    source: ImageSource,
    identities: NDArray[Any],
    *,
    spec: InputSpec,
    dimensions: int = 128,
    epochs: int = 10,
    batch_size: int = 64,
    width: int = 24,
    stages: int = 4,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompactResNet:
    """Train a compact matcher with a cosine-margin softmax (CosFace, Wang et al., CVPR 2018).

    Learns from ``identities``, people ``(N,)`` with two or more photos each, to give embeddings of ``dimensions`` values.
    ``learning_rate`` is AdamW's highest (one cosine); other arguments are those of :func:`train_gender_classifier`.

    Returns:
        A network that maps its input to embeddings, in evaluation mode.

    Raises:
        TrainingError: If there are fewer than two people.
    """
    names, codes = np.unique(identities, return_inverse=True)
    if len(names) < 2:
        raise TrainingError(
            f"{len(names)} person cannot train a matcher.",
            hint="Give photos of at least two people, better hundreds.",
        )
    network = _build(outputs=dimensions, width=width, stages=stages, seed=seed)
    labels = torch.from_numpy(codes.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        centres = nn.Linear(dimensions, len(names), bias=False)

    orders = [np.random.default_rng([seed, k]).permutation(len(codes)) for k in range(epochs)]

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(outputs), F.normalize(centres.weight))
        truth = labels[rows]
        return F.cross_entropy(_SCALE * (cosines - _MARGIN * F.one_hot(truth, len(names))), truth)

    learned = [*network.parameters(), *centres.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=1e-2, foreach=True)
    # no colour jitter: colour tells people apart
    _fit(network, optimizer, source, orders, batch_size, loss, spec, seed, progress, colour=0.0)
    return network


def _build(*, outputs: int, width: int, stages: int, seed: int, separable: bool = False) -> CompactResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CompactResNet(outputs=outputs, width=width, stages=stages, separable=separable)


def _fit(
    network: CompactResNet,
    optimizer: torch.optim.Optimizer,
    source: ImageSource,
    orders: list[NDArray[np.int64]],
    batch_size: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    spec: InputSpec,
    seed: int,
    progress: Progress | None,
    *,
    colour: float,
) -> None:
    """Train on one view of each batch; ``orders`` holds the rows of each epoch, equally many."""
    network.train().to(memory_format=torch.channels_last)
    plans = [np.array_split(rows, max(1, len(rows) // batch_size)) for rows in orders]

    def value(done: int, index: NDArray[np.int64], images: Tensor) -> Tensor:
        epoch, position = divmod(done, len(plans[0]))
        view = random_view(
            images.to(memory_format=torch.channels_last),
            generator=step_generator(seed=seed, epoch=epoch, step=position),
            colour=colour,
        )
        return loss(network(to_input(view, spec)), torch.from_numpy(index))

    for _ in descend(optimizer, source, list(chain(*plans)), value, rise=50, progress=progress):
        pass
    network.eval()
