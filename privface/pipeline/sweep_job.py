"""One point of a sweep: train, protect, audit; each step is done once and goes on after a kill."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from privface.errors import PrivfaceError
from privface.models import Protector
from privface.pipeline.faces import load_aligned, open_data
from privface.pipeline.fit import CONFIG_FILE, train
from privface.pipeline.inspect import audit, audit_protector, open_labelled, require_classes, write_results
from privface.pipeline.provenance import PROVENANCE_FILE
from privface.pipeline.sweep_plan import K_SAME, ORIGINALS, TRAINED, Point, SweepAudit, load_sweep, plan
from privface.protect import ImageProtector, KSameAverage, protect_folder
from privface.protect.folders import read_file
from privface.protect.inputs import InputFile, Source
from privface.protect.output import locked, remove_leftovers
from privface.records import FaceTable

RUN = "run"
SETTINGS_FILE = "sweep.yaml"

_logger = logging.getLogger(__name__)


def run_job(point: Point, split: str | None) -> bool:
    """Do what is still to do for one point on one split, ``None`` for all people; says whether the audit is there.

    A failure is noted in the point's folder.
    """
    stage = "start"

    def begin(name: str) -> None:
        nonlocal stage
        stage = name
        _logger.info("%s: %s", point.name, name)

    try:
        with locked(point.path, patience=30):  # the job of a killed sweep may take a moment to end
            if point.result(split) is not None:
                return True
            run = point.path / RUN
            if point.training is not None and not (run / PROVENANCE_FILE).is_file():  # written last
                begin("train")
                run.mkdir(exist_ok=True)
                remove_leftovers(run)
                train(point.training, run, resume=(run / CONFIG_FILE).is_file())
            protected = None
            if point.method != ORIGINALS and point.settings.protect.store == "files":
                begin("protect")
                protected = point.place("protected", split)
                photos = _TablePhotos(open_audited(point.settings.audit, split))
                protect_folder(photos, protected, _protector(point), point.settings.protect.options)
            begin("audit")
            _audit(point, split, protected)
    except Exception as error:  # whatever it is, it must not end the other points
        _logger.exception("%s failed", stage)
        reason = str(error) if isinstance(error, PrivfaceError) else f"{type(error).__name__}: {error}"
        point.fail(stage, reason)
        return False
    return True


def open_audited(chosen: SweepAudit, split: str | None) -> FaceTable:
    """The photos of one split that all points are audited on; see :func:`~privface.pipeline.inspect.open_labelled`."""
    table = open_labelled(chosen.original, labels=chosen.labels, split=split, attributes=chosen.attributes)
    require_classes(chosen.attributes, [table])
    return table


def _audit(point: Point, split: str | None, protected: Path | None) -> None:
    chosen, out = point.settings.audit, point.place("audit", split)
    model = point.path / RUN if point.method == TRAINED else None
    common: dict[str, Any] = {"matchers": chosen.matchers, "probes": chosen.probes, "model": model}
    common["options"] = chosen
    if protected is not None:
        audit(chosen.original, protected, labels=chosen.labels, split=split, out=out, **common)
        return
    table = open_audited(chosen, split)
    faces = load_aligned(table, mode=chosen.faces, size=chosen.size)
    by = (lambda images: images) if point.method == ORIGINALS else _protector(point)
    result, _ = audit_protector(faces, by, **common)
    out.mkdir(exist_ok=True)
    write_results(result, out)


class _TablePhotos(Source):
    """The photos of a labelled set under their keys in it, for :func:`privface.protect.protect_folder`."""

    def __init__(self, table: FaceTable) -> None:
        self._paths = {record.file: record.path for record in table}

    def items(self) -> list[InputFile]:
        """See :meth:`Source.items`."""
        return [InputFile(key, key) for key in sorted(self._paths)]

    def read(self, item: InputFile, *, limit: int) -> bytes:
        """See :meth:`Source.read`."""
        return read_file(self._paths[item.key], limit=limit)


def _protector(point: Point) -> ImageProtector:
    if point.baseline is not None:
        return point.baseline
    if point.method != K_SAME:
        return Protector.load(point.path / RUN)
    # the gallery: the first photo of each person who trains the base, none of whom is audited
    base = point.settings.base
    table = open_data(base.data)
    _, first = np.unique(table.identities, return_index=True)
    gallery = load_aligned(table.take(np.sort(first)), mode=base.data.faces, size=base.size)
    return KSameAverage(gallery.pixels, gallery.table.identities, k=point.changes["k"])


def main() -> None:
    """The process of a job: ``python -m privface.pipeline.sweep_job JOB``, where JOB is a JSON list of folder, point and split."""
    out, name, split = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    points = plan(load_sweep(Path(out) / SETTINGS_FILE), Path(out))
    point = next(point for point in points if point.path.name == name)
    sys.exit(0 if run_job(point, split) else 1)


def _end_with_parent() -> None:
    """Die when the sweep does: it holds the other end of our standard input, whatever kills it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # what is finished is kept; the sweep goes on from there


if __name__ == "__main__":
    main()
