"""Face detection: what a detector gives, one detector, and the choice of one face among several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.errors import InputRangeError
from privface.faces._mtcnn import Cascade
from privface.faces._networks import load_networks
from privface.faces.align import require_rgb
from privface.records import Box, Landmarks
from privface.threads import map_parts

_MIN_SIDE = 200
"""Photos with a shorter side below this are enlarged: MTCNN's pyramid needs the room."""

_THRESHOLDS = (0.6, 0.7, 0.7)
"""Least confidence after each of the three stages."""

_BATCH_PIXELS = 1_000_000
"""Pixels of photos that go through the networks at once: 16 photos of 250 x 250."""

_MAX_ASPECT = 4.0
"""Photos longer than this many times their width are padded before they are enlarged."""


@dataclass(frozen=True)
class Detection:
    """One face that was found.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the photo; it may reach outside.
        score: The detector's confidence in [0, 1].
        landmarks: Left eye, right eye, nose, left and right mouth corner, in pixels of the photo.
    """

    box: Box
    score: float
    landmarks: Landmarks


class FaceDetector(Protocol):
    """Anything that finds faces in a list of photos."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Find the faces of each photo (uint8 RGB, ``(H, W, 3)``, any sizes), best score first."""


class MTCNNDetector:
    """MTCNN (Zhang et al., IEEE SPL 2016) with the weights that ship inside facenet-pytorch.

    Photos of any size may be mixed: they are grouped by size. A photo is enlarged where its shorter side
    is below 200 px and reduced where its longer side is above ``max_side``; results are always in pixels
    of the photo. The outcome for a photo does not depend on its neighbours in the list.

    Args:
        min_face: Side of the smallest face looked for, in pixels of the (resized) photo; at least 12.
        max_side: Longer side to which big photos are reduced; the price is that faces smaller than
            ``min_face * longer side / max_side`` are missed.

    Raises:
        InputRangeError: If a size is out of its range.
        MissingExtraError: At the first photo, if facenet-pytorch is not installed.
    """

    def __init__(self, *, min_face: int = 20, max_side: int = 1280) -> None:
        if min_face < 12 or max_side < _MIN_SIDE * _MAX_ASPECT:
            raise InputRangeError(
                f"min_face={min_face}, max_side={max_side}: the least are 12 and {_MIN_SIDE * _MAX_ASPECT:.0f}.",
                hint="The defaults suit most photos.",
            )
        self._min_face, self._max_side = min_face, max_side

    @cached_property
    def _cascade(self) -> Cascade:
        """The networks, made when the first photo is looked at: a job of aligned crops never does."""
        return Cascade(load_networks(), thresholds=_THRESHOLDS, min_face=self._min_face)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: all but the networks, which it loads itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_cascade"}

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Find the faces of each photo.

        Args:
            images: uint8 RGB, each of shape ``(H, W, 3)``.

        Returns:
            For each photo, in order, its faces by falling score; an empty list where there is none.

        Raises:
            InputRangeError: If an image is not uint8 RGB.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, pixels in enumerate(images):
            require_rgb(pixels)
            groups.setdefault(pixels.shape[:2], []).append(index)
        parts: list[list[int]] = []
        for shape, members in groups.items():
            height, width = _working_size(shape, max_side=self._max_side)[1]
            step = max(1, _BATCH_PIXELS // (height * width))
            parts += [members[start : start + step] for start in range(0, len(members), step)]
        cascade = self._cascade  # before the threads start

        def look(part: list[int]) -> list[list[Detection]]:
            padded, scaled = _working_size(images[part[0]].shape[:2], max_side=self._max_side)
            tables = cascade(np.stack([_fit(images[i], padded, scaled) for i in part]))
            factors = (padded[1] / scaled[1], padded[0] / scaled[0])
            return [[_to_detection(row, factors) for row in rows] for rows in tables]

        found: list[list[Detection]] = [[] for _ in images]
        for part, faces in zip(parts, map_parts(look, parts), strict=True):
            for index, mine in zip(part, faces, strict=True):
                found[index] = mine
        return found


def choose_face(detections: Sequence[Detection], image_shape: Sequence[int]) -> Detection | None:
    """Pick the face that a photo is about: the central one; ``None`` where there is none.

    It has the most of ``area - 2 * d**2`` with ``d`` the distance from the box's centre to the photo's, both in pixels: the
    convention of LFW, where the labelled person is the central face. Ties go to the higher score.

    Args:
        detections: The faces of one photo.
        image_shape: (H, W, ...) of the photo in pixels.
    """
    height, width = image_shape[0], image_shape[1]

    def merit(face: Detection) -> tuple[float, float]:
        x1, y1, x2, y2 = face.box
        area = max(0.0, x2 - x1) * max(0.0, y2 - y1)
        offset = ((x1 + x2) / 2 - (width - 1) / 2) ** 2 + ((y1 + y2) / 2 - (height - 1) / 2) ** 2
        return area - 2.0 * offset, face.score

    return max(detections, key=merit, default=None)


def _working_size(shape: tuple[int, int], *, max_side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) after padding and after scaling of a photo of ``shape``."""
    height, width = shape
    height = max(height, math.ceil(width / _MAX_ASPECT))
    width = max(width, math.ceil(height / _MAX_ASPECT))
    scale = min(max(1.0, _MIN_SIDE / min(height, width)), max_side / max(height, width))
    return (height, width), (math.ceil(height * scale), math.ceil(width * scale))


def _fit(pixels: NDArray[np.uint8], padded: tuple[int, int], scaled: tuple[int, int]) -> NDArray[np.uint8]:
    # scaled before it is padded: what a very long photo is padded to would not fit into memory
    height, width = (
        max(1, round(side * to / of)) for side, to, of in zip(pixels.shape, scaled, padded, strict=False)
    )
    if scaled != padded:
        mode = cv2.INTER_LINEAR if scaled[0] > padded[0] else cv2.INTER_AREA
        resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=mode)
        pixels = np.asarray(resized, np.uint8)
    bottom, right = scaled[0] - height, scaled[1] - width
    if bottom or right:  # below and to the right only, so that coordinates keep their origin
        pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)))
    return pixels


def _to_detection(row: NDArray[np.float64], factors: tuple[float, float]) -> Detection:
    """One row of the cascade (box, score, five points), taken back to pixels of the photo."""
    fx, fy = factors

    def point(x: float, y: float) -> tuple[float, float]:
        return (float(x) + 0.5) * fx - 0.5, (float(y) + 0.5) * fy - 0.5

    a, b, c, d, e = (point(x, y) for x, y in row[5:].reshape(5, 2))
    return Detection((*point(row[0], row[1]), *point(row[2], row[3])), float(row[4]), (a, b, c, d, e))
