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
SIDE, CODE = 32, 256
SHAPE = (3, SIDE, SIDE)

KINDS = {
    "linear": variant("linear", code=CODE, shape=SHAPE),
    "fully-connected": variant("fully-connected", code=CODE, shape=SHAPE, hidden=(512,)),
    "convolutional": variant("convolutional", code=CODE, shape=SHAPE),
    "dropout": variant("dropout", code=CODE, shape=SHAPE),
    "denoising": variant(
        "convolutional", code=CODE, shape=SHAPE, corruption="gaussian", level=0.15, spread=0.7
    ),
    "sparse": variant("sparse", code=CODE, shape=SHAPE),
    "variational": variant("variational", code=CODE, shape=SHAPE),
}


def folder(kind: str) -> Path:
    """Where an autoencoder lies."""
    return FOLDER / "models" / kind


def train(kind: str, progress: Progress) -> None:
    """Two passes over all photos of the split `train`; goes on where it was stopped, and is done once."""
    if (folder(kind) / "model.safetensors").is_file():
        return
    torch.manual_seed(0)
    network, photos = Autoencoder(KINDS[kind]), _photos(progress)
    settings = FitSettings(epochs=2, batch_size=64, penalty=network.code.weight)
    if kind == "linear":
        _solve(network, photos)
    else:
        checkpoint = folder(kind) / RESUME_FILE
        # without the cache: it would keep the weights of the first step
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            train_autoencoder(
                network,
                ArraySource(photos),
                settings,
                progress=lambda done, steps, loss: progress(f"train {kind} (loss {loss:.4f})", done, steps),
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
        found = in_parts(matcher.embed, small(name, progress), f"{kind} on {name}", progress)
        np.save(path.with_suffix(".part.npy"), found)
        path.with_suffix(".part.npy").replace(path)
    return np.asarray(np.load(path))


def error(kind: str, progress: Progress) -> float:
    """Root mean squared error of the reproduction of LFW `val`, in grey levels."""
    from privface.pipeline.autoencoders import load_autoencoder

    network, photos = load_autoencoder(folder(kind)), small("lfw", progress)
    total, rows = 0.0, np.flatnonzero(prepare("lfw", progress)[1]["read"])
    with torch.inference_mode():
        for part in np.array_split(rows, len(rows) // 64):
            images = torch.from_numpy(to_unit(photos[part]))
            total += float((network(images).clamp(0, 1) - images).square().mean()) * len(part)
    return 255.0 * (total / len(rows)) ** 0.5


def small(name: str, progress: Progress) -> NDArray[np.uint8]:
    """All photos of a set as networks are shown them, ``(N, SIDE, SIDE, 3)``."""
    path = FOLDER / f"{name}_{SIDE}.npy"
    if not path.is_file():

        def shrink(images: NDArray[np.float32]) -> NDArray[np.uint8]:
            options = {"mode": "bilinear", "align_corners": False, "antialias": True}
            return to_pixels(F.interpolate(torch.from_numpy(images), (SIDE, SIDE), **options).numpy())

        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, in_parts(shrink, prepare(name, progress)[0], f"shrink {name}", progress))
    return np.asarray(np.load(path))


def _photos(progress: Progress) -> NDArray[np.uint8]:
    """Faces of the split `train` of all sets."""
    return np.concatenate([small(name, progress)[prepare(name, progress)[1]["learn"]] for name in READ])


def _solve(network: Autoencoder, photos: NDArray[np.uint8]) -> None:
    """Give a linear autoencoder the principal components themselves: what training finds (experiment 10), without its wait."""
    flat = photos.transpose(0, 3, 1, 2).reshape(len(photos), -1).astype(np.float32) / 255
    pca = PCA(CODE, svd_solver="randomized", random_state=0).fit(flat)
    axes, mean = (torch.from_numpy(np.asarray(a, np.float32)) for a in (pca.components_, pca.mean_))
    there, back = network.encoder[1], network.decoder[0]
    values = {"weight": axes, "bias": -axes @ mean}, {"weight": axes.T.contiguous(), "bias": mean}
    for layer, state in zip((there, back), values, strict=True):
        layer.load_state_dict(state)
    network.eval()
