"""Training from settings to a run folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from privface.audit import EmbeddingProbe, auc, leakage, tmr_at_fmr
from privface.audit.curves import by_label
from privface.audit.matching import choose_pairs, cosine_scores
from privface.config import AdversarySettings, ClassifierSettings, TrainSettings, load_settings
from privface.data import LoadedFaces, require_both_genders, require_disjoint, split_people
from privface.data.splits import person_key
from privface.errors import CheckpointError, LabelError, OutputError, PrivfaceError
from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.losses import AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import (
    Autoencoder,
    CompactResNet,
    GenderProbe,
    Matcher,
    Perturbation,
    Protector,
    SemiAdversarialAutoencoder,
    load_gender_probe,
    load_matcher,
    save_network,
    variant,
)
from privface.models.loading import FACE_BOX
from privface.pipeline.faces import Progress, join, load_aligned, open_data
from privface.records import FRAME, Box, InputSpec
from privface.report import contact_sheet
from privface.training import (
    ArraySource,
    EmbeddingAdversary,
    FitSummary,
    LoopSettings,
    LossWeights,
    PixelAdversary,
    SemiAdversarialStep,
    SemiAdversarialTrainer,
    train_gender_classifier,
)
from privface.training.trainer import RESUME_FILE

CONFIG_FILE = "config.yaml"
PROVENANCE_FILE = "provenance.json"
_VALIDATION_FACES = 800
_WHOLE: Box = (0.0, 0.0, float(FRAME), float(FRAME))


def train(
    settings: TrainSettings,
    run: Path,
    *,
    resume: bool = False,
    save_images: bool = False,
    progress: Progress | None = None,
) -> FitSummary:
    """Train a perturbation model.

    The run folder holds ``model.safetensors`` and ``model.yaml`` (the protector), ``config.yaml``,
    ``provenance.json``, ``log.csv``, ``classifiers/`` (gender classifiers trained on the way) and ``resume.ckpt``.
    No image is written unless ``save_images`` asks for a contact sheet an epoch.

    Args:
        settings: What to train on, against and for how long.
        run: Run folder; must be new or empty unless ``resume``.
        resume: Go on from the last checkpoint; the result equals that of an unbroken run bit for bit.
        save_images: Write ``contact_epoch_NNN.jpg`` with originals above protected images.
        progress: Told about every stage.

    Raises:
        PrivfaceError: If data, models or settings do not fit; nothing of an earlier run is lost.
    """
    _require_usable(run, settings, resume=resume)
    torch.manual_seed(settings.seed)  # the run owns the process: initial weights follow from the seed
    faces = _load(settings, progress)
    parts = _split(faces, settings.validation_share)
    learn, held = parts["train"], parts["validation"]
    matchers = [load_matcher(spec, seen=True) for spec in settings.matchers]
    for matcher in matchers:  # a file that cannot be opened should show before classifiers are trained
        matcher.embed(to_unit(learn.pixels[:1]))
    if (
        not resume and _rank() == 0
    ):  # only now: a wrong path must not leave a folder that the next try trips over
        write_atomic(
            run / CONFIG_FILE, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False).encode()
        )
    classifiers = _classifiers(settings, learn, run, progress)
    step = _build_step(settings, matchers, classifiers, probe_images=to_unit(learn.pixels[:1]))
    validate = None if held is None else _Validation(held, matchers, classifiers)
    sheet = _SheetWriter(run, held or learn) if save_images else None
    trainer = SemiAdversarialTrainer(
        step,
        settings=LoopSettings(**settings.loop.model_dump(), seed=settings.seed),
        progress=None if progress is None else lambda done, total, _: progress("train", done, total),
        validate=validate,
        on_epoch=sheet,
        tensorboard=settings.tensorboard,
    )
    provenance = _provenance(settings, learn, held, matchers, classifiers, trainer.precision)
    began = time.monotonic()
    summary = trainer.fit(
        ArraySource(learn.pixels),
        learn.table.genders,
        identities=learn.table.identities,
        run=run,
        meta={"size": settings.size, "settings": settings.fingerprint()},
        resume=resume and (run / RESUME_FILE).is_file(),  # a kill before the first checkpoint starts over
    )
    provenance |= {
        "steps": summary.steps,
        "images_per_second": round(summary.images_per_second, 2),
        "data_wait_share": round(summary.data_wait_share, 4),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "validation": {name: round(value, 4) for name, value in summary.validation.items()},
    }
    write_atomic(run / PROVENANCE_FILE, json.dumps(provenance, indent=2, sort_keys=True).encode())
    return summary


def read_provenance(run: Path) -> dict[str, Any]:
    """What a run was trained on and against.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        content = json.loads((run / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run} has no readable {PROVENANCE_FILE}.",
            hint="Give a finished run folder of `privface train`.",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{run / PROVENANCE_FILE} is no mapping.", hint="Restore it or train again.")
    return content


def person_digest(identity: str) -> str:
    """Short hash of a person, so that a run can refuse its training people without naming them."""
    return hashlib.blake2b(person_key(identity).encode(), digest_size=8).hexdigest()


# data ---------------------------------------------------------------------------------------------------


def _require_usable(run: Path, settings: TrainSettings, *, resume: bool) -> None:
    if _rank() > 0:  # under torchrun the first process speaks for all
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
    try:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise OutputError(
                f"{run} is not an empty folder.", hint="Choose another --out, or go on with --resume."
            )
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write to {run}: {error.strerror}.", hint="Choose an --out that you may write to."
        ) from error


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _changes(before: TrainSettings, now: TrainSettings) -> str:
    """What differs between two settings, apart from where and how visibly they run."""
    free = {"loop.device", "loop.devices", "loop.checkpoint_minutes", "tensorboard"}
    old, new = (_leaves(settings.model_dump(mode="json")) for settings in (before, now))
    names = sorted(k for k in old.keys() | new.keys() if k not in free and old.get(k) != new.get(k))
    return "; ".join(f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names[:3])


