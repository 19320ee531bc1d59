"""Protects uploaded photos in memory and reads what models see in them before and after."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.app.methods import Method
from privface.app.uploads import Limits, Upload, image_suffix, safe_name
from privface.errors import ImageError
from privface.faces import FaceDetector, MTCNNDetector
from privface.images import WRITTEN_SUFFIXES, decode_image, encode_image, to_unit
from privface.models import GenderProbe, Matcher
from privface.protect.inputs import InputFile, Source, within
from privface.protect.manifest import ManifestRow, Status
from privface.protect.output import Output
from privface.protect.protector import ImageProtector
from privface.protect.work import Work, Worker, checked

logger = logging.getLogger(__name__)

Faces: TypeAlias = Literal["detect", "aligned"]

PREVIEW_SIDE = 448
"""Longer side of the pictures on the page, in pixels."""

DIFFERENCE_GAIN = 3
"""By how much the page's difference picture exaggerates."""


_CURES: dict[Status, str] = {
    "no_face": "If it is an aligned face crop, say so above.",
    "too_large": "Scale it down.",
    "unreadable": "Choose another copy of it.",
}


@dataclass(frozen=True)
class Reading:
    """What one model sees in the central face.

    Attributes:
        model: Its name.
        before: Gender classifiers: probability of "male" in the original, in [0, 1]. Matchers: ``nan``.
        after: The same of the protected face. Matchers: cosine similarity of the two, in [-1, 1].
    """

    model: str
    before: float
    after: float


@dataclass(frozen=True)
class Pictures:
    """JPEG files for the page, no side above :data:`PREVIEW_SIDE`."""

    original: bytes
    protected: bytes
    difference: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        name: Name of the upload; to be escaped wherever it is shown.
        reason: Why there is no protected photo; ``None`` where there is one.
        output: Name for the protected photo.
        data: The protected photo, without metadata; ``None`` where there is none.
        faces: Faces that were protected.
        pictures: What the page shows.
        matches: Similarity of original and protected face, a row a matcher.
        genders: What gender classifiers read, a row a classifier.
    """

    name: str
    reason: str | None = None
    output: str = ""
    data: bytes | None = None
    faces: int = 0
    pictures: Pictures | None = None
    matches: tuple[Reading, ...] = ()
    genders: tuple[Reading, ...] = ()


class PhotoDesk:
    """Protects photos and reads them with the models of the command line. Safe to use from several threads.

    Args:
        matchers: Face matchers.
        probes: Gender classifiers.
        limits: Largest image.
        detector: Finds faces; MTCNN by default, loaded when it is first needed.
    """

    def __init__(
        self,
        *,
        matchers: Sequence[Matcher] = (),
        probes: Sequence[GenderProbe] = (),
        limits: Limits | None = None,
        detector: FaceDetector | None = None,
    ) -> None:
        self.matchers, self.probes = tuple(matchers), tuple(probes)
        self._limits = limits or Limits()
        self._detector = detector
        self._one_at_a_time = (
            threading.Lock()
        )  # bounds the memory: a photo of 100 megapixels takes a gigabyte

    def protect(
        self,
        uploads: Sequence[Upload],
        method: Method,
        *,
        strength: float = 1.0,
        faces: Faces = "detect",
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Outcome]:
        """Protect photos one after the other. A fault of one photo stops no other.

        Args:
            uploads: Photos.
            method: What protects them.
            strength: Its strength, above 0.
            faces: ``"detect"`` protects every face of a photo and pastes it back; ``"aligned"`` takes a photo for a face crop.
            progress: Called with (done, total).

        Returns:
            An outcome an upload, in order; output names are unique.
        """
        protector = method.make(strength)
        outcomes: list[Outcome] = []
        taken: set[str] = set()
        for upload in uploads:
            try:
                with self._one_at_a_time:
                    outcome = self._protect(upload, protector, faces, taken)
            except ImageError as error:
                outcome = Outcome(upload.name, reason=str(error))
            except Exception as error:  # decoders and models raise anything on hostile input
                logger.warning("Unexpected %s while protecting a photo.", type(error).__name__, exc_info=True)
                outcome = Outcome(upload.name, reason=f"unexpected {type(error).__name__}")
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(uploads))
        return outcomes

    def _protect(self, upload: Upload, protector: ImageProtector, faces: Faces, taken: set[str]) -> Outcome:
        suffix = image_suffix(upload.data)
        suffix = suffix if suffix in WRITTEN_SUFFIXES else ".png"
        name = _untaken(safe_name(upload.name, suffix=suffix), taken)
        output = _Kept()
        worker = Worker(
            _OneUpload(upload),
            output,
            protector,
            detector=self._found_detector() if faces == "detect" else None,
            work=Work(batch_size=1, max_pixels=self._limits.pixels),
        )
        loaded = worker.load(InputFile(name, name, name))
        one = checked(worker.compute([loaded])[0])
        done = worker.finish(one)
        if output.data is None or loaded.pixels is None:
            return Outcome(upload.name, reason=_reason(done.row, name))
        pair = to_unit(np.stack([one.faces[0], one.protected[0]]))
        return Outcome(
            upload.name,
            output=name,
            data=output.data,
            faces=len(one.protected),
            pictures=_pictures(loaded.pixels, output.data, self._limits.pixels),
            matches=tuple(Reading(m.name, math.nan, _cosine(*m.embed(pair))) for m in self.matchers),
            genders=tuple(
                Reading(p.name, *(_probability(float(v)) for v in p.male_scores(pair))) for p in self.probes
            ),
        )

    def _found_detector(self) -> FaceDetector:
        self._detector = self._detector or MTCNNDetector()
        return self._detector


class _OneUpload(Source):
    """An upload, as the protection jobs read photos."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def items(self) -> list[InputFile]:
        return [InputFile(self._upload.name, self._upload.name, self._upload.name)]

    def read(self, item: InputFile, *, limit: int) -> bytes:
        return within(self._upload.data, limit, item.key)


