"""What ``ensemble-san`` and ``flow-san`` share: networks that each face a gender classifier of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from privface.config import ClassifierSettings, Settings
from privface.data import LoadedFaces
from privface.errors import ConfigError
from privface.losses import Objective
from privface.models import FlowSan, GenderProbe, Single
from privface.pipeline.methods.base import (
    Job,
    fit_network,
    frozen_classifiers,
    seed_weights,
    semi_adversarial_step,
)
from privface.training import ArraySource, FitSummary, embed_originals


class DiverseOptions(Settings):
    """What both methods are asked; ``objective`` and ``adversary`` stand in for the losses of that name."""

    networks: int = Field(3, ge=2, le=16)
    resample: bool = True
    objective: Objective = "flip"
    adversary: float = Field(0.0, ge=0)


class Diverse:
    """The classifiers of a run, and the training of one network against one of them.

    Classifiers differ as those of the papers do: in their initial weights, in what they learn from (here people drawn
    with replacement, each gender by itself), and in architecture: the entries of ``classifiers`` in turn, and each
    further round of them with the other crop and half as wide again.

    Raises:
        ConfigError: If frozen classifiers do not count.
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
        self._embeddings: Sequence[Tensor] | None = None

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
        job, seed = self._job, self._job.settings.seed
        if self._embeddings is None:
            matchers = job.matchers if job.settings.losses.matching else []
            self._embeddings = embed_originals(matchers, ArraySource(job.learn.pixels))
        seed_weights(seed, number)
        asked = {"objective": self._options.objective, "adversary": self._options.adversary}
        losses = job.settings.losses.model_copy(update=asked)
        told = replace(job, settings=job.settings.model_copy(update={"losses": losses}))
        step = semi_adversarial_step(told, [self.classifiers[number]], network=network)
        return fit_network(
            job,
            step,
            classifiers=validate,
            run=run,
            stage=f"train {number + 1}/{self._options.networks}",
            seed=seed + number,
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
    """The classifier that a network, counted from 0, faces: the entries in turn, changed in every further round."""
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
