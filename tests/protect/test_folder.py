"""The folder job: what is written, what is refused, and that nothing of an original gets through."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from privface.errors import ConfigError, DataError, ModelError, OutputError, ProtectError
from privface.faces.align import align_face, as_aligned, paste_back
from privface.faces.detect import Detection
from privface.images import decode_image, encode_image, to_pixels, to_unit, without_colour
from privface.protect import (
    STATUSES,
    GaussianBlur,
    GaussianNoise,
    Pixelate,
    ProtectOptions,
    protect_folder,
    read_manifest,
)
from privface.protect.work import PASTED
from privface.records import Landmarks

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

SIZE = 32
BLUR = GaussianBlur(sigma=2.0, size=SIZE)


@dataclass(frozen=True)
class Answering:
    """A protector that answers with a function of its input."""

    answer: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    size: int = SIZE
    fingerprint: str = "answering"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.answer(images)


def test_same_tree_and_exactly_the_protected_pixels(faces, tmp_path):
    summary = protect_folder(faces, tmp_path / "out", BLUR, aligned(batch_size=4))
    rows = read_manifest(summary.manifest)
    assert [row.input for row in rows] == sorted(p.relative_to(faces).as_posix() for p in faces.rglob("*.*"))
    assert summary.counts == {**dict.fromkeys(STATUSES, 0), "ok": 11}
    assert summary.images_per_second > 0
    for row in rows:
        face = as_aligned(decode_image(faces / row.input), size=SIZE)
        expected = encode_image(to_pixels(BLUR(to_unit(face)[None])[0]), Path(row.input).suffix)
        assert (tmp_path / "out" / row.input).read_bytes() == expected
        assert (row.output, row.model, row.width, row.height) == (row.input, BLUR.fingerprint, 48, 48)
        assert row.faces is None


@pytest.mark.parametrize(
    "protector", [BLUR, Pixelate(cells=5, size=SIZE), GaussianNoise(sigma=0.2, size=SIZE)]
)
def test_batch_size_and_workers_leave_no_trace(faces, tmp_path, snapshot, protector):
    protect_folder(faces, tmp_path / "one", protector, aligned(batch_size=1, workers=1))
    seen: list[tuple[int, int]] = []
    many = aligned(batch_size=3, workers=4)
    protect_folder(faces, tmp_path / "many", protector, many, progress=lambda *c: seen.append(c))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "many")
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (11, 11)


def test_the_job_leaves_no_lock_and_no_temporary_file(faces, tmp_path):
    out = tmp_path / "out"
    protect_folder(faces, out, BLUR, aligned())
    for folder in (out, out / "person0"):
        (folder / f".{'ab' * 8}.privface-tmp").write_bytes(b"left by a killed job")
    protect_folder(faces, out, BLUR, aligned(as_csv=True))
    hidden = [p.name for p in out.rglob(".*")]
    assert hidden == [".privface-journal.jsonl"]
    assert (out / "manifest.csv").read_text().count("\n") == 12


def jpeg_with_secrets(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x010E] = "SECRET-caption"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    exif.get_ifd(0x8825)[29] = "SECRET-gps-date"
    buffer = io.BytesIO()
    image.save(
        buffer,
        "JPEG",
        exif=exif,
        comment=b"SECRET-comment",
        xmp=b"<x:xmpmeta>SECRET-xmp</x:xmpmeta>",
        icc_profile=b"SECRET-icc" * 20,
    )
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8)).save(thumbnail, "JPEG", comment=b"SECRET-thumbnail")
    app = b"SECRET-app13" + thumbnail.getvalue()
    data = buffer.getvalue()
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(app) + 2) + app + data[2:] + b"SECRET-trailer"


def png_with_secrets(pixels: NDArray[np.uint8]) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SECRET-text")
    info.add_itxt("XML:com.adobe.xmp", "SECRET-xmp")
    exif = Image.Exif()
    exif[0x010E] = "SECRET-caption"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, exif=exif, icc_profile=b"SECRET-icc")
    return buffer.getvalue() + b"SECRET-trailer"


@pytest.mark.parametrize(("name", "build"), [("a.jpg", jpeg_with_secrets), ("a.png", png_with_secrets)])
def test_no_metadata_gets_through(tmp_path, make_patch, name, build):
    (tmp_path / "in").mkdir()
    planted = build(make_patch(0))
    (tmp_path / "in" / name).write_bytes(planted)
    assert planted.count(b"SECRET") >= 3
    summary = protect_folder(tmp_path / "in", tmp_path / "out", BLUR, aligned())
    assert summary.counts["ok"] == 1
    written = (tmp_path / "out" / name).read_bytes()
    assert b"SECRET" not in written
    assert b"Exif" not in written
    with Image.open(io.BytesIO(written)) as image:
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    if name == "a.png":
        chunks = [written[i : i + 4] for i in _png_chunks(written)]
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def _png_chunks(data: bytes) -> list[int]:
    positions, at = [], 8
    while at < len(data):
        positions.append(at + 4)
        at += 12 + struct.unpack(">I", data[at : at + 4])[0]
    return positions


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that announce a huge image."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def write_bad_inputs(root: Path, patch: NDArray[np.uint8]) -> dict[str, str]:
    """One file of every kind; returns the status each must get."""
    root.mkdir()
    image = Image.fromarray(patch)
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_bytes(b"no image at all")
    whole = encode_image(patch, ".jpg")
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    png = encode_image(patch, ".png")
    (root / "truncated.png").write_bytes(png[: len(png) // 2])
    (root / "bomb.png").write_bytes(png_bomb(60_000, 60_000))
    (root / "large.png").write_bytes(encode_image(np.zeros((300, 300, 3), np.uint8), ".png"))
    image.resize((1, 1)).save(root / "one.png")
    image.resize((64, 20)).save(root / "wide.png")
    image.convert("CMYK").save(root / "cmyk.jpg")
    image.convert("P").save(root / "palette.png")
    image.convert("L").save(root / "grey.png")
    image.convert("1").save(root / "bits.png")
    image.convert("RGBA").save(root / "alpha.png")
    Image.fromarray(patch[..., 0].astype(np.uint16) * 257).save(root / "sixteen.png")
    image.save(root / "photo.webp")
    image.save(root / "photo.BMP")
    image.save(root / "photo.tiff")
    image.save(root / "still.gif")
    image.save(root / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(root / "moving.webp", save_all=True, append_images=[image.rotate(90)])
    Image.new("RGB", (48, 48), (90, 120, 50)).save(root / "flat.png")  # a blur leaves it as it is
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(png)
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root.parent / "outside.png").write_bytes(png)
    (root / "leads-out.png").symlink_to(root.parent / "outside.png")
    (root / "within.png").symlink_to("grey.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "up").symlink_to("..")
    (root / "notes.txt").write_text("not an image")
    os.mkfifo(root / "pipe.jpg")
    good = "cmyk.jpg palette.png grey.png bits.png alpha.png sixteen.png photo.webp photo.BMP photo.tiff"
    unreadable = (
        "empty.jpg text.jpg truncated.jpg truncated.png moving.webp loop.jpg leads-out.png dangling.png"
    )
    return {
        **dict.fromkeys([*good.split(), "caf\\xe9.png", "within.png"], "ok"),
        **dict.fromkeys([*unreadable.split(), "up", "pipe.jpg"], "unreadable"),
        **dict.fromkeys(["bomb.png", "large.png"], "too_large"),
        **dict.fromkeys(["one.png", "wide.png", "still.gif", "moving.gif", "flat.png"], "failed"),
    }


def test_every_bad_input_gets_its_row_and_no_output(tmp_path, make_patch, snapshot):
    expected = write_bad_inputs(tmp_path / "in", make_patch(1))
    out = tmp_path / "out"
    summary = protect_folder(tmp_path / "in", out, BLUR, aligned(batch_size=4, max_pixels=80_000))
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert {key: row.status for key, row in rows.items()} == expected
    for row in rows.values():
        assert (row.reason is None) == (row.status == "ok") == (row.output is not None)
        assert row.reason is None or str(tmp_path) not in row.reason
    written = {os.fsencode(p.name) for p in out.iterdir() if not p.name.startswith((".", "manifest"))}
    ok = {key.encode() for key, status in expected.items() if status == "ok"}
    assert written == ok - {b"caf\\xe9.png"} | {b"caf\xe9.png"}
    assert rows["flat.png"].reason == "protector returned the original"
    assert "links are not followed" in str(rows["up"].reason)
    assert not (out / "within.png").is_symlink()
    before = snapshot(out)
    again = protect_folder(tmp_path / "in", out, BLUR, aligned(batch_size=3, max_pixels=80_000))
    assert snapshot(out) == before
    assert again.reused == summary.counts["ok"]


def test_two_names_with_one_key_do_not_share_an_output(tmp_path, make_patch):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate([b"\xff.png", b"\\xff.png"]):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(encode_image(make_patch(seed), ".png"))
    summary = protect_folder(tmp_path / "in", tmp_path / "out", BLUR, aligned())
    assert summary.counts["ok"] == summary.counts["unreadable"] == 1
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
        (lambda x: x + np.float32(1e-5), "returned the original"),
    ],
    ids=["nan", "inf", "high", "low", "identity", "almost-identity"],
)
def test_a_bad_answer_is_never_written(faces, tmp_path, answer, reason):
    summary = protect_folder(faces, tmp_path / "out", Answering(answer), aligned(batch_size=1))
    assert summary.counts["failed"] == 11
    assert not [p for p in (tmp_path / "out").rglob("*.*g") if p.is_file()]
    for row in read_manifest(summary.manifest):
        assert row.reason is not None
        assert reason in row.reason


def test_one_bad_answer_does_not_cost_its_batch(faces, tmp_path):
    protector = Answering(_spoil(float("nan")))
    assert protect_folder(faces, tmp_path / "out", protector, aligned(batch_size=11)).counts["ok"] == 10


@pytest.mark.parametrize(
    "answer",
    [lambda x: x[:-1], lambda x: x[:, :1], lambda x: x.astype(np.float64)],
    ids=["count", "channels", "type"],
)
def test_an_answer_of_the_wrong_shape_stops_the_job(faces, tmp_path, answer):
    with pytest.raises(ModelError, match=r"The protector gave"):
        protect_folder(faces, tmp_path / "out", Answering(answer), aligned(batch_size=4))


@pytest.mark.parametrize("output", ["in", "in/sub", ".", "link"])
def test_overlapping_folders_are_refused(faces, tmp_path, output, snapshot):
    (tmp_path / "link").symlink_to(faces)
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"overlaps the input"):
        protect_folder(faces, tmp_path / output, BLUR, aligned())
    assert snapshot(tmp_path) == before


def test_a_folder_with_other_things_is_refused_unless_overwritten(faces, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.pdf").write_bytes(b"years of work")
    with pytest.raises(OutputError, match=r"not empty"):
        protect_folder(faces, tmp_path / "out", BLUR, aligned())
    protect_folder(faces, tmp_path / "out", BLUR, aligned(overwrite=True))
    assert (tmp_path / "out" / "thesis.pdf").read_bytes() == b"years of work"


def test_a_link_out_of_the_output_folder_is_not_written_through(faces, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "person0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"leads out of the output folder"):
        protect_folder(faces, tmp_path / "out", BLUR, aligned(overwrite=True))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_output_that_is_a_file_is_refused(faces, tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match=r"Cannot write to"):
        protect_folder(faces, tmp_path / "out", BLUR, aligned())


def test_a_write_error_stops_the_job_and_names_the_cure(faces, tmp_path, monkeypatch):
    def full_disk(path: Path, data: bytes) -> None:
        raise OutputError(f"Cannot write {path}: No space left on device.", hint="Check free space.")

    with monkeypatch.context() as patched:
        patched.setattr("privface.protect.output.write_atomic", full_disk)
        with pytest.raises(OutputError, match=r"No space left"):
            protect_folder(faces, tmp_path / "out", BLUR, aligned(batch_size=2))
    assert protect_folder(faces, tmp_path / "out", BLUR, aligned(batch_size=2)).counts["ok"] == 11


def test_an_empty_or_missing_input_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist"):
        protect_folder(tmp_path / "in", tmp_path / "out", BLUR, aligned())
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"holds no image"):
        protect_folder(tmp_path / "in", tmp_path / "out", BLUR, aligned())
    assert not (tmp_path / "out").exists()


LEFT: Landmarks = ((12.0, 20.0), (28.0, 20.0), (20.0, 29.0), (13.0, 37.0), (27.0, 37.0))


class BrightBoxes:
    """Finds one face per bright corner pixel: top left, top right."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        found = []
        for image in images:
            faces = []
            if image[0, 0].min() == 255:
                faces.append(Detection((4.0, 8.0, 36.0, 48.0), 0.9, LEFT))
            if image[0, -1].min() == 255:
                faces.append(Detection((70.0, 8.0, 74.0, 13.0), 0.9, LEFT))
            found.append(faces)
        return found


