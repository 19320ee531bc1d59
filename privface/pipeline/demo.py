"""The demo: generated people, two matchers, a protector and an honest audit, offline and from nothing."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from privface.audit import AuditResult
from privface.config import TrainSettings, parse_settings
from privface.data import GeneratedFaces, generate_faces, write_faces
from privface.errors import OutputError
from privface.faces import as_aligned
from privface.images import decode_image, encode_image, write_atomic
from privface.models import Protector, save_network
from privface.options import AuditOptions
from privface.pipeline.faces import Progress, require_folder
from privface.pipeline.fit import train
from privface.pipeline.inspect import audit
from privface.pipeline.methods.base import classifier_spec
from privface.protect import ProtectOptions, protect_folder, read_manifest
from privface.records import FaceTable, InputSpec
from privface.report import contact_sheet
from privface.threads import core_count, map_tasks, torch_threads
from privface.training import ArraySource, train_gender_classifier, train_matcher

MARKER = ".privface-demo"
"""Says that a folder was written by the demo and may be written again."""

_PARTS = (
    "matcher", "matcher-second", "matcher-unseen", "classifier", "training-faces", "run", "faces", "protected",
    "audit.json", "report.html", "contact_sheet.png",
)  # fmt: skip
_SHEET_PEOPLE = 20
_MATCHERS = (("matcher", 40, 20), ("matcher-second", 36, 20), ("matcher-unseen", 40, 16))
"""Name, input size and width."""
_GENDER_CUE = 1.5  # clear enough for classifiers that train for seconds
_NUISANCE = 0.35  # photos alike enough for matchers that train for seconds

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class DemoSize:
    """How much work the demo does; the default takes three to five minutes on two cores."""

    model_people: int = 400  # who train the matchers and the gender classifier
    model_photos: int = 4  # of each
    matcher_epochs: int = 18
    classifier_epochs: int = 4
    train_people: int = 3000  # who train the protector
    train_photos: int = 2
    train_epochs: int = 2
    code: int = 72  # values of the protector's code
    drop: int = 36  # values more that its eraser drops
    audit_people: int = 240  # who are protected and audited
    audit_photos: int = 4
    cnn_epochs: int = 7  # of the audit's CNN attacker
    resamples: int = 500  # of people, for intervals
    side: int = 64  # of the protected images, in pixels


def run_demo(
    out: Path, *, seed: int = 0, progress: Progress | None = None, size: DemoSize = DemoSize()
) -> AuditResult:
    """Train, protect and audit on generated people, three groups of whom no two share a person; returns the audit.

    The first group trains three matchers and a gender classifier, the second the protector, with two of the matchers; the
    third is protected and audited. The last matcher and the classifier are the audit's unseen ones. The files of an earlier demo in ``out``
    are replaced, others kept. Same seed, same ``audit.json`` on the same machine.

    Raises:
        OutputError: If ``out`` holds something that is no demo.
        DataError: If ``seed`` is negative.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise OutputError(
            f"{out} is not empty and no earlier demo.", hint="Choose another --out, or empty the folder."
        )
    groups = _people(seed, size, progress)
    require_folder(out)
    _start_afresh(out)
    with torch_threads(1):
        return _run(out, groups, seed, size, progress)


def _run(
    out: Path,
    groups: tuple[GeneratedFaces, GeneratedFaces, GeneratedFaces],
    seed: int,
    size: DemoSize,
    progress: Progress | None,
) -> AuditResult:
    _train_models(out, groups[0], seed, size, progress)
    write_faces(groups[1], out / "training-faces")
    with torch_threads(2):  # of a fixed number, for the same figures on any number of cores
        train(_settings(out, seed, size), out / "run", progress=progress)
    table = write_faces(groups[2], out / "faces")
    protect_folder(
        out / "faces",
        out / "protected",
        Protector.load(out / "run"),
        ProtectOptions(faces="aligned"),
        progress=None if progress is None else partial(progress, "protect"),
    )
    result = audit(
        out / "faces",
        out / "protected",
        matchers=[f"mini:{out / name}" for name, _, _ in _MATCHERS],
        probes=[f"mini:{out / 'classifier'}"],
        model=out / "run",
        out=out,
        options=AuditOptions(
            seed=seed,
            resamples=size.resamples,
            effort="demo",
            device="cpu",  # the same figures on every machine
            precision="fp32",
            cnn_epochs=size.cnn_epochs,
            size=size.side,
            faces="aligned",
            protected_faces="aligned",
        ),
        images=True,  # nobody on them exists
        progress=progress,
    )
    _write_sheet(out, table, size.side)
    return result


