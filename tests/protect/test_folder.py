"""The folder job: what is written, what is refused, and that nothing of an original gets through."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from privface.errors import DataError, ModelError, OutputError
from privface.faces.align import as_aligned
from privface.images import decode_image, encode_image, to_pixels, to_unit
from privface.protect import STATUSES, GaussianNoise, read_manifest, work
from tests.protect.conftest import BLUR, SIZE, Answering, patch, rows, snapshot
from tests.test_images import with_secrets


def test_same_tree_exactly_the_protected_pixels_and_their_sizes(faces, tmp_path, protect):
    out = tmp_path / "out"
    summary = protect(faces, batch_size=4)
    rows = read_manifest(summary.manifest)
    assert [row.input for row in rows] == sorted(p.relative_to(faces).as_posix() for p in faces.rglob("*.*"))
    assert summary.counts == {**dict.fromkeys(STATUSES, 0), "ok": 11}
    assert summary.images_per_second > 0
    for row in rows:
        face = as_aligned(decode_image(faces / row.input), size=SIZE)
        expected = encode_image(to_pixels(BLUR(to_unit(face)[None])[0]), Path(row.input).suffix)
        assert (out / row.input).read_bytes() == expected
        assert (row.output, row.model, row.width, row.height) == (row.input, BLUR.fingerprint, 48, 48)
        assert (row.faces, row.finished) == (None, None)
        assert (row.input_bytes, row.output_bytes) == ((faces / row.input).stat().st_size, len(expected))
    start = datetime.now(UTC)
    protect(faces, times=True, as_csv=True)
    for row in read_manifest(out):
        assert datetime.fromisoformat(str(row.finished)) <= start  # taken over, not made up anew
    assert "+00:00" in (out / "manifest.csv").read_text()


def test_batch_size_and_workers_leave_no_trace(faces, tmp_path, protect):
    noise = GaussianNoise(sigma=0.2, size=SIZE)
    protect(faces, "one", noise, batch_size=1, workers=1)
    seen: list[tuple[int, int]] = []
    protect(faces, "many", noise, batch_size=3, workers=4, progress=lambda *c: seen.append(c))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "many")
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (11, 11)


def test_the_job_leaves_no_lock_and_no_temporary_file(faces, tmp_path, protect):
    out = tmp_path / "out"
    protect(faces)
    for folder in (out, out / "person0"):
        (folder / f".{'ab' * 8}.privface-tmp").write_bytes(b"left by a killed job")
    protect(faces, as_csv=True)
    assert [p.name for p in out.rglob(".*")] == [".privface-journal.jsonl"]
    assert (out / "manifest.csv").read_text().count("\n") == 12


@pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.png", "PNG")])
def test_no_metadata_gets_through(tmp_path, protect, name, form):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(with_secrets(patch(0), form))
    assert protect(tmp_path / "in").counts["ok"] == 1
    written = (tmp_path / "out" / name).read_bytes()
    assert b"SECRET" not in written
    with Image.open(io.BytesIO(written)) as image:
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def write_bad_inputs(root: Path, patch: NDArray[np.uint8]) -> dict[str, str]:
    """One file of every kind; returns the status each must get."""
    root.mkdir()
    image, png = Image.fromarray(patch), encode_image(patch, ".png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_bytes(b"no image at all")
    (root / "truncated.png").write_bytes(png[: len(png) // 2])
    (root / "large.png").write_bytes(encode_image(np.zeros((300, 300, 3), np.uint8), ".png"))
    image.resize((1, 1)).save(root / "one.png")
    image.resize((64, 20)).save(root / "wide.png")
    image.convert("CMYK").save(root / "cmyk.jpg")
    image.convert("L").save(root / "grey.png")
    image.save(root / "photo.BMP")
    image.save(root / "still.gif")
    image.save(root / "moving.webp", save_all=True, append_images=[image.rotate(90)])
    Image.new("RGB", (48, 48), (90, 120, 50)).save(root / "flat.png")  # a blur leaves it as it is
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(png)
    (root.parent / "outside.png").write_bytes(png)
    for name, target in {
        "loop.jpg": "loop.jpg", "leads-out.png": "../outside.png", "within.png": "grey.png",
        "dangling.png": "nowhere.png", "up": "..",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    (root / "notes.txt").write_text("not an image")
    os.mkfifo(root / "pipe.jpg")
    statuses = {
        "ok": r"cmyk.jpg grey.png photo.BMP within.png caf\xe9.png",
        "unreadable": "empty.jpg text.jpg truncated.png moving.webp loop.jpg leads-out.png dangling.png up pipe.jpg",
        "too_large": "large.png",
        "failed": "one.png wide.png still.gif flat.png",
    }
    return {name: status for status, names in statuses.items() for name in names.split()}


def test_every_bad_input_gets_its_row_and_no_output(tmp_path, protect):
    expected = write_bad_inputs(tmp_path / "in", patch(1))
    out = tmp_path / "out"
    summary = protect(tmp_path / "in", batch_size=4, max_pixels=80_000)
    found = rows(summary)
    assert {key: row.status for key, row in found.items()} == expected
    for row in found.values():
        assert (row.reason is None) == (row.status == "ok") == (row.output is not None)
        assert row.reason is None or str(tmp_path) not in row.reason
    written = {os.fsencode(p.name) for p in out.iterdir() if not p.name.startswith((".", "manifest"))}
    ok = {key.encode() for key, status in expected.items() if status == "ok"}
    assert written == ok - {b"caf\\xe9.png"} | {b"caf\xe9.png"}
    assert found["flat.png"].reason == "protector returned the original"
    assert "links are not followed" in str(found["up"].reason)
    assert not (out / "within.png").is_symlink()
    before = snapshot(out)
    assert protect(tmp_path / "in", batch_size=3, max_pixels=80_000).reused == summary.counts["ok"]
    assert snapshot(out) == before


def test_two_names_with_one_key_do_not_share_an_output(tmp_path, protect):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate([b"\xff.png", b"\\xff.png"]):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(encode_image(patch(seed), ".png"))
    counts = protect(tmp_path / "in").counts
    assert counts["ok"] == counts["unreadable"] == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def _spoil(value: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def answer(images: NDArray[np.float32]) -> NDArray[np.float32]:
        out = BLUR(images)
        out[0, 0, 0, 0] = value
        return out

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_spoil(float("nan")), "NaN or infinity"),
        (_spoil(float("inf")), "NaN or infinity"),
        (_spoil(1.5), "outside [0, 1]"),
        (_spoil(-0.5), "outside [0, 1]"),
        (lambda x: x.copy(), "returned the original"),
        (lambda x: x + np.float32(0.4 / 255), "returned the original"),
    ],
    ids=["nan", "inf", "high", "low", "identity", "almost-identity"],
)
def test_a_bad_answer_is_never_written(faces, tmp_path, protect, answer, reason):
    summary = protect(faces, "out", Answering(answer), batch_size=1)
    assert summary.counts["failed"] == 11
    assert not [p for p in (tmp_path / "out").rglob("*.*g") if p.is_file()]
    assert all(reason in str(row.reason) for row in read_manifest(summary.manifest))


def test_one_bad_answer_does_not_cost_its_batch(faces, protect):
    assert protect(faces, "out", Answering(_spoil(float("nan"))), batch_size=11).counts["ok"] == 10


@pytest.mark.parametrize(
    "answer",
    [lambda x: x[:-1], lambda x: x[:, :1], lambda x: x.astype(np.float64)],
    ids=["count", "channels", "type"],
)
def test_an_answer_of_the_wrong_shape_stops_the_job(faces, protect, answer):
    with pytest.raises(ModelError, match=r"The protector gave"):
        protect(faces, "out", Answering(answer), batch_size=4)


@pytest.mark.parametrize("output", ["in", "in/sub", ".", "link"])
def test_overlapping_folders_are_refused(faces, tmp_path, protect, output):
    (tmp_path / "link").symlink_to(faces)
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"overlaps the input"):
        protect(faces, output)
    assert snapshot(tmp_path) == before


def test_an_output_that_holds_other_things_or_leads_elsewhere_is_refused(faces, tmp_path, protect):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"Cannot write to"):
        protect(faces, "file")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "thesis.pdf").write_bytes(b"years of work")
    with pytest.raises(OutputError, match=r"not empty"):
        protect(faces)
    (out / "person0").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"leads out of the output folder"):
        protect(faces, overwrite=True)
    assert not list(elsewhere.iterdir())
    (out / "person0").unlink()
    protect(faces, overwrite=True)
    assert (out / "thesis.pdf").read_bytes() == b"years of work"


def test_an_empty_or_missing_input_is_refused(tmp_path, protect):
    with pytest.raises(DataError, match=r"does not exist"):
        protect(tmp_path / "in")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"holds no image"):
        protect(tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_what_a_format_cannot_hold_costs_its_photo_alone(faces, tmp_path, protect, monkeypatch):
    def encode(pixels, suffix, **how):
        if suffix == ".png":
            raise ValueError("encoding error 5")
        return encode_image(pixels, suffix, **how)

    monkeypatch.setattr(work, "encode_image", encode)
    counts = protect(faces, tmp_path / "out").counts
    assert (counts["ok"], counts["failed"]) == (7, 4)
    failed = [row for row in read_manifest(tmp_path / "out") if row.status == "failed"]
    assert all("cannot be written as .png (encoding error 5)" in row.reason for row in failed)
