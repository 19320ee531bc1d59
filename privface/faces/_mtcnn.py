"""MTCNN's three-stage cascade over facenet-pytorch's networks (Zhang et al., IEEE SPL 2016).

The networks and the arithmetic are facenet-pytorch's; its driver is not used. That one crashes where a
candidate lies wholly outside the photo, and its suppression shifts the boxes of a batch by the largest
coordinate, so that boxes with negative coordinates can suppress faces of the neighbouring photo.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import nms

_FACTOR = 0.709
"""Step of the image pyramid: about half the area each."""

_CELL, _STRIDE = 12, 2
"""PNet's field of view and step in pixels."""

_CROPS = 512
"""Candidates that go through RNet or ONet at once."""


class Cascade:
    """Callable: uint8 RGB photos of one size, shape ``(B, H, W, 3)``, to the faces of each.

    Each result has shape ``(n, 15)``: x1, y1, x2, y2, score, then five points x, y; by falling score.

    Args:
        device: torch device.
        thresholds: Least confidence after each stage.
        min_face: Side of the smallest face looked for, in pixels.
    """

    def __init__(self, *, device: str, thresholds: tuple[float, float, float], min_face: int) -> None:
        self._device = torch.device(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older torch warns about facenet-pytorch's plain torch.load
            networks = MTCNN(keep_all=True, device=self._device)
        # Pooling and small convolutions are several times faster with channels last.
        networks.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
        self._pnet, self._rnet, self._onet = networks.pnet, networks.rnet, networks.onet
        self._thresholds = thresholds
        self._min_face = min_face

    @torch.inference_mode()
    def __call__(self, photos: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Find the faces of each photo."""
        pixels = torch.from_numpy(photos).to(self._device)
        boxes, owner = self._propose(pixels.permute(0, 3, 1, 2).float())
        sums = _summed(pixels)
        boxes, owner = self._refine(sums, boxes, owner)
        faces, owner = self._locate(sums, boxes, owner)
        table = faces.cpu().double().numpy()
        owners = owner.cpu().numpy()
        parts = [table[owners == index] for index in range(len(photos))]
        return [part[np.argsort(-part[:, 4], kind="stable")] for part in parts]

    def _propose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """PNet over a pyramid of scales: square candidates (n, 4) and the photo of each."""
        height, width = images.shape[2:]
        scale = _CELL / self._min_face
        rows, owners = [images.new_empty(0, 9)], [torch.empty(0, dtype=torch.int64, device=images.device)]
        while min(height, width) * scale >= _CELL:
            smaller = interpolate(images, (int(height * scale + 1), int(width * scale + 1)), mode="area")
            offsets, probability = self._pnet(_normalised(smaller))
            mask = probability[:, 1] >= self._thresholds[0]
            photo, y, x = mask.nonzero(as_tuple=True)
            corner = torch.stack([x, y], dim=1) * _STRIDE + 1
            box = torch.cat([(corner / scale).floor(), ((corner + _CELL - 1) / scale).floor()], dim=1)
            row = torch.cat([box, probability[:, 1][mask][:, None], offsets.permute(0, 2, 3, 1)[mask]], dim=1)
            keep = _suppress(row, photo, 0.5)
            rows.append(row[keep])
            owners.append(photo[keep])
            scale *= _FACTOR
        row, owner = torch.cat(rows), torch.cat(owners)
        keep = _suppress(row, owner, 0.7)
        row, owner = row[keep], owner[keep]
        sides = (row[:, 2:4] - row[:, :2]).repeat(1, 2)
        return _squared(row[:, :4] + row[:, 5:] * sides), owner

    def _refine(self, sums: Tensor, boxes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """RNet: rejects most candidates and moves the rest."""
        boxes, owner, (offsets, probability) = _look(self._rnet, sums, boxes, owner, side=24, outputs=(4, 2))
        passed = probability[:, 1] > self._thresholds[1]
        row = torch.cat([boxes, probability[:, 1:]], dim=1)[passed]
        offsets, owner = offsets[passed], owner[passed]
        keep = _suppress(row, owner, 0.7)
        return _squared(_moved(row[keep, :4], offsets[keep])), owner[keep]

    def _locate(self, sums: Tensor, boxes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """ONet: the final boxes with scores and landmarks, shape (n, 15)."""
        boxes, owner, (offsets, points, probability) = _look(
            self._onet, sums, boxes, owner, side=48, outputs=(4, 10, 2)
        )
        passed = probability[:, 1] > self._thresholds[2]
        boxes, owner, offsets, points = boxes[passed], owner[passed], offsets[passed], points[passed]
        side = boxes[:, 2:] - boxes[:, :2] + 1
        x = side[:, :1] * points[:, :5] + boxes[:, :1] - 1
        y = side[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
        landmarks = torch.stack([x, y], dim=2).flatten(1)
        row = torch.cat([_moved(boxes, offsets), probability[passed, 1:], landmarks], dim=1)
        keep = _suppress_nested(row, owner, 0.7)
        return row[keep], owner[keep]


def _normalised(images: Tensor) -> Tensor:
    return (images - 127.5) * 0.0078125


def _summed(pixels: Tensor) -> Tensor:
    """Sums over all pixels above and to the left (Crow, SIGGRAPH 1984), int64 ``(B, H + 1, W + 1, 3)``."""
    return torch.nn.functional.pad(pixels.long().cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))


def _look(
    network: Any, sums: Tensor, boxes: Tensor, owner: Tensor, *, side: int, outputs: tuple[int, ...]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``network`` on the cut-outs of all candidates that lie at least partly inside their photo."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    corners = boxes.trunc().long()
    low = corners[:, :2].clamp(min=1) - 1
    high = torch.minimum(corners[:, 2:], corners.new_tensor([width, height]))
    kept = (high > low).all(dim=1).nonzero()[:, 0]
    boxes, owner, low, high = boxes[kept], owner[kept], low[kept], high[kept]
    results: list[tuple[Tensor, ...]] = [tuple(boxes.new_empty(0, n) for n in outputs)]
    for start in range(0, len(kept), _CROPS):
        part = slice(start, start + _CROPS)
        results.append(network(_normalised(_cut(sums, owner[part], low[part], high[part], side))))
    return boxes, owner, [torch.cat(column) for column in zip(*results, strict=True)]


def _cut(sums: Tensor, owner: Tensor, low: Tensor, high: Tensor, side: int) -> Tensor:
    """Boxes resized to ``(n, 3, side, side)`` by area: what ``interpolate(mode="area")`` gives, for all boxes at once."""
    step = torch.arange(side, device=sums.device)

    def edges(axis: int) -> tuple[Tensor, Tensor]:
        length, begin = (high - low)[:, axis, None], low[:, axis, None]
        return begin + step * length // side, begin + ((step + 1) * length + side - 1) // side

    (x1, x2), (y1, y2) = edges(0), edges(1)
    photo = owner[:, None, None]

    def at(y: Tensor, x: Tensor) -> Tensor:
        return sums[photo, y[:, :, None], x[:, None, :]]

    total = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    area = (y2 - y1)[:, :, None] * (x2 - x1)[:, None, :]
    return (total.float() / area[..., None]).permute(0, 3, 1, 2)


def _suppress(rows: Tensor, owner: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression within each photo; rows hold the box, then the score."""
    kept = [torch.empty(0, dtype=torch.int64, device=rows.device)]
    for photo in sorted(set(owner.tolist())):
        index = (owner == photo).nonzero()[:, 0]
        kept.append(index[nms(rows[index, :4], rows[index, 4], threshold)])
    return torch.cat(kept)


def _suppress_nested(rows: Tensor, owner: Tensor, threshold: float) -> Tensor:
    """The same with the overlap relative to the smaller box, which removes a face inside a face."""
    boxes = rows[:, :5].cpu().double().numpy()
    photos = owner.cpu().numpy()
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    kept: list[int] = []
    for index in np.argsort(-boxes[:, 4], kind="stable"):
        rivals = np.array([k for k in kept if photos[k] == photos[index]], dtype=np.int64)
        low = np.maximum(boxes[rivals, :2], boxes[index, :2])
        high = np.minimum(boxes[rivals, 2:4], boxes[index, 2:4])
        shared = np.prod(np.maximum(0.0, high - low + 1), axis=1)
        if not np.any(shared > threshold * np.minimum(area[rivals], area[index])):
            kept.append(int(index))
    return torch.tensor(kept, dtype=torch.int64, device=rows.device)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
    return boxes + offsets * sides


def _squared(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(dim=1, keepdim=True).values
    low = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([low, low + longer], dim=1)