@pytest.fixture
def photos(tmp_path, make_patch):
    root = tmp_path / "photos"
    root.mkdir()
    for seed, (name, corners) in enumerate({"one": [0], "two": [0, -1], "none": []}.items()):
        photo = np.array(Image.fromarray(make_patch(seed)).resize((60 + 20 * seed, 60)))
        photo[0, 0] = photo[0, -1] = 100
        for corner in corners:
            photo[0, corner] = 255
        Image.fromarray(photo).save(root / f"{name}.png")
    return root


def test_auto_takes_what_has_the_model_s_size_for_a_face_and_looks_for_faces_elsewhere(
    photos, tmp_path, make_patch
):
    crop = np.array(Image.fromarray(make_patch(5)).resize((SIZE, SIZE)))
    crop[0, 0] = 100  # where the detector looks, there is no face in it
    Image.fromarray(crop).save(photos / "crop.png")
    rows = {
        row.input: row
        for row in read_manifest(
            protect_folder(photos, tmp_path / "auto", BLUR, detector=BrightBoxes()).manifest
        )
    }
    assert {name: (row.status, row.faces) for name, row in rows.items()} == {
        "crop.png": ("ok", None), "none.png": ("no_face", 0), "one.png": ("ok", 1), "two.png": ("ok", 2),
    }  # fmt: skip
    protect_folder(photos, tmp_path / "aligned", BLUR, aligned())
    protect_folder(photos, tmp_path / "detect", BLUR, ProtectOptions(faces="detect"), detector=BrightBoxes())
    for name, like in (("crop", "aligned"), ("one", "detect"), ("two", "detect")):
        assert (tmp_path / "auto" / f"{name}.png").read_bytes() == (
            tmp_path / like / f"{name}.png"
        ).read_bytes()


