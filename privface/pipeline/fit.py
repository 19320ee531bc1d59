"""Training from settings to a run folder."""

from __future__ import annotations

import json
import platform
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from privface.attributes import Attribute, labelled
from privface.config import OWN_METHOD, TrainSettings, load_settings
from privface.data import LoadedFaces, require_both_genders, require_disjoint, split_people
from privface.device import Device
from privface.errors import CheckpointError, LabelError, PrivfaceError
from privface.images import write_atomic
from privface.models import load_matcher, load_network
from privface.pipeline.faces import Progress, load_aligned, open_data, require_folder
from privface.pipeline.methods import Job, Outcome, asked_method
from privface.pipeline.methods.base import rank
from privface.pipeline.provenance import PROVENANCE_FILE, person_digest, read_provenance
from privface.records import FRAME
from privface.training import FitSummary

CONFIG_FILE = "config.yaml"
_OF_START = ("settings", "steps", "start")


def train(
    settings: TrainSettings,
    run: Path,
    *,
    resume: bool = False,
    save_images: bool = False,
    progress: Progress | None = None,
) -> FitSummary:
    """Train a perturbation model.

    The run folder, which must be new or empty unless ``resume``, gets ``model.safetensors`` and ``model.yaml`` (the protector), ``config.yaml``,
    ``provenance.json``, ``log.csv``, ``classifiers/`` (gender classifiers trained on the way) and ``resume.ckpt``.
    No image is written unless ``save_images`` asks for a contact sheet an epoch, with originals above protected images.
    A method with several networks keeps each in a folder of its own below (docs/methods.md).
    With ``resume`` the result equals that of an unbroken run bit for bit; a finished run is left as it is.

    Raises:
        PrivfaceError: If data, models or settings do not fit; nothing of an earlier run is lost.
    """
    method, options = asked_method(settings)
    _require_usable(run, settings, resume=resume)
    if resume and (done := _finished(run)) is not None:
        if progress is not None:
            progress(f"{run} is finished", 1, 1)
        return done
    before = None if settings.start is None else read_provenance(Path(settings.start))
    torch.manual_seed(settings.seed)  # the run owns the process: initial weights follow from the seed
    asked = [Attribute.parse(text) for text in getattr(options, "attributes", ())]
    table = labelled(open_data(settings.data), asked)
    if table.gendered or not len(table):
        require_both_genders(table)
    matchers = [load_matcher(spec, seen=True) for spec in settings.matchers]
    for matcher in matchers:  # what cannot be opened or differentiated should show before photos are aligned
        matcher.embed(np.full((1, 3, FRAME, FRAME), 0.5, np.float32))
        matcher.frozen(Device())
    faces = load_aligned(
        table, mode=settings.data.faces, size=settings.size, progress=progress, stage="align photos"
    )
    learn, held = _split(faces, settings.validation_share)
    if (
        not resume and rank() == 0
    ):  # only now: a wrong path must not leave a folder that the next try trips over
        said = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        write_atomic(run / CONFIG_FILE, said.encode())
    job = Job(settings, learn, held, matchers, run, resume, save_images, progress)
    try:
        outcome = method.train(job, options)
    except PrivfaceError:
        if [part.name for part in run.iterdir()] == [CONFIG_FILE] and not resume:
            (run / CONFIG_FILE).unlink()  # nothing was learnt yet: the corrected settings may have the folder
        raise
    if rank() == 0:
        provenance = _provenance(job, outcome, before)
        write_atomic(run / PROVENANCE_FILE, json.dumps(provenance, indent=2, sort_keys=True).encode())
    return outcome.summary


def _finished(run: Path) -> FitSummary | None:
    """What a training said at its end; ``None`` if it has not come to it, or left something that cannot be read."""
    try:
        load_network(run)
        said = read_provenance(run)  # written last
        return FitSummary(**{entry.name: said[entry.name] for entry in fields(FitSummary)})
    except (CheckpointError, KeyError):
        return None


