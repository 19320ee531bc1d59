"""The protections that experiment 02 compares, each as pixels of the audited photos, and what it audits them with.

Experiment 03 audits the same photos with the same models.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privface.audit.result import read_figure
from privface.config import DataSettings
from privface.data import LoadedFaces
from privface.data.splits import person_bucket
from privface.images import to_pixels, to_unit, write_atomic
from privface.models import GenderProbe, Matcher, Protector, load_gender_probe, load_matcher
from privface.pipeline import load_aligned, open_data
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
from privface.records import Measured

METHODS = ("none", "blur", "pixelation", "noise", "jpeg-10", "down-up", "pgd", "k-same", "san")
"""Image methods, in the order of the table. LEACE works on embeddings and is audited apart."""

Gallery = tuple[NDArray[np.uint8], NDArray[np.str_]]
Progress = Callable[[str, int, int], None]


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
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """The audited photos protected by one method, rounded to 8 bits as a file would be; kept in ``out``."""
    path = out / "pixels" / f"{name}.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    method = protector(name, run, gallery)
    if method is None:
        return pixels
    return kept_pixels(path, lambda images, _: method(images), pixels, title=name, progress=progress)


def kept_pixels(
    path: Path,
    method: Callable[[NDArray[np.float32], slice], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    *,
    title: str,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Photos protected by ``method(images, rows)`` and rounded to 8 bits; taken from ``path`` if it is there."""
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    after = np.empty_like(pixels)
    for start in range(0, len(pixels), 64):
        part = slice(start, start + 64)
        after[part] = to_pixels(method(to_unit(pixels[part]), part))
        if progress is not None:
            progress(f"protect with {title}", min(start + 64, len(pixels)), len(pixels))
    buffer = io.BytesIO()
    np.save(buffer, after)
    write_atomic(path, buffer.getvalue())
    return after


def label_budgets(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], dict[int, Measured]]]:
    """Each learning curve of an audit, and what its attacker reads by the labelled people that he knows."""
    for curve in document["learning_curve"]:
        who = {key: curve[key] for key in ("probe", "input")}
        rows = [row for row in document["label_budget"] if who.items() <= row.items()]
        yield curve, {row["people"]: read_figure(row["leakage"]) for row in rows}


def write_halves(labels: Path, path: Path, *, seed: int = 0) -> None:
    """Copy LFW's labels, one half of the people of split ``train`` moved to ``attackers``; another seed gives other halves."""
    frame = pd.read_csv(labels, dtype=str, keep_default_na=False)
    salt = f"own people{seed or ''}"
    moved = np.array([person_bucket(name, salt=salt) < 0.5 for name in frame["identity"]])
    frame.loc[moved & (frame["split"] == "train"), "split"] = "attackers"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, frame.to_csv(index=False).encode())


def lfw_faces(
    split: str, *, progress: Progress, one_each: bool = False, labels: Path | None = None
) -> LoadedFaces:
    """Aligned LFW photos of a split; with ``one_each`` the first photo of each person, with ``labels`` by others than LFW's own."""
    data = data_folder()
    table = open_data(
        DataSettings(source=f"table:{data}", labels=str(labels or data / "lfw.csv"), split=split)
    )
    if one_each:
        _, first = np.unique(table.identities, return_index=True)
        table = table.take(np.sort(first))
    return load_aligned(table, mode="landmarks", size=112, progress=progress, stage=f"align {split}")


def load_models(run: Path, met: Collection[object] = ()) -> tuple[list[Matcher], list[GenderProbe]]:
    """Matchers and frozen probes of every audit, those that a method has met marked as seen.

    Args:
        run: Run folder of experiment 01.
        met: Letters of matchers, and folders of classifiers below ``run``.
    """
    folder = Path(os.environ["PRIVFACE_MODELS"])
    sidecar = Path(__file__).parent.parent / "01_san_on_lfw" / "gender_tinyxception.yaml"
    matchers = [
        load_matcher(f"onnx:{folder}/matcher_mobilefacenet_{letter}.onnx", seen=letter in met)
        for letter in "ab"
    ]
    probes = [load_gender_probe(f"onnx:{folder}/gender_tinyxception.onnx@{sidecar}", seen=False)]
    probes += [load_gender_probe(f"mini:{path}", seen=path in met) for path in own_classifiers(run)]
    return matchers, probes


def data_folder() -> Path:
    """Where the photos are."""
    return Path(os.environ["PRIVFACE_DATA"])
