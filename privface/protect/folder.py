"""Protect a folder of photos: same tree, same names, a manifest row for every file, resumable."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import ConfigError, DataError, ImageError, ImageTooLargeError, OutputError, ProtectError
from privface.faces.align import align_face, as_aligned, paste_back
from privface.faces.detect import Detection, FaceDetector, MTCNNDetector, choose_face
from privface.images import (
    MAX_PIXELS,
    WRITTEN_SUFFIXES,
    decode_image,
    encode_image,
    to_pixels,
    to_unit,
    write_atomic,
)
from privface.protect.inputs import BYTES_PER_PIXEL, InputFile, Source, open_photos, with_format
from privface.protect.journal import Entry, Journal
from privface.protect.manifest import (
    CSV_NAME,
    MANIFEST_NAME,
    STATUSES,
    ManifestRow,
    Status,
    write_manifest,
)
from privface.protect.output import OutputTree, is_fresh, locked, remove_leftovers, require_apart
from privface.protect.protector import ImageProtector, check_batch, output_fault
from privface.protect.templates import (
    TEMPLATES_NAME,
    TemplateMaker,
    check_templates,
    pack,
    write_templates,
)
from privface.records import Landmarks

logger = logging.getLogger(__name__)

FaceMode: TypeAlias = Literal["aligned", "detect"]
Progress: TypeAlias = Callable[[int, int], None]

MIN_SIDE = 16
"""Shortest side in pixels of an input; below it there is no face to protect."""

_BATCH_PIXELS = 64_000_000
"""Photos wait in memory as decoded pixels until their batch is full; a batch of large ones is cut here."""

_REUSED: frozenset[Status] = frozenset({"ok", "no_face"})
"""Results that a rerun takes over; the others are cheap to find again and may have had a passing cause."""


@dataclass(frozen=True)
class ProtectSummary:
    """Outcome of a protection job.

    Attributes:
        counts: Input files by status, all statuses present.
        manifest: The manifest that says what became of each file.
        images_per_second: Rate over the files that this run worked on; 0 where it had none.
        reused: Files taken over from an earlier run into the same output.
    """

    counts: Mapping[str, int]
    manifest: Path
    images_per_second: float
    reused: int = 0


def protect_folder(
    source: Path,
    output: Path,
    protector: ImageProtector,
    *,
    faces: FaceMode = "aligned",
    crop: bool = False,
    detector: FaceDetector | None = None,
    batch_size: int = 32,
    workers: int = 2,
    quality: int = 95,
    image_format: str | None = None,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    on_no_face: Literal["skip", "fail"] = "skip",
    as_csv: bool = False,
    templates: TemplateMaker | None = None,
    progress: Progress | None = None,
) -> ProtectSummary:
    """Protect every image of ``source`` into the same tree below ``output``.

    What is written lies under the input's name and in its format, without any metadata. In ``"aligned"`` mode the inputs
    are face crops already. In ``"detect"`` mode every face that is found is aligned, protected and pasted back
    into its photo under a soft edge; with ``crop`` only the most central face is written, aligned, at ``protector.size``.

    An original never passes through: a file that cannot be read, shows no face, or any of whose protected faces
    is undefined, out of range or equal to the original gets a manifest row with the reason and no output. What a detector
    overlooks, and hair and clothes around a face, stay as they are in a pasted photo.

    Run again with the same arguments after an interruption, it goes on where it stopped and gives the
    same bytes as an uninterrupted run; files are done again where input or output have changed.

    Args:
        source: Folder, ``.txt`` list, ``.zip``, ``.tar`` shards or ``.parquet`` table (:func:`open_photos`); never written to.
        output: Folder for protected images and manifest; must not overlap ``source``.
        protector: Model or baseline.
        faces: ``"aligned"`` or ``"detect"``.
        crop: In ``"detect"`` mode, write the central face alone.
        detector: Finds faces in ``"detect"`` mode; MTCNN by default.
        batch_size: Images per call of the protector.
        workers: Threads that decode ahead of the model and encode behind it.
        quality: JPEG and WebP quality, 1 to 100.
        image_format: Write all outputs as this, ``"jpg"``, ``"png"`` or ``"webp"``; by default each in its input's format.
        max_pixels: Larger inputs are not decoded.
        overwrite: Discard what an earlier job with other settings wrote, instead of refusing.
        on_no_face: ``"fail"`` stops at the first photo without a face.
        as_csv: Also write ``manifest.csv``.
        templates: Also write ``embeddings.parquet``, a template for each protected face, under the manifest's input keys.
        progress: Called with (finished, total) after each batch.

    Returns:
        Counts, manifest path and rate.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If ``source`` cannot be read or holds no image.
        OutputError: If ``output`` overlaps ``source``, is in use, cannot be written, or holds other data.
        ModelError: If the protector's answer has the wrong shape.
        ProtectError: If ``on_no_face`` is ``"fail"`` and a photo shows no face.
        KeyboardInterrupt: After SIGINT, once the batch in flight and the manifest are written. A second
            SIGINT stops at once; the next run repairs what that leaves.
    """
    _check_settings(
        faces=faces, batch_size=batch_size, workers=workers, quality=quality, max_pixels=max_pixels
    )
    require_apart(source, output)
    photos = open_photos(source)
    try:
        items = with_format(photos.items(), image_format)
        if not items:
            raise DataError(f"{source} holds no image.", hint="Hidden files and other suffixes are left out.")
        if faces == "detect" and detector is None:
            detector = MTCNNDetector()
        settings = {
            "model": protector.fingerprint,
            "size": protector.size,
            "quality": quality,
            **({} if image_format is None else {"format": image_format.lower().lstrip(".")}),
            "faces": faces,
            **({"crop": crop} if faces == "detect" else {}),
            "detector": _detector_name(detector) if faces == "detect" else None,
            **({} if templates is None else {"templates": templates.fingerprint}),
        }
        with locked(output):
            remove_leftovers(output)
            journal = _open_journal(output, settings, overwrite=overwrite)
            job = _Job(
                photos=photos,
                tree=OutputTree(output),
                journal=journal,
                protector=protector,
                detector=detector if faces == "detect" else None,
                crop=crop,
                batch_size=min(batch_size, len(items)),
                workers=workers,
                quality=quality,
                max_pixels=max_pixels,
                fail_without_face=on_no_face == "fail",
                templates=templates,
                progress=progress,
            )
            return job.run(items, as_csv=as_csv)
    finally:
        photos.close()


def _check_settings(*, faces: str, batch_size: int, workers: int, quality: int, max_pixels: int) -> None:
    if faces not in {"aligned", "detect"}:
        raise ConfigError(f"faces is {faces!r}.", hint="Choose 'aligned' or 'detect'.")
    for name, value in {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.", hint=f"Give {name} >= 1.")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}; it must be from 1 to 100.", hint="95 is a good choice.")


def _detector_name(detector: FaceDetector | None) -> str:
    name = getattr(detector, "fingerprint", None)
    return name if isinstance(name, str) else type(detector).__name__


def _open_journal(output: Path, settings: Mapping[str, object], *, overwrite: bool) -> Journal:
    """The journal to go on with, or a new one.

    Raises:
        OutputError: If the folder holds something else, or the work of other settings.
    """
    journal = Journal(output)
    if journal.exists() and not overwrite:
        before = journal.settings()
        changed = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        if changed:
            changes = "; ".join(f"{k} {before.get(k)!r}, now {settings.get(k)!r}" for k in changed)
            raise OutputError(
                f"{output} was written with other settings: {changes}.",
                hint="Choose another output folder, or overwrite this one.",
            )
    elif journal.exists():
        tree = OutputTree(output)
        for entry in journal.entries().values():
            tree.remove(entry.path)
        journal.start(settings)
    elif overwrite or is_fresh(output):
        journal.start(settings)
    else:
        raise OutputError(
            f"{output} is not empty and was not written by privface.",
            hint="Choose another output folder, or overwrite this one.",
        )
    return journal


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file on its way to the model: its row so far, its pixels and faces, or a row that is final."""

    item: InputFile
    row: ManifestRow
    pixels: NDArray[np.uint8] | None = None
    faces: tuple[NDArray[np.uint8], ...] = ()
    landmarks: tuple[Landmarks, ...] = ()
    answers: tuple[NDArray[np.uint8], ...] = ()
    reused: bool = False
    template: str | None = None


