"""Where the names of points go, so that each stands beside its point and none covers another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RADII = (9.0, 14.0, 22.0, 32.0, 44.0, 58.0, 76.0, 98.0, 124.0, 154.0, 188.0, 226.0)
_ANGLES = 32
_MARK = 7.0
_NEAR = 16.0
_ALONG = np.linspace(0.0, 1.0, 16)[:, None, None]

# what a place costs, against one unit of distance
_COVERS = 8.0  # a unit of area of another name
_HIDES = 4.0  # a unit of area of a point
_LEAVES = 5000.0  # a unit over the bounds
_CROSSES = 60.0  # a line through a name, or through another line

Array = NDArray[np.float64]
"""Numbers; boxes are rows of left, bottom, right, top."""


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    marks: Sequence[tuple[float, float]],
    bounds: tuple[float, float, float, float],
) -> list[tuple[float, float, bool]]:
    """Find a place for each label, one after the other, close to its point and over nothing else if there is room.

    All figures have one unit, such as screen dots.

    Args:
        anchors: The points.
        sizes: Width and height of their labels.
        marks: All points that should not be covered, those of ``anchors`` among them.
        bounds: Left, bottom, right and top of where labels may lie.

    Returns:
        For each label its centre, and whether it lies so far off that a line should lead to it. Same input, same places.
    """
    spots = np.array([(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in marks], np.float64).reshape(
        -1, 4
    )
    placed, lines = np.empty((0, 4)), np.empty((0, 2, 2))
    found: dict[int, tuple[float, float, bool]] = {}
    for number in sorted(range(len(anchors)), key=lambda k: _crowd(anchors[k], spots)):
        anchor, size = np.array(anchors[number]), np.array(sizes[number])
        offsets, distance = _offsets(size)
        centres = anchor + offsets
        boxes = np.hstack([centres - size / 2, centres + size / 2])
        cost = distance + _COVERS * _overlap(boxes, placed) + _HIDES * _overlap(boxes, spots)
        cost += _LEAVES * _outside(boxes, bounds)
        through = _crossed(anchor, centres, placed).sum(axis=1)
        under = _crossed(lines[:, 0], lines[:, 1], boxes).sum(axis=0)
        cost += _CROSSES * (through + under + _meets(anchor, centres, lines))
        best = int(np.argmin(cost))
        far = bool(distance[best] > _NEAR)
        placed = np.vstack([placed, boxes[best]])
        if far:
            lines = np.concatenate([lines, np.stack([anchor, centres[best]])[None]])
        found[number] = (float(centres[best, 0]), float(centres[best, 1]), far)
    return [found[number] for number in range(len(anchors))]


def _crowd(anchor: tuple[float, float], spots: Array) -> int:
    """Points nearby: one that stands alone keeps its name beside it, and those in a crowd move off."""
    centres = (spots[:, :2] + spots[:, 2:]) / 2
    return int((np.abs(centres - np.array(anchor)).max(axis=1) < 40.0).sum())


def _offsets(size: Array) -> tuple[Array, Array]:
    """Places of a label's centre around its point, and how far its edge is from it; right and left come first."""
    turns = sorted(range(_ANGLES), key=lambda k: min(abs(k), abs(k - _ANGLES), abs(k - _ANGLES // 2)))
    angles = 2 * np.pi * np.array(turns) / _ANGLES
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    offsets = np.concatenate([ways * size / 2 + radius * ways for radius in _RADII])
    return offsets, np.repeat(_RADII, _ANGLES)


def _overlap(boxes: Array, others: Array) -> Array:
    """Area that each box shares with all others together."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0.0, None).prod(axis=2).sum(axis=1), np.float64)


def _outside(boxes: Array, bounds: tuple[float, float, float, float]) -> Array:
    """How far each box reaches over the bounds."""
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    over = np.clip(low - boxes[:, :2], 0, None) + np.clip(boxes[:, 2:] - high, 0, None)
    return np.asarray(over.sum(axis=1), np.float64)


def _crossed(starts: Array, ends: Array, boxes: Array) -> NDArray[np.bool_]:
    """Whether each line runs through each box, ``(lines, boxes)``."""
    spots = (starts + _ALONG * (ends - starts))[:, :, None]
    inside = np.all((spots > boxes[:, :2]) & (spots < boxes[:, 2:]), axis=3)
    return np.asarray(np.any(inside, axis=0))


def _meets(start: Array, ends: Array, lines: Array) -> Array:
    """How many lines a line from ``start`` to each end crosses."""

    def side(a: Array, b: Array, c: Array) -> Array:
        one, two = b - a, c - a
        return np.asarray(np.sign(one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]), np.float64)

    first, last, ends = lines[None, :, 0], lines[None, :, 1], ends[:, None]
    apart = side(start, ends, first) * side(start, ends, last) < 0
    apart &= side(first, last, start) * side(first, last, ends) < 0
    return np.asarray(apart.sum(axis=1), np.float64)
