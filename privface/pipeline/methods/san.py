"""``san``: our own method, label-free, with adversaries that keep learning."""

from __future__ import annotations

from privface.config import Settings
from privface.pipeline.methods.base import (
    Job,
    Method,
    Outcome,
    fit_network,
    frozen_classifiers,
    semi_adversarial_step,
)


def _train(job: Job, options: Settings) -> Outcome:
    classifiers = frozen_classifiers(job) if job.settings.losses.frozen else []
    summary, _ = fit_network(job, semi_adversarial_step(job, classifiers), classifiers=classifiers)
    return Outcome([summary], classifiers)


SAN = Method("san", _train, can_start=True)
