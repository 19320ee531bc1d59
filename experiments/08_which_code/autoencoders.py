"""The family's autoencoders of this experiment, and the codes that they make of all photos. Both stay in runs/08."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from attackers import READ, Progress, in_parts, prepare
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from privface.images import to_pixels, to_unit
from privface.models import Autoencoder, load_matcher, save_network, variant
from privface.training import RESUME_FILE, ArraySource, FitSettings, train_autoencoder

FOLDER = Path("runs/08")
SIDE, CODE = 64, 256

KINDS = {
    "linear": variant("linear", code=CODE),
    "fully-connected": variant("fully-connected", code=CODE, hidden=(512,)),
    "convolutional": variant("convolutional", code=CODE, depth=4),
    "dropout": variant("dropout", code=CODE, depth=4),
    "denoising": variant("convolutional", code=CODE, depth=4, corruption="gaussian", level=0.15, spread=0.7),
    "sparse": variant("sparse", code=CODE, depth=4),
    "variational": variant("variational", code=CODE, depth=4),
}


def folder(kind: str) -> Path:
    """Where an autoencoder lies."""
    return FOLDER / "models" / kind


def train(kind: str, progress: Progress) -> None:
    """One pass over all photos of the split `train`; goes on where it was stopped, and is done once."""
    if (folder(kind) / "model.safetensors").is_file():
        return
    torch.manual_seed(0)
    network, photos = Autoencoder(KINDS[kind]), _photos(progress)
    settings = FitSettings(epochs=1, batch_size=64, penalty=network.code.weight)
    if kind == "linear":
        _solve(network, photos)
    else:
        checkpoint = folder(kind) / RESUME_FILE
        with torch.autocast("cpu", torch.bfloat16):
            train_autoencoder(
                network,
                ArraySource(photos),
                settings,
                progress=lambda done, steps, _: progress(f"train {kind}", done, steps),
                checkpoint=checkpoint,
                resume=checkpoint.is_file(),
            )
    save_network(folder(kind), network, kind=network.kind, meta={"size": SIDE, "images": len(photos)})


def codes(kind: str, name: str, progress: Progress) -> NDArray[np.float32]:
    """The codes of all photos of a set; computed at the first call, anew for another network."""
    matcher = load_matcher(f"autoencoder:{folder(kind)}")
    path = FOLDER / "codes" / f"{name}_{kind}-{matcher.fingerprint[:8]}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = in_parts(matcher.embed, prepare(name, progress)[0], f"{kind} on {name}", progress)
        np.save(path.with_suffix(".part.npy"), found)
        path.with_suffix(".part.npy").replace(path)
    return np.asarray(np.load(path))


def error(kind: str, progress: Progress) -> float:
    """Root mean squared error of the reproduction of LFW `val`, in grey levels."""
    from privface.pipeline.autoencoders import load_autoencoder

    network, (pixels, people) = load_autoencoder(folder(kind)), prepare("lfw", progress)
    total, rows = 0.0, np.flatnonzero(people["read"])
    with torch.inference_mode():
        for part in np.array_split(rows, len(rows) // 64):
            images = _small(pixels[part])
            total += float((network(images).clamp(0, 1) - images).square().mean()) * len(part)
    return 255.0 * (total / len(rows)) ** 0.5


def _photos(progress: Progress) -> NDArray[np.uint8]:
    """Faces of the split `train` of all sets, ``(N, SIDE, SIDE, 3)``."""
    found = []
    for name in READ:
        pixels, people = prepare(name, progress)
        rows = np.flatnonzero(people["learn"])
        parts = np.array_split(rows, len(rows) // 256)
        found += [to_pixels(_small(pixels[part]).numpy()) for part in parts]
    return np.concatenate(found)


def _small(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """As a network is shown photos of another size."""
    images = torch.from_numpy(to_unit(np.asarray(pixels)))
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)


def _solve(network: Autoencoder, photos: NDArray[np.uint8]) -> None:
    """Give a linear autoencoder the principal components themselves: what training finds (experiment 10), without its wait."""
    flat = photos.transpose(0, 3, 1, 2).reshape(len(photos), -1)[::2].astype(np.float32) / 255
    pca = PCA(CODE, svd_solver="randomized", random_state=0).fit(flat)
    axes, mean = (torch.from_numpy(np.asarray(a, np.float32)) for a in (pca.components_, pca.mean_))
    there, back = network.encoder[1], network.decoder[0]
    values = {"weight": axes, "bias": -axes @ mean}, {"weight": axes.T.contiguous(), "bias": mean}
    for layer, state in zip((there, back), values, strict=True):
        layer.load_state_dict(state)
    network.eval()
