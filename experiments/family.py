"""What the experiments on autoencoders (10 to 19) share: data, training, results, figures."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


FOLDERS = sorted(path for path in Path(__file__).parent.glob("1[0-9]_*") if path.is_dir())


def table() -> str:
    """What every experiment claims and found, from its committed result."""
    lines = ["| experiment | claim | found | verdict | seconds |", "| --- | --- | --- | --- | --- |"]
    for folder in FOLDERS:
        result = json.loads((folder / "results" / "result.json").read_text())
        verdict = {True: "holds", False: "**does not hold**", None: "reported"}[result["holds"]]
        pictures = sorted(path.name for path in (folder / "results").glob("*.png"))
        shown = " ".join(f"[picture]({folder.name}/results/{name})" for name in pictures)
        claim = result["claim"] or "nothing is claimed, all are reported"
        lines.append(
            f"| `{folder.name}` {shown} | {claim} | {FOUND[folder.name](result)} | {verdict} | {result['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _gains(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{level}: " + ", ".join(f"{noise} {row['autoencoder']:+.1f} ({row['spectral subtraction']:+.1f})" for noise, row in rows.items())
        for level, rows in result["si_sdr_gain_db"].items()
    )  # fmt: skip


def _understood(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{level}: " + ", ".join(f"{noise} {row['autoencoder']:.2f} ({row['noisy']:.2f}, {row['spectral subtraction']:.2f})" for noise, row in rows.items())
        for level, rows in result["stoi"].items()
    )  # fmt: skip


def _decibels(result: dict[str, Any]) -> str:
    return "; ".join(
        f"{title} at {level}: {row['noisy']:.1f} to {row['autoencoder']:.1f} dB (Gaussian {row['gaussian filter']:.1f}, median"
        f" {row['median filter']:.1f}, total variation {row['total variation']:.1f}, non-local means {row['non-local means']:.1f})"
        for title, levels in result["psnr"].items()
        for level, row in levels.items()
    )


FOUND: dict[str, Callable[[dict[str, Any]], str]] = {
    "10_linear_is_pca": lambda r: (
        f"error {r['excess']:+.3%} of PCA's, angle {r['angle_degrees']:.1f} degrees"
    ),
    "11_deep_beats_pca": lambda r: (
        "error as a share of PCA's: "
        + ", ".join(f"{row['ratio']:.2f} (code {code})" for code, row in r["codes"].items())
    ),
    "12_code_as_features": lambda r: (
        "accuracy of a random forest: "
        + ", ".join(f"{name} {row['accuracy']:.1%}" for name, row in r["features"].items())
    ),
    "13_upsampling": lambda r: (
        f"{r['sizes_right']} of {r['sizes_right'] + r['sizes_wrong']} sizes right; energy at the highest frequencies, trained (untrained): "
        + ", ".join(
            f"{name} {row['trained']:.1e}" + (f" ({row['untrained']:.1e})" if "untrained" in row else "")
            for name, row in r["share_of_energy_at_the_highest_frequencies"].items()
        )
    ),
    "14_dropout": lambda r: (
        f"rises {r['dropout']['rise']:.4f} against {r['plain']['rise']:.4f}: {r['ratio_of_rises']:.2f} of it; whole codes: {r['dropout']['mse']:.4f} against {r['plain']['mse']:.4f}"
    ),
    "15_denoising_images": _decibels,
    "16_denoising_speech": lambda r: (
        f"SI-SDR gain in dB (spectral subtraction): {_gains(r)}; STOI (noisy, spectral subtraction): {_understood(r)}"
    ),
    "17_sparse": lambda r: (
        f"{r['penalties'][str(r['chosen_penalty'])]['zeros']:.1%} zeros, error {r['penalties'][str(r['chosen_penalty'])]['excess']:+.1%}, code 256"
    ),
    "18_variational": lambda r: (
        f"{r['divergence_nats']:.3f} against {r['monte_carlo']:.3f} nats; means to {r['largest_mean']:.3f}, variances {r['variance'][0]:.2f} to {r['variance'][1]:.2f}; drawn digits are told from real ones with {r['two_sample_accuracy']:.1%}"
    ),
    "19_colourising": lambda r: (
        f"{r['gain']:.1%} lower ({r['gain_over_one_average_colour']:.1%} below one average colour for all); saturation {r['saturation_ratio']:.2f} of the photos'"
    ),
}
"""What each result says, in a line."""


def main() -> None:
    """Print the table, or run all experiments two at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="run experiments 10 to 19, two at a time, first")
    if parser.parse_args().all:
        start = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(
                lambda folder: subprocess.run(
                    [sys.executable, str(folder / "run.py")],
                    env=environment,
                    check=True,
                    stdout=subprocess.DEVNULL,
                ),
                sorted(FOLDERS, key=lambda folder: folder.name[:2] not in ("15", "16")),  # the longest first
            ):
                pass
        print(f"{time.perf_counter() - start:.0f} s\n")
    print(table())


if __name__ == "__main__":
    main()
