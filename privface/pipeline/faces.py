"""From a labelled source to aligned faces in memory."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.config import DataSettings
from privface.data import LoadedFaces, load_faces, open_source
from privface.errors import DataError, ImageError, OutputError
from privface.faces import MTCNNDetector, align_face, as_aligned, choose_face, is_crop
from privface.options import Alignment
from privface.records import FaceRecord, FaceTable, Reject

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

MEMORY_LIMIT = 8_000_000_000
"""Aligned faces are kept in memory as uint8 up to this many bytes."""


def require_folder(out: Path, *, empty: str = "") -> None:
    """Make an output folder before the work, so that a wrong path does not cost an hour; it must be ``empty`` where that cure is given."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        full = bool(empty) and any(out.iterdir())
    except OSError as error:
        raise OutputError(
            f"Cannot write to {out}: {error.strerror}.", hint="Choose an --out that you may write to."
        ) from error
    if full:
        raise OutputError(f"{out} is not an empty folder.", hint=empty)


def open_data(settings: DataSettings) -> FaceTable:
    """Open a configured face set: source, labels, split and minimum age.

    Raises:
        DataError: If nothing is left.
    """
    table = open_source(settings.source, labels=settings.labels)
    whole = len(table)
    if settings.split is not None:
        table = take_split(table, settings.split, where=settings.source)
    if settings.minimum_age is not None:
        table = table.take(np.array([_age(r) >= settings.minimum_age for r in table], dtype=bool))
    if not len(table):
        raise DataError(
            f"Of {whole} photos of {settings.source}, none is left after the filters.",
            hint="Loosen split or minimum_age.",
        )
    return table


def take_split(table: FaceTable, split: str, *, where: str) -> FaceTable:
    """The rows of one split."""
    rows = table.where_split(split)
    if not len(rows):
        splits = sorted({r.split for r in table if r.split is not None})
        there = f"there are {splits}" if splits else "the labels have no split column"
        raise DataError(
            f"No photo of {where} is in the split {split!r}; {there}.",
            hint="Correct the split, or leave it out.",
        )
    return rows


def load_aligned(
    table: FaceTable,
    *,
    mode: Alignment | Callable[[NDArray[np.uint8], FaceRecord], Alignment] = "auto",
    size: int,
    progress: Progress | None = None,
    stage: str = "align",
) -> LoadedFaces:
    """Decode and align a whole set.

    Args:
        table: The set.
        mode: ``aligned`` resizes crops that are aligned already; ``landmarks`` uses the labels' points;
            ``detect`` finds the most central face of each photo; ``auto`` takes landmarks where a photo has
            them, takes photos of exactly 112 x 112 or ``size`` x ``size`` for aligned crops, and detects elsewhere.
            Or a function that says which of them it is for a decoded photo and its record.
        size: Side of the aligned faces, in pixels.
        progress: Told about every photo.
        stage: Name of the work in ``progress``.

    Raises:
        DataError: If no face is found at all, or the set would not fit in memory.
    """
    need = len(table) * size * size * 3
    if need > MEMORY_LIMIT:
        raise DataError(
            f"{len(table):,} faces of {size} x {size} need {need / 1e9:.1f} GB of memory, the limit is {MEMORY_LIMIT / 1e9:.0f} GB.",
            hint="Take a part of the set (a split), or a smaller size.",
        )
    lock, detector = threading.Lock(), functools.cache(MTCNNDetector)

    def align(pixels: NDArray[np.uint8], record: FaceRecord) -> NDArray[np.uint8]:
        how = mode if isinstance(mode, str) else mode(pixels, record)
        if how == "aligned":
            return as_aligned(pixels, size=size)
        if how != "detect" and record.landmarks is not None:
            return align_face(pixels, record.landmarks, size=size)
        if how == "auto" and is_crop(pixels, size=size):
            return as_aligned(pixels, size=size)
        if how == "landmarks":
            raise ImageError(f"{record.file}: no landmarks in the labels.", hint="Use faces: auto or detect.")
        with lock:  # one network, several decoding threads
            seen = detector().detect([pixels])[0]
        face = choose_face(seen, pixels.shape)
        if face is None:
            raise ImageError(
                f"{record.file}: no face found.", hint="If the photos are aligned crops, use faces: aligned."
            )
        return align_face(pixels, face.landmarks, size=size)

    tell = None if progress is None else lambda done, total: progress(stage, done, total)
    return load_faces(table, align, progress=tell)


def join(parts: list[LoadedFaces]) -> LoadedFaces:
    """Several sets behind one another."""
    records = tuple(record for part in parts for record in part.table)
    rejects: tuple[Reject, ...] = sum((part.table.rejects for part in parts), ())
    return LoadedFaces(
        np.concatenate([part.pixels for part in parts]), FaceTable(records, rejects, parts[0].table.name)
    )


def _age(record: FaceRecord) -> float:
    try:
        return float(record.cohorts.get("age", "nan"))
    except ValueError:
        return float("nan")
