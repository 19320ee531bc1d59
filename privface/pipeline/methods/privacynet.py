"""``privacynet``: several attributes; which of them are hidden is chosen when photos are protected."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from privface.attributes import GENDER, Attribute, column
from privface.config import Settings
from privface.errors import ConfigError, LabelError
from privface.losses import AttributeLoss, Objective
from privface.models import GenderProbe, PrivacyNet, load_gender_probe
from privface.pipeline.methods.base import (
    Job,
    Method,
    Outcome,
    classifier_spec,
    fit_network,
    loss_terms,
    own_classifier,
    seed_weights,
)
from privface.records import FaceTable
from privface.training import PixelAdversary
from privface.training.privacynet import PrivacyNetStep


class PrivacyNetOptions(Settings):
    """What is asked of the method alone; docs/methods.md says what each setting means."""

    attributes: tuple[str, ...] = Field((GENDER,), min_length=1)
    hide: tuple[str, ...] = Field((GENDER,), min_length=1)
    objective: Objective = "flip"
    realism: float = Field(0.1, gt=0)
    critic_size: int = Field(80, ge=16, le=448)
    critic_width: int = Field(24, ge=8, le=256)
    critic_stages: int = Field(4, ge=1, le=6)


def _train(job: Job, options: PrivacyNetOptions) -> Outcome:
    """One generator for all attributes against a critic and frozen classifiers of each (arXiv 2001.00561)."""
    settings = job.settings
    if settings.autoencoder.variant != "san":
        raise ConfigError(
            f"autoencoder.variant is {settings.autoencoder.variant!r}; privacynet conditions the network san.",
            hint="Leave the variant out.",
        )
    seed_weights(settings.seed)
    body = settings.autoencoder.model_dump(exclude={"variant", "options"})
    network = PrivacyNet(attributes=options.attributes, body=body, hide=options.hide)
    labels = np.stack([_codes(job.learn.table, name) for name in options.attributes], axis=1)
    read_by = _classifiers(job, options.attributes, labels)
    critic = PixelAdversary(
        spec=classifier_spec(size=options.critic_size, crop="frame"),
        network={"width": options.critic_width, "stages": options.critic_stages},
    )
    step = PrivacyNetStep(
        network,
        readers=[place for place, _ in read_by],
        critic=critic,
        realism=options.realism,
        matchers=job.matchers,
        classifiers=[classifier for _, classifier in read_by],
        attribute=AttributeLoss(options.objective),
        **loss_terms(settings),
    )
    genders = [c for place, c in read_by if options.attributes[place] == GENDER]
    summary, _ = fit_network(job, step, classifiers=genders, labels=labels)
    return Outcome([summary], [classifier for _, classifier in read_by])


def _codes(table: FaceTable, name: str) -> NDArray[np.int64]:
    """Labels of an attribute: 0 and 1 in the order of its two values, -1 where there is none."""
    attribute, codes = Attribute.parse(name).read(column(table, name))
    if len(attribute.classes) != 2:
        raise LabelError(
            f"The attribute {name!r} has {len(attribute.classes)} values in the labels; privacynet hides those of two.",
            hint="Method erased-code hides attributes of several values.",
        )
    return codes


def _classifiers(
    job: Job, attributes: tuple[str, ...], labels: NDArray[np.int64]
) -> list[tuple[int, GenderProbe]]:
    """Frozen classifiers of every attribute, each with the attribute's position; given ones read gender."""
    own = [entry for entry in job.settings.classifiers if entry.spec is None]
    given = [entry.spec for entry in job.settings.classifiers if entry.spec is not None]
    classifiers: list[tuple[int, GenderProbe]] = []
    number = itertools.count()
    for place, name in enumerate(attributes):
        rows = np.flatnonzero(labels[:, place] >= 0)
        probes = [load_gender_probe(spec, seen=True) for spec in given] if name == GENDER else []
        probes += [
            own_classifier(job, entry, job.learn.pixels[rows], labels[rows, place], next(number))
            for entry in own
        ]
        if not probes:
            raise ConfigError(
                f"The attribute {name!r} has no classifier.",
                hint="Leave `spec` out of one, so that it is trained here.",
            )
        classifiers += [(place, probe) for probe in probes]
    return classifiers


PRIVACYNET = Method("privacynet", _train, PrivacyNetOptions)