# data ---------------------------------------------------------------------------------------------------


def _require_usable(run: Path, settings: TrainSettings, *, resume: bool) -> None:
    if rank() > 0:  # under torchrun the first process speaks for all
        return
    config = run / CONFIG_FILE
    if resume:
        if not config.is_file():
            raise CheckpointError(f"{run} has no {CONFIG_FILE} to resume.", hint="Start without --resume.")
        changed = _changes(load_settings(config), settings)
        if changed:
            raise CheckpointError(
                f"{run} was started with other settings: {changed}.",
                hint=f"Resume with the run's own {CONFIG_FILE}, or choose another --out.",
            )
        return
    require_folder(run, empty="Choose another --out, or go on with --resume.")


def _changes(before: TrainSettings, now: TrainSettings) -> str:
    """What differs between two settings, apart from where and how visibly they run."""
    free = {"loop.device", "loop.devices", "loop.checkpoint_minutes", "tensorboard"}
    old, new = (_leaves(s.model_dump(mode="json")) for s in (before, now))
    names = sorted(k for k in old.keys() | new.keys() if k not in free and old.get(k) != new.get(k))
    return "; ".join(f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names[:3])


def _leaves(content: Any, prefix: str = "") -> dict[str, Any]:
    if not content or not isinstance(content, dict | list):
        return {prefix: content}
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        leaves |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _split(faces: LoadedFaces, share: float) -> tuple[LoadedFaces, LoadedFaces | None]:
    if not share:
        return faces, None
    split = split_people(faces.table, shares={"train": 1 - share, "validation": share})
    require_disjoint(split["train"], split["validation"], names=("train", "validation"))
    learn, held = (faces.take(np.isin(faces.table.files, part.files)) for part in split.values())
    for name, part in (("train", learn), ("validation", held)) if faces.table.gendered else ():
        try:
            require_both_genders(part.table)
        except LabelError as error:
            raise LabelError(
                f"With validation_share {share:g}, the {name} part is too small: {error.message}",
                hint="Give photos of more people, change validation_share, or set it to 0.",
            ) from error
    return learn, held


def _provenance(job: Job, outcome: Outcome, before: dict[str, Any] | None) -> dict[str, Any]:
    """What went into the model; with ``start``, what went into the network that it began with as well."""
    settings, learn, held = job.settings, job.learn, job.held
    met = {str(i) for part in (learn, held) if part is not None for i in part.table.identities}
    people = set(map(person_digest, met | set(outcome.people)))
    summary = outcome.summary
    further = {m.weights_sha256: m for m in (*job.matchers, *outcome.matchers)}
    models = {
        "matchers": [{"name": m.name, "sha256": m.weights_sha256} for m in further.values()],
        "classifiers": [{"name": c.name, "sha256": c.weights_sha256} for c in outcome.classifiers],
    }
    if before is not None:
        people.update(before.get("people", ()))
        for kind, entries in models.items():
            known = {entry["sha256"] for entry in entries}
            entries.extend(entry for entry in before[kind] if entry["sha256"] not in known)
    return {
        **({} if settings.method == OWN_METHOD else {"method": settings.method}),
        "privface": version("privface"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "seed": settings.seed,
        "settings": settings.fingerprint(),
        "precision": summary.precision,
        "data": {
            "name": learn.table.name,
            "train_images": len(learn),
            "validation_images": 0 if held is None else len(held),
            "rejects": len(learn.table.rejects),
        },
        **models,
        "people": sorted(people),
        **{name: before[name] for name in ("people_not_listed",) if before is not None and name in before},
        **({} if before is None else {"start": {name: before[name] for name in _OF_START if name in before}}),
        "steps": summary.steps,
        "images_per_second": round(summary.images_per_second, 2),
        "data_wait_share": round(summary.data_wait_share, 4),
        "minutes": round(summary.minutes, 2),
        "validation": {name: round(value, 4) for name, value in summary.validation.items()},
    }