def _people(
    seed: int, size: DemoSize, progress: Progress | None
) -> tuple[GeneratedFaces, GeneratedFaces, GeneratedFaces]:
    """The three groups, drawn in processes; the largest in two halves."""
    models, half = size.model_people, size.train_people // 2
    learnt = models + size.train_people
    asked = (  # first person, people, photos of each
        (models, half, size.train_photos),
        (models + half, size.train_people - half, size.train_photos),
        (0, models, size.model_photos),
        (learnt, size.audit_people, size.audit_photos),
    )
    tasks = [
        partial(
            generate_faces, first_person=first, people=people, photos_per_person=photos,
            seed=seed, gender_cue=_GENDER_CUE, nuisance=_NUISANCE,
        )
        for first, people, photos in asked
    ]  # fmt: skip
    *halves, taught, audited = _side_by_side(tasks, "draw people", progress)
    pixels, identities, genders = (
        np.concatenate([getattr(part, name) for part in halves])
        for name in ("pixels", "identities", "genders")
    )
    return taught, GeneratedFaces(pixels, identities, genders), audited


def _side_by_side(
    tasks: Sequence[Callable[[], ResultT]], stage: str, progress: Progress | None
) -> list[ResultT]:
    """What each task gives, in order; a process for each core."""
    found: dict[int, ResultT] = {}

    def tell() -> None:
        if progress is not None:
            progress(stage, len(found), len(tasks))

    tell()
    for number, result in map_tasks(operator.call, tasks, processes=min(len(tasks), core_count())):
        found[number] = result
        tell()
    return [found[number] for number in range(len(tasks))]


def _start_afresh(out: Path) -> None:
    """Mark the folder and remove what an earlier demo wrote, and only that."""
    write_atomic(out / MARKER, b"Written by `privface demo`, which may replace what it wrote here.\n")
    for name in _PARTS:
        part = out / name
        try:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot remove {part} of an earlier demo: {error.strerror}.", hint="Choose another --out."
            ) from error


def _train_models(
    out: Path, faces: GeneratedFaces, seed: int, size: DemoSize, progress: Progress | None
) -> None:
    """Matchers that differ in input size, width and initial weights, and a gender classifier; a process for each core."""
    source = ArraySource(np.stack([as_aligned(image, size=size.side) for image in faces.pixels]))
    tasks = [
        partial(
            _train_one, out / name, "matcher", classifier_spec(size=side, crop="frame"), train_matcher, source, faces.identities,
            epochs=size.matcher_epochs, width=width, seed=seed + number,
        )
        for number, (name, side, width) in enumerate(_MATCHERS)
    ]  # fmt: skip
    tasks.append(
        partial(
            _train_one, out / "classifier", "gender-classifier", classifier_spec(size=36, crop="box"),
            train_gender_classifier, source, faces.genders,
            epochs=size.classifier_epochs, batch_size=32, width=16, seed=seed,
        )
    )  # fmt: skip

    _side_by_side(tasks, "train matchers and a gender classifier", progress)


def _train_one(
    out: Path,
    kind: str,
    spec: InputSpec,
    train_network: Callable[..., nn.Module],
    source: ArraySource,
    labels: NDArray[Any],
    **how: Any,
) -> None:
    network = train_network(source, labels, spec=spec, **how)
    save_network(out, network, kind=kind, meta={"input_size": spec.size[0], "crop": list(spec.crop)})


def _settings(out: Path, seed: int, size: DemoSize) -> TrainSettings:
    content: dict[str, Any] = {
        "data": {"source": str(out / "training-faces"), "faces": "aligned"},
        "size": size.side,
        "matchers": [f"mini:{out / name}" for name, _, _ in _MATCHERS[:-1]],
        "method": "erased-code",
        "method_options": {
            "code_sizes": [size.code],
            "drop": size.drop,
            "rounds": 2,
            "regions": 4,  # so few people do not fill more
            "channels": [96, 64, 32, 16, 8],
        },
        "losses": {"reconstruction": 2.0, "matching": 3.0, "ssim": 0, "tone": 0},
        "loop": {
            "epochs": size.train_epochs,
            "batch_size": 16,
            "learning_rate": 0.001,
            "warmup_steps": 20,
            "ema": 0.9,  # the default would still remember the start after so few steps
            "precision": "32-true",
            "device": "cpu",
        },
        "seed": seed,
    }
    return parse_settings(content, where="the demo's settings")


def _write_sheet(out: Path, table: FaceTable, side: int) -> None:
    """One photo each of the first people that have a protected one."""
    done = {row.input: row.output for row in read_manifest(out / "protected") if row.output is not None}
    first = {record.identity: record.file for record in reversed(list(table)) if record.file in done}
    people = dict.fromkeys(record.identity for record in table if record.identity in first)
    files = [first[person] for person in people][:_SHEET_PEOPLE]
    before = [decode_image(out / "faces" / file) for file in files]
    after = [decode_image(out / "protected" / str(done[file])) for file in files]
    pairs = (np.stack([as_aligned(image, size=side) for image in images]) for images in (before, after))
    write_atomic(out / "contact_sheet.png", encode_image(contact_sheet(*pairs), ".png"))