_Finished: TypeAlias = _Loaded | Future[_Loaded]


class _Job:
    """One run over one output folder; the caller holds its lock."""

    def __init__(
        self,
        *,
        photos: Source,
        tree: OutputTree,
        journal: Journal,
        protector: ImageProtector,
        detector: FaceDetector | None,
        crop: bool,
        batch_size: int,
        workers: int,
        quality: int,
        max_pixels: int,
        fail_without_face: bool,
        templates: TemplateMaker | None,
        progress: Progress | None,
    ) -> None:
        self.photos = photos
        self.tree = tree
        self.journal = journal
        self.protector = protector
        self.detector = detector
        self.crop = crop
        self.batch_size = batch_size
        self.workers = workers
        self.quality = quality
        self.max_pixels = max_pixels
        self.fail_without_face = fail_without_face
        self.templates = templates
        self.packed: dict[str, str] = {}
        self.progress = progress
        self.known = journal.entries()
        self.rows: list[ManifestRow] = []
        self.reused = 0
        self.interrupted = False

    def run(self, items: Sequence[InputFile], *, as_csv: bool) -> ProtectSummary:
        """Work through ``items``; whatever stops it, the manifest says what is finished."""
        gone = self.known.keys() - {item.key for item in items}
        if gone:
            logger.warning(
                "%d outputs of an earlier run have no input any more; they are left as they are.", len(gone)
            )
        for name in (MANIFEST_NAME, CSV_NAME, TEMPLATES_NAME):
            self.tree.remove(name)  # a manifest beside images that it does not describe would mislead
        start = time.perf_counter()
        complete = False
        try:
            with self._sigint_deferred():
                self._process(items)
            complete = len(self.rows) == len(items)
        finally:
            manifest = write_manifest(self.tree.root, self.rows, complete=complete, as_csv=as_csv)
            if self.templates is not None:
                write_templates(self.tree.root, self.packed, maker=self.templates)
        if self.interrupted:
            raise KeyboardInterrupt
        worked = len(items) - self.reused
        counts: dict[str, int] = {
            status: sum(row.status == status for row in self.rows) for status in STATUSES
        }
        rate = worked / (time.perf_counter() - start)
        return ProtectSummary(counts, manifest, rate, self.reused)

    @contextmanager
    def _sigint_deferred(self) -> Iterator[None]:
        """Turn the first SIGINT into a request to stop after the batch in flight."""
        if threading.current_thread() is not threading.main_thread():  # only it may handle signals
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, previous)
            logger.warning("Interrupted: finishing the batch in flight.")

        signal.signal(signal.SIGINT, request_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _process(self, items: Sequence[InputFile]) -> None:
        """Decode ahead of the model, write behind it: while one batch is computed, the last is written."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="privface-protect")
        writing: list[_Finished] = []
        try:
            for batch in self._batches(self._load_ahead(items, pool)):
                before, writing = writing, []
                try:
                    writing = self._protect(batch, pool)
                finally:
                    self._commit(before, total=len(items))
                if self.interrupted:
                    break
        finally:
            try:
                self._commit(writing, total=len(items))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load_ahead(self, items: Sequence[InputFile], pool: ThreadPoolExecutor) -> Iterator[_Loaded]:
        """Files in order, read by the pool a bounded number ahead."""
        # Whole photos are large, so few of them wait; aligned faces are small.
        ahead = self.batch_size if self.detector is None else self.workers + 1
        queue: deque[Future[_Loaded]] = deque()
        for item in items:
            queue.append(pool.submit(self._load, item))
            if len(queue) > ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()

    def _batches(self, loaded: Iterator[_Loaded]) -> Iterator[list[_Loaded]]:
        """Groups with at most ``batch_size`` files to compute; finished ones ride along, up to a limit."""
        batch: list[_Loaded] = []
        waiting = pixels = 0
        for one in loaded:
            batch.append(one)
            if one.pixels is not None:
                waiting += 1
                pixels += one.pixels.shape[0] * one.pixels.shape[1]
            full = waiting == self.batch_size or pixels >= _BATCH_PIXELS
            # Finished files alone fill a batch too, but never cut one short: a resumed run then forms the
            # batches of an uninterrupted one.
            if full or (not waiting and len(batch) >= 16 * self.batch_size):
                yield batch
                batch, waiting, pixels = [], 0, 0
        if batch:
            yield batch

    def _load(self, item: InputFile) -> _Loaded:
        """Read, look up, decode; runs in the pool. Every fault of the file becomes a row."""
        row = ManifestRow(item.key, "failed", self.protector.fingerprint)
        if item.fault is not None:
            return _Loaded(item, replace(row, status="unreadable", reason=item.fault))
        if item.suffix not in WRITTEN_SUFFIXES:
            return _Loaded(
                item, replace(row, reason=f"{item.suffix} images are not written; convert it first")
            )
        try:
            data = self.photos.read(item, limit=self.max_pixels * BYTES_PER_PIXEL)
        except ImageError as error:
            return _Loaded(item, _rejected(row, error))
        row = replace(row, input_sha256=hashlib.sha256(data).hexdigest())
        finished = self._finished_before(item, row)
        if finished is not None:
            return _Loaded(item, finished.row, reused=True, template=finished.template)
        return self._decode(item, row, data)

    def _decode(self, item: InputFile, row: ManifestRow, data: bytes) -> _Loaded:
        """Pixels of one file: the face at the protector's size, or the whole photo in detect mode."""
        try:
            pixels = decode_image(data, max_pixels=self.max_pixels)
        except ImageError as error:
            return _Loaded(item, _rejected(row, error))
        except Exception as error:  # decoders raise anything on hostile input; one file stops no job
            name = type(error).__name__
            logger.warning("%s: unexpected %s while decoding.", item.key, name, exc_info=True)
            return _Loaded(item, replace(row, status="unreadable", reason=f"damaged image ({name})"))
        row = replace(row, width=pixels.shape[1], height=pixels.shape[0])
        if min(pixels.shape[:2]) < MIN_SIDE:
            reason = f"{row.width} x {row.height} pixels, below the shortest side of {MIN_SIDE}"
            return _Loaded(item, replace(row, reason=reason))
        if self.detector is not None:
            return _Loaded(item, row, pixels)
        try:
            face = as_aligned(pixels, size=self.protector.size)
            return _Loaded(item, row, face, faces=(face,))
        except ImageError as error:
            return _Loaded(item, replace(row, reason=error.message))

    def _finished_before(self, item: InputFile, row: ManifestRow) -> Entry | None:
        """The entry of an earlier run, if the input and its output are still what they were."""
        entry = self.known.get(item.key)
        if entry is None or entry.path != item.relative or entry.row.status not in _REUSED:
            return None
        if entry.row.input_sha256 != row.input_sha256 or entry.row.model != row.model:
            return None
        if entry.row.status == "ok" and self.tree.digest(item.relative) != entry.row.output_sha256:
            return None
        if entry.row.status == "ok" and self.templates is not None and entry.template is None:
            return None
        return entry

    def _protect(self, batch: Sequence[_Loaded], pool: ThreadPoolExecutor) -> list[_Finished]:
        """Run the model on a batch and hand its images to the pool for writing."""
        done: list[_Finished] = [one for one in batch if one.pixels is None]
        ready = [one for one in batch if one.pixels is not None]
        if self.detector is not None:
            found = self._find_faces(ready, self.detector)
            done += [one for one in found if one.pixels is None]
            ready = [one for one in found if one.pixels is not None]
        if not ready:
            return done
        faces = np.stack([face for one in ready for face in one.faces])
        protected = self._call(faces)
        passed: list[_Loaded] = []
        place = 0
        for one in ready:
            mine = slice(place, place + len(one.faces))
            place = mine.stop
            reason = _face_fault(protected[mine], faces[mine])
            if reason is not None:
                done.append(_Loaded(one.item, replace(one.row, status="failed", reason=reason)))
            else:
                passed.append(replace(one, answers=tuple(to_pixels(protected[mine]))))
        done += [pool.submit(self._write, one) for one in self._with_templates(passed)]
        return done

    def _with_templates(self, passed: Sequence[_Loaded]) -> Sequence[_Loaded]:
        """Protected files with the template of their first face, where the job makes them."""
        if self.templates is None or not passed:
            return passed
        seen = np.stack([(one.faces if self.templates.of_original else one.answers)[0] for one in passed])
        full = np.zeros((self.batch_size, *seen.shape[1:]), np.uint8)
        full[: len(seen)] = seen
        made = self.templates(to_unit(full))
        check_templates(made, count=self.batch_size)
        return [replace(one, template=pack(row)) for one, row in zip(passed, made, strict=False)]

    def _find_faces(self, photos: Sequence[_Loaded], detector: FaceDetector) -> list[_Loaded]:
        """The faces of each photo, aligned, the central one first; a final row where there is none."""
        images = [one.pixels for one in photos if one.pixels is not None]
        found = detector.detect(images) if images else []
        loaded = []
        for one, pixels, detections in zip(photos, images, found, strict=True):
            row = replace(one.row, faces=len(detections))
            central: Detection | None = choose_face(detections, pixels.shape, rule="central")
            if central is None:
                reason = "no face was found"
                loaded.append(_Loaded(one.item, replace(row, status="no_face", reason=reason)))
                continue
            x1, y1, x2, y2 = (float(edge) for edge in central.box)
            row = replace(row, box_x1=x1, box_y1=y1, box_x2=x2, box_y2=y2)
            chosen = [central]
            if not self.crop:
                chosen += [face for face in detections if face is not central]
            points = tuple(face.landmarks for face in chosen)
            try:
                faces = tuple(align_face(pixels, p, size=self.protector.size) for p in points)
            except ImageError as error:  # one face that cannot be protected, and the photo is not written
                loaded.append(_Loaded(one.item, replace(row, reason=error.message)))
                continue
            loaded.append(replace(one, row=row, faces=faces, landmarks=points))
        return loaded

    def _call(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The protector on uint8 ``(N, size, size, 3)``, always in batches of one shape.

        A network's rounding can depend on the batch shape; short batches are filled up with black images
        so that where a job was interrupted leaves no trace in its bytes.
        """
        parts = []
        for start in range(0, len(faces), self.batch_size):
            part = faces[start : start + self.batch_size]
            full = np.zeros((self.batch_size, *faces.shape[1:]), np.uint8)
            full[: len(part)] = part
            protected = np.asarray(self.protector(to_unit(full)))
            check_batch(protected, count=self.batch_size, size=self.protector.size)
            parts.append(protected[: len(part)])
        return np.concatenate(parts)

    def _write(self, one: _Loaded) -> _Loaded:
        """Encode and write one protected file; runs in the pool."""
        if one.pixels is None or not one.answers:
            raise ProtectError(f"{one.item.key} has no pixels to write.")
        written = one.answers[0]
        if self.detector is not None and not self.crop:
            written = one.pixels
            for face, points in zip(one.answers, one.landmarks, strict=True):
                written = paste_back(written, face, points, size=self.protector.size)
        data = encode_image(written, one.item.suffix, quality=self.quality)
        write_atomic(self.tree.target(one.item.relative), data)
        digest = hashlib.sha256(data).hexdigest()
        row = replace(one.row, status="ok", output=one.item.output, output_sha256=digest)
        return _Loaded(one.item, row, template=one.template)

    def _commit(self, finished: Sequence[_Finished], *, total: int) -> None:
        """Wait for a batch's writes, clear outdated outputs, then note the batch in the journal.

        Raises:
            OutputError: If a write failed; the others of the batch are noted first.
            ProtectError: If a face is demanded and a photo has none.
        """
        entries = []
        error: OutputError | ProtectError | None = None
        for one in finished:
            try:
                loaded = one.result() if isinstance(one, Future) else one
                if loaded.row.status != "ok" and loaded.item.fault is None:
                    self.tree.remove(loaded.item.relative)  # of an earlier state of the input
            except OutputError as caught:
                error = error or caught
                continue
            if loaded.row.status == "no_face" and self.fail_without_face:
                hint = "Skip such photos with on_no_face='skip'."
                error = error or ProtectError(f"{loaded.item.key}: no face was found.", hint=hint)
            self.rows.append(loaded.row)
            if loaded.template is not None:
                self.packed[loaded.item.key] = loaded.template
            if loaded.reused:
                self.reused += 1
            else:
                entries.append(Entry(loaded.item.relative, loaded.row, loaded.template))
        self.journal.append(entries)
        if error is not None:
            raise error
        if finished and self.progress is not None:
            self.progress(len(self.rows), total)


def _face_fault(protected: NDArray[np.float32], faces: NDArray[np.uint8]) -> str | None:
    """Why the protected faces of one file must not be written; ``None`` where they may."""
    for answer, face in zip(protected, faces, strict=True):
        reason = output_fault(answer)
        if reason is None and np.array_equal(to_pixels(answer), face):
            reason = "protector returned the original"
        if reason is not None:
            return reason
    return None


def _rejected(row: ManifestRow, error: ImageError) -> ManifestRow:
    status: Status = "too_large" if isinstance(error, ImageTooLargeError) else "unreadable"
    return replace(row, status=status, reason=error.message)
