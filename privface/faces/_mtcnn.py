"""MTCNN's three-stage cascade (Zhang et al., IEEE SPL 2016) in NumPy; the networks are handed in.

The arithmetic is that of facenet-pytorch; its driver is not used. That one crashes where a candidate lies wholly outside the
photo, and its suppression shifts the boxes of a batch by the largest coordinate, so that boxes with negative coordinates can
suppress faces of the neighbouring photo.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.faces._networks import Network

_FACTOR = 0.709
"""Step of the image pyramid: about half the area each."""

_CELL, _STRIDE = 12, 2
"""PNet's field of view and step in pixels."""

_CROPS = 512
"""Candidates that go through RNet or ONet at once."""

_MEAN, _SCALE = np.float32(127.5), np.float32(0.0078125)
"""Pixels become ``(pixel - 127.5) / 128``."""

_Floats = NDArray[np.float32]
_Owner = NDArray[np.int64]


class Cascade:
    """Callable: uint8 RGB photos of one size, shape ``(B, H, W, 3)``, to the faces of each.

    Each result has shape ``(n, 15)``: x1, y1, x2, y2, score, then five points x, y; by falling score.

    Args:
        networks: PNet, RNet and ONet.
        thresholds: Least confidence after each stage.
        min_face: Side of the smallest face looked for, in pixels.
    """

    def __init__(
        self,
        networks: tuple[Network, Network, Network],
        *,
        thresholds: tuple[float, float, float],
        min_face: int,
    ) -> None:
        self._pnet, self._rnet, self._onet = networks
        self._thresholds = thresholds
        self._min_face = min_face

    def __call__(self, photos: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Find the faces of each photo."""
        sums = np.stack([cv2.integral(photo) for photo in photos])  # int32 (B, H + 1, W + 1, 3)
        boxes, owner = self._propose(sums)
        boxes, owner = self._refine(sums, boxes, owner)
        faces, owner = self._locate(sums, boxes, owner)
        parts = [faces[owner == index].astype(np.float64) for index in range(len(photos))]
        return [part[np.argsort(-part[:, 4], kind="stable")] for part in parts]

    def _propose(self, sums: NDArray[np.int32]) -> tuple[_Floats, _Owner]:
        """PNet over a pyramid of scales: square candidates (n, 4) and the photo of each."""
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        scale = _CELL / self._min_face
        rows, owners = [np.empty((0, 9), np.float32)], [np.empty(0, np.int64)]
        while min(height, width) * scale >= _CELL:
            smaller = _shrunk(sums, int(height * scale + 1), int(width * scale + 1))
            offsets, probability = self._pnet(smaller)
            photo, y, x = np.nonzero(probability[:, 1] >= self._thresholds[0])
            corner = np.stack([x, y], axis=1).astype(np.float32) * _STRIDE + 1
            ends = np.float32(scale)
            box = np.concatenate([np.floor(corner / ends), np.floor((corner + (_CELL - 1)) / ends)], axis=1)
            row = np.concatenate([box, probability[photo, 1, y, x][:, None], offsets[photo, :, y, x]], axis=1)
            keep = _suppress(row, photo, 0.5)
            rows.append(row[keep])
            owners.append(photo[keep])
            scale *= _FACTOR
        row, owner = np.concatenate(rows), np.concatenate(owners)
        keep = _suppress(row, owner, 0.7)
        row, owner = row[keep], owner[keep]
        sides = np.tile(row[:, 2:4] - row[:, :2], 2)
        return _squared(row[:, :4] + row[:, 5:] * sides), owner

    def _refine(self, sums: NDArray[np.int32], boxes: _Floats, owner: _Owner) -> tuple[_Floats, _Owner]:
        """RNet: rejects most candidates and moves the rest."""
        boxes, owner, (offsets, probability) = _look(self._rnet, sums, boxes, owner, side=24, outputs=(4, 2))
        passed = probability[:, 1] > self._thresholds[1]
        row = np.concatenate([boxes, probability[:, 1:]], axis=1)[passed]
        offsets, owner = offsets[passed], owner[passed]
        keep = _suppress(row, owner, 0.7)
        return _squared(_moved(row[keep, :4], offsets[keep])), owner[keep]

    def _locate(self, sums: NDArray[np.int32], boxes: _Floats, owner: _Owner) -> tuple[_Floats, _Owner]:
        """ONet: the final boxes with scores and landmarks, shape (n, 15)."""
        boxes, owner, (offsets, points, probability) = _look(
            self._onet, sums, boxes, owner, side=48, outputs=(4, 10, 2)
        )
        passed = probability[:, 1] > self._thresholds[2]
        boxes, owner, offsets, points = boxes[passed], owner[passed], offsets[passed], points[passed]
        side = boxes[:, 2:] - boxes[:, :2] + 1
        x = side[:, :1] * points[:, :5] + boxes[:, :1] - 1
        y = side[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1
        landmarks = np.stack([x, y], axis=2).reshape(-1, 10)
        row = np.concatenate([_moved(boxes, offsets), probability[passed, 1:], landmarks], axis=1)
        keep = _suppress_nested(row, owner, 0.7)
        return row[keep], owner[keep]


def _shrunk(sums: NDArray[np.int32], height: int, width: int) -> _Floats:
    """Whole photos resized by area and normalised, ``(B, 3, height, width)``."""
    (top, bottom), (left, right) = (
        _edges(np.zeros(1, np.int64), np.array([size - 1]), side)
        for size, side in zip(sums.shape[1:3], (height, width), strict=True)
    )
    rows = sums[:, bottom[0]] - sums[:, top[0]]
    area = ((bottom - top).T * (right - left)).astype(np.float32)
    return _normalised(rows[:, :, right[0]] - rows[:, :, left[0]], area)


def _look(
    network: Network,
    sums: NDArray[np.int32],
    boxes: _Floats,
    owner: _Owner,
    *,
    side: int,
    outputs: tuple[int, ...],
) -> tuple[_Floats, _Owner, list[_Floats]]:
    """``network`` on the cut-outs of all candidates that lie at least partly inside their photo."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    corners = np.trunc(boxes).astype(np.int64)
    low = np.maximum(corners[:, :2], 1) - 1
    high = np.minimum(corners[:, 2:], [width, height])
    kept = np.flatnonzero((high > low).all(axis=1))
    boxes, owner, low, high = boxes[kept], owner[kept], low[kept], high[kept]
    results = [tuple(np.empty((0, n), np.float32) for n in outputs)]
    for start in range(0, len(kept), _CROPS):
        part = slice(start, start + _CROPS)
        results.append(tuple(network(_cut(sums, owner[part], low[part], high[part], side))))
    return boxes, owner, [np.concatenate(column) for column in zip(*results, strict=True)]


def _cut(
    sums: NDArray[np.int32], owner: _Owner, low: NDArray[np.int64], high: NDArray[np.int64], side: int
) -> _Floats:
    """Boxes resized by area and normalised, ``(n, 3, side, side)``, from sums over all that is above and to the left (Crow, 1984)."""
    x1, x2 = _edges(low[:, 0], high[:, 0], side)
    y1, y2 = _edges(low[:, 1], high[:, 1], side)
    photo = owner[:, None] * sums.shape[1]
    cells = sums.reshape(-1, 3)

    def at(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int32]:
        places = ((photo + y) * sums.shape[2])[:, :, None] + x[:, None, :]
        return np.asarray(np.take(cells, places, axis=0))

    total = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    return _normalised(total, ((y2 - y1)[:, :, None] * (x2 - x1)[:, None, :]).astype(np.float32))


def _edges(
    low: NDArray[np.int64], high: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where ``side`` equal parts of each interval begin and end, ``(n, side)``, whole pixels: neighbours may share one."""
    step, length, begin = np.arange(side), (high - low)[:, None], low[:, None]
    return begin + step * length // side, begin + ((step + 1) * length + side - 1) // side


def _normalised(total: NDArray[np.int32], area: _Floats) -> _Floats:
    """Sums ``(n, h, w, 3)`` over so many pixels as a network's input ``(n, 3, h, w)``."""
    mean = total.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    mean /= area[:, None] if area.ndim == 3 else area
    mean -= _MEAN
    mean *= _SCALE
    return mean


def _suppress(rows: _Floats, owner: _Owner, threshold: float) -> NDArray[np.int64]:
    """Non-maximum suppression within each photo; rows hold the box, then the score."""
    kept = [np.empty(0, np.int64)]
    for photo in np.unique(owner):
        index = np.flatnonzero(owner == photo)
        box = rows[index, :4].astype(np.float64)
        box[:, 2:] -= box[:, :2]
        found: Any = cv2.dnn.NMSBoxes(box, rows[index, 4], 0.0, threshold)  # type: ignore[arg-type]
        kept.append(index[np.asarray(found, np.int64).ravel()])
    return np.concatenate(kept)


def _suppress_nested(rows: _Floats, owner: _Owner, threshold: float) -> NDArray[np.int64]:
    """The same with the overlap relative to the smaller box, which removes a face inside a face."""
    boxes = rows[:, :5].astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    kept: list[int] = []
    for index in np.argsort(-boxes[:, 4], kind="stable"):
        rivals = np.array([k for k in kept if owner[k] == owner[index]], dtype=np.int64)
        low = np.maximum(boxes[rivals, :2], boxes[index, :2])
        high = np.minimum(boxes[rivals, 2:4], boxes[index, 2:4])
        shared = np.prod(np.maximum(0.0, high - low + 1), axis=1)
        if not np.any(shared > threshold * np.minimum(area[rivals], area[index])):
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def _moved(boxes: _Floats, offsets: _Floats) -> _Floats:
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _squared(boxes: _Floats) -> _Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    half = np.float32(0.5)
    longer = sides.max(axis=1, keepdims=True)
    low = boxes[:, :2] + sides * half - longer * half
    return np.concatenate([low, low + longer], axis=1)