def _leaves(content: Any, prefix: str = "") -> dict[str, Any]:
    if not content or not isinstance(content, dict | list):
        return {prefix: content}
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    found: dict[str, Any] = {}
    for key, value in pairs:
        found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _load(settings: TrainSettings, progress: Progress | None) -> LoadedFaces:
    table = open_data(settings.data).labelled()
    require_both_genders(table)
    return load_aligned(
        table, mode=settings.data.faces, size=settings.size, progress=progress, stage="align photos"
    )


def _split(faces: LoadedFaces, share: float) -> dict[str, Any]:
    if not share:
        return {"train": faces, "validation": None}
    split = split_people(faces.table, shares={"train": 1 - share, "validation": share})
    require_disjoint(split["train"], split["validation"], names=("train", "validation"))
    position = {file: i for i, file in enumerate(faces.table.files)}
    pick = {
        name: faces.take(np.array([position[f] for f in table.files], np.int64))
        for name, table in split.items()
    }
    for name, part in pick.items():
        try:
            require_both_genders(part.table)
        except LabelError as error:
            raise LabelError(
                f"With validation_share {share:g}, the {name} part is too small: {error.message}",
                hint="Give photos of more people, change validation_share, or set it to 0.",
            ) from error
    return dict(pick)


# networks -----------------------------------------------------------------------------------------------


def classifier_spec(*, size: int, crop: str) -> InputSpec:
    """What our own classifiers and adversaries eat: [-1, 1], the whole frame or the plain face box."""
    return InputSpec(size=(size, size), value_range=(-1.0, 1.0), crop=FACE_BOX if crop == "box" else _WHOLE)


