"""Trains, protects and audits a row of experiment 03: on the photos, models and attackers of experiment 02."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from rows import HERE, Row

sys.path.insert(0, str(HERE.parent / "02_illusion_gap"))
from methods import Progress, kept_pixels, lfw_faces, load_models, own_classifiers

from privface.audit import AuditData, AuditResult, Draws
from privface.config import TrainSettings, load_settings, parse_settings, put_value, read_mapping
from privface.data import LoadedFaces
from privface.errors import ConfigError
from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.models import (
    Protector,
    Prototypes,
    San2018Protector,
    load_gender_probe,
    load_released,
    make_prototypes,
)
from privface.options import Effort
from privface.pipeline import AuditOptions, audit_data, build_auditor, read_provenance, train
from privface.pipeline.fit import CONFIG_FILE
from privface.pipeline.provenance import PROVENANCE_FILE, person_digest
from privface.protect.adversarial import FastGradientSign
from privface.protect.output import remove_leftovers
from privface.report import contact_sheet

RUN_01 = "runs/01"
"""What configurations call the run folder of experiment 01."""

DRAW, DRAWS = 1, 8
"""Seed and number of the draws of a row whose network is random."""

Method = Callable[[NDArray[np.float32], slice], NDArray[np.float32]]


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        run: Run folder of experiment 01.
        out: Run folders, protected pixels and prototypes of this experiment (biometric data).
        cache: What experiment 02 has kept of the originals (biometric data), and what the audits here add.
        models: Folder of third-party weights.
    """

    run: Path
    out: Path
    cache: Path
    models: Path


# training -------------------------------------------------------------------------------------------------


def train_row(row: Row, places: Places, *, overrides: Sequence[str], progress: Progress) -> None:
    """Train a row, or go on with it; a finished one is left alone."""
    run = places.out / row.network
    if (run / PROVENANCE_FILE).is_file():
        return
    settings = settings_of(row, places, overrides)
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    train(settings, run, resume=(run / CONFIG_FILE).is_file(), progress=progress)


def settings_of(row: Row, places: Places, overrides: Sequence[str] = ()) -> TrainSettings:
    """A row's settings, with experiment 01 where it really lies."""
    content = moved(
        read_mapping(row.config, page="docs/training.md", least="`data` and `matchers`"), places.run
    )
    for override in overrides:
        key, _, value = override.partition("=")
        put_value(content, key, moved(yaml.safe_load(value), places.run), shown=f"--set {override!r}")
    return parse_settings(content, where=str(row.config))


def moved(value: Any, run: Path) -> Any:
    """Nested settings in which ``runs/01`` is another folder."""
    if isinstance(value, dict):
        return {key: moved(part, run) for key, part in value.items()}
    if isinstance(value, list):
        return [moved(part, run) for part in value]
    return value.replace(RUN_01, str(run)) if isinstance(value, str) else value


def require_configured(row: Row, places: Places) -> None:
    """Refuse a run that was trained otherwise than the row's configuration says: its command would not be true.

    Raises:
        ConfigError: If they differ in anything but paths and the device.
    """
    made, configured = (
        _counts(s) for s in (load_settings(places.out / row.network / CONFIG_FILE), settings_of(row, places))
    )
    changed = sorted(key for key in made if made[key] != configured[key])
    if changed:
        raise ConfigError(
            f"{places.out / row.network} was trained with another {', '.join(changed)} than {row.config.name} says.",
            hint="Train it anew into another --out, or save its settings as a configuration of another name.",
        )


def _counts(settings: TrainSettings) -> dict[str, Any]:
    """What must agree, without paths."""
    content = settings.model_dump(mode="json")
    loop = {
        key: content["loop"][key]
        for key in content["loop"]
        if key not in {"device", "devices", "checkpoint_minutes"}
    }
    names = ("validation_share", "adversaries", "autoencoder", "losses", "seed", "size")
    return {
        "loop": loop,
        "method": settings.method,
        "method_options": settings.method_options,
        "start": settings.start is not None,
        **{name: content[name] for name in names},
    }


def training_record(run: Path) -> dict[str, Any]:
    """What a run says of its training, without the list of people, and how many images it went through."""
    record = {key: value for key, value in read_provenance(run).items() if key != "people"}
    settings = load_settings(run / CONFIG_FILE)
    record["batch_size"] = settings.loop.batch_size
    record["images"] = record["steps"] * settings.loop.batch_size
    if settings.start is not None:
        earlier = training_record(Path(settings.start))
        record["images_before"] = earlier["images"] + earlier.get("images_before", 0)
    return record


