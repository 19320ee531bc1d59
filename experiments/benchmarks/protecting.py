"""Benchmarks of `privface protect`: ratios measured side by side in one run, on one machine.

    python experiments/benchmarks/protecting.py aligned [--photos FOLDER] [--model RUN]
    python experiments/benchmarks/protecting.py detect --photos LFW --labels lfw.csv
    python experiments/benchmarks/protecting.py memory [--counts 1000 10000 100000]
    python experiments/benchmarks/protecting.py ray [--photos FOLDER] [--model RUN]

Without photos, drawn faces; without a model, an untrained one of the default size. `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from privface.data import generate_faces
from privface.device import has_bf16
from privface.faces.align import as_aligned
from privface.faces.detect import MTCNNDetector
from privface.images import decode_image, encode_image, to_pixels, to_unit, write_atomic
from privface.models import Protector, SemiAdversarialAutoencoder
from privface.protect import ProtectOptions, protect_folder


def protector(model: Path | None) -> Protector:
    if model is not None:
        return Protector.load(model)
    torch.manual_seed(0)
    network = SemiAdversarialAutoencoder()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return Protector(network)


def photos(folder: Path | None, count: int, place: Path) -> list[Path]:
    if folder is not None:
        return sorted(folder.rglob("*.jpg"))[:count]
    faces = generate_faces(people=16, photos_per_person=2, seed=0).pixels
    for number in range(count):
        path = place / f"{number:06d}.jpg"
        path.write_bytes(encode_image(faces[number % len(faces)], ".jpg", quality=92))
    return sorted(place.glob("*.jpg"))


def copied(paths: list[Path], folder: Path) -> Path:
    """The same photos alone in a folder."""
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:06d}.jpg")
    return folder


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def middle(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def aligned(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Aligned JPEG in, protected JPEG out: a plain script, the model alone, and `protect`, in turn."""
    model = protector(args.model)
    plain_network = protector(args.model).network.to(memory_format=torch.contiguous_format)
    (place / "drawn").mkdir()
    source = copied(photos(args.photos, args.count, place / "drawn"), place / "in")
    files = sorted(source.glob("*.jpg"))
    few = files[:128]
    (place / "plain").mkdir()

    def plain() -> None:
        """What one writes first: PIL, fp32 eager, one image at a time."""
        for path in few:
            pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
            with torch.no_grad():
                answer = plain_network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), strength=1.0)
            array = (answer[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array).save(place / "plain" / path.name, quality=95, subsampling=0)

    batch = to_unit(np.stack([decode_image(path) for path in files[:32]]))

    def alone() -> None:
        for _ in range(len(files) // 32):
            model(batch)

    rates: dict[str, list[float]] = {"plain": [], "model": [], "protect": []}
    for number in range(args.rounds + 1):
        out = place / f"out{number}"
        found = {
            "plain": len(few) / seconds(plain),
            "model": len(files) // 32 * 32 / seconds(alone),
            "protect": len(files)
            / seconds(lambda out=out: protect_folder(source, out, model, ProtectOptions(faces="aligned"))),
        }
        shutil.rmtree(out)
        if number:  # the first warms up
            for name, rate in found.items():
                rates[name].append(rate)
    with FlopCounterMode(display=False) as counter:
        model.network(torch.zeros(1, 3, 112, 112), strength=1.0)
    flops = counter.get_total_flops()
    kinds = (torch.float32, torch.bfloat16) if has_bf16() else (torch.float32,)  # emulated, it is no peak
    peaks = {kind: peak(kind) for kind in kinds}
    rate = statistics.median(rates["model"])
    return {
        "images": len(files),
        "images_per_second": {name: middle(found) for name, found in rates.items()},
        "protect_over_plain": middle([a / b for a, b in zip(rates["protect"], rates["plain"], strict=True)]),
        "protect_over_model": middle([a / b for a, b in zip(rates["protect"], rates["model"], strict=True)]),
        "milliseconds_of_one_thread": stages(files, model),
        "gflops_an_image": round(flops / 1e9, 3),
        "matrix_peak_gflops": {str(kind): round(value / 1e9, 1) for kind, value in peaks.items()},
        "model_over_peak": {str(kind): round(rate * flops / value, 3) for kind, value in peaks.items()},
    }


def peak(kind: torch.dtype) -> float:
    """Best rate of a square matrix product, in FLOP/s."""
    side = 1024
    a, b = (torch.rand(side, side).to(kind) for _ in range(2))
    torch.mm(a, b)
    return 2 * side**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def stages(files: list[Path], model: Protector) -> dict[str, float]:
    """What each stage costs an image, one after the other in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    few = files[:64]
    data = [path.read_bytes() for path in few]
    pixels = [decode_image(content) for content in data]
    faces = np.stack([as_aligned(p) for p in pixels])
    protected = to_pixels(model(to_unit(faces)))
    encoded = [encode_image(face, ".jpg") for face in protected]
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "read": seconds(lambda: [path.read_bytes() for path in few]),
            "decode": seconds(lambda: [decode_image(content) for content in data]),
            "model": seconds(lambda: to_pixels(model(to_unit(faces)))),
            "encode": seconds(lambda: [encode_image(face, ".jpg") for face in protected]),
            "write_and_fsync": seconds(
                lambda: [write_atomic(Path(folder) / p.name, e) for p, e in zip(few, encoded, strict=True)]
            ),
        }
    torch.set_num_threads(threads)
    return {name: round(1000 * value / len(few), 3) for name, value in found.items()}


def detect(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Faces of whole photos: facenet-pytorch's MTCNN photo by photo, and ours in batches, in turn."""
    import pandas as pd
    from facenet_pytorch import MTCNN

    del place
    labels = pd.read_csv(args.labels)
    table = labels.iloc[:: max(1, len(labels) // args.count)][: args.count]
    names = list(table["file"])
    pictures = [decode_image(args.photos / name) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = MTCNN(keep_all=True), MTCNNDetector()
    kept: dict[str, Any] = {}

    def plain() -> None:
        kept["plain"] = [theirs.detect(Image.fromarray(picture))[0] for picture in pictures]

    def batched() -> None:
        kept["ours"] = ours.detect(pictures)

    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(args.rounds + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {"plain": len(pictures) / seconds(plain), "ours": len(pictures) / seconds(batched)}
        if number:
            for name, rate in found.items():
                rates[name].append(rate)
    boxes = {
        "plain": [np.zeros((0, 4)) if found is None else np.asarray(found) for found in kept["plain"]],
        "ours": [np.array([face.box for face in found]).reshape(-1, 4) for found in kept["ours"]],
    }
    truth = table[
        [c for c in table.columns if c in {"x1", "y1", "x2", "y2", "box_x1", "box_y1", "box_x2", "box_y2"}]
    ]
    reference = truth.to_numpy(np.float64)
    there = np.isfinite(reference).all(axis=1)
    recall = {
        name: float(
            np.mean(
                [
                    best_overlap(box, found) >= 0.5
                    for box, found, ok in zip(reference, all_found, there, strict=True)
                    if ok
                ]
            )
        )
        for name, all_found in boxes.items()
    }
    same = [
        len(a) == len(b) and all(best_overlap(box, b) > 0.95 for box in a)
        for a, b in zip(boxes["plain"], boxes["ours"], strict=True)
    ]
    return {
        "photos": len(pictures),
        "images_per_second": {name: middle(found) for name, found in rates.items()},
        "ours_over_plain": middle([a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]),
        "recall_at_iou_0.5": {name: round(value, 4) for name, value in recall.items()},
        "photos_with_equal_detections": round(float(np.mean(same)), 4),
        "faces": {name: int(sum(map(len, found))) for name, found in boxes.items()},
    }


def best_overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Largest intersection over union with any of the others."""
    if not len(others):
        return 0.0
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    return float((shared / (area - shared)).max())


MEMORY = """
import json, resource, sys, time
from pathlib import Path
from privface.protect import Pixelate, ProtectOptions, protect_folder
start = time.perf_counter()
options = ProtectOptions(faces="aligned")
found = protect_folder(Path(sys.argv[1]), Path(sys.argv[2]), Pixelate(cells=8, size=112), options)
print(json.dumps({"ok": found.counts["ok"], "seconds": time.perf_counter() - start,
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def memory(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Peak memory of jobs of several sizes; the photos are hard links to a few, so that they fit on the disk."""
    (place / "drawn").mkdir()
    few = photos(None, 200, place / "drawn")
    found = {}
    for count in args.counts:
        source, output = place / f"in{count}", place / f"out{count}"
        for number in range(count):
            path = source / f"{number // 1000:04d}" / f"{number:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(few[number % len(few)], path)
        for run in ("first", "resumed"):
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, str(source), str(output)],
                capture_output=True,
                text=True,
                check=True,
            )
            result = json.loads(done.stdout)
            found[f"{count} {run}"] = {
                "peak_mb": round(result["peak_mb"]), "images_per_second": round(count / result["seconds"], 1),
            }  # fmt: skip
            print(count, run, found[f"{count} {run}"], flush=True)
        shutil.rmtree(source)
        shutil.rmtree(output)
    return found


class Moments:
    """When how many files were finished."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seen: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((time.perf_counter() - self.start, done))


def ray(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """One and two local nodes of one CPU each; the rate counts from the first finished file, start-up is told apart."""
    import ray as framework
    from ray.cluster_utils import Cluster

    from privface.protect.cluster import RayEngine

    os.environ["OMP_NUM_THREADS"] = "1"
    model = protector(args.model)
    (place / "drawn").mkdir()
    source = copied(photos(args.photos, args.count, place / "drawn"), place / "in")
    found: dict[str, Any] = {}
    trees = []
    for nodes in (1, 2):
        cluster = Cluster()
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        framework.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        out, moments, start = place / f"out{nodes}", Moments(), time.perf_counter()
        protect_folder(
            source, out, model, ProtectOptions(faces="aligned"), engine=RayEngine(chunk=32), progress=moments
        )
        (first, begun), (last, done) = moments.seen[0], moments.seen[-1]
        found[f"{nodes} nodes"] = {
            "start_up_seconds": round(first, 1),
            "images_per_second": round((done - begun) / (last - first), 2),
            "whole_seconds": round(time.perf_counter() - start, 1),
        }
        print(nodes, found[f"{nodes} nodes"], flush=True)
        framework.shutdown()
        cluster.shutdown()
        trees.append({p.name: p.read_bytes() for p in sorted(out.rglob("*.jpg"))})
    local = place / "local"
    protect_folder(source, local, model, ProtectOptions(faces="aligned"))
    trees.append({p.name: p.read_bytes() for p in sorted(local.rglob("*.jpg"))})
    found["two_over_one"] = round(
        found["2 nodes"]["images_per_second"] / found["1 nodes"]["images_per_second"], 2
    )
    found["outputs_equal_local"] = trees[0] == trees[1] == trees[2]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["aligned", "detect", "memory", "ray"])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.what == "aligned" and args.count < 32:
        parser.error(
            f"--count {args.count}: aligned needs 32 or more, as the model's rate is that of whole batches"
        )
    torch.set_num_threads(args.threads)
    work = {"aligned": aligned, "detect": detect, "memory": memory, "ray": ray}[args.what]
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "benchmark": args.what,
            "threads": args.threads,
            "cpus": os.cpu_count(),
            **work(args, Path(folder)),
        }
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
