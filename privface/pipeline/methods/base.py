"""What a method of training is given, what it gives back, and what all of them are put together from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.config import (
    OWN_METHOD,
    AdversarySettings,
    ClassifierSettings,
    DataSettings,
    Settings,
    TrainSettings,
)
from privface.data import LoadedFaces
from privface.images import to_unit
from privface.losses import AlignmentLoss, AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import (
    Autoencoder,
    CompactResNet,
    GenderProbe,
    Matcher,
    Protectable,
    Protector,
    SemiAdversarialAutoencoder,
    Single,
    load_gender_probe,
    save_network,
    variant,
)
from privface.models.checkpoint import load_network, restore
from privface.models.loading import FACE_BOX
from privface.pipeline.faces import Progress, join, load_aligned, open_data
from privface.pipeline.methods.watching import AnyProtector, sheet_writer, validation
from privface.records import FRAME, Box, FaceTable, InputSpec
from privface.training import (
    ArraySource,
    EmbeddingAdversary,
    FitSummary,
    LoopSettings,
    LossWeights,
    PixelAdversary,
    SemiAdversarialStep,
    SemiAdversarialTrainer,
    TrainingStep,
    train_gender_classifier,
)
from privface.training.checkpoint import RESUME_FILE

_WHOLE: Box = (0.0, 0.0, float(FRAME), float(FRAME))


@dataclass(frozen=True)
class Job:
    """What a method is to train: faces to learn from, and those of other people that are held out, if any.

    ``run`` exists and holds ``config.yaml``; with ``resume`` an earlier attempt may have left something there to go on with.
    """

    settings: TrainSettings
    learn: LoadedFaces
    held: LoadedFaces | None
    matchers: list[Matcher]
    run: Path
    resume: bool
    save_images: bool
    progress: Progress | None

    @property
    def meta(self) -> dict[str, Any]:
        """What every card of this run says beside architecture and weights."""
        settings = self.settings
        meta = {"size": settings.size, "settings": settings.fingerprint()}
        return meta if settings.method == OWN_METHOD else {**meta, "method": settings.method}

    def told(self, stage: str) -> Callable[[int, int, Any], None] | None:
        """What tells ``progress`` about the steps of a stage."""
        progress = self.progress
        return None if progress is None else lambda done, total, _: progress(stage, done, total)


@dataclass(frozen=True)
class Outcome:
    """What the training loops of a method came to; the protector lies in the run folder by then.

    ``matchers`` and ``people`` are those that it met beside the job's; ``validation`` is by default the last loop's.
    """

    loops: Sequence[FitSummary]
    classifiers: Sequence[GenderProbe]
    matchers: Sequence[Matcher] = ()
    people: Sequence[str] = ()
    validation: Mapping[str, float] | None = None

    @property
    def summary(self) -> FitSummary:
        """All loops as one; rates are weighted by steps."""
        last, steps = self.loops[-1], np.array([loop.steps for loop in self.loops], np.float64)
        rate, wait = (
            float(np.average([getattr(loop, name) for loop in self.loops], weights=steps))
            for name in ("images_per_second", "data_wait_share")
        )
        figures = last.validation if self.validation is None else self.validation
        minutes = sum(loop.minutes for loop in self.loops)
        return FitSummary(int(steps.sum()), rate, wait, last.precision, minutes, dict(figures))


@dataclass(frozen=True)
class Method:
    """A way to train a protector.

    ``train`` takes settings of the class ``options`` and leaves a protector in the run folder; ``can_start`` says whether it heeds ``start``.
    """

    name: str
    train: Callable[[Job, Any], Outcome]
    options: type[Settings] = Settings
    needs_genders: bool = False
    can_start: bool = False


# one training loop --------------------------------------------------------------------------------------


def fit_network(  # many arguments: each is something in which methods differ
    job: Job,
    step: TrainingStep[Any],
    *,
    classifiers: Sequence[GenderProbe],
    run: Path | None = None,
    stage: str = "train",
    seed: int | None = None,
    epochs: int | None = None,
    meta: Mapping[str, Any] | None = None,
    protector: Callable[[Any], AnyProtector] = Protector,
    whole: Callable[[Any], Any] | None = None,
    embeddings: Sequence[Tensor] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> tuple[FitSummary, Any]:
    """Run the training loop of ``job`` on one network, and give that on the CPU; what is not given is the job's.

    Validation asks ``classifiers``, progress reports show ``stage``, ``meta`` goes to ``model.yaml``. The rest is as for
    :class:`~privface.training.SemiAdversarialTrainer` and its ``fit``.
    """
    settings, folder = job.settings, run or job.run
    loop = settings.loop.model_dump() | ({} if epochs is None else {"epochs": epochs})
    trainer = SemiAdversarialTrainer(
        step,
        settings=LoopSettings(**loop, seed=settings.seed if seed is None else seed),
        progress=job.told(stage),
        validate=None if job.held is None else validation(job.held, job.matchers, classifiers),
        on_epoch=sheet_writer(folder, job.held or job.learn) if job.save_images else None,
        tensorboard=settings.tensorboard,
        protector=protector,
        whole=whole,
    )
    summary = trainer.fit(
        ArraySource(job.learn.pixels),
        job.learn.table.genders,
        identities=job.learn.table.identities,
        run=folder,
        meta={**job.meta, **(meta or {})},
        # a kill before the first checkpoint starts over
        resume=job.resume and (folder / RESUME_FILE).is_file(),
        embeddings=embeddings,
        labels=labels,
    )
    return summary, trainer.averaged()


def perturbation(settings: TrainSettings) -> Single:
    """The network that the settings describe, with weights drawn from torch's global generator, or those of ``start``.

    Raises:
        CheckpointError: If the network of ``start`` is another one.
    """
    chosen = settings.autoencoder
    network: Single
    if chosen.variant == "san":
        network = SemiAdversarialAutoencoder(**chosen.model_dump(exclude={"variant", "options"}))
    else:
        network = Autoencoder(
            variant(chosen.variant, shape=(3, settings.size, settings.size), **chosen.options)
        )
    if settings.start is not None:
        where = Path(settings.start)
        restore(network, load_network(where, kind=network.kind), where=where)
    return network


def loss_terms(settings: TrainSettings) -> dict[str, Any]:
    """Reconstruction and matching terms, and the weights, as a :class:`TrainingStep` takes them."""
    losses = settings.losses
    return {
        "weights": LossWeights(**losses.model_dump(include=set(LossWeights.model_fields))),
        "reconstruction": ReconstructionLoss(l1=losses.l1, l2=losses.l2, ssim=losses.ssim, tone=losses.tone),
        "matching": MatchingLoss(margin=losses.margin),
    }


def semi_adversarial_step(
    job: Job,
    classifiers: Sequence[GenderProbe],
    *,
    network: Callable[[], Protectable] | None = None,
) -> SemiAdversarialStep:
    """The step that the settings describe, or with another network; weights are drawn from torch's global generator."""
    losses = job.settings.losses
    sizes = [matcher.embed(to_unit(job.learn.pixels[:1])).shape[1] for matcher in job.matchers]
    watchers = [EmbeddingAdversary(inputs=n) for n in sizes] if losses.embedding else ()
    chasers = job.settings.adversaries if losses.adversary else ()
    adversaries = [pixel_adversary(entry, classifiers) for entry in chasers]  # drawn before the network
    return SemiAdversarialStep(
        perturbation(job.settings) if network is None else network(),
        matchers=job.matchers,
        classifiers=classifiers,
        pixel_adversaries=adversaries,
        embedding_adversaries=watchers,
        alignments=[AlignmentLoss(n) for n in sizes] if losses.alignment else (),
        attribute=AttributeLoss(losses.objective),
        **loss_terms(job.settings),
    )