def _classifiers(
    settings: TrainSettings, learn: LoadedFaces, run: Path, progress: Progress | None
) -> list[GenderProbe]:
    if not settings.losses.frozen:
        return []
    own = [c for c in settings.classifiers if c.spec is None]
    missing = any(not (run / "classifiers" / str(k) / "model.safetensors").is_file() for k in range(len(own)))
    # given ones first: a wrong path should not show after an hour of training
    given = {c.spec: load_gender_probe(c.spec, seen=True) for c in settings.classifiers if c.spec is not None}
    faces = _gender_faces(settings, learn, progress) if missing else learn
    found: list[GenderProbe] = []
    trained = 0
    for entry in settings.classifiers:
        if entry.spec is not None:
            found.append(given[entry.spec])
            continue
        folder = run / "classifiers" / str(trained)
        if not (folder / "model.safetensors").is_file():
            _train_classifier(entry, faces, folder, settings.seed + trained, trained, progress)
        probe = load_gender_probe(f"mini:{folder}", seen=True)
        probe.name = f"own:{trained}"
        found.append(probe)
        trained += 1
    return found


def _gender_faces(settings: TrainSettings, learn: LoadedFaces, progress: Progress | None) -> LoadedFaces:
    parts = [learn]
    for extra in settings.gender_data:
        table = open_data(extra).labelled()
        parts.append(
            load_aligned(
                table, mode=extra.faces, size=settings.size, progress=progress, stage="align gender data"
            )
        )
    return join(parts)


def _train_classifier(
    entry: ClassifierSettings,
    faces: LoadedFaces,
    folder: Path,
    seed: int,
    number: int,
    progress: Progress | None,
) -> None:
    spec = classifier_spec(size=entry.size, crop=entry.crop)
    network = train_gender_classifier(
        ArraySource(faces.pixels),
        faces.table.genders,
        spec=spec,
        epochs=entry.epochs,
        epoch_images=entry.epoch_images,
        width=entry.width,
        stages=entry.stages,
        seed=seed,
        progress=None
        if progress is None
        else lambda done, total, _: progress(f"train gender classifier {number}", done, total),
    )
    save_network(
        folder, network, kind="gender-classifier", meta={"input_size": entry.size, "crop": list(spec.crop)}
    )


def _perturbation(settings: TrainSettings) -> Perturbation:
    chosen = settings.autoencoder
    if chosen.variant == "san":
        return SemiAdversarialAutoencoder(**chosen.model_dump(exclude={"variant", "options"}))
    return Autoencoder(variant(chosen.variant, shape=(3, settings.size, settings.size), **chosen.options))


def _build_step(
    settings: TrainSettings,
    matchers: list[Matcher],
    classifiers: list[GenderProbe],
    *,
    probe_images: np.ndarray[Any, Any],
) -> SemiAdversarialStep:
    losses = settings.losses
    watchers = (
        [EmbeddingAdversary(inputs=m.embed(probe_images).shape[1]) for m in matchers]
        if losses.embedding
        else []
    )
    adversaries = [_adversary(a, classifiers) for a in (settings.adversaries if losses.adversary else ())]
    return SemiAdversarialStep(
        _perturbation(settings),
        matchers=matchers,
        classifiers=classifiers,
        pixel_adversaries=adversaries,
        embedding_adversaries=watchers,
        weights=LossWeights(**{f.name: getattr(losses, f.name) for f in fields(LossWeights)}),
        reconstruction=ReconstructionLoss(l1=losses.l1, l2=losses.l2, ssim=losses.ssim, tone=losses.tone),
        matching=MatchingLoss(margin=losses.margin),
        attribute=AttributeLoss(losses.objective),
    )


def _adversary(entry: AdversarySettings, classifiers: list[GenderProbe]) -> PixelAdversary:
    """An adversary; a warm one can read gender from the first step on, so that the protector meets resistance at once."""
    spec = classifier_spec(size=entry.size, crop=entry.crop)
    adversary = PixelAdversary(spec=spec, network={"width": entry.width, "stages": entry.stages})
    if entry.warm_start:
        for classifier in classifiers:
            own = classifier.network
            if (
                isinstance(own, CompactResNet)
                and classifier.spec == spec
                and own.config == adversary.network.config
            ):
                adversary.network.load_state_dict(own.state_dict())
                break
    return adversary


