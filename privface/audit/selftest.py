"""Audit of the attackers: do they find leaks of known size, and do they stay silent where there is none?

A probe that reads nothing proves nothing unless the same probe finds what is planted. The result is part of
every report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privface.audit.attacks import library_versions
from privface.audit.curves import auc, balanced_accuracy, best_threshold, by_label
from privface.audit.intervals import BootstrapParams, probe_interval, weighted_auc
from privface.audit.planted import EMBEDDING_LEAKS, IMAGE_LEAKS, plant
from privface.audit.probes import RetrainedProbe
from privface.audit.result import to_json_data
from privface.errors import AuditError

TOLERANCE = 0.02
"""How far below Bayes the best probe may stay for a leak to count as found."""

ALARM = 0.60
"""Lower end of leakage above which an audit says that gender can be read."""

SCHEMA: Final = "privface.selftest/1"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Size:
    """How much data a self-test plants.

    Attributes:
        people: People who train, choose and are scored in a set with a leak.
        dimensions: Of embeddings.
        side: Of images in pixels.
        image_people: As ``people``, for images.
        nulls: Sets without a leak, for each medium.
        null_people: As ``people``, for sets without a leak.
        null_dimensions: Of embeddings in them.
        null_side: Of images in them.
        null_image_people: As ``null_people``, for images.
        resamples: Bootstrap resamples of the intervals on sets without a leak.
    """

    people: tuple[int, int, int] = (2500, 900, 4000)
    dimensions: int = 32
    side: int = 48
    image_people: tuple[int, int, int] = (1000, 350, 2500)
    nulls: int = 200
    null_people: tuple[int, int, int] = (80, 40, 80)
    null_dimensions: int = 16
    null_side: int = 24
    null_image_people: tuple[int, int, int] = (60, 30, 60)
    resamples: int = 300


def run_selftest(
    embedding_probes: Sequence[RetrainedProbe],
    image_probes: Sequence[RetrainedProbe],
    *,
    size: Size = Size(),
    seed: int = 0,
    made: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Plant leaks for every probe, then let it read sets without one.

    Args:
        embedding_probes: Attackers on embeddings.
        image_probes: Attackers on images.
        size: How much data.
        seed: Seed of data and probes.
        made: Date for the report; nothing here reads a clock.
        progress: Called with (stage, done, total).

    Returns:
        JSON data: ``schema``, ``made``, ``libraries``, ``seed``, ``leaks`` (each probe's balanced accuracy on
        strangers beside Bayes; found if the probe that validation people choose is within 2 points of it) and
        ``nulls`` (false alarms: a 95 % interval that lies wholly on the side of 0.5 that validation people chose,
        by probe; for ``battery``, any probe's leakage surely above 0.60).
    """
    tell = progress or (lambda _stage, _done, _total: None)
    leaks, nulls = [], []
    for medium, names, probes in (
        ("embedding", EMBEDDING_LEAKS, embedding_probes),
        ("image", IMAGE_LEAKS, image_probes),
    ):
        if not probes:
            continue
        for number, leak in enumerate(names):
            leaks.append(_find(leak, medium, probes, size, seed))
            tell(f"plant leaks in {medium}s", number + 1, len(names))
        nulls += _stay_silent(medium, probes, size, seed, tell)
    return {
        "schema": SCHEMA,
        "made": made,
        "libraries": library_versions(),
        "seed": seed,
        "leaks": to_json_data(leaks),
        "nulls": to_json_data(nulls),
    }


def _find(leak: str, medium: str, probes: Sequence[RetrainedProbe], size: Size, seed: int) -> dict[str, Any]:
    counts = size.people if medium == "embedding" else size.image_people
    extent = size.dimensions if medium == "embedding" else size.side
    train, val, test = (plant(leak, people=n, size=extent, seed=3 * seed + k) for k, n in enumerate(counts))
    reached, validation = {}, {}
    for probe in probes:
        fitted = probe.fit(train.data, train.genders, train.people, val.data, val.genders, seed=seed)
        threshold = best_threshold(fitted.scores(val.data), val.genders)
        reached[probe.name] = balanced_accuracy(fitted.scores(test.data), test.genders, threshold)
        validation[probe.name] = fitted.val_auc
    if leak in ("flip", "image-flip"):
        reached["frozen, folded"] = _frozen_reading(test.data, test.genders)
    best = max(validation, key=lambda name: validation[name])
    return {
        "leak": leak,
        "medium": medium,
        "bayes": train.bayes,
        "best_probe": best,
        "best": reached[best],
        "found": bool(reached[best] >= train.bayes - TOLERANCE),
        "probes": reached,
    }


def _frozen_reading(data: NDArray[Any], genders: NDArray[np.int64]) -> float:
    """What a probe fixed on the cue says, folded: it is wrong as often as it was right before the flip."""
    cue = data[:, 0] if data.ndim == 2 else data[:, data.shape[1] // 2 :].mean(axis=(1, 2, 3)) - 128.0
    found = balanced_accuracy(np.asarray(cue, np.float64), genders, 0.0)
    return max(found, 1.0 - found)


def _stay_silent(
    medium: str, probes: Sequence[RetrainedProbe], size: Size, seed: int, tell: Progress
) -> list[dict[str, Any]]:
    image = medium == "image"
    leak, extent = ("none-image", size.null_side) if image else ("none", size.null_dimensions)
    counts = size.null_image_people if image else size.null_people
    alarms = dict.fromkeys([*(probe.name for probe in probes), "battery"], 0)
    for number in range(size.nulls):
        params = BootstrapParams(resamples=size.resamples, seed=number)
        start = 10_000 * (seed + 1) + 3 * number
        train, val, test = (plant(leak, people=n, size=extent, seed=start + k) for k, n in enumerate(counts))
        loud = False
        for probe in probes:
            fitted = probe.fit(train.data, train.genders, train.people, val.data, val.genders, seed=number)
            scores = fitted.scores(test.data)
            ends = probe_interval(scores, test.genders, test.people, weighted_auc, params)
            upwards = auc(*by_label(fitted.scores(val.data), val.genders)) >= 0.5
            alarms[probe.name] += int(ends.low > 0.5 if upwards else ends.high < 0.5)
            loud |= ends.low > ALARM or ends.high < 1.0 - ALARM
        alarms["battery"] += int(loud)
        tell(f"{medium} sets without a leak", number + 1, size.nulls)
    same = {"medium": medium, "sets": size.nulls}
    rates = {name: count / max(size.nulls, 1) for name, count in alarms.items()}
    return [{**same, "probe": name, "alarms": alarms[name], "rate": rate} for name, rate in rates.items()]


def load_selftest(path: Path | None = None) -> dict[str, Any]:
    """The self-test that came with this version, or one from a file, with ``same_libraries`` added.

    Args:
        path: Result of ``privface audit --self-test``; by default the one in the package.

    Raises:
        AuditError: If the file is no self-test.
    """
    try:
        source = path or resources.files("privface.audit").joinpath("selftest.json")
        document = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{path} cannot be read ({error}).", hint="Give the selftest.json of privface audit --self-test."
        ) from error
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise AuditError(
            f"{path} is no self-test of schema {SCHEMA!r}.", hint="Run privface audit --self-test again."
        )
    now = library_versions()
    same = all(now.get(name) == version for name, version in document["libraries"].items())
    return {**document, "same_libraries": same}
