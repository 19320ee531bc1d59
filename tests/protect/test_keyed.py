"""Protectors that ask which photo a face comes from: every face its own photo's key, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privface.faces.detect import Detection
from privface.images import decode_image
from privface.protect import ProtectOptions, protect_folder, read_manifest
from privface.records import Landmarks

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

SIZE = 32
POINTS: Landmarks = ((12.0, 20.0), (28.0, 20.0), (20.0, 29.0), (13.0, 37.0), (27.0, 37.0))


class Shades:
    """Paints a face in the shade that a table has for its photo."""

    needs_keys = True
    fingerprint = "shades/1"
    size = SIZE

    def __init__(self, shades: dict[str, float]) -> None:
        self.shades, self.asked = shades, list[int]()

    def lacks(self, key: str) -> str | None:
        return None if key in self.shades else "no shade for it"

    def __call__(self, images: NDArray[np.float32], keys: Sequence[str] | None = None) -> NDArray[np.float32]:
        assert keys is not None
        self.asked.append(len(keys))
        return np.stack([np.full_like(x, self.shades[k]) for x, k in zip(images, keys, strict=True)])


def keys_of(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_every_face_gets_the_label_of_its_own_photo(faces, tmp_path, batch_size):
    keys = keys_of(faces)
    shades = {key: (20 * k + 5) / 255 for k, key in enumerate(keys)}
    del shades[keys[3]]
    protector = Shades(shades)
    summary = protect_folder(
        faces, tmp_path / "out", protector, aligned(batch_size=batch_size, image_format="png")
    )
    assert (summary.counts["ok"], summary.counts["failed"]) == (10, 1)
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert (rows[keys[3]].status, rows[keys[3]].reason) == ("failed", "no shade for it")
    assert rows[keys[3]].output is None
    for key, shade in shades.items():
        written = decode_image(tmp_path / "out" / Path(key).with_suffix(".png"))
        np.testing.assert_array_equal(written, np.full((SIZE, SIZE, 3), round(shade * 255), np.uint8))
    assert set(protector.asked) == {min(batch_size, 11)}, "batches have one shape, filling included"


class Faces:
    """As many faces in every photo."""

    def __init__(self, count: int) -> None:
        self._found = [Detection((4.0 + 3 * k, 8.0, 36.0, 44.0), 0.9, POINTS) for k in range(count)]

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        return [self._found for _ in images]


def test_one_label_does_not_serve_two_faces(faces, tmp_path):
    protector = Shades(dict.fromkeys(keys_of(faces), 0.25))
    one = protect_folder(
        faces, tmp_path / "one", protector, ProtectOptions(faces="detect"), detector=Faces(1)
    )
    assert one.counts["ok"] == 11
    two = protect_folder(
        faces, tmp_path / "two", protector, ProtectOptions(faces="detect"), detector=Faces(2)
    )
    assert two.counts["failed"] == 11
    assert "2 faces, and the one label" in str(read_manifest(two.manifest)[0].reason)


def test_a_video_has_no_label(faces, tmp_path):
    (faces / "clip.mp4").write_bytes(b"never read")
    protector = Shades(dict.fromkeys(keys_of(faces), 0.25))
    summary = protect_folder(
        faces,
        tmp_path / "out",
        protector,
        ProtectOptions(faces="detect", videos=True, paste=True),
        detector=Faces(1),
    )
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert "a video has no label of its own" in str(rows["clip.mp4"].reason)
    assert summary.counts["ok"] == 11
