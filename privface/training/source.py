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

    ``load`` gives one aligned face, uint8 ``(H, W, 3)``, by position; ``workers`` threads call it.
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
    """One random flip, shift, colour cast and greyness for a whole batch ``(N, 3, H, W)`` in [0, 1], differentiably.

    Classifiers and adversaries look at such views, in training as well as in use. Without the colour part a
    protector learns to tint whole images: that fools classifiers that never met a tint and hides nothing. ``colour`` is the largest relative
    change of each channel; half of the views also lose up to all of their colour.
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


def views(photos: Tensor, generator: torch.Generator, *, gentle: bool = False) -> Tensor:
    """Each photo ``(N, 3, H, W)`` in [0, 1] flipped or not, turned, moved, scaled and with other contrast and colours; differentiable.

    With ``gentle`` half as much of it, and no photo loses detail or colour, as photos of other kinds have lost.
    """
    count = len(photos)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand((count, *shape), generator=generator).to(photos.device)
        return low + (high - low) * drawn

    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    much = 0.5 if gentle else 1.0
    angle, size = draw(-0.09, 0.09) * much, 1 + draw(-0.06, 0.06) * much
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    across, down = draw(-0.06, 0.06) * much, draw(-0.06, 0.06) * much
    rows = [cosine * flip, -sine, across, sine * flip, cosine, down]
    grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(photos.shape), align_corners=False)
    turned = F.grid_sample(photos, grid, padding_mode="border", align_corners=False)
    if not gentle:
        soft = F.interpolate(F.avg_pool2d(turned, 2), size=photos.shape[-2:], mode="bilinear")
        turned = torch.lerp(turned, soft, draw(-1, 1, 1, 1, 1).clamp_min(0))
        grey = turned.mean(1, keepdim=True)
        turned = torch.lerp(turned, grey.expand_as(turned), (draw(0, 1, 1, 1, 1) < 0.1).float())
    middle = turned.mean((1, 2, 3), keepdim=True)
    contrast, light = 1 + draw(-0.25, 0.25, 1, 1, 1) * much, 1 + draw(-0.15, 0.15, 1, 1, 1) * much
    cast = 1 + draw(-0.07, 0.07, 3, 1, 1) * much
    return (((turned - middle) * contrast + middle * light) * cast).clamp(0, 1)


def mixed(photos: Tensor, aims: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The second half of a batch mixed with the first: photos ``(N, ...)`` and unit aims ``(N, K)``."""
    half = len(photos) // 2
    share = (0.3 + 0.4 * torch.rand(half, generator=generator)).to(photos.device)
    first, second = photos[:half], photos[-half:]
    image = torch.lerp(first, second, share.view(-1, *[1] * (photos.ndim - 1)))
    aim = F.normalize(torch.lerp(aims[:half], aims[-half:], share[:, None]))
    return torch.cat([photos[:-half], image]), torch.cat([aims[:-half], aim])
