"""``ensemble-san`` and ``flow-san``: several networks that each face a gender classifier of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from privface.config import ClassifierSettings, Settings
from privface.data import LoadedFaces
from privface.errors import ConfigError
from privface.losses import Objective
from privface.models import (
    CompactResNet,
    EnsembleSan,
    FlowSan,
    GenderProbe,
    Protector,
    Reader,
    Rule,
    Single,
    save_network,
)
from privface.pipeline.methods.base import (
    Job,
    Method,
    Outcome,
    fit_network,
    frozen_classifiers,
    perturbation,
    rank,
    seed_weights,
    semi_adversarial_step,
)
from privface.pipeline.methods.watching import validation
from privface.training import ArraySource, FitSummary, embed_originals


class DiverseOptions(Settings):
    """What both methods are asked; ``objective`` and ``adversary`` stand in for the losses of that name."""

    networks: int = Field(3, ge=2, le=16)
    resample: bool = True
    objective: Objective = "flip"
    adversary: float = Field(0.0, ge=0)


class EnsembleOptions(DiverseOptions):
    """What is asked of the ensemble; docs/methods.md says what each setting means."""

    rule: Rule = "random"


class _Diverse:
    """The classifiers of a run, and the training of one network against one of them.

    Classifiers differ as those of the papers do: in their initial weights, in what they learn from (here people drawn
    with replacement, each gender by itself), and in architecture (:func:`classifier_of`).
    """

    def __init__(self, job: Job, options: DiverseOptions) -> None:
        settings = job.settings
        if not settings.losses.frozen:
            raise ConfigError(
                f"losses.frozen is 0, and {settings.method} is training against frozen classifiers.",
                hint="Give it a weight above 0.",
            )
        self._job, self._options = job, options
        entries = [classifier_of(settings.classifiers, k) for k in range(options.networks)]
        self.classifiers = frozen_classifiers(job, entries, resample=self._resampled)

    @cached_property  # made for the first network: what else is refused is refused before
    def _embeddings(self) -> Sequence[Tensor]:
        matchers = self._job.matchers if self._job.settings.losses.matching else []
        return embed_originals(matchers, ArraySource(self._job.learn.pixels))

    def fit(
        self,
        number: int,
        *,
        network: Callable[[], Single | FlowSan],
        run: Path,
        validate: Sequence[GenderProbe],
    ) -> tuple[FitSummary, Any]:
        """Train the network of a number from 0 against its classifier; validation asks ``validate``.

        ``network`` makes it, with weights drawn from torch's global generator.
        """
        job, options = self._job, self._options
        seed_weights(job.settings.seed, number)
        asked = {"objective": options.objective, "adversary": options.adversary}
        losses = job.settings.losses.model_copy(update=asked)
        told = replace(job, settings=job.settings.model_copy(update={"losses": losses}))
        step = semi_adversarial_step(told, [self.classifiers[number]], network=network)
        return fit_network(
            job,
            step,
            classifiers=validate,
            run=run,
            stage=f"train {number + 1}/{options.networks}",
            seed=job.settings.seed + number,
            embeddings=self._embeddings,
        )

    def _resampled(self, faces: LoadedFaces, number: int) -> LoadedFaces:
        if not self._options.resample:
            return faces
        rng = np.random.default_rng([self._job.settings.seed, number, 11])
        people, genders = faces.table.identities, faces.table.genders
        rows = []
        for code in (0, 1):
            mine = np.flatnonzero(genders == code)
            names, owner = np.unique(people[mine], return_inverse=True)
            rows += [mine[owner == drawn] for drawn in rng.integers(len(names), size=len(names))]
        return faces.take(np.concatenate(rows))


def classifier_of(entries: Sequence[ClassifierSettings], number: int) -> ClassifierSettings:
    """The classifier that a network, counted from 0, faces.

    The entries in turn; in every further round of them with the other crop and half as wide again.
    """
    if not entries:
        raise ConfigError(
            "There is no classifier to train against.", hint="Give at least one under classifiers."
        )
    turn, place = divmod(number, len(entries))
    entry = entries[place]
    if entry.spec is not None or not turn:
        return entry
    other = "box" if entry.crop == "frame" else "frame"
    width = min(256, round(entry.width * 1.5**turn))
    return entry.model_copy(update={"crop": other if turn % 2 else entry.crop, "width": width})


def _train_ensemble(job: Job, options: EnsembleOptions) -> Outcome:
    """The networks one by one, into ``members/``, then the ensemble (arXiv 1807.11936)."""
    parts = _Diverse(job, options)
    readers = [_reader(c) for c in parts.classifiers] if options.rule == "undecided" else []
    fitted = [
        parts.fit(
            number,
            network=lambda: perturbation(job.settings),
            run=job.run / "members" / str(number),
            validate=[classifier],
        )
        for number, classifier in enumerate(parts.classifiers)
    ]
    ensemble = EnsembleSan([network for _, network in fitted], rule=options.rule, readers=readers)
    figures: Mapping[str, float] = {}
    if job.held is not None:
        watch = validation(job.held, job.matchers, parts.classifiers)
        figures = watch(Protector(ensemble, size=job.settings.size))
    if rank() == 0:
        save_network(job.run, ensemble, kind=ensemble.kind, meta=job.meta)
    return Outcome([summary for summary, _ in fitted], parts.classifiers, validation=figures)


def _reader(classifier: GenderProbe) -> Reader:
    """A classifier that the ensemble can carry with it."""
    network = classifier.network
    if not isinstance(network, CompactResNet):
        raise ConfigError(
            f"{classifier.name} cannot be kept in the model, which the rule 'undecided' needs.",
            hint="Leave `spec` out, so that classifiers are trained here, or choose another rule.",
        )
    reader = Reader(config=network.config, size=classifier.spec.size[0], crop=classifier.spec.crop)
    reader.network.load_state_dict(network.state_dict())
    return reader


def _train_flow(job: Job, options: DiverseOptions) -> Outcome:
    """Stage after stage, each behind those before, into ``stages/``; the last one into the run folder (arXiv 1905.01388)."""
    parts = _Diverse(job, options)
    loops: list[FitSummary] = []
    members: Iterable[Single] = []
    for number in range(options.networks):
        summary, network = parts.fit(
            number,
            network=_behind(members, job),
            run=job.run if number == options.networks - 1 else job.run / "stages" / str(number),
            validate=parts.classifiers[: number + 1],
        )
        loops.append(summary)
        members = network.members
    return Outcome(loops, parts.classifiers)


def _behind(before: Iterable[Single], job: Job) -> Callable[[], FlowSan]:
    return lambda: FlowSan([*before, perturbation(job.settings)])


ENSEMBLE_SAN = Method("ensemble-san", _train_ensemble, EnsembleOptions)
FLOW_SAN = Method("flow-san", _train_flow, DiverseOptions)
