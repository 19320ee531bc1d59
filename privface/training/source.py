"""Batches for training loops: deterministic order, deterministic augmentation, decoding off the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from privface.images import to_unit

_SHIFT = 4
"""Largest shift of a random view in pixels, both axes."""


class ImageSource(Protocol):
    """Random access to aligned faces."""

    def __len__(self) -> int:
        """Number of faces."""
        ...

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Faces at ``index``: float32 RGB ``(B, 3, H, W)`` in [0, 1]."""
        ...


class ArraySource:
    """Aligned faces held in memory as uint8 ``(N, H, W, 3)``."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """As of :class:`ImageSource`."""
        return to_unit(self._pixels[index])


class DecodingSource:
    """Faces decoded and aligned from disk on every visit, for sets that do not fit in memory.

    Args:
        load: Gives one aligned face, uint8 ``(H, W, 3)``, by position.
        count: Number of faces.
        workers: Decoding threads.
    """

    def __init__(self, load: Callable[[int], NDArray[np.uint8]], *, count: int, workers: int = 2) -> None:
        self._load, self._count = load, count
        self._pool = ThreadPoolExecutor(workers)

    def __len__(self) -> int:
        return self._count

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """As of :class:`ImageSource`."""
        return to_unit(np.stack(list(self._pool.map(self._load, index.tolist()))))


class Prefetcher:
    """Yields ``(position, index, images)`` of index arrays, from ``start`` on, with the next batch prepared in a background thread.

    Attributes:
        waited: Seconds the consumer stood waiting for data.
    """

    def __init__(self, source: ImageSource, batches: Sequence[NDArray[np.int64]], *, start: int = 0) -> None:
        self._source, self._batches, self._start = source, batches, start
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.int64], Tensor]]:
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[NDArray[np.float32]] | None = None
            for position in range(self._start, len(self._batches)):
                began = time.perf_counter()
                images = (ahead or pool.submit(self._source.batch, self._batches[position])).result()
                self.waited += time.perf_counter() - began
                ahead = None
                if position + 1 < len(self._batches):
                    ahead = pool.submit(self._source.batch, self._batches[position + 1])
                yield position, self._batches[position], torch.from_numpy(images)


def step_generator(*, seed: int, epoch: int, step: int) -> torch.Generator:
    """A generator that depends on nothing but its arguments, so that a resumed run draws the same numbers."""
    state = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def random_view(images: Tensor, *, generator: torch.Generator, colour: float = 0.25) -> Tensor:
    """One random flip, shift, colour cast and greyness for a whole batch, differentiably.

    Classifiers and adversaries look at such views, in training as well as in use. Without the colour part a
    protector learns to tint whole images: that fools classifiers that never met a tint and hides nothing.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        generator: Source of randomness.
        colour: Largest relative change of each channel; half of the views also lose up to all of their colour.
    """
    flip, dx, dy, grey, *gains = torch.rand(7, generator=generator).tolist()
    out = images.flip(3) if flip < 0.5 else images
    left, top = int(dx * (2 * _SHIFT + 1)), int(dy * (2 * _SHIFT + 1))
    padded = F.pad(out, [_SHIFT] * 4, mode="replicate")
    out = padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]
    if colour:
        fade = max(0.0, 2 * grey - 1)
        out = out + fade * (out.mean(1, keepdim=True) - out)
        gain = out.new_tensor([1 + colour * (2 * g - 1) for g in gains]).view(1, 3, 1, 1)
        out = (out * gain).clamp(0, 1)
    return out