def rank() -> int:
    """Number of this process among those of ``torchrun``; 0 where there is one. The first one writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def seed_weights(*numbers: int) -> None:
    """Seed torch's global generator, which initial weights are drawn from: a run owns its process.

    A method with several networks does so before each, so that one that is resumed draws what it would have drawn.
    """
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def pixel_adversary(entry: AdversarySettings, classifiers: Sequence[GenderProbe]) -> PixelAdversary:
    """An adversary; a warm one can read gender from the first step on, so that the protector meets resistance at once."""
    spec = classifier_spec(size=entry.size, crop=entry.crop)
    adversary = PixelAdversary(spec=spec, network=entry.model_dump(include={"width", "stages", "separable"}))
    for classifier in classifiers if entry.warm_start else ():
        own = classifier.network
        wanted = spec, adversary.network.config
        if isinstance(own, CompactResNet) and (classifier.spec, own.config) == wanted:
            adversary.network.load_state_dict(own.state_dict())
            break
    return adversary


# frozen classifiers -------------------------------------------------------------------------------------


def classifier_spec(*, size: int, crop: str) -> InputSpec:
    """What our own classifiers and adversaries eat: [-1, 1], the whole frame or the plain face box."""
    return InputSpec(size=(size, size), value_range=(-1.0, 1.0), crop=FACE_BOX if crop == "box" else _WHOLE)


def frozen_classifiers(
    job: Job,
    entries: Sequence[ClassifierSettings] | None = None,
    *,
    resample: Callable[[LoadedFaces, int], LoadedFaces] | None = None,
) -> list[GenderProbe]:
    """Classifiers, given or trained here; trained ones lie in ``classifiers/`` and are taken from there again.

    ``resample`` chooses of all faces what the k-th that is trained here learns from.
    """
    entries = job.settings.classifiers if entries is None else entries
    own = sum(entry.spec is None for entry in entries)
    missing = not all(_weights_of(job, number).is_file() for number in range(own))
    # given ones first: a wrong path should not show after an hour of training
    given = {e.spec: load_gender_probe(e.spec, seen=True) for e in entries if e.spec is not None}
    faces = job.learn
    if missing:
        extra = [
            aligned(job, data, open_data(data).labelled(), "align gender data")
            for data in job.settings.gender_data
        ]
        faces = join([job.learn, *extra])
    probes: list[GenderProbe] = []
    number = 0
    for entry in entries:
        if entry.spec is not None:
            probes.append(given[entry.spec])
            continue
        chosen = resample(faces, number) if resample is not None and missing else faces
        probes.append(own_classifier(job, entry, chosen.pixels, chosen.table.genders, number))
        number += 1
    return probes


def own_classifier(
    job: Job, entry: ClassifierSettings, pixels: NDArray[np.uint8], codes: NDArray[np.int64], number: int
) -> GenderProbe:
    """The classifier in ``classifiers/NUMBER`` of the run folder, trained first if it is not there.

    It learns codes 0 and 1, ``(N,)``, of aligned faces, uint8 ``(N, H, W, 3)``; ``number`` is added to the seed.
    """
    file = _weights_of(job, number)
    folder = file.parent
    if not file.is_file():
        spec = classifier_spec(size=entry.size, crop=entry.crop)
        network = train_gender_classifier(
            ArraySource(pixels),
            codes,
            spec=spec,
            seed=job.settings.seed + number,
            progress=job.told(f"train gender classifier {number}"),
            **entry.model_dump(exclude={"spec", "size", "crop"}),
        )
        meta = {"input_size": entry.size, "crop": list(spec.crop)}
        save_network(folder, network, kind="gender-classifier", meta=meta)
    probe = load_gender_probe(f"mini:{folder}", seen=True)
    probe.name = f"own:{number}"
    return probe


def _weights_of(job: Job, number: int) -> Path:
    return job.run / "classifiers" / str(number) / "model.safetensors"


def aligned(job: Job, data: DataSettings, table: FaceTable, stage: str) -> LoadedFaces:
    """A further data set as the job's own faces are."""
    return load_aligned(table, mode=data.faces, size=job.settings.size, progress=job.progress, stage=stage)
