"""What happens to one file on its way to protection: read, decode, find faces, protect, encode, write.

A :class:`Worker` knows nothing of journals, orders and threads, so that one machine and many can drive it alike.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import ImageError, ImageTooLargeError, ModelError, ProtectError
from privface.faces.align import align_face, as_aligned, is_crop, paste_back
from privface.faces.detect import Detection, FaceDetector, choose_face
from privface.images import (
    WRITTEN_SUFFIXES,
    decode_image,
    encode_image,
    to_pixels,
    to_unit,
    without_colour,
)
from privface.options import ProtectOptions
from privface.protect.inputs import BYTES_PER_PIXEL, InputFile, Source
from privface.protect.journal import Entry
from privface.protect.manifest import ManifestRow, Status
from privface.protect.output import Output
from privface.protect.protector import ImageProtector, KeyedProtector, check_batch, face_fault
from privface.protect.templates import MatcherTemplates, pack
from privface.protect.video import MAX_VIDEO_BYTES, protect_video
from privface.records import Landmarks

PASTED = "hair, clothes and background outside the face stay as they are and give gender away"
"""What is to be known of a photo into which protected faces are pasted."""

logger = logging.getLogger(__name__)

MIN_SIDE = 16
"""Shortest side in pixels of an input; below it there is no face to protect."""

Known: TypeAlias = Callable[[InputFile], Entry | None]
"""What an earlier run noted of a file; may be asked from any thread."""

_REUSED: frozenset[Status] = frozenset({"ok", "no_face", "many_faces"})
"""Results that a rerun takes over; the others are cheap to find again and may have had a passing cause."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file on its way to the model: its row so far, its pixels and faces, or a row that is final.

    Attributes:
        item: The file.
        row: Its row; final where neither ``pixels`` nor ``video`` nor ``encoded`` is set.
        pixels: The decoded photo, or the aligned face.
        video: The bytes of a video.
        faces: Its aligned faces, the central one first.
        landmarks: Theirs.
        answers: What the protector gave for them, ``(K, 3, size, size)``, not yet looked at.
        protected: Their protected versions, fit to be written.
        encoded: The protected files, one a row, as long as they are not written.
        reused: Whether an earlier run did it.
        template: Its packed template, where the job makes them.
        further: The rows of its further faces, where each face is written alone.
    """

    item: InputFile
    row: ManifestRow
    pixels: NDArray[np.uint8] | None = None
    video: bytes | None = None
    faces: tuple[NDArray[np.uint8], ...] = ()
    landmarks: tuple[Landmarks, ...] = ()
    answers: NDArray[np.float32] | None = None
    protected: tuple[NDArray[np.uint8], ...] = ()
    encoded: tuple[bytes, ...] = ()
    reused: bool = False
    template: str | None = None
    further: tuple[ManifestRow, ...] = ()

    @property
    def rows(self) -> tuple[ManifestRow, ...]:
        """All of its rows."""
        return (self.row, *self.further)

    @property
    def is_final(self) -> bool:
        """Whether nothing remains to be computed."""
        return self.pixels is None and self.video is None


@dataclass(frozen=True)
class Worker:
    """Protects files. :meth:`load` and :meth:`finish` may run in several threads, :meth:`compute` in one.

    Attributes:
        photos: Where files are read from.
        output: Where they are written to; ``None``: :meth:`finish` hands the files back.
        protector: Model or baseline.
        options: How.
        detector: Finds faces; ``None`` where the files are aligned faces.
        templates: Makes templates, where wanted.
    """

    photos: Source
    output: Output | None
    protector: ImageProtector
    options: ProtectOptions
    detector: FaceDetector | None = None
    templates: MatcherTemplates | None = None

    @cached_property
    def _keyed(self) -> KeyedProtector | None:
        """The protector, where it asks for keys."""
        return self.protector if isinstance(self.protector, KeyedProtector) else None

    def load(self, item: InputFile, known: Known = lambda _: None) -> Loaded:
        """Read, look up, decode. Every fault of the file becomes a row.

        Args:
            item: The file.
            known: Says what an earlier run noted of it.
        """
        row = ManifestRow(input=item.key, status="failed", model=self.protector.fingerprint)
        if item.fault is not None:
            return Loaded(item, replace(row, status="unreadable", reason=item.fault))
        refusal = self._refusal(item)
        if refusal is not None:
            return Loaded(item, replace(row, reason=refusal))
        limit = MAX_VIDEO_BYTES if item.is_video else self.options.max_pixels * BYTES_PER_PIXEL
        try:
            data = self.photos.read(item, limit=limit)
        except ImageError as error:
            return Loaded(item, _rejected(row, error))
        row = replace(row, input_sha256=hashlib.sha256(data).hexdigest(), input_bytes=len(data))
        before = known(item)
        if before is not None and self._still_valid(before, item, row):
            return Loaded(item, before.row, reused=True, template=before.template, further=before.further)
        if item.is_video:
            return Loaded(item, row, video=data)
        return self._decode(item, row, data)

    def compute(self, batch: Sequence[Loaded]) -> list[Loaded]:
        """Run detector and model; gives final rows, and files that :meth:`finish` is to write."""
        done = [one for one in batch if one.is_final]
        done += [self._protect_video(one, one.video) for one in batch if one.video is not None]
        ready = [one for one in batch if one.pixels is not None]
        found = self._protect_photos(ready)
        if self.templates is not None:
            found = self._with_templates([checked(one) for one in found], self.templates)
        return [*done, *found]

    def finish(self, one: Loaded) -> Loaded:
        """Encode what is protected of one file and write it, if there is an output; rows that are final pass.

        Raises:
            OutputError: If it cannot be written.
        """
        one = checked(one)
        encoded, rows = one.encoded, list(one.rows)
        if one.protected:
            shown = (self._pasted(one),) if one.landmarks and self.options.paste else one.protected
            try:
                encoded = tuple(encode_image(p, one.item.suffix, quality=self.options.quality) for p in shown)
            except Exception as error:  # formats have limits of their own, such as 16,383 pixels of WebP
                reason = f"cannot be written as {one.item.suffix} ({error}); choose another --format"
                return self.finish(Loaded(one.item, replace(one.row, status="failed", reason=reason)))
        for number, data in enumerate(encoded):
            item = one.item.face(number + 1)
            if self.output is not None:
                self.output.write(item, data)
            rows[number] = replace(
                rows[number],
                status="ok",
                output=item.output if self.output is None else self.output.place(item),
                output_sha256=hashlib.sha256(data).hexdigest(),
                output_bytes=len(data),
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row, *further = (row if row.finished else replace(row, finished=now) for row in rows)
        return Loaded(
            one.item,
            row,
            encoded=encoded if self.output is None else (),
            reused=one.reused,
            template=one.template,
            further=tuple(further),
        )

    def _refusal(self, item: InputFile) -> str | None:
        """Why a file is not even read; ``None`` where it is."""
        if item.is_video and (self.detector is None or not self.options.paste):
            return "a video needs faces to be looked for and pasted back (--paste)"
        if item.suffix not in WRITTEN_SUFFIXES and not item.is_video:
            return f"{item.suffix} images are not written; convert it first"
        if self._keyed is None:
            return None
        if item.is_video:
            return "a video has no label of its own, and this model needs one for each face"
        return self._keyed.lacks(item.key)

    def _decode(self, item: InputFile, row: ManifestRow, data: bytes) -> Loaded:
        """Pixels of one file: the face at the protector's size, or the whole photo where faces are to be looked for."""
        try:
            pixels = decode_image(data, max_pixels=self.options.max_pixels)
        except ImageError as error:
            return Loaded(item, _rejected(row, error))
        except Exception as error:  # decoders raise anything on hostile input; one file stops no job
            name = type(error).__name__
            logger.warning("%s: unexpected %s while decoding.", item.key, name, exc_info=True)
            return Loaded(item, replace(row, status="unreadable", reason=f"damaged image ({name})"))
        row = replace(row, width=pixels.shape[1], height=pixels.shape[0])
        if min(pixels.shape[:2]) < MIN_SIDE:
            reason = f"{row.width} x {row.height} pixels, below the shortest side of {MIN_SIDE}"
            return Loaded(item, replace(row, reason=reason))
        size = self.protector.size
        sized = self.options.faces == "auto" and is_crop(pixels, size=size)
        if self.detector is not None and not sized:
            return Loaded(item, row, pixels)
        try:
            face = as_aligned(pixels, size=size)
            return Loaded(item, row, face, faces=(face,))
        except ImageError as error:
            return Loaded(item, replace(row, reason=error.message))

    def _still_valid(self, before: Entry, item: InputFile, row: ManifestRow) -> bool:
        """Whether an earlier run's result holds: the input and its output are still what they were."""
        if before.path != item.relative or before.row.status not in _REUSED:
            return False
        if before.row.input_sha256 != row.input_sha256 or before.row.model != row.model:
            return False
        if before.row.status != "ok":
            return True
        if self.output is not None and not self.output.holds(item, before.rows):
            return False
        return self.templates is None or before.template is not None or item.is_video

    def _protect_photos(self, ready: Sequence[Loaded]) -> list[Loaded]:
        """Photos with the protector's answers for their faces, or with the reason why there is none.

        A network's rounding can depend on the batch shape; short batches are filled up with black images
        so that where a job was interrupted leaves no trace in its bytes.
        """
        if self.detector is not None:
            crops, photos = ([one for one in ready if bool(one.faces) == known] for known in (True, False))
            ready = [*crops, *self._find_faces(photos, self.detector)]
        done = [one for one in ready if one.is_final]
        ready = [one for one in ready if not one.is_final]
        if not ready:
            return done
        faces = np.stack([face for one in ready for face in one.faces])
        keys = [one.item.key for one in ready for _ in one.faces]
        parts = []
        for part, batch in self._filled(faces):
            names = keys[part]
            if self._keyed is not None:
                filling = names[:1] * (len(batch) - len(names))  # what becomes of it is thrown away
                protected = np.asarray(self._keyed(batch, names + filling))
            else:
                protected = np.asarray(self.protector(batch))
            check_batch(protected, count=len(batch), size=self.protector.size)
            parts.append(protected[: len(names)])
        ends = np.cumsum([len(one.faces) for one in ready])
        answers = np.split(np.concatenate(parts), ends[:-1])
        return done + [replace(one, answers=mine) for one, mine in zip(ready, answers, strict=True)]

    def _with_templates(self, found: Sequence[Loaded], maker: MatcherTemplates) -> list[Loaded]:
        """Protected files with the template of their first face; the others as they are."""
        passed = [one for one in found if one.protected]
        others = [one for one in found if not one.protected]
        if not passed:
            return others
        seen = np.stack([(one.faces if maker.of_original else one.protected)[0] for one in passed])
        made: list[str] = []
        for _, batch in self._filled(seen):
            rows = maker(batch)
            if rows.ndim != 2 or len(rows) != len(batch):
                message = f"Templates of shape {rows.shape} for {len(batch)} faces."
                raise ModelError(message, hint="Check the matcher.")
            made += [pack(row) for row in rows]
        return [*others, *(replace(one, template=text) for one, text in zip(passed, made, strict=False))]

    def _find_faces(self, photos: Sequence[Loaded], detector: FaceDetector) -> list[Loaded]:
        """The faces of each photo, aligned, the central one first; a final row where there is none."""
        images = [one.pixels for one in photos if one.pixels is not None]
        found = detector.detect(images) if images else []
        return [self._with_faces(*each) for each in zip(photos, images, found, strict=True)]

    def _with_faces(self, one: Loaded, pixels: NDArray[np.uint8], detections: Sequence[Detection]) -> Loaded:
        row = replace(one.row, faces=len(detections))
        central = choose_face(detections, pixels.shape)
        if central is None:
            return Loaded(one.item, replace(row, status="no_face", reason="no face was found"))
        row = _boxed(row, central)
        limit = self.options.max_faces
        if limit is not None and len(detections) > limit:
            reason = f"{len(detections)} faces, the limit is {limit}"
            return Loaded(one.item, replace(row, status="many_faces", reason=reason))
        # from left to right, so that a face keeps its number if the detector's confidence changes a little
        chosen = [central, *sorted((f for f in detections if f is not central), key=lambda f: f.box)]
        refused = self._too_many(one.item, len(chosen))
        if refused is not None:
            return Loaded(one.item, replace(row, reason=refused))
        points = tuple(face.landmarks for face in chosen)
        try:
            faces = tuple(align_face(pixels, p, size=self.protector.size) for p in points)
        except ImageError as error:  # one face that cannot be protected, and the photo is not written
            return Loaded(one.item, replace(row, reason=error.message))
        rows = [replace(row, reason=PASTED)]
        if not self.options.paste:
            rows = [_boxed(replace(row, face=k), face) for k, face in enumerate(chosen, 1)]
        return replace(one, row=rows[0], further=tuple(rows[1:]), faces=faces, landmarks=points)

    def _too_many(self, item: InputFile, faces: int) -> str | None:
        """Why a photo with so many faces cannot be protected; ``None`` where it can."""
        if faces > 1 and self._keyed is not None:
            return f"{faces} faces, and the one label of a photo, which this model needs, fits one face"
        last = item.face(faces).relative.rpartition("/")[2]
        if not self.options.paste and len(os.fsencode(last)) > 255:  # what file systems allow
            return f"{faces} faces, and the name is too long to be that of each; shorten it"
        return None

    def _filled(self, faces: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Which faces, and a batch of the fixed size of them, filled up with black images."""
        size = self.options.batch_size
        for start in range(0, len(faces), size):
            part = slice(start, start + size)
            full = np.zeros((size, *faces.shape[1:]), np.uint8)
            full[: len(faces[part])] = faces[part]
            yield part, to_unit(full)

    def _pasted(self, one: Loaded) -> NDArray[np.uint8]:
        """A photo with its protected faces in their places."""
        if one.pixels is None:
            raise ProtectError(f"{one.item.key} has no pixels to write.")
        # faces that lost their colour would look cut out of a photo that has its own
        faded = all(map(_is_grey, one.protected)) and not all(map(_is_grey, one.faces))
        written = without_colour(one.pixels) if faded else one.pixels
        for face, points in zip(one.protected, one.landmarks, strict=True):
            written = paste_back(written, face, points, size=self.protector.size)
        return written

    def _protect_video(self, one: Loaded, data: bytes) -> Loaded:
        """A video, protected in memory."""

        def frames(pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.uint8] | None, int]]:
            """By their place: rows come back in another order than they went in."""
            asked = [
                Loaded(replace(one.item, key=str(place)), one.row, np.ascontiguousarray(pixels))
                for place, pixels in enumerate(pictures)
            ]
            answers: list[tuple[NDArray[np.uint8] | None, int]] = [(None, 0)] * len(asked)
            for found in map(checked, self._protect_photos(asked)):
                pasted = self._pasted(found) if found.protected else None
                answers[int(found.item.key)] = (pasted, found.row.faces or 0)
            return answers

        try:
            made = protect_video(
                data,
                one.item.suffix,
                frames,
                at_once=min(self.options.batch_size, 16),
                max_pixels=self.options.max_pixels,
                sound=self.options.sound,
            )
        except ImageError as error:
            return Loaded(one.item, _rejected(one.row, error))
        row = replace(one.row, reason=PASTED, faces=made.faces, width=made.width, height=made.height)
        if made.blank == made.frames:
            reason = f"no face was found in any of {made.frames} frames"
            return Loaded(one.item, replace(row, status="no_face", reason=reason))
        if made.blank:
            gaps = f"{made.blank} of {made.frames} frames have no protected face and are black"
            row = replace(row, reason=f"{gaps}; {PASTED}")
        return Loaded(one.item, row, encoded=(made.data,))


def checked(one: Loaded) -> Loaded:
    """A file whose answers may be written as pixels, or its final row where one of them must not."""
    if one.answers is None:
        return one
    faults = (face_fault(answer, face) for answer, face in zip(one.answers, one.faces, strict=True))
    reason = next((fault for fault in faults if fault is not None), None)
    if reason is not None:
        return Loaded(one.item, replace(one.row, status="failed", reason=reason, face=None))
    return replace(one, answers=None, protected=tuple(to_pixels(one.answers)))


def _boxed(row: ManifestRow, face: Detection) -> ManifestRow:
    x1, y1, x2, y2 = (float(edge) for edge in face.box)
    return replace(row, box_x1=x1, box_y1=y1, box_x2=x2, box_y2=y2)


def _is_grey(face: NDArray[np.uint8]) -> bool:
    return bool((face == face[..., :1]).all())


def _rejected(row: ManifestRow, error: ImageError) -> ManifestRow:
    status: Status = "too_large" if isinstance(error, ImageTooLargeError) else "unreadable"
    return replace(row, status=status, reason=error.message)
