"""The protections that experiment 02 compares, each as pixels of the audited photos."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privface.images import to_pixels, to_unit, write_atomic
from privface.models import Protector, load_gender_probe
from privface.protect import (
    DownUpSample,
    GaussianBlur,
    GaussianNoise,
    ImageProtector,
    JPEGCompression,
    KSameAverage,
    Pixelate,
)
from privface.protect.adversarial import ProjectedGradient

METHODS = ("none", "blur", "pixelation", "noise", "jpeg-10", "down-up", "pgd", "k-same", "san")
"""Image methods, in the order of the table. LEACE works on embeddings and is audited apart."""

Gallery = tuple[NDArray[np.uint8], NDArray[np.str_]]


def protector(name: str, run: Path, gallery: Callable[[], Gallery]) -> ImageProtector | None:
    """A method by name; ``None`` leaves photos as they are.

    Args:
        name: One of :data:`METHODS`.
        run: Run folder of experiment 01: its protector is ``san``, its first classifier is what ``pgd`` fools.
        gallery: Faces and names of training people, for ``k-same``.
    """
    if name == "k-same":
        return KSameAverage(*gallery(), k=4)
    simple: dict[str, Callable[[], ImageProtector | None]] = {
        "none": lambda: None,
        "blur": lambda: GaussianBlur(sigma=3.0),
        "pixelation": lambda: Pixelate(cells=16),
        "noise": lambda: GaussianNoise(sigma=0.2),
        "jpeg-10": lambda: JPEGCompression(quality=10),
        "down-up": lambda: DownUpSample(side=24),
        "pgd": lambda: ProjectedGradient(
            load_gender_probe(f"mini:{own_classifiers(run)[0]}"), epsilon=8 / 255
        ),
        "san": lambda: Protector.load(run),
    }
    return simple[name]()


def own_classifiers(run: Path) -> list[Path]:
    """The gender classifiers that experiment 01 trained against."""
    return sorted((run / "classifiers").iterdir())


def protected_pixels(
    name: str,
    pixels: NDArray[np.uint8],
    *,
    run: Path,
    out: Path,
    gallery: Callable[[], Gallery],
    progress: Callable[[str, int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """The audited photos protected by one method, rounded to 8 bits as a file would be; kept in ``out``."""
    path = out / "pixels" / f"{name}.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    method = protector(name, run, gallery)
    if method is None:
        return pixels
    after = np.empty_like(pixels)
    for start in range(0, len(pixels), 64):
        part = slice(start, start + 64)
        after[part] = to_pixels(method(to_unit(pixels[part])))
        if progress is not None:
            progress(f"protect with {name}", min(start + 64, len(pixels)), len(pixels))
    import io

    buffer = io.BytesIO()
    np.save(buffer, after)
    write_atomic(path, buffer.getvalue())
    return after


def data_folder() -> Path:
    """Where the photos are."""
    return Path(os.environ["PRIVFACE_DATA"])
