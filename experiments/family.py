"""What the experiments on autoencoders (10 to 19) share: data, training, results, figures."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.models import Autoencoder, AutoencoderConfig
from privface.training import FitSettings, UnitSource, train_autoencoder

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """Images to learn from, to choose the epoch by, and to judge by; float32 ``(N, C, H, W)`` in [0, 1]."""

    name: str
    train: Images
    val: Images
    test: Images


def digits() -> Parts:
    """Scikit-learn's handwritten digits, 8 x 8: 1,000 to learn from, 200 to choose by, 597 to judge by."""
    images = (load_digits().images[:, None] / 16.0).astype(np.float32)
    images = images[np.random.default_rng(0).permutation(len(images))]
    return Parts("digits", images[:1000], images[1000:1200], images[1200:])


def digit_labels() -> NDArray[np.int64]:
    """Which digits :func:`digits` shows, in the order train, val, test."""
    return load_digits().target[np.random.default_rng(0).permutation(1797)]


def faces(*, side: int, count: int = 2400) -> Parts:
    """Aligned LFW photos of disjoint people where PRIVFACE_DATA is set, else generated faces."""
    if "PRIVFACE_DATA" not in os.environ:
        return generated(side=side, count=count)
    from privface.config import DataSettings
    from privface.pipeline import load_aligned, open_data

    folder = Path(os.environ["PRIVFACE_DATA"])
    parts = []
    for split, rows in (("train", count + 300), ("val", 400)):
        table = open_data(DataSettings(source=f"table:{folder}", labels=str(folder / "lfw.csv"), split=split))
        # rows are sorted by person, so a cut between two people keeps them apart
        table = table.take(np.arange(rows))
        parts.append(shrink(load_aligned(table, mode="landmarks", size=112).pixels, side))
    return Parts("LFW", parts[0][:count], parts[0][count:], parts[1])


def generated(*, side: int, count: int = 2400) -> Parts:
    """Drawn faces of disjoint people who do not exist."""
    from privface.data import generate_faces

    drawn = generate_faces(people=(count + 700) // 4 + 1, photos_per_person=4, seed=11).pixels
    images = shrink(drawn, side)
    return Parts("generated faces", images[:count], images[count : count + 300], images[count + 300 :][:400])


def shrink(pixels: NDArray[np.uint8], side: int) -> Images:
    """uint8 ``(N, H, W, 3)`` to float32 ``(N, 3, side, side)``."""
    return to_unit(np.stack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pixels]))


def fit(config: AutoencoderConfig, parts: Parts, settings: FitSettings) -> Autoencoder:
    """A network trained from a fixed seed."""
    torch.manual_seed(settings.seed)
    network = Autoencoder(config)
    train_autoencoder(network, UnitSource(parts.train), settings, validation=UnitSource(parts.val))
    return network


def reproduce(network: Autoencoder, images: Images) -> Images:
    """The network's output for all images, batch by batch."""
    with torch.inference_mode():
        return np.concatenate(
            [network(torch.from_numpy(images[k : k + 64])).numpy() for k in range(0, len(images), 64)]
        )


def codes(network: Autoencoder, images: Images) -> Images:
    """Codes of all images, ``(N, code)``."""
    with torch.inference_mode():
        return network.encode(torch.from_numpy(images)).flatten(1).numpy()


def mse(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in dB, mean over images."""
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)), axis=(1, 2, 3))
    return float(np.mean(-10.0 * np.log10(np.maximum(error, 1e-10))))


def sheet(path: Path, rows: list[Images], *, enlarge: int = 1) -> None:
    """Rows of images as one PNG: the first row on top, image by image below each other."""
    lines = []
    for images in rows:
        pixels = to_pixels(np.clip(np.broadcast_to(images, (len(images), 3, *images.shape[2:])), 0, 1))
        pixels = pixels.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
        framed = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
        lines.append(np.concatenate(list(framed), axis=1))
    write_atomic(path, encode_image(np.concatenate(lines), ".png"))


def run(script: str, description: str | None, work: Callable[[Path], dict[str, Any]]) -> None:
    """Do the work in one process-wide setting and write results/result.json with its seconds and threads."""
    argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    folder = Path(script).parent / "results"
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    start = time.perf_counter()
    found = work(folder)
    found = {**found, "seconds": round(time.perf_counter() - start, 1), "threads": torch.get_num_threads()}
    text = json.dumps(rounded(found), indent=1)
    (folder / "result.json").write_text(text + "\n")
    print(text)


def rounded(value: Any) -> Any:
    """Floats to five significant digits, so that a rerun does not change the file for nothing."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.5g}")
    return value
