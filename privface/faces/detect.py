"""Face detection: what a detector gives, one detector, and the choice of one face among several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.errors import InputRangeError
from privface.faces._mtcnn import Cascade
from privface.faces._networks import load_networks
from privface.records import Box, Landmarks
from privface.threads import map_parts

_MIN_SIDE = 200
"""Photos with a shorter side below this are enlarged: MTCNN's pyramid needs the room."""

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
        device: ``"cpu"``, in ONNX Runtime, or a device of torch's, such as ``"cuda:0"``.
        thresholds: Least confidence after each of the three stages, in [0, 1].
        min_face: Side of the smallest face looked for, in pixels of the (resized) photo; at least 12.
        max_side: Longer side to which big photos are reduced; the price is that faces smaller than
            ``min_face * longer side / max_side`` are missed.
        batch_pixels: Pixels of photos that go through the networks at once; bounds the memory. The default is
            16 photos of 250 x 250, right for a CPU; more keeps a GPU busier.

    Raises:
        InputRangeError: If a threshold or size is out of its range.
        MissingExtraError: At the first photo, if facenet-pytorch is not installed.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        min_face: int = 20,
        max_side: int = 1280,
        batch_pixels: int = 1_000_000,
    ) -> None:
        if len(thresholds) != 3 or not all(0 <= t <= 1 for t in thresholds):
            raise InputRangeError(f"thresholds={thresholds}: three numbers in [0, 1] are needed.")
        if min_face < 12 or max_side < _MIN_SIDE * _MAX_ASPECT or batch_pixels < 1:
            raise InputRangeError(
                f"min_face={min_face}, max_side={max_side}, batch_pixels={batch_pixels}: the least are 12, "
                f"{_MIN_SIDE * _MAX_ASPECT:.0f} and 1.",
                hint="The defaults suit most photos.",
            )
        self._device, self._thresholds, self._min_face = device, thresholds, min_face
        self._max_side = max_side
        self._batch_pixels = batch_pixels

    @cached_property
    def _cascade(self) -> Cascade:
        """The networks, made when the first photo is looked at: a job of aligned crops never does."""
        networks = load_networks(self._device)
        return Cascade(networks, thresholds=self._thresholds, min_face=self._min_face)

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
            _require_rgb(pixels, index)
            groups.setdefault(pixels.shape[:2], []).append(index)
        found: list[list[Detection]] = [[] for _ in images]
        parts: list[_Part] = []
        for shape, members in groups.items():
            padded, scaled = _working_size(shape, max_side=self._max_side)
            step = max(1, self._batch_pixels // (scaled[0] * scaled[1]))
            parts += [
                _Part(members[start : start + step], padded, scaled) for start in range(0, len(members), step)
            ]

        cascade = self._cascade  # before the threads start

        def look(part: _Part) -> list[NDArray[np.float64]]:
            return cascade(np.stack([_fit(images[i], part.padded, part.scaled) for i in part.members]))

        for part, tables in zip(parts, map_parts(look, parts), strict=True):
            factors = (part.padded[1] / part.scaled[1], part.padded[0] / part.scaled[0])
            for index, rows in zip(part.members, tables, strict=True):
                found[index] = [_to_detection(row, factors) for row in rows]
        return found


@dataclass(frozen=True)
class _Part:
    """Photos of one size that go through the networks at once: their places, and (height, width) before and after scaling."""

    members: list[int]
    padded: tuple[int, int]
    scaled: tuple[int, int]


def choose_face(
    detections: Sequence[Detection],
    image_shape: Sequence[int],
    *,
    rule: Literal["largest", "central"] = "largest",
) -> Detection | None:
    """Pick the face that a photo is about.

    Args:
        detections: The faces of one photo.
        image_shape: (H, W, ...) of the photo in pixels.
        rule: ``"largest"`` takes the biggest box. ``"central"`` takes the most of ``area - 2 * d**2``
            with ``d`` the distance from the box's centre to the photo's, both in pixels: the convention
            of LFW, where the labelled person is the central face. Ties go to the higher score.

    Returns:
        The face, or ``None`` where there is none.

    Raises:
        InputRangeError: If the rule is unknown.
    """
    if rule not in {"largest", "central"}:
        raise InputRangeError(f"Unknown rule {rule!r}.", hint="Choose 'largest' or 'central'.")
    height, width = image_shape[0], image_shape[1]

    def merit(face: Detection) -> tuple[float, float]:
        x1, y1, x2, y2 = face.box
        area = max(0.0, x2 - x1) * max(0.0, y2 - y1)
        if rule == "largest":
            return area, face.score
        offset = ((x1 + x2) / 2 - (width - 1) / 2) ** 2 + ((y1 + y2) / 2 - (height - 1) / 2) ** 2
        return area - 2.0 * offset, face.score

    return max(detections, key=merit, default=None)


def _working_size(shape: tuple[int, int], *, max_side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) after padding and after scaling of a photo of ``shape``."""
    height, width = shape
    height = max(height, math.ceil(width / _MAX_ASPECT))
    width = max(width, math.ceil(height / _MAX_ASPECT))
    scale = max(1.0, _MIN_SIDE / min(height, width))
    scale = min(scale, max_side / max(height, width))
    if scale == 1.0:
        return (height, width), (height, width)
    return (height, width), (math.ceil(height * scale), math.ceil(width * scale))


def _fit(pixels: NDArray[np.uint8], padded: tuple[int, int], scaled: tuple[int, int]) -> NDArray[np.uint8]:
    bottom, right = padded[0] - pixels.shape[0], padded[1] - pixels.shape[1]
    if bottom or right:  # below and to the right only, so that coordinates keep their origin
        pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)))
    if scaled == padded:
        return pixels
    mode = cv2.INTER_LINEAR if scaled[0] > padded[0] else cv2.INTER_AREA
    resized = cv2.resize(np.ascontiguousarray(pixels), scaled[::-1], interpolation=mode)
    return np.asarray(resized, np.uint8)


def _to_detection(row: NDArray[np.float64], factors: tuple[float, float]) -> Detection:
    """One row of the cascade (box, score, five points), taken back to pixels of the photo."""
    fx, fy = factors

    def point(x: float, y: float) -> tuple[float, float]:
        return (float(x) + 0.5) * fx - 0.5, (float(y) + 0.5) * fy - 0.5

    a, b, c, d, e = (point(x, y) for x, y in row[5:].reshape(5, 2))
    return Detection((*point(row[0], row[1]), *point(row[2], row[3])), float(row[4]), (a, b, c, d, e))


def _require_rgb(pixels: NDArray[np.uint8], index: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputRangeError(
            f"Image {index}: expected uint8 RGB of shape (H, W, 3), got {pixels.dtype} {pixels.shape}.",
            hint="Decode the photo with privface.images.decode_image.",
        )