RIGHT = tuple((x + 38.0, y) for x, y in LEFT)


class TwoFaces(BrightBoxes):
    """A second face, aside, wherever two corners are bright."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        return [
            [replace(f, landmarks=RIGHT) if f.box[0] == 70.0 else f for f in faces]
            for faces in super().detect(images)
        ]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_face_is_written_alone_with_its_box(photos, tmp_path, batch_size):
    out = tmp_path / "out"
    summary = protect_folder(photos, out, BLUR, ProtectOptions(batch_size=batch_size), detector=TwoFaces())
    assert (summary.counts["ok"], summary.counts["no_face"]) == (2, 1), "counts are of photos"
    rows = read_manifest(summary.manifest)
    assert [(r.input, r.output, r.status, r.faces, r.face, r.reason) for r in rows] == [
        ("none.png", None, "no_face", 0, None, "no face was found"),
        ("one.png", "one.png", "ok", 1, 1, None),
        ("two.png", "two.png", "ok", 2, 1, None),
        ("two.png", "two.face2.png", "ok", 2, 2, None),
    ]
    assert sorted(p.name for p in out.glob("*.png")) == ["one.png", "two.face2.png", "two.png"]
    for row, points in zip(rows[1:], (LEFT, LEFT, RIGHT), strict=True):
        assert row.box_x1 == (4.0 if points is LEFT else 70.0)
        assert (row.width, row.height) == (60 if row.input == "one.png" else 80, 60)
        face = align_face(decode_image(photos / row.input), points, size=SIZE)
        written = out / str(row.output)
        np.testing.assert_array_equal(decode_image(written), to_pixels(BLUR(to_unit(face[None])))[0])
        assert row.output_bytes == written.stat().st_size


def test_a_name_that_a_further_face_needs_is_refused(photos, tmp_path):
    for name in ("two.face2.png", "one.face02.png", "three.face2.png", "two.face2.jpg"):
        (photos / name).write_bytes((photos / "one.png").read_bytes())
    reasons = {}
    for out, options in (
        ("alone", ProtectOptions()),
        ("png", ProtectOptions(image_format="png")),
        ("pasted", ProtectOptions(paste=True)),
    ):
        found = protect_folder(photos, tmp_path / out, BLUR, options, detector=TwoFaces())
        reasons[out] = {
            r.input: str(r.reason) for r in read_manifest(found.manifest) if r.status == "unreadable"
        }
    assert reasons["alone"].keys() == {"two.face2.png"}
    assert "rename it" in reasons["alone"]["two.face2.png"]
    assert reasons["png"].keys() == {"two.face2.png", "two.face2.jpg"}
    assert reasons["pasted"] == {}
    row = read_manifest(tmp_path / "alone")[-1]
    assert (row.input, row.output) == ("two.png", "two.face2.png")
    long = photos / ("l" * 246 + ".png")
    long.write_bytes((photos / "two.png").read_bytes())
    rows = read_manifest(protect_folder(photos, tmp_path / "long", BLUR, detector=TwoFaces()).manifest)
    (row,) = (r for r in rows if r.input == long.name)
    assert (row.status, row.reason) == (
        "failed",
        "2 faces, and the name is too long to be that of each; shorten it",
    )


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_face_is_pasted_back_and_the_manifest_says_what_that_leaves(
    photos, tmp_path, batch_size, caplog
):
    out = tmp_path / "out"
    options = ProtectOptions(faces="detect", paste=True, batch_size=batch_size)
    summary = protect_folder(photos, out, BLUR, options, detector=TwoFaces())
    assert (summary.counts["ok"], summary.counts["no_face"]) == (2, 1)
    for name, all_points in (("one", [LEFT]), ("two", [LEFT, RIGHT])):
        photo = decode_image(photos / f"{name}.png")
        expected = photo
        for points in all_points:
            face = align_face(photo, points, size=SIZE)
            answer = to_pixels(BLUR(to_unit(face[None])))[0]
            expected = paste_back(expected, answer, points, size=SIZE)
        written = decode_image(out / f"{name}.png")
        np.testing.assert_array_equal(written, expected)
        assert written.shape == photo.shape
        changed = (written != photo).any(axis=2)
        assert 0.05 < changed.mean() < 0.9
    assert {r.input: (r.faces, r.face, r.reason) for r in read_manifest(summary.manifest)} == {
        "none.png": (0, None, "no face was found"), "one.png": (1, None, PASTED), "two.png": (2, None, PASTED),
    }  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == [f"In pasted photos, {PASTED}."]


def test_a_photo_of_grey_faces_is_grey(photos, tmp_path):
    grey = Answering(lambda images: np.repeat(BLUR(images).mean(axis=1, keepdims=True), 3, axis=1))
    pasted = ProtectOptions(faces="detect", paste=True)
    protect_folder(photos, tmp_path / "out", grey, pasted, detector=TwoFaces())
    for name in ("one", "two"):
        photo, written = (decode_image(root / f"{name}.png") for root in (photos, tmp_path / "out"))
        assert np.ptp(photo.astype(int), axis=2).max() > 50
        assert (written == written[..., :1]).all()
        np.testing.assert_array_equal(written[-1], without_colour(photo)[-1])  # far from any face
    for name in (
        "one",
        "two",
    ):  # grey portraits in coloured photos: what is grey already says nothing of the model
        photo = decode_image(photos / f"{name}.png")
        photo[5:45] = without_colour(photo)[5:45]
        Image.fromarray(photo).save(photos / f"{name}.png")
    protect_folder(photos, tmp_path / "same", BLUR, pasted, detector=TwoFaces())
    for name in ("one", "two"):
        photo, written = (decode_image(root / f"{name}.png") for root in (photos, tmp_path / "same"))
        np.testing.assert_array_equal(written[-1], photo[-1])


def test_one_face_that_is_not_protected_holds_its_photo_back(photos, tmp_path):
    calls = []

    def lazy(images: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(images))
        answer = BLUR(images)
        if len(calls) == 3:  # the second face of two.png
            return images
        return answer

    options = ProtectOptions(faces="detect", batch_size=1)
    summary = protect_folder(photos, tmp_path / "out", Answering(lazy), options, detector=TwoFaces())
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert (rows["one.png"].status, rows["two.png"].status) == ("ok", "failed")
    assert (rows["two.png"].reason, rows["two.png"].face) == ("protector returned the original", None)
    assert not list((tmp_path / "out").glob("two*"))


def test_pasted_photos_and_faces_alone_do_not_mix_in_one_folder(photos, tmp_path):
    out = tmp_path / "out"
    protect_folder(photos, out, BLUR, detector=TwoFaces())
    with pytest.raises(OutputError, match="paste False, now True"):
        protect_folder(photos, out, BLUR, ProtectOptions(paste=True), detector=TwoFaces())
    protect_folder(photos, out, BLUR, ProtectOptions(paste=True, overwrite=True), detector=TwoFaces())
    assert sorted(p.name for p in out.glob("*.png")) == ["one.png", "two.png"]
    with pytest.raises(ConfigError, match="Pasting and a limit of faces need a detector"):
        protect_folder(photos, tmp_path / "x", BLUR, aligned(paste=True))


def test_a_photo_without_a_face_can_stop_the_job(photos, tmp_path):
    options = ProtectOptions(faces="detect", on_no_face="fail")
    for _ in range(2):  # the second time the answer comes from the journal
        with pytest.raises(ProtectError, match=r"none.png: no face"):
            protect_folder(photos, tmp_path / "out", BLUR, options, detector=BrightBoxes())


def test_landmarks_that_give_no_scale_cost_only_their_photo(photos, tmp_path):
    class Broken(BrightBoxes):
        def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
            found = super().detect(images)
            return [
                [replace(f, landmarks=((5.0, 5.0),) * 5) for f in faces if len(faces) == 2] for faces in found
            ]

    summary = protect_folder(
        photos, tmp_path / "out", BLUR, ProtectOptions(faces="detect"), detector=Broken()
    )
    assert (summary.counts["failed"], summary.counts["no_face"]) == (1, 2)


def test_large_photos_are_cut_into_smaller_batches(photos, tmp_path, monkeypatch):
    sizes: list[int] = []

    class Counting(BrightBoxes):
        def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
            sizes.append(len(images))
            return super().detect(images)

    monkeypatch.setattr("privface.protect.local._BATCH_PIXELS", 60 * 60)
    protect_folder(photos, tmp_path / "out", BLUR, ProtectOptions(faces="detect"), detector=Counting())
    assert sizes == [1, 1, 1]


@pytest.mark.realdata
def test_real_photos_are_found_by_default(tmp_path):
    data = os.environ.get("PRIVFACE_DATA")
    if not data:
        pytest.skip("PRIVFACE_DATA is not set")
    people = sorted((Path(data) / "lfw").iterdir())[:4]
    for person in people:
        (tmp_path / "in" / person.name).mkdir(parents=True)
        photo = min(person.iterdir())
        (tmp_path / "in" / person.name / photo.name).write_bytes(photo.read_bytes())
    blur = GaussianBlur(sigma=3.0)
    crops = protect_folder(tmp_path / "in", tmp_path / "crops", blur)
    summary = protect_folder(tmp_path / "in", tmp_path / "out", blur, ProtectOptions(paste=True))
    assert crops.counts["ok"] == summary.counts["ok"] == 4
    for row in read_manifest(summary.manifest):
        assert decode_image(tmp_path / "crops" / row.input).shape == (112, 112, 3)
        written, photo = (decode_image(tmp_path / side / row.input) for side in ("out", "in"))
        assert written.shape == photo.shape == (250, 250, 3)
        assert (np.abs(written[90:160, 90:160].astype(int) - photo[90:160, 90:160]) > 8).any()
        # LFW photos are 250 x 250 with the labelled face in the middle
        assert row.box_x1 is not None
        assert row.box_x2 is not None
        assert row.box_x1 < 125 < row.box_x2
