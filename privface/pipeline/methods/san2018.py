"""``san-2018``: the first semi-adversarial network, in two stages; its protector needs true genders."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from privface.config import Settings
from privface.errors import ConfigError
from privface.images import to_unit
from privface.losses import AttributeLoss
from privface.models import Prototypes, San2018, San2018Protector, make_prototypes
from privface.models.san2018 import PROTOTYPES, Target
from privface.pipeline.methods.base import (
    Job,
    Method,
    Outcome,
    fit_network,
    frozen_classifiers,
    loss_terms,
    seed_weights,
)
from privface.training import FitSummary, LossWeights
from privface.training.san2018 import San2018Step

_CHUNK = 256


class San2018Options(Settings):
    """What is asked of the method alone; docs/methods.md says what each setting means."""

    reconstruction_epochs: int = Field(5, ge=1)
    target: Target = "opposite"


def _train(job: Job, options: San2018Options) -> Outcome:
    """First reconstruction alone, then with classifiers and matchers (arXiv 1712.00321)."""
    terms = loss_terms(job.settings)
    weights = terms.pop("weights")
    if not (weights.reconstruction and weights.frozen and weights.matching):
        raise ConfigError(
            f"Loss weights reconstruction {weights.reconstruction:g}, frozen {weights.frozen:g}, matching"
            f" {weights.matching:g}: {San2018.kind} has all three terms.",
            hint="Give each a weight above 0.",
        )
    prototypes = _prototypes(job)
    classifiers = frozen_classifiers(job)

    def stage(network: San2018, counts: LossWeights, **schedule: Any) -> tuple[FitSummary, Any]:
        step = San2018Step(
            network,
            prototypes=prototypes,
            matchers=job.matchers,
            classifiers=classifiers,
            weights=counts,
            attribute=AttributeLoss("flip"),
            **terms,
        )
        return fit_network(
            job,
            step,
            classifiers=classifiers,
            meta={"target": options.target},
            protector=lambda made: San2018Protector(
                made, prototypes, target=options.target, size=job.settings.size
            ),
            **schedule,
        )

    seed_weights(job.settings.seed)
    first, network = stage(
        San2018(),
        weights.model_copy(update={"matching": 0.0, "frozen": 0.0}),
        run=job.run / "reconstruction",
        stage="train 1/2: reconstruction",
        epochs=options.reconstruction_epochs,
    )
    second, _ = stage(network, weights, stage="train 2/2: all terms")
    return Outcome([first, second], classifiers)


def _prototypes(job: Job) -> Prototypes:
    """Mean faces of the people who train the network, kept in the run folder."""
    path = job.run / PROTOTYPES
    if not path.is_file():
        pixels, genders = job.learn.pixels, job.learn.table.genders
        rows = range(0, len(pixels), _CHUNK)
        made = make_prototypes((to_unit(pixels[k : k + _CHUNK]), genders[k : k + _CHUNK]) for k in rows)
        made.save(path)
    return Prototypes.load(path)


SAN_2018 = Method(San2018.kind, _train, San2018Options, needs_genders=San2018.needs_genders)
