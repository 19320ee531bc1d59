import time
from pathlib import Path

import numpy as np
import pytest

from privface.data import LoadedFaces, load_faces
from privface.errors import DataError, ImageError, MissingExtraError
from privface.images import encode_image
from privface.records import FaceRecord, FaceTable, Reject


def faces(root: Path, count: int = 12) -> FaceTable:
    records = []
    for i in range(count):
        path = root / f"{i}.png"
        path.write_bytes(encode_image(np.full((6, 6, 3), 10 * i, np.uint8), ".png"))
        records.append(FaceRecord(f"{i}.png", path))
    return FaceTable(tuple(records), (Reject("before.png", "missing file"),))


def crop(pixels: np.ndarray, record: FaceRecord) -> np.ndarray:
    if record.file == "7.png":
        raise ImageError("no face found.", hint="Look closer.")
    time.sleep(0.01 if record.file == "0.png" else 0)  # the first one ends late
    return pixels[:4, :4]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_and_rejects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("privface.data.dataset.thread_count", lambda: threads)
    table = faces(tmp_path)
    (tmp_path / "3.png").write_bytes(b"not an image")
    (tmp_path / "5.png").unlink()
    seen: list[tuple[int, int]] = []
    loaded = load_faces(table, crop, progress=lambda done, total: seen.append((done, total)))
    kept = [i for i in range(12) if i not in {3, 5, 7}]
    assert loaded.table.files == [f"{i}.png" for i in kept]
    assert loaded.pixels.shape == (9, 4, 4, 3)
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels[:, 0, 0, 0].tolist() == [10 * i for i in kept]
    assert [r.file for r in loaded.table.rejects] == ["before.png", "3.png", "5.png", "7.png"]
    assert loaded.table.rejects[3].reason == "no face found."
    assert seen == [(i, 12) for i in range(1, 13)]


def test_take(tmp_path: Path) -> None:
    loaded = load_faces(faces(tmp_path, 4), lambda pixels, _: pixels)
    part = loaded.take(np.array([3, 1]))
    assert part.table.files == ["3.png", "1.png"]
    assert part.pixels[:, 0, 0, 0].tolist() == [30, 10]
    with pytest.raises(DataError, match="1 images for 4 records"):
        LoadedFaces(loaded.pixels[:1], loaded.table)


def test_load_faces_refuses(tmp_path: Path) -> None:
    table = faces(tmp_path)

    def never(pixels: np.ndarray, record: FaceRecord) -> np.ndarray:
        raise ImageError("no face found.")

    with pytest.raises(DataError, match=r"None of the 12 photos .* 0\.png: no face found"):
        load_faces(table, never)
    with pytest.raises(DataError, match="expected uint8"):
        load_faces(table, lambda pixels, _: pixels.astype(np.float32))
    with pytest.raises(DataError, match=r"1\.png: prepared to uint8 \(5, 5, 3\)"):
        load_faces(table, lambda pixels, record: pixels[:5, :5] if record.file == "1.png" else pixels)
    with pytest.raises(DataError, match="None of the 0 photos"):
        load_faces(FaceTable(()), crop)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), MissingExtraError("no detector", hint="pip install it")]
)
def test_what_is_no_photos_fault_is_not_swallowed(tmp_path: Path, error: Exception) -> None:
    def broken(pixels: np.ndarray, record: FaceRecord) -> np.ndarray:
        raise error

    with pytest.raises(type(error)):
        load_faces(faces(tmp_path), broken)
