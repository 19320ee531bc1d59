"""One point of a sweep in a process of its own: train, protect, audit; each step is done once and goes on after a kill."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from privface.audit import AuditResult
from privface.config import TrainSettings
from privface.data import LoadedFaces
from privface.errors import AuditError, CheckpointError, OutputError, PrivfaceError
from privface.images import write_atomic
from privface.models import Protector
from privface.pipeline.faces import Progress, load_aligned, open_data
from privface.pipeline.fit import CONFIG_FILE, read_provenance, train
from privface.pipeline.inspect import audit, audit_protector, open_labelled, write_results
from privface.pipeline.sweep_plan import (
    ORIGINALS,
    TRAINED,
    Point,
    SweepSettings,
    digest,
    load_sweep,
    plan,
)
from privface.protect import BASELINES, ImageProtector, KSameAverage, protect_folder, read_manifest
from privface.protect.folders import read_file
from privface.protect.inputs import InputFile, Source
from privface.protect.output import locked, remove_leftovers
from privface.records import FaceTable

SETTINGS_FILE = "sweep.yaml"
FAILED_FILE = "failed.json"
LOG_FILE = "log.txt"

_LOCK_SECONDS = 30.0
_logger = logging.getLogger(__name__)


class PointFolder:
    """Where a point's work lies, and what of it is done.

    Args:
        root: Folder of the sweep.
        point: The point.
        settings: The sweep.
    """

    def __init__(self, root: Path, point: Point, settings: SweepSettings) -> None:
        self.path = root / "points" / point.folder
        self.run = self.path / "run"
        self.log = self.path / LOG_FILE
        self._settings = settings

    def audit(self, split: str | None) -> Path:
        """Folder of the audit on a split; another one where photos, protection or attackers are other ones."""
        counts = self._settings.audit.model_dump(mode="json", exclude={"cache", "split"})
        return self.path / self._name("audit", split, counts)

    def protected(self, split: str | None) -> Path:
        """Folder of the protected photos of a split."""
        counts = self._settings.audit.model_dump(mode="json", include={"original", "labels"})
        return self.path / self._name("protected", split, counts)

    def _name(self, what: str, split: str | None, counts: Mapping[str, Any]) -> str:
        protect = self._settings.protect.model_dump(mode="json", exclude={"batch_size"})
        word = "".join(c if c.isascii() and c.isalnum() else "-" for c in split or "all")
        return f"{what}-{word[:24]}-{digest([split, counts, protect])}"

    def result(self, split: str | None) -> AuditResult | None:
        """The finished audit on a split; a damaged one, or one of another version, counts as missing."""
        folder = self.audit(split)
        if not (folder / "report.html").is_file():  # written last
            return None
        with suppress(AuditError):
            return AuditResult.load(folder / "audit.json")
        return None

    @property
    def trained(self) -> bool:
        """Whether training is finished; its last file is there."""
        with suppress(CheckpointError):
            return bool(read_provenance(self.run))
        return False

    def failure(self) -> dict[str, str] | None:
        """Stage and reason, where the last attempt failed."""
        with suppress(OSError, ValueError):
            found = json.loads((self.path / FAILED_FILE).read_text(encoding="utf-8"))
            return {key: str(found[key]) for key in ("stage", "reason")} if isinstance(found, dict) else None
        return None

    def fail(self, stage: str, reason: str) -> None:
        """Note why the point could not be finished."""
        note = json.dumps({"stage": stage, "reason": reason}, indent=1)
        write_atomic(self.path / FAILED_FILE, (note + "\n").encode())

    def forget_failure(self) -> None:
        """A new attempt begins."""
        (self.path / FAILED_FILE).unlink(missing_ok=True)

    def minutes(self) -> dict[str, float]:
        """What the stages took, as far as they are finished."""
        with suppress(OSError, ValueError):
            found = json.loads((self.path / "minutes.json").read_text(encoding="utf-8"))
            return {str(key): float(value) for key, value in found.items()}
        return {}

    def note_minutes(self, stage: str, minutes: float) -> None:
        """Keep what a stage took; a resumed stage counts from where it went on."""
        found = {**self.minutes(), stage: round(minutes, 3)}
        write_atomic(self.path / "minutes.json", json.dumps(found, indent=1, sort_keys=True).encode())


class StageError(Exception):
    """A stage of a point failed; ``__cause__`` says why.

    Attributes:
        stage: ``train``, ``protect`` or ``audit``.
    """

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


class TablePhotos(Source):
    """The photos of a labelled set under their keys in it, for :func:`privface.protect.protect_folder`."""

    def __init__(self, table: FaceTable) -> None:
        self._paths = {record.file: record.path for record in table}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        return [InputFile(key, key, key) for key in sorted(self._paths)]

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        return read_file(self._paths[item.key], limit=limit)


def run_point(
    root: Path,
    point: Point,
    settings: SweepSettings,
    *,
    split: str | None,
    device: str | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Do what is still to do for one point on one split.

    Args:
        root: Folder of the sweep.
        point: The point.
        settings: The sweep.
        split: Whose people are audited.
        device: Where to train, ``cpu`` or ``cuda``; by default as the point's settings say.
        progress: Told about every stage.

    Raises:
        OutputError: If another process works on the point.
        StageError: If a stage failed.
    """
    folder = PointFolder(root, point, settings)
    with _locked_soon(folder.path):
        found = folder.result(split)
        if found is not None:
            return found
        folder.forget_failure()
        _describe(folder, point)
        if point.training is not None and not folder.trained:
            with _stage(folder, "train"):
                _train(folder, point.training, device, progress)
        return _audit(folder, point, settings, split, progress)


