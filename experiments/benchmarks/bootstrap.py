"""Benchmark: the people-cluster bootstrap at 1,000 resamples and 5,000 people, and a whole audit of 10,000 templates.

    python experiments/benchmarks/bootstrap.py            # seconds of the bootstraps
    python experiments/benchmarks/bootstrap.py --audit    # also a full audit of 10,000 x 512-d embeddings

Results go to results/bootstrap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from privface.audit.intervals import BootstrapParams, PairSample, draw_pairs, probe_interval, weighted_auc
from privface.audit.streaming import cosine_scores, stream_impostors

RESULTS = Path(__file__).parent / "results" / "bootstrap.json"
PEOPLE, PHOTOS = 5_000, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audit", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), PHOTOS)
    gender = (person >= PEOPLE // 2).astype(np.int64)
    centre = rng.standard_normal((PEOPLE, 512), dtype=np.float32)
    centre[:, 0] += np.where(np.arange(PEOPLE) >= PEOPLE // 2, 2.0, -2.0)
    x = centre[person] + rng.standard_normal((person.size, 512), dtype=np.float32)
    params = BootstrapParams(resamples=1000)
    found: dict[str, object] = {"cores": os.cpu_count(), "people": PEOPLE, "resamples": 1000}

    start = time.perf_counter()
    probe_interval(x[:, 0].astype(np.float64), gender, person, weighted_auc, params)
    found["probe AUC, 10,000 photos, seconds"] = time.perf_counter() - start

    genuine = cosine_scores(x, x, np.arange(person.size).reshape(-1, 2))
    impostor, _ = stream_impostors(x, x, person, gender, genuine, fmrs=(1e-2, 1e-3, 1e-4))
    if impostor is None:
        raise SystemExit("no impostor pair")
    scores, people, weights = impostor.thinned()
    sample = PairSample(genuine, person[::2], scores, people, PEOPLE, weights)
    start = time.perf_counter()
    draw_pairs(sample, params, fmrs=(1e-2, 1e-3, 1e-4))
    found[f"EER, AUC, d', three TMRs, {impostor.size:,} impostor pairs, seconds"] = (
        time.perf_counter() - start
    )
    print(json.dumps(found, indent=1), flush=True)
    if arguments.audit:
        found["full audit of 10,000 x 512, all attackers, seconds"] = audit(x, person, gender)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def audit(x: np.ndarray, person: np.ndarray, gender: np.ndarray) -> float:
    from privface.audit import EmbeddingData
    from privface.pipeline import AuditOptions, build_auditor

    order = np.random.default_rng(1).permutation(PEOPLE)  # gender and number of a person are not related
    data = EmbeddingData(
        embeddings={"vendor": (x, (x + 0.1).astype(np.float32))},
        files=tuple(f"{k}.png" for k in range(len(x))),
        identities=np.array([f"p{order[k]}" for k in person]),
        genders=gender,
    )
    start = time.perf_counter()
    build_auditor(AuditOptions()).run(data)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
