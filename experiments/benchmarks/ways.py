"""The same photos protected in every way that this machine has: how far the pixels are apart, and what others make of them.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/benchmarks/ways.py [--model bundled:erased] [--photos 12]

Ways: the CPU in fp32 (the reference), the CPU in bf16, ONNX Runtime, and a GPU in fp32 and bf16 where there is one. Against the
reference: largest and mean difference of the 8-bit pixels, the lowest cosine of an unseen matcher's embeddings, the largest change of
an unseen classifier's log-odds, how many photos it calls another gender, and how many pairs of photos come to lie on the other side of
the matcher's threshold (median similarity of the reference's pairs).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from privface.config import DataSettings
from privface.images import to_pixels, to_unit
from privface.models import load_gender_probe, load_matcher, load_protector
from privface.pipeline import load_aligned, open_data

WAYS = {
    "CPU, fp32": {"runtime": "torch"},
    "CPU, bf16": {"runtime": "torch", "precision": "bf16"},
    "ONNX Runtime": {"runtime": "onnx"},
    "GPU, fp32": {"runtime": "torch", "device": "cuda"},
    "GPU, bf16": {"runtime": "torch", "device": "cuda", "precision": "bf16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:erased")
    parser.add_argument("--photos", type=int, default=12)
    args = parser.parse_args()
    models = Path(os.environ["PRIVFACE_MODELS"])
    matcher = load_matcher(f"onnx:{models / 'matcher_mobilefacenet_b.onnx'}")
    classifier = load_gender_probe(f"onnx:{models / 'gender_tinyxception.onnx'}")
    faces = _faces(args.photos)
    print("| way | largest | mean | lowest cosine | log-odds, largest change | other gender | pairs across |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    first: tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]] | None = None
    for name, pixels in _protected(args.model, faces):
        images = to_unit(pixels)
        rows = matcher.embed(images)
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores = classifier.male_scores(images)
        first = first or (pixels, units, scores)
        apart = np.abs(pixels.astype(int) - first[0])
        before, after = (_pairs(one) for one in (first[1], units))
        edge = np.median(before)
        told = [
            f"{apart.max()}", f"{apart.mean():.4f}", f"{(units * first[1]).sum(axis=1).min():.6f}", f"{np.abs(scores - first[2]).max():.4f}",
            f"{np.sum((scores > 0) != (first[2] > 0))}", f"{np.sum((before > edge) != (after > edge))} of {before.size}",
        ]  # fmt: skip
        print(f"| {name} | {' | '.join(told)} |", flush=True)


def _faces(count: int) -> NDArray[np.float32]:
    """Aligned LFW photos of as many people of the split ``val``."""
    folder = Path(os.environ["PRIVFACE_DATA"])
    table = open_data(DataSettings(source=f"table:{folder}", labels=str(folder / "lfw.csv"), split="val"))
    people = np.array([record.identity for record in table])
    rows = np.sort(np.unique(people, return_index=True)[1])
    spread = rows[:: max(1, len(rows) // count)][:count]
    return to_unit(load_aligned(table.take(spread), mode="landmarks", size=112).pixels)


def _protected(model: str, faces: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name, way in WAYS.items():
        if way.get("device") == "cuda" and not torch.cuda.is_available():
            continue
        yield name, to_pixels(load_protector(model, **way)(faces))


def _pairs(units: NDArray[np.float32]) -> NDArray[np.float32]:
    return (units @ units.T)[np.triu_indices(len(units), 1)]


if __name__ == "__main__":
    main()
