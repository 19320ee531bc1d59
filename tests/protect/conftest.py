"""Generated faces on disk, and what the tests of a job share. Pictures are smooth random patches: no photo of a person is needed."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from privface.faces.detect import Detection
from privface.protect import (
    GaussianBlur,
    ManifestRow,
    ProtectOptions,
    ProtectSummary,
    protect_folder,
    read_manifest,
)
from privface.protect.baselines import Baseline

SIZE = 32
BLUR = GaussianBlur(sigma=2.0, size=SIZE)
FACE = Detection(
    (4.0, 8.0, 36.0, 48.0), 0.9, ((12.0, 20.0), (28.0, 20.0), (20.0, 29.0), (13.0, 37.0), (27.0, 37.0))
)
"""A face in the upper left of a photo."""


def patch(seed: int, size: int = 48) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).random((6, 6, 3))
    smooth = np.clip(zoom(coarse, (size / 6, size / 6, 1), order=1), 0, 1)
    return np.rint(smooth * 255).astype(np.uint8)


@pytest.fixture
def faces(tmp_path):
    """Eleven readable aligned faces in two folders and two formats."""
    root = tmp_path / "in"
    for index in range(11):
        suffix = ".png" if index % 3 == 0 else ".jpg"
        path = root / f"person{index % 2}" / f"face{index:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch(index)).save(path)
    return root


class Finder:
    """A detector that finds what a function sees in a photo, and notes the shapes of the photos of each batch."""

    fingerprint = "finder"

    def __init__(self, look: Callable[[NDArray[np.uint8]], list[Detection]]) -> None:
        self.look, self.batches = look, list[list[tuple[int, ...]]]()

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        self.batches.append([image.shape for image in images])
        return [self.look(image) for image in images]


def some(image: NDArray[np.uint8]) -> list[Detection]:
    """One to three faces, as many as the photo's upper left value says; the central one is in the middle."""
    points = ((18.0, 20.0), (30.0, 20.0), (24.0, 26.0), (19.0, 32.0), (29.0, 32.0))
    shifts = (8.0, 0.0, -8.0)[: 1 + int(image[0, 0, 0]) % 3]
    return [Detection((12 + s, 12, 36 + s, 36), 0.9, tuple((x + s, y) for x, y in points)) for s in shifts]


@pytest.fixture
def crowd():
    return Finder(some)


@pytest.fixture
def groups(tmp_path):
    """Nine photos of one, two and three faces in turn, as ``crowd`` finds them."""
    root = tmp_path / "groups"
    for index in range(9):
        photo = patch(index)
        photo[0, 0, 0] = index
        path = root / f"day{index % 2}" / f"photo{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    return root


@pytest.fixture
def protect(tmp_path):
    """A job into ``out`` below ``tmp_path``: aligned faces, or detected ones where there is a detector, are blurred."""

    def run(source, out="out", protector=BLUR, **options):
        parts = {name: options.pop(name, None) for name in ("detector", "templates", "engine", "progress")}
        options = ProtectOptions(**{"faces": "detect" if parts["detector"] else "aligned", **options})
        return protect_folder(source, tmp_path / out, protector, options, **parts)

    return run


def rows(summary: ProtectSummary) -> dict[str, ManifestRow]:
    """The manifest of a job, by input; of several faces the last."""
    return {row.input: row for row in read_manifest(summary.manifest)}


class Watched:
    """A protector that counts its calls and does something before one of them."""

    def __init__(
        self, act: Callable[[], object] = lambda: None, *, before_call: int = 0, protector: Baseline = BLUR
    ) -> None:
        self.calls, self.act, self.before_call, self.protector = 0, act, before_call, protector
        self.size, self.fingerprint = protector.size, protector.fingerprint

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.calls == self.before_call:
            self.act()
        self.calls += 1
        return self.protector(images)


@dataclass(frozen=True)
class Answering:
    """A protector that answers with a function of its input."""

    answer: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    size: int = SIZE
    fingerprint: str = "answering"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.answer(images)


def snapshot(root: Path) -> dict[str, str]:
    """Digests of all visible files below a root, by relative path."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def images(root: Path) -> dict[str, bytes]:
    """What a job wrote, by the manifest's name without the shard; a name that comes twice fails."""
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() or path.name.startswith((".", "manifest", "embeddings")):
            continue
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                part = {m.name: tar.extractfile(m).read() for m in tar}
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            part = dict(zip(table["file"].to_pylist(), table["image"].to_pylist(), strict=True))
        else:
            part = {path.relative_to(root).as_posix(): path.read_bytes()}
        assert not part.keys() & found.keys()
        found |= part
    return found
