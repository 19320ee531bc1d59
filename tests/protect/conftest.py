"""Generated faces on disk: smooth random patches, so that no photo of a person is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from privface.faces.detect import Detection

SIZE = 32


def patch(seed: int, size: int = 48) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).random((6, 6, 3))
    smooth = np.clip(zoom(coarse, (size / 6, size / 6, 1), order=1), 0, 1)
    return np.rint(smooth * 255).astype(np.uint8)


@pytest.fixture
def make_patch():
    return patch


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


class Crowd:
    """Finds one to three faces, as many as the photo's upper left value says; the central one is in the middle."""

    fingerprint = "crowd"

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        points = ((18.0, 20.0), (30.0, 20.0), (24.0, 26.0), (19.0, 32.0), (29.0, 32.0))
        found = []
        for image in images:
            shifts = (8.0, 0.0, -8.0)[: 1 + int(image[0, 0, 0]) % 3]
            found.append(
                [
                    Detection((12 + s, 12, 36 + s, 36), 0.9, tuple((x + s, y) for x, y in points))
                    for s in shifts
                ]
            )
        return found


@pytest.fixture
def crowd():
    return Crowd()


@pytest.fixture
def groups(tmp_path):
    """Nine photos of one, two and three faces in turn, as :class:`Crowd` finds them."""
    root = tmp_path / "groups"
    for index in range(9):
        photo = patch(index)
        photo[0, 0, 0] = index
        path = root / f"day{index % 2}" / f"photo{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    return root


@pytest.fixture
def snapshot():
    """Digests of all visible files below a root, by relative path."""

    def take(root: Path) -> dict[str, str]:
        files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return take