# protecting -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A row's protection.

    Attributes:
        method: Protects a part of the audited photos.
        fingerprint: Hash of what it does.
        met: Hashes of the matchers and classifiers that it was made against.
        people: Hashes of the people whom it has met.
    """

    method: Method
    fingerprint: str
    met: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()


def protection(row: Row, faces: LoadedFaces, places: Places, progress: Progress) -> Made:
    """The protection of a row that is ready or trained."""
    if row.name == "fgsm":
        classifier = load_gender_probe(f"mini:{own_classifiers(places.run)[0]}")
        step = FastGradientSign(classifier, epsilon=8 / 255)
        people = frozenset(read_provenance(places.run)["people"])
        return Made(
            lambda images, _: step(images), step.fingerprint, frozenset({classifier.weights_sha256}), people
        )
    if row.source == "ready":
        return _with_labels(released(row, places, progress), faces)
    run = places.out / row.network
    provenance = read_provenance(run)
    met = frozenset(entry["sha256"] for kind in ("matchers", "classifiers") for entry in provenance[kind])
    people = frozenset(provenance["people"])
    if row.needs_label:
        if row.strength != 1.0:
            raise ConfigError(f"{row.name}: {row.network} has no strength.", hint="Take it out of STRENGTHS.")
        return _with_labels(San2018Protector.load(run), faces, met, people)
    protector = Protector.load(run, strength=row.strength)
    return Made(lambda images, _: protector(images), protector.fingerprint, met, people)


def _with_labels(
    protector: San2018Protector,
    faces: LoadedFaces,
    met: frozenset[str] = frozenset(),
    people: frozenset[str] = frozenset(),
) -> Made:
    genders = faces.table.genders
    return Made(lambda images, rows: protector(images, genders[rows]), protector.fingerprint, met, people)


def released(row: Row, places: Places, progress: Progress) -> San2018Protector:
    """The authors' network behind our alignment, with prototypes of LFW `train`."""
    path = places.out / "prototypes.safetensors"
    if not path.is_file():
        faces = lfw_faces("train", progress=progress)
        parts = (slice(k, k + 256) for k in range(0, len(faces), 256))
        made = make_prototypes((to_unit(faces.pixels[part]), faces.table.genders[part]) for part in parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    network = load_released(places.models / "san_2018_conv_autoencoder_e20.pkl")
    return San2018Protector(network, Prototypes.load(path), target=target_of(row))


def target_of(row: Row) -> Literal["same", "neutral", "opposite"]:
    """Which prototype the outputs of a released row get."""
    if row.name.endswith("-same"):
        return "same"
    return "neutral" if row.name.endswith("-neutral") else "opposite"


# auditing -------------------------------------------------------------------------------------------------


def audit_row(row: Row, places: Places, *, effort: Effort, progress: Progress) -> AuditResult:
    """Audit a row as experiment 02 does: LFW `val`, the same attackers, seeds and cache; keeps the training's record, too."""
    if row.source == "trained":
        require_configured(row, places)
    faces = lfw_faces("val", progress=progress)
    made = protection(row, faces, places, progress)
    digest = hashlib.sha256(made.fingerprint.encode()).hexdigest()[:12]  # trained anew, protected anew
    after = kept_pixels(
        places.out / "pixels" / f"{row.name}-{digest}.npy",
        made.method,
        faces.pixels,
        title=row.name,
        progress=progress,
    )
    result = _audited(audit_data(faces, after), made, places, effort=effort, progress=progress)
    if row.source == "trained":
        record = json.dumps(training_record(places.out / row.network), indent=2, sort_keys=True) + "\n"
        write_atomic(row.training, record.encode())
    result.save(row.result)
    return result


def draws_row(row: Row, places: Places, *, progress: Progress) -> AuditResult:
    """Eight draws of a row whose network is random: what the attackers who average them read."""
    require_configured(row, places)
    faces = lfw_faces("val", progress=progress)
    protector = Protector.load(places.out / row.network, strength=row.strength, draw=DRAW)
    made = protection(row, faces, places, progress)

    def draw(number: int) -> NDArray[np.uint8]:
        drawn = protector.redrawn(number)
        digest = hashlib.sha256(drawn.fingerprint.encode()).hexdigest()[:12]
        return kept_pixels(
            places.out / "pixels" / f"{row.name}-draw-{digest}.npy",
            lambda images, _: drawn(images),
            faces.pixels,
            title=f"{row.name}, draw {number + 1} of {DRAWS}",
            progress=progress,
        )

    data = replace(audit_data(faces, draw(0)), draws=Draws(draw, DRAWS))
    result = _audited(data, made, places, effort="quick", progress=progress)
    result.save(row.draws)
    return result


def _audited(
    data: AuditData, made: Made, places: Places, *, effort: Effort, progress: Progress
) -> AuditResult:
    matchers, probes = load_models(places.run)
    for model in (*matchers, *probes):
        model.seen = model.weights_sha256 in made.met
    auditor = build_auditor(
        AuditOptions(effort=effort, cache=places.cache, device="cpu", precision="fp32"),
        matchers=matchers,
        probes=probes,
        exclude_people=[
            str(person) for person in np.unique(data.identities) if person_digest(str(person)) in made.people
        ],
        progress=progress,
    )
    return auditor.run(data)


def sheet_row(row: Row, places: Places, *, progress: Progress) -> Path:
    """Write 20 audited photos above their protected versions. It shows photos: it stays below ``places.out``."""
    faces = lfw_faces("val", progress=progress)
    step = max(1, len(faces) // 20)
    pick = slice(0, 20 * step, step)
    before = faces.pixels[pick]
    after = to_pixels(protection(row, faces, places, progress).method(to_unit(before), pick))
    path = places.out / "sheets" / f"{row.name}.png"
    write_atomic(path, encode_image(contact_sheet(before, after), ".png"))
    return path
