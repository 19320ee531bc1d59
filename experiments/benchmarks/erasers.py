"""How fast and how small LEACE is, beside the package of its authors, and on a table larger than memory.

    python experiments/benchmarks/erasers.py                 fit and apply, side by side (about three minutes, 3 GB)
    python experiments/benchmarks/erasers.py --big FOLDER    5,000,000 x 512 in FOLDER (20 GB of disk), within 4 GB of memory

Each measurement is a process of its own, so that its peak of memory is its own; fits alternate over the rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROWS, SIZE = 1_000_000, 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", type=Path, help="folder for the large tables")
    parser.add_argument("--big-rows", type=int, default=5_000_000)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        begun = time.perf_counter()
        found = STEPS[arguments.step](arguments.folder, arguments.rows)
        found.setdefault("seconds", time.perf_counter() - begun)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**found, "peak_gb": round(peak, 2)}))
        return
    if arguments.big:
        write("erasers_big.json", big(arguments.big, arguments.big_rows))
    else:
        write("erasers.json", side_by_side(arguments.rounds))


def write(name: str, found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=1, sort_keys=True)
    print(text)
    (HERE / "results" / name).write_text(text + "\n", encoding="utf-8")


def step(name: str, *, folder: Path | None = None, rows: int = ROWS) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", name, "--rows", str(rows)]
    if folder is not None:
        command += ["--folder", str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def side_by_side(rounds: int) -> dict[str, Any]:
    names = ("ours", "theirs", "theirs-plain", "ours-parts", "theirs-parts")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(step(name))
    table = {
        name: {
            "seconds": round(median(r["seconds"] for r in found), 2),
            "peak_gb": max(r["peak_gb"] for r in found),
        }
        for name, found in runs.items()
    }
    applied = [step("apply") for _ in range(rounds)]
    return {
        "rows": ROWS,
        "dimensions": SIZE,
        "rounds": rounds,
        "fit": table,
        "speed_ratio": round(table["theirs"]["seconds"] / table["ours"]["seconds"], 2),
        "memory_ratio": round(table["theirs"]["peak_gb"] / table["ours"]["peak_gb"], 2),
        "applied_per_minute": round(median(r["per_minute"] for r in applied)),
        "largest_coefficient": max(r["coefficient"] for r in runs["ours"]),
    }


def big(folder: Path, rows: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: step(name, folder=folder, rows=rows)
        for name in ("generate", "big-fit", "big-apply", "big-check")
    }
    return {"rows": rows, "dimensions": SIZE, **found}


# --- steps, each in a process of its own ----------------------------------------------------------------------------------


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings with a leak, float32, made block by block."""
    x, y = np.empty((rows, SIZE), np.float32), np.empty(rows, np.int64)
    for start in range(0, rows, 50_000):
        part = slice(start, min(start + 50_000, rows))
        x[part], y[part] = block(part.stop - start, start)
    return x, y


def block(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.4).astype(np.int64)
    x = rng.standard_normal((count, SIZE), np.float32) * np.linspace(0.5, 2.0, SIZE, dtype=np.float32)
    x[:, :4] += y[:, None] * np.float32(1.0)
    return x, y


def fit_ours(_folder: Path | None, rows: int) -> dict[str, Any]:
    from privface.erasers import LEACE

    x, y = data(rows)
    begun = time.perf_counter()
    eraser = LEACE().fit(x, y)
    seconds = time.perf_counter() - begun
    # what a linear probe could find at all: the coefficient of the least-squares fit of the label
    gram, cross, mean = np.zeros((SIZE, SIZE)), np.zeros(SIZE), np.zeros(SIZE)
    for start in range(0, rows, 50_000):
        part = eraser.transform(x[start : start + 50_000].astype(np.float64))
        mean += part.sum(axis=0)
        gram += part.T @ part
        cross += part.T @ y[start : start + 50_000]
    gram = gram / rows - np.outer(mean, mean) / rows**2
    cross = cross / rows - mean / rows * y.mean()
    coefficient = float(np.abs(np.linalg.lstsq(gram, cross, rcond=1e-10)[0]).max())
    return {"seconds": seconds, "coefficient": coefficient}


def fit_ours_in_parts(_folder: Path | None, rows: int) -> dict[str, Any]:
    from privface.erasers import LEACE

    x, y = data(rows)
    begun = time.perf_counter()
    eraser = LEACE()
    for start in range(0, rows, 65_536):
        eraser.partial_fit(x[start : start + 65_536], y[start : start + 65_536], classes=[0, 1])
    return {"seconds": time.perf_counter() - begun}


