"""``flow-san``: networks one behind the other, each against the output of the one before and a classifier of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from privface.models import FlowSan, Single
from privface.pipeline.methods.base import Job, Method, Outcome, perturbation
from privface.pipeline.methods.diverse import Diverse, DiverseOptions
from privface.training import FitSummary


def _train(job: Job, options: DiverseOptions) -> Outcome:
    """Stage after stage, into ``stages/``; the last one, with all before it, into the run folder (arXiv 1905.01388)."""
    parts = Diverse(job, options)
    loops: list[FitSummary] = []
    members: Iterable[Single] = []
    for number in range(options.networks):
        last = number == options.networks - 1
        summary, network = parts.fit(
            number,
            network=_behind(members, job),
            run=job.run if last else job.run / "stages" / str(number),
            validate=parts.classifiers[: number + 1],
        )
        loops.append(summary)
        members = network.members
    return Outcome(loops, parts.classifiers)


def _behind(before: Iterable[Single], job: Job) -> Callable[[], FlowSan]:
    return lambda: FlowSan([*before, perturbation(job.settings)])


FLOW_SAN = Method("flow-san", _train, DiverseOptions)
