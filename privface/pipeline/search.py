"""Who of a gallery is on a photo: protected templates searched with a live probe."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privface.data import open_source, read_embeddings
from privface.data.embeddings import has_embedding, read_templates, templates_made_by
from privface.device import Device
from privface.errors import ConfigError, DataError, LabelError
from privface.images import IMAGE_SUFFIXES, to_unit, write_atomic
from privface.options import Alignment
from privface.pipeline.faces import Progress, load_aligned
from privface.protect.templates import MatcherTemplates, template_maker
from privface.records import FRAME, FaceRecord, FaceTable

_AT_ONCE = 64


@dataclass(frozen=True)
class Candidate:
    """One row of an answer: keys of the probe photo and of the gallery template, its rank (1: the most similar), its similarity in [-1, 1]."""

    probe: str
    rank: int
    file: str
    similarity: float


@dataclass(frozen=True)
class SearchResult:
    """Candidates, best first, probe by probe; templates compared with; reasons by probe that could not be enrolled."""

    candidates: tuple[Candidate, ...]
    searched: int
    failed: dict[str, str]


def search(
    probe: Path,
    gallery: Path,
    *,
    templates: str,
    faces: Alignment = "auto",
    top: int = 5,
    threshold: float | None = None,
    device: Device = Device(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> SearchResult:
    """Compare one photo or a folder of them with every template of a gallery.

    The probe is treated as the gallery was: embedded, and erased where ``templates`` names an eraser. Nothing of it is stored.

    Args:
        probe: A photo, or a folder as :func:`privface.data.open_source` reads it.
        gallery: Table of templates, such as ``embeddings.parquet`` of ``protect --embeddings`` or of ``erase apply``.
        templates: ``MATCHER[:ERASER]`` that made the gallery.
        faces: How probes are aligned.
        top: Candidates a probe, 1 or more.
        threshold: Candidates below this similarity are left out.
        device: Where the matcher computes.
        progress: Told about every stage.

    Raises:
        ConfigError: If ``top`` is out of range or the gallery was made with other models.
        DataError: If probe or gallery cannot be read, or their templates differ in size.
    """
    if top < 1:
        raise ConfigError(f"top={top}; it starts at 1.", hint="5 is usual.")
    maker = template_maker(templates, device)
    made = templates_made_by(gallery)
    # without an eraser the gallery is of protected faces, and the probe is an original: one matcher, no eraser
    if made and made != maker.fingerprint:
        raise ConfigError(
            f"{gallery} was made with other models ({made[:16]}..., not {maker.fingerprint[:16]}...).",
            hint="Give the matcher, with its sidecar, and the eraser of `protect --embeddings`.",
        )
    vectors, files = _read_gallery(gallery, ours=bool(made))
    probes, names, failed = _enrol(probe, maker, faces, progress)
    if len(probes) and probes.shape[1] != vectors.shape[1]:
        raise DataError(
            f"The gallery's templates have {vectors.shape[1]} values, the probe's {probes.shape[1]}.",
            hint="Give the matcher and the eraser that made the gallery.",
        )
    there, found = _unit(vectors), []
    for name, row in zip(names, _unit(probes), strict=True):
        scores = np.clip(np.round(there @ row, 10), -1.0, 1.0)  # equal templates must tie
        for rank, place in enumerate(np.argsort(-scores, kind="stable")[:top], 1):
            if threshold is None or scores[place] >= threshold:
                found.append(Candidate(name, rank, str(files[place]), float(scores[place])))
    return SearchResult(tuple(found), len(vectors), failed)


def _read_gallery(gallery: Path, *, ours: bool) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    if ours:
        vectors, files = read_templates(gallery)
    else:
        table = read_embeddings(gallery)
        vectors, files = table.vectors, list(table.labels["file"])
    kept = has_embedding(vectors)
    if not kept.any():
        raise DataError(f"{gallery} holds no template.", hint="Every row is empty.")
    return vectors[kept], np.array(files, str)[kept]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True), np.float64)


def write_candidates(candidates: Sequence[Candidate], out: Path) -> None:
    """Write candidates as CSV.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(each.name for each in fields(Candidate))
    rows.writerows((*astuple(one)[:-1], f"{one.similarity:.6f}") for one in candidates)
    write_atomic(out, text.getvalue().encode())


def _enrol(
    probe: Path, maker: MatcherTemplates, faces: Alignment, progress: Progress | None
) -> tuple[NDArray[np.float32], list[str], dict[str, str]]:
    if probe.is_file() and probe.suffix.lower() in IMAGE_SUFFIXES:
        table = FaceTable((FaceRecord(path=probe, file=probe.name),), (), probe.name)
    else:
        try:
            table = open_source(str(probe))
        except LabelError as error:
            raise DataError(error.message, hint=error.hint) from error
    loaded = load_aligned(table, mode=faces, size=FRAME, progress=progress)
    failed = {reject.file: reject.reason for reject in loaded.table.rejects}
    starts = range(0, len(loaded), _AT_ONCE)
    rows = np.concatenate([maker(to_unit(loaded.pixels[k : k + _AT_ONCE])) for k in starts])
    good = has_embedding(rows)
    names = [record.file for record in loaded.table]
    for place in np.flatnonzero(~good):
        failed[names[place]] = "the matcher gave no template"
    return rows[good], [names[place] for place in np.flatnonzero(good)], failed