# what happens after each epoch ---------------------------------------------------------------------------


class _Validation:
    """Matching and leakage on held-out people, cheap enough for every epoch.

    A logistic regression is retrained on each matcher's embeddings of half of these people and read on the other half.
    """

    def __init__(self, held: LoadedFaces, matchers: list[Matcher], classifiers: list[GenderProbe]) -> None:
        self._faces = held.take(np.arange(min(len(held), _VALIDATION_FACES)))
        self._matchers, self._classifiers = matchers, classifiers

    def __call__(self, protector: Protector) -> Mapping[str, float]:
        table, figures = self._faces.table, {}
        images = [to_unit(part) for part in np.array_split(self._faces.pixels, max(1, len(table) // 64))]
        protected = [protector(part) for part in images]
        genders, people = table.genders, table.identities
        pairs = choose_pairs(people, seed=0)
        for matcher in self._matchers:
            embeddings = np.concatenate([matcher.embed(part) for part in protected])
            genuine, impostor = (
                cosine_scores(embeddings, embeddings, rows) for rows in (pairs.genuine, pairs.impostor)
            )
            try:
                figures[f"tmr_p_p_0.01_{matcher.name}"] = tmr_at_fmr(genuine, impostor, fmr=0.01).tmr
                figures[f"leakage_logistic_{matcher.name}"] = self._retrained(embeddings, genders, people)
            except PrivfaceError:  # too few people held out for this figure; the log then lacks it
                continue
        for classifier in self._classifiers:
            scores = np.concatenate([classifier.male_scores(part) for part in protected])
            figures[f"leakage_{classifier.name}"] = leakage(auc(*by_label(scores, genders)))
        return figures

    @staticmethod
    def _retrained(
        embeddings: np.ndarray[Any, Any], genders: np.ndarray[Any, Any], people: np.ndarray[Any, Any]
    ) -> float:
        codes = np.unique(people, return_inverse=True)[1]
        train, chosen, test = codes % 5 < 2, codes % 5 == 2, codes % 5 > 2
        probe = EmbeddingProbe("logistic").fit(
            embeddings[train], genders[train], people[train], embeddings[chosen], genders[chosen], seed=0
        )
        return leakage(auc(*by_label(probe.scores(embeddings[test]), genders[test])))


class _SheetWriter:
    """Writes a contact sheet an epoch; only made where images were asked for."""

    def __init__(self, run: Path, faces: LoadedFaces) -> None:
        self._run, self._pixels = run, faces.pixels[:10]

    def __call__(self, epoch: int, protector: Protector) -> None:
        sheet = contact_sheet(self._pixels, to_pixels(protector(to_unit(self._pixels))))
        write_atomic(
            self._run / f"contact_epoch_{epoch + 1:03d}.jpg", encode_image(sheet, ".jpg", quality=90)
        )


def _provenance(
    settings: TrainSettings,
    learn: LoadedFaces,
    held: LoadedFaces | None,
    matchers: list[Matcher],
    classifiers: list[GenderProbe],
    precision: str,
) -> dict[str, Any]:
    people = {str(i) for part in (learn, held) if part is not None for i in part.table.identities}
    return {
        "privface": version("privface"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "seed": settings.seed,
        "settings": settings.fingerprint(),
        "precision": precision,
        "data": {
            "name": learn.table.name,
            "train_images": len(learn),
            "validation_images": 0 if held is None else len(held),
            "rejects": len(learn.table.rejects),
        },
        "matchers": [{"name": m.name, "sha256": m.fingerprint} for m in matchers],
        "classifiers": [{"name": c.name, "sha256": c.fingerprint} for c in classifiers],
        "people": sorted(map(person_digest, people)),
    }