def fit_theirs(
    _folder: Path | None, rows: int, *, parts: int | None = None, **settings: Any
) -> dict[str, Any]:
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from concept_erasure import LeaceFitter

    x, y = data(rows)
    begun = time.perf_counter()
    fitter = LeaceFitter(SIZE, 1, dtype=torch.float32, **settings)
    size = parts or rows
    for start in range(0, rows, size):
        fitter.update(
            torch.from_numpy(x[start : start + size]), torch.from_numpy(y[start : start + size])[:, None]
        )
    fitter.eraser  # noqa: B018  # solved when it is asked for
    return {"seconds": time.perf_counter() - begun}


def apply_ours(_folder: Path | None, rows: int) -> dict[str, Any]:
    """Table to table, reading and writing included."""
    import tempfile

    from privface.erasers import LEACE, SavedEraser
    from privface.pipeline.erase import apply_eraser

    with tempfile.TemporaryDirectory() as name:
        generate(Path(name), rows)
        x, y = block(20_000, 0)
        saved = SavedEraser(LEACE().fit(x, y))
        summary = apply_eraser(saved, Path(name) / "table.parquet", Path(name) / "erased.parquet")
    return {"per_minute": summary.rows_per_second * 60}


def generate(folder: Path, rows: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, size, path = None, 50_000, folder / "table.parquet"
    if path.is_file() and pq.read_metadata(path).num_rows == rows:  # of an earlier call
        return {"gb": round(path.stat().st_size / 2**30, 2)}
    for start in range(0, rows, size):
        x, y = block(min(size, rows - start), start)
        offsets = pa.array(np.arange(0, x.size + 1, SIZE, dtype=np.int32))
        batch = pa.RecordBatch.from_pydict(
            {
                "file": [f"{start + k}.jpg" for k in range(len(x))],
                "gender": np.where(y == 1, "male", "female"),
                "embedding": pa.ListArray.from_arrays(offsets, pa.array(x.ravel())),
            }
        )
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="none")
        writer.write_batch(batch)
    if writer is not None:
        writer.close()
    return {"gb": round(path.stat().st_size / 2**30, 2)}


def big_fit(folder: Path, _rows: int) -> dict[str, Any]:
    from privface.pipeline.erase import EraserSource, fit_eraser

    summary = fit_eraser(
        EraserSource(folder / "table.parquet"), folder / "eraser", method="leace", overwrite=True
    )
    return {"fitted_rows": summary.rows}


def big_apply(folder: Path, _rows: int) -> dict[str, Any]:
    from privface.pipeline.erase import apply_eraser

    summary = apply_eraser(
        folder / "eraser", folder / "table.parquet", folder / "erased.parquet", overwrite=True
    )
    return {"rows_per_second": round(summary.rows_per_second), "erased": summary.erased}


def big_check(folder: Path, rows: int) -> dict[str, Any]:
    """The label's covariance with what was written, relative to before."""
    from privface.data import stream_embeddings

    labels = [
        (part.labels["gender"] == "male").to_numpy(np.float64)
        for part in stream_embeddings(folder / "table.parquet")
    ]
    y, sums = np.concatenate(labels), {}
    for name in ("table", "erased"):
        cross, mean, place = np.zeros(SIZE), np.zeros(SIZE), 0
        for part in stream_embeddings(folder / f"{name}.parquet"):
            cross += part.vectors.T.astype(np.float64) @ y[place : place + len(part)]
            mean += part.vectors.sum(axis=0, dtype=np.float64)
            place += len(part)
        if place != rows:
            raise SystemExit(f"{name} has {place} rows, not {rows}")
        sums[name] = float(np.abs(cross / rows - mean / rows * y.mean()).max())
    return {"covariance_before": sums["table"], "covariance_after": sums["erased"]}


STEPS: dict[str, Any] = {
    "ours": fit_ours,
    "theirs": fit_theirs,
    "theirs-plain": lambda f, r: fit_theirs(f, r, shrinkage=False, constrain_cov_trace=False),
    "ours-parts": fit_ours_in_parts,
    "theirs-parts": lambda f, r: fit_theirs(f, r, parts=65_536),
    "apply": apply_ours,
    "generate": generate,
    "big-fit": big_fit,
    "big-apply": big_apply,
    "big-check": big_check,
}


if __name__ == "__main__":
    main()
