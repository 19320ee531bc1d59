"""Experiment 05: do the 95 % intervals hold the truth in 95 % of repeats?

Claim under test: over 600 simulated sets with a known truth, intervals from resampling people hold it in 93 to 97 % of
them, for a probe's AUC and balanced accuracy and for a matcher's EER and TMR@FMR 1e-2. Photos of a person, genuine
pairs of a person and impostor pairs of two people are correlated, as in face data. Beside each stands what resampling
photos or pairs as if they were independent would give.

    python experiments/05_interval_coverage/run.py

Results go to results/coverage.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm

from privface.audit.curves import eer, tmr_at_fmr
from privface.audit.intervals import (
    BootstrapParams,
    Interval,
    PairSample,
    draw_pairs,
    probe_interval,
    rate_interval,
    weighted_auc,
    weighted_balanced_accuracy,
)

RESULTS = Path(__file__).parent / "results" / "coverage.json"
CASES = ((60, 3), (300, 3), (300, 8))
PAIR_CASES = ((60, 4), (150, 4))
OWN = 0.6  # share of a score's variance that is the person's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=600)
    parser.add_argument("--resamples", type=int, default=400)
    arguments = parser.parse_args()
    rows = []
    for people, photos in CASES:
        for d in (0.0, 1.0, 2.5):
            rows += probe_rows(people, photos, d, arguments.repeats, arguments.resamples)
            print(json.dumps(rows[-2:]), flush=True)
    for people, photos in PAIR_CASES:
        rows += pair_rows(people, photos, arguments.repeats, arguments.resamples)
        print(json.dumps(rows[-2:]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"repeats": arguments.repeats, "resamples": arguments.resamples, "rows": rows}, indent=1)
        + "\n"
    )
    print(table(rows))


def table(rows: list[dict]) -> str:
    lines = [
        "| figure | people | photos each | truth | coverage, people resampled | photos or pairs resampled |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['figure']} | {r['people']} | {r['photos']} | {r['truth']:.3f} | {r['coverage']:.1%} | {r['naive']:.1%} |"
        for r in rows
    ]
    return "\n".join(lines)


def probe_rows(people: int, photos: int, d: float, repeats: int, resamples: int) -> list[dict]:
    """A probe's scores: normal, men higher by ``d`` standard deviations, photos of a person alike."""
    auc, accuracy = float(norm.cdf(d / math.sqrt(2))), float(norm.cdf(d / 2))
    statistics = {
        "AUC of a probe": (weighted_auc, auc),
        "balanced accuracy": (weighted_balanced_accuracy(d / 2), accuracy),
    }
    hits = {name: np.zeros(2) for name in statistics}
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, people, photos, int(10 * d)])
        person = np.repeat(np.arange(people), photos)
        gender = person % 2
        own, noise = rng.standard_normal(people)[person], rng.standard_normal(person.size)
        scores = math.sqrt(OWN) * own + math.sqrt(1 - OWN) * noise + d * gender
        params = BootstrapParams(resamples=resamples, seed=repeat)
        for name, (statistic, truth) in statistics.items():
            for column, units in enumerate((person, np.arange(person.size))):
                hits[name][column] += holds(probe_interval(scores, gender, units, statistic, params), truth)
    truths = {name: truth for name, (_, truth) in statistics.items()}
    return rows_of(people, photos, truths, hits, repeats)


def pair_rows(people: int, photos: int, repeats: int, resamples: int) -> list[dict]:
    """A matcher's scores: each person shifts all genuine, and each of two people all impostor pairs they are in."""
    draw = make_pairs(people, photos)
    truth_genuine, truth_impostor, *_ = make_pairs(6000, photos, partners=40)(np.random.default_rng(99))
    truths = {
        "EER of a matcher": eer(truth_genuine, truth_impostor),
        "TMR@FMR 1e-2": tmr_at_fmr(truth_genuine, truth_impostor, fmr=1e-2).tmr,
    }
    hits = {name: np.zeros(2) for name in truths}
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, people, photos])
        genuine, impostor, genuine_people, impostor_people = draw(rng)
        params = BootstrapParams(resamples=resamples, seed=repeat)
        draws = draw_pairs(
            PairSample(genuine, genuine_people, impostor, impostor_people, people), params, fmrs=(1e-2,)
        )
        naive = naive_draws(genuine, impostor, resamples, rng)
        values = (eer(genuine, impostor), tmr_at_fmr(genuine, impostor, fmr=1e-2).tmr)
        for column, found in enumerate(((draws.eer, draws.tmr[1e-2]), naive)):
            for name, value, drawn in zip(truths, values, found, strict=True):
                hits[name][column] += holds(rate_interval(value, drawn, people, level=0.95), truths[name])
    return rows_of(people, photos, truths, hits, repeats)


def rows_of(
    people: int, photos: int, truths: dict[str, float], hits: dict[str, np.ndarray], repeats: int
) -> list[dict]:
    """Coverage of each figure: people resampled, then photos or pairs as if independent."""
    return [
        {
            "figure": name,
            "people": people,
            "photos": photos,
            "truth": truth,
            "coverage": hits[name][0] / repeats,
            "naive": hits[name][1] / repeats,
        }
        for name, truth in truths.items()
    ]


def make_pairs(
    people: int, photos: int, *, partners: int | None = None
) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    """Genuine pairs of every person and one impostor pair of every two people (or of some partners)."""
    genuine_people = np.repeat(np.arange(people), photos * (photos - 1) // 2)
    if partners is None:
        impostor_people = np.stack(np.triu_indices(people, 1), axis=1)
    else:
        first = np.repeat(np.arange(people), partners)
        impostor_people = np.stack(
            [first, (first + np.tile(np.arange(1, partners + 1), people)) % people], axis=1
        )

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        ease, likeness = 0.5 * rng.standard_normal(people), 0.35 * rng.standard_normal(people)
        genuine = 3.2 + ease[genuine_people] + 0.85 * rng.standard_normal(genuine_people.size)
        impostor = likeness[impostor_people].sum(axis=1) + 0.85 * rng.standard_normal(len(impostor_people))
        return genuine, impostor, genuine_people, impostor_people

    return draw


def naive_draws(
    genuine: np.ndarray, impostor: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """EER and TMR when pairs are drawn as if they had nothing to do with each other (100 draws are enough)."""
    found = []
    for _ in range(min(resamples, 100)):
        g, i = rng.choice(genuine, genuine.size), rng.choice(impostor, impostor.size)
        found.append((eer(g, i), tmr_at_fmr(g, i, fmr=1e-2).tmr))
    values = np.array(found)
    return values[:, 0], values[:, 1]


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


if __name__ == "__main__":
    main()
