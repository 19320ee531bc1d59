"""Benchmark: matching figures over all pairs, against building the score array and calling scikit-learn.

    python experiments/benchmarks/pair_scores.py --pairs 1e8

Both sides start from the same 128-d embeddings and give EER and TMR at three FMRs; each runs in a process of its own,
one after the other, so that its peak memory is its own. The plain side holds the score array, as one would write it
with NumPy and `sklearn.metrics.roc_curve(drop_intermediate=False)`. `--linear` times privface from 1e6 to 1e9 pairs.
Results go to results/pair_scores.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FMRS = (1e-2, 1e-3, 1e-4)
RESULTS = Path(__file__).parent / "results" / "pair_scores.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=float, default=1e8)
    parser.add_argument("--linear", action="store_true", help="also time 1e6, 1e7, 1e8 and 1e9 pairs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", choices=("privface", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, int(arguments.pairs))))
        return
    rounds = [
        {side: child(side, arguments.pairs) for side in ("privface", "plain")}
        for _ in range(arguments.rounds)
    ]
    ratios = [r["plain"]["seconds"] / r["privface"]["seconds"] for r in rounds]
    found = {
        "pairs": arguments.pairs,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "ratio": float(np.median(ratios)),
        "largest difference": max(
            abs(r["privface"][key] - r["plain"][key]) for r in rounds for key in ("eer", *map(str, FMRS))
        ),
        "linear": [child("privface", pairs) for pairs in (1e6, 1e7, 1e8, 1e9)] if arguments.linear else [],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def child(side: str, pairs: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", side, "--pairs", str(pairs)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(side: str, pairs: int) -> dict[str, float]:
    photos = round(math.sqrt(2 * pairs))
    rng = np.random.default_rng(0)
    person = np.arange(photos) // 4
    centre = rng.standard_normal((person[-1] + 1, 128), dtype=np.float32)
    embeddings = centre[person] + 1.6 * rng.standard_normal((photos, 128), dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    figures = (privface if side == "privface" else plain)(embeddings, person)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "side": side,
        "pairs": photos * (photos - 1) // 2,
        "seconds": seconds,
        "peak_gb": peak / 1e6,
        "before_gb": before / 1e6,
        **figures,
    }


def privface(embeddings: np.ndarray, person: np.ndarray) -> dict[str, float]:
    from privface.audit.streaming import cosine_scores, stream_impostors

    genuine = cosine_scores(embeddings, embeddings, genuine_pairs(person))
    nobody = np.zeros(len(person), np.int64)
    impostor, _ = stream_impostors(embeddings, embeddings, person, nobody, genuine, fmrs=FMRS)
    if impostor is None:
        raise SystemExit("no impostor pair")
    return {"eer": impostor.eer(genuine), **{str(f): impostor.tmr_at_fmr(genuine, fmr=f).tmr for f in FMRS}}


def genuine_pairs(person: np.ndarray) -> np.ndarray:
    found = [np.stack([np.arange(len(person) - k), np.arange(k, len(person))], axis=1) for k in (1, 2, 3)]
    pairs = np.concatenate(found)
    return pairs[person[pairs[:, 0]] == person[pairs[:, 1]]]


def plain(embeddings: np.ndarray, person: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_curve

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    count = len(unit)
    scores = np.empty(count * (count - 1) // 2, np.float32)
    same = np.empty(scores.size, np.bool_)
    place = 0
    for row in range(count - 1):
        end = place + count - 1 - row
        scores[place:end] = unit[row + 1 :] @ unit[row]
        same[place:end] = person[row + 1 :] == person[row]
        place = end
    fmr, tmr, _ = roc_curve(same, scores, drop_intermediate=False)
    crossing = np.interp(1.0, tmr + fmr, fmr)
    return {
        "eer": float(crossing),
        **{str(f): float(tmr[np.searchsorted(fmr, f, side="right") - 1]) for f in FMRS},
    }


if __name__ == "__main__":
    main()
