"""Generated faces on disk: smooth random patches, so that no photo of a person is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

SIZE = 32


def patch(seed: int, size: int = 48) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).random((6, 6, 3))
    smooth = np.clip(zoom(coarse, (size / 6, size / 6, 1), order=1), 0, 1)
    return np.rint(smooth * 255).astype(np.uint8)


@pytest.fixture
def make_patch() -> Callable[[int], NDArray[np.uint8]]:
    return patch


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Eleven readable aligned faces in two folders and two formats."""
    root = tmp_path / "in"
    for index in range(11):
        suffix = ".png" if index % 3 == 0 else ".jpg"
        path = root / f"person{index % 2}" / f"face{index:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch(index)).save(path)
    return root


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Digests of all visible files below a root, by relative path."""

    def take(root: Path) -> dict[str, str]:
        files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return take
