"""``ensemble-san``: several networks against different classifiers, of which each photo gets one output."""

from __future__ import annotations

from collections.abc import Mapping

from privface.errors import ConfigError
from privface.models import CompactResNet, EnsembleSan, GenderProbe, Protector, Reader, Rule, save_network
from privface.pipeline.methods.base import Job, Method, Outcome, perturbation, rank
from privface.pipeline.methods.diverse import Diverse, DiverseOptions
from privface.pipeline.methods.watching import Validation


class EnsembleOptions(DiverseOptions):
    """What is asked of the method alone; docs/methods.md says what each setting means."""

    rule: Rule = "random"


def _train(job: Job, options: EnsembleOptions) -> Outcome:
    """The networks one by one, into ``members/``, then the ensemble (arXiv 1807.11936)."""
    parts = Diverse(job, options)
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
    validation: Mapping[str, float] = {}
    if job.held is not None:
        watch = Validation(job.held, job.matchers, parts.classifiers)
        validation = watch(Protector(ensemble, size=job.settings.size))
    if rank() == 0:
        save_network(job.run, ensemble, kind=ensemble.kind, meta=job.meta)
    return Outcome([summary for summary, _ in fitted], parts.classifiers, validation=validation)


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


ENSEMBLE_SAN = Method("ensemble-san", _train, EnsembleOptions)
