"""Protects uploaded photos in memory and reads what models see in them before and after."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from privface.app.methods import Method
from privface.app.uploads import LIMITS, File, image_suffix, safe_stem, untaken
from privface.errors import ImageError
from privface.faces import FaceDetector, MTCNNDetector
from privface.images import WRITTEN_SUFFIXES, decode_image, encode_image, to_unit
from privface.models import GenderProbe, Matcher
from privface.options import ProtectOptions
from privface.protect.inputs import InputFile
from privface.protect.manifest import ManifestRow, Status
from privface.protect.photo import protect_in_memory
from privface.protect.protector import ImageProtector

logger = logging.getLogger(__name__)

Faces: TypeAlias = Literal["detect", "aligned"]

DIFFERENCE_GAIN = 3
"""By how much the page's difference picture exaggerates."""


_CURES: dict[Status, str] = {
    "no_face": "If it is an aligned face crop, say so above.",
    "too_large": "Scale it down.",
    "unreadable": "Choose another copy of it.",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one face of a photo, or of a photo that could not be protected."""

    name: str  # of the upload, and which of its faces it is; to be escaped wherever it is shown
    reason: str | None = None  # why there is no protected face
    output: str = ""  # name for the protected face
    data: bytes | None = None  # the protected face, without metadata
    pictures: tuple[bytes, ...] = ()  # JPEG: original, protected, difference; of the model's size
    matches: tuple[tuple[str, float], ...] = ()  # matcher, cosine similarity of the two faces
    genders: tuple[tuple[str, float, float], ...] = ()  # classifier, probability of "male" before and after


class PhotoDesk:
    """Protects photos and reads them with the models of the command line. Safe to use from several threads.

    The detector is MTCNN by default, loaded when it is first needed.
    """

    def __init__(
        self,
        *,
        matchers: Sequence[Matcher] = (),
        probes: Sequence[GenderProbe] = (),
        detector: FaceDetector | None = None,
    ) -> None:
        self.matchers, self.probes = tuple(matchers), tuple(probes)
        self._detector = detector
        self._one_at_a_time = threading.Lock()  # a photo of 100 megapixels takes a gigabyte

    def protect(
        self,
        uploads: Sequence[File],
        method: Method,
        *,
        strength: float = 1.0,
        faces: Faces = "detect",
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Outcome]:
        """Protect photos one after the other. A fault of one photo stops no other.

        ``"detect"`` protects every face of a photo, each alone; ``"aligned"`` takes a photo for a face crop. Outcomes are in
        the uploads' order, one a face; output names are unique. ``progress`` is called with (done, total) uploads.
        """
        protector = method.make(strength)
        outcomes: list[Outcome] = []
        taken: set[str] = set()
        for number, upload in enumerate(uploads, 1):
            try:
                with self._one_at_a_time:
                    outcomes += self._protect(upload, protector, faces, taken)
            except ImageError as error:
                outcomes.append(Outcome(upload.name, reason=str(error)))
            except Exception as error:  # decoders and models raise anything on hostile input
                logger.warning("Unexpected %s while protecting a photo.", type(error).__name__, exc_info=True)
                outcomes.append(Outcome(upload.name, reason=f"unexpected {type(error).__name__}"))
            if progress is not None:
                progress(number, len(uploads))
        return outcomes

    def _protect(
        self, upload: File, protector: ImageProtector, faces: Faces, taken: set[str]
    ) -> list[Outcome]:
        suffix = image_suffix(upload.data)
        suffix = suffix if suffix in WRITTEN_SUFFIXES else ".png"
        name = untaken(safe_stem(upload.name), taken, suffix=suffix)
        if faces == "detect":
            self._detector = self._detector or MTCNNDetector()
        one, row, files = protect_in_memory(
            upload.data,
            InputFile(name, name),
            protector,
            ProtectOptions(faces=faces, max_pixels=LIMITS.pixels),
            detector=self._detector if faces == "detect" else None,
        )
        if not one.protected:
            return [Outcome(upload.name, reason=_reason(row, name))]
        shown, several = [], len(one.faces) > 1
        for number, (written, data) in enumerate(files.items()):
            pair = np.stack([one.faces[number], one.protected[number]])
            told = f"{upload.name}, face {number + 1} of {len(one.faces)}" if several else upload.name
            saved = untaken(written.removesuffix(suffix), taken, suffix=suffix) if number else name
            shown.append(self._seen(pair, told, saved, data))
        return shown

    def _seen(self, faces: NDArray[np.uint8], name: str, output: str, data: bytes) -> Outcome:
        """A face before and after, as pictures and as models read it."""
        pair = to_unit(faces)
        return Outcome(
            name,
            output=output,
            data=data,
            pictures=_pictures(faces[0], data),
            matches=tuple((m.name, _cosine(*m.embed(pair))) for m in self.matchers),
            genders=tuple((p.name, *expit(p.male_scores(pair)).tolist()) for p in self.probes),
        )


def _reason(row: ManifestRow, name: str) -> str:
    """Why a photo was not protected, and what to do; the page shows its name anyway."""
    text = re.sub(r"^\d+ bytes: ", "", (row.reason or "no reason is known").removeprefix(f"{name}: "))
    return f"{text.rstrip('.')}. {_CURES.get(row.status, '')}".strip()


def _pictures(original: NDArray[np.uint8], data: bytes) -> tuple[bytes, ...]:
    after = decode_image(data)
    difference = np.abs(after.astype(np.int16) - original.astype(np.int16)) * DIFFERENCE_GAIN
    shown = (original, after, np.clip(difference, 0, 255).astype(np.uint8))
    return tuple(encode_image(pixels, ".jpg", quality=90) for pixels in shown)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else math.nan