def _describe(folder: PointFolder, point: Point) -> None:
    """What this folder is, for people who look into it."""
    content = {"name": point.name, "method": point.method, "changes": dict(point.changes)}
    if point.training is not None:
        content["training"] = point.training.model_dump(mode="json")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomic(folder.path / "settings.yaml", text.encode())


@contextmanager
def _stage(folder: PointFolder, name: str) -> Iterator[None]:
    began = time.monotonic()
    _logger.info("%s", name)
    try:
        yield
    except Exception as error:
        raise StageError(name) from error
    folder.note_minutes(name, (time.monotonic() - began) / 60)


@contextmanager
def _locked_soon(folder: Path) -> Iterator[None]:
    """Hold a point's folder; the orphan of a killed sweep may take a moment to notice that it is one."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            lock = locked(folder)
            lock.__enter__()
            break
        except OutputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _train(
    folder: PointFolder, settings: TrainSettings, device: str | None, progress: Progress | None
) -> None:
    if device is not None:
        settings = settings.model_copy(update={"loop": settings.loop.model_copy(update={"device": device})})
    folder.run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.run)
    train(settings, folder.run, resume=(folder.run / CONFIG_FILE).is_file(), progress=progress)


def _audit(
    folder: PointFolder,
    point: Point,
    settings: SweepSettings,
    split: str | None,
    progress: Progress | None,
) -> AuditResult:
    chosen = settings.audit
    labels = None if chosen.labels is None else Path(chosen.labels)
    model = folder.run if point.method == TRAINED else None
    out = folder.audit(split)
    if point.method == ORIGINALS or settings.protect.store == "memory":
        with _stage(folder, "audit"):
            out.mkdir(parents=True, exist_ok=True)
            table = open_labelled(Path(chosen.original), labels=labels, split=split)
            faces = load_aligned(table, mode=chosen.faces, size=chosen.size, progress=progress)
            protector: Callable[..., Any] = _unchanged
            if point.method != ORIGINALS:
                protector = _protector(folder, point, settings, progress)
            result, _ = audit_protector(
                faces,
                protector,
                matchers=chosen.matchers,
                probes=chosen.probes,
                model=model,
                options=settings.options(),
                progress=progress,
            )
            write_results(result, out)
            return result
    protected = folder.protected(split)
    with _stage(folder, "protect"):
        table = open_labelled(Path(chosen.original), labels=labels, split=split)
        protect_folder(
            TablePhotos(table),
            protected,
            _protector(folder, point, settings, progress),
            faces=settings.protect.faces,
            quality=settings.protect.quality,
            batch_size=settings.protect.batch_size,
            progress=None if progress is None else lambda done, total: progress("protect", done, total),
        )
    with _stage(folder, "audit"):
        return audit(
            Path(chosen.original),
            protected,
            labels=labels,
            split=split,
            matchers=chosen.matchers,
            probes=chosen.probes,
            model=model,
            out=out,
            options=settings.options(),
            progress=progress,
        )


def protected_counts(folder: PointFolder, split: str | None) -> dict[str, int]:
    """Protected photos by status, those that there are; empty where none are kept."""
    place = folder.protected(split)
    if not (place / "manifest.parquet").is_file():
        return {}
    statuses = [row.status for row in read_manifest(place) if row.face in {None, 1}]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def _unchanged(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the originals are protected with."""
    return images


def _protector(
    folder: PointFolder, point: Point, settings: SweepSettings, progress: Progress | None
) -> ImageProtector:
    if point.baseline is None:
        return Protector.load(folder.run)
    if point.method == "k-same":
        gallery = _one_each(settings, progress)
        return KSameAverage(gallery.pixels, gallery.table.identities, k=point.changes["k"])
    return BASELINES[point.method](**point.changes, size=settings.base.size)


def _one_each(settings: SweepSettings, progress: Progress | None) -> LoadedFaces:
    """The first photo of each person who trains the base, none of whom is audited."""
    data = settings.base.data
    table = open_data(data)
    _, first = np.unique(table.identities, return_index=True)
    return load_aligned(
        table.take(np.sort(first)),
        mode=data.faces,
        size=settings.base.size,
        progress=progress,
        stage="align gallery",
    )


# the process ------------------------------------------------------------------------------------------------


def main() -> None:
    """Entry point of a sweep's job: ``python -m privface.pipeline.sweep_job SWEEP POINT [--split S] [--device D]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("point", help="name of the point's folder")
    parser.add_argument("--split", help="whose people are audited")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to train")
    arguments = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    settings = load_sweep(arguments.sweep / SETTINGS_FILE)
    point = next(point for point in plan(settings) if point.folder == arguments.point)
    folder = PointFolder(arguments.sweep, point, settings)
    try:
        run_point(
            arguments.sweep,
            point,
            settings,
            split=arguments.split,
            device=arguments.device,
            progress=_StageLog(),
        )
    except (StageError, OutputError) as error:
        _logger.exception("failed")
        cause = error.__cause__ if isinstance(error, StageError) and error.__cause__ is not None else error
        reason = str(cause) if isinstance(cause, PrivfaceError) else f"{type(cause).__name__}: {cause}"
        folder.fail(error.stage if isinstance(error, StageError) else "start", " ".join(reason.split()))
        sys.exit(1)


class _StageLog:
    """Writes a line where a stage begins."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            _logger.info("%s: %d of %d", stage, done, total)


def _end_with_parent() -> None:
    """Die when the sweep does: it holds the other end of our standard input, whatever kills it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # what is finished is kept; the sweep goes on from there


if __name__ == "__main__":
    main()