class _Kept(Output):
    """Keeps a protected photo in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def place(self, item: InputFile) -> str:
        return item.output

    def write(self, item: InputFile, data: bytes) -> None:
        self.data = data

    def digest(self, item: InputFile) -> None:
        """Nothing was there before."""

    def settle(self, item: InputFile, *, written: bool) -> None:
        """Nothing is outdated."""

    def clear(self, paths: Iterable[str]) -> None:
        """Nothing is there to clear."""


def _untaken(name: str, taken: set[str]) -> str:
    stem, _, suffix = name.rpartition(".")
    number, found = 1, name
    while found.lower() in taken:
        number += 1
        found = f"{stem}-{number}.{suffix}"
    taken.add(found.lower())
    return found


def _reason(row: ManifestRow, name: str) -> str:
    """Why a photo was not protected, and what to do; the page shows its name anyway."""
    text = re.sub(r"^\d+ bytes: ", "", (row.reason or "no reason is known").removeprefix(f"{name}: "))
    return f"{text.rstrip('.')}. {_CURES.get(row.status, '')}".strip()


def _pictures(original: NDArray[np.uint8], data: bytes, max_pixels: int) -> Pictures:
    before = _preview(original)
    after = _preview(decode_image(data, max_pixels=max_pixels))
    difference = np.abs(after.astype(np.int16) - before.astype(np.int16)) * DIFFERENCE_GAIN
    shown = (before, after, np.clip(difference, 0, 255).astype(np.uint8))
    return Pictures(*(encode_image(pixels, ".jpg", quality=90) for pixels in shown))


def _preview(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = PREVIEW_SIDE / max(height, width)
    if scale >= 1.0:
        return pixels
    side = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, side, interpolation=cv2.INTER_AREA), np.uint8)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else math.nan


def _probability(logit: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(logit, -60.0, 60.0))))
