"""Photos in which faces are looked for: which face is written where, pasting, limits, and labels by photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from privface.errors import ConfigError, OutputError, ProtectError
from privface.faces.align import align_face, paste_back
from privface.images import decode_image, to_pixels, to_unit, without_colour
from privface.protect import GaussianBlur, ProtectOptions, protect_folder, read_manifest
from privface.protect.work import PASTED
from tests.protect.conftest import BLUR, FACE, SIZE, Answering, Finder, Watched, patch, rows


@pytest.fixture
def photos(tmp_path):
    """One photo with a bright upper left corner, one with two bright upper corners, one with none."""
    root = tmp_path / "photos"
    root.mkdir()
    for seed, (name, corners) in enumerate({"one": [0], "two": [0, -1], "none": []}.items()):
        photo = np.array(Image.fromarray(patch(seed)).resize((60 + 20 * seed, 60)))
        photo[0, 0] = photo[0, -1] = 100
        for corner in corners:
            photo[0, corner] = 255
        Image.fromarray(photo).save(root / f"{name}.png")
    return root


RIGHT = replace(FACE, box=(70.0, 8.0, 74.0, 13.0), landmarks=tuple((x + 38.0, y) for x, y in FACE.landmarks))


@pytest.fixture
def bright():
    """Finds a face per bright corner."""
    return Finder(lambda image: [f for f, k in ((FACE, 0), (RIGHT, -1)) if image[0, k].min() == 255])


def protected(photo: NDArray[np.uint8], points: object) -> NDArray[np.uint8]:
    return to_pixels(BLUR(to_unit(align_face(photo, points, size=SIZE)[None])))[0]


def test_auto_takes_what_has_the_model_s_size_for_a_face_and_looks_for_faces_elsewhere(
    photos, tmp_path, protect, bright
):
    crop = np.array(Image.fromarray(patch(5)).resize((SIZE, SIZE)))
    crop[0, 0] = 100  # where the detector looks, there is no face in it
    Image.fromarray(crop).save(photos / "crop.png")
    found = rows(protect(photos, "auto", detector=bright, faces="auto"))
    assert {name: (row.status, row.faces) for name, row in found.items()} == {
        "crop.png": ("ok", None), "none.png": ("no_face", 0), "one.png": ("ok", 1), "two.png": ("ok", 2),
    }  # fmt: skip
    protect(photos, "aligned")
    protect(photos, "detect", detector=bright)
    for name, like in (("crop", "aligned"), ("one", "detect"), ("two", "detect"), ("two.face2", "detect")):
        written = (tmp_path / side / f"{name}.png" for side in ("auto", like))
        assert len({path.read_bytes() for path in written}) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_face_is_written_alone_with_its_box(photos, tmp_path, protect, bright, batch_size):
    out = tmp_path / "out"
    summary = protect(photos, detector=bright, batch_size=batch_size)
    assert (summary.counts["ok"], summary.counts["no_face"]) == (2, 1), "counts are of photos"
    rows = read_manifest(summary.manifest)
    assert [(r.input, r.output, r.status, r.faces, r.face, r.reason) for r in rows] == [
        ("none.png", None, "no_face", 0, None, "no face was found"),
        ("one.png", "one.png", "ok", 1, 1, None),
        ("two.png", "two.png", "ok", 2, 1, None),
        ("two.png", "two.face2.png", "ok", 2, 2, None),
    ]
    assert sorted(p.name for p in out.glob("*.png")) == ["one.png", "two.face2.png", "two.png"]
    for row, face in zip(rows[1:], (FACE, FACE, RIGHT), strict=True):
        assert (row.box_x1, row.box_y1, row.box_x2, row.box_y2) == face.box
        assert (row.width, row.height) == (60 if row.input == "one.png" else 80, 60)
        written = out / str(row.output)
        expected = protected(decode_image(photos / row.input), face.landmarks)
        np.testing.assert_array_equal(decode_image(written), expected)
        assert row.output_bytes == written.stat().st_size


def test_a_name_that_a_further_face_needs_is_refused(photos, tmp_path, protect, bright):
    for name in ("two.face2.png", "one.face02.png", "three.face2.png", "two.face2.jpg"):
        (photos / name).write_bytes((photos / "one.png").read_bytes())
    reasons = {}
    for out, options in (("alone", {}), ("png", {"image_format": "png"}), ("pasted", {"paste": True})):
        found = rows(protect(photos, out, detector=bright, **options))
        reasons[out] = {name: row.reason for name, row in found.items() if row.status == "unreadable"}
    assert reasons["alone"].keys() == {"two.face2.png"}
    assert "rename it" in reasons["alone"]["two.face2.png"]
    assert reasons["png"].keys() == {"two.face2.png", "two.face2.jpg"}
    assert reasons["pasted"] == {}
    row = read_manifest(tmp_path / "alone")[-1]
    assert (row.input, row.output) == ("two.png", "two.face2.png")
    long = "l" * 246 + ".png"
    (photos / long).write_bytes((photos / "two.png").read_bytes())
    row = rows(protect(photos, "long", detector=bright))[long]
    assert row.status == "failed"
    assert "the name is too long to be that of each" in str(row.reason)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_face_is_pasted_back_and_the_manifest_says_what_that_leaves(
    photos, tmp_path, protect, bright, batch_size, caplog
):
    summary = protect(photos, detector=bright, paste=True, batch_size=batch_size)
    assert (summary.counts["ok"], summary.counts["no_face"]) == (2, 1)
    for name, all_faces in (("one", [FACE]), ("two", [FACE, RIGHT])):
        photo = decode_image(photos / f"{name}.png")
        expected = photo
        for face in all_faces:
            expected = paste_back(expected, protected(photo, face.landmarks), face.landmarks, size=SIZE)
        written = decode_image(tmp_path / "out" / f"{name}.png")
        np.testing.assert_array_equal(written, expected)
        assert 0.05 < (written != photo).any(axis=2).mean() < 0.9
    assert {name: (r.faces, r.face, r.reason) for name, r in rows(summary).items()} == {
        "none.png": (0, None, "no face was found"), "one.png": (1, None, PASTED), "two.png": (2, None, PASTED),
    }  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == [f"In pasted photos, {PASTED}."]


def test_a_photo_of_grey_faces_is_grey(photos, tmp_path, protect, bright):
    grey = Answering(lambda images: np.repeat(BLUR(images).mean(axis=1, keepdims=True), 3, axis=1))

    def last_rows(out: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        both = ((decode_image(root / f"{name}.png") for root in (photos, tmp_path / out)) for name in names)
        return [(photo, written) for photo, written in both]

    names = ("one", "two")
    protect(photos, "out", grey, detector=bright, paste=True)
    for photo, written in last_rows("out"):
        assert np.ptp(photo.astype(int), axis=2).max() > 50
        assert (written == written[..., :1]).all()
        np.testing.assert_array_equal(written[-1], without_colour(photo)[-1])  # far from any face
    # grey portraits in coloured photos: what is grey already says nothing of the model
    for name in names:
        photo = decode_image(photos / f"{name}.png")
        photo[5:45] = without_colour(photo)[5:45]
        Image.fromarray(photo).save(photos / f"{name}.png")
    protect(photos, "same", detector=bright, paste=True)
    for photo, written in last_rows("same"):
        np.testing.assert_array_equal(written[-1], photo[-1])


def test_one_face_that_is_not_protected_holds_its_photo_back(photos, tmp_path, protect, bright):
    class Lazy(Watched):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            answer = super().__call__(images)
            return images if self.calls == 3 else answer  # the second face of two.png

    found = rows(protect(photos, "out", Lazy(), detector=bright, batch_size=1))
    assert (found["one.png"].status, found["two.png"].status) == ("ok", "failed")
    assert (found["two.png"].reason, found["two.png"].face) == ("protector returned the original", None)
    assert not list((tmp_path / "out").glob("two*"))


def test_photos_with_too_many_faces_are_refused(faces, tmp_path, protect):
    seen = count()
    crowd = Finder(lambda _: [FACE] * next(seen))  # as many faces as the photo's place in the list
    summary = protect(faces, detector=crowd, max_faces=2)
    assert (summary.counts["no_face"], summary.counts["ok"], summary.counts["many_faces"]) == (1, 2, 8)
    for row in read_manifest(summary.manifest):
        if row.status == "many_faces":
            assert row.reason == f"{row.faces} faces, the limit is 2"
            assert not (tmp_path / "out" / row.input).exists()
    assert protect(faces, detector=crowd, max_faces=2).reused == 11
    with pytest.raises(OutputError, match="max_faces 2, now None"):
        protect(faces, detector=crowd)
    for asked in ({"max_faces": 2}, {"paste": True}):
        with pytest.raises(ConfigError, match="Pasting and a limit of faces need a detector"):
            protect(faces, **asked)


def test_a_photo_without_a_face_can_stop_the_job(photos, protect, bright):
    for _ in range(2):  # the second time the answer comes from the journal
        with pytest.raises(ProtectError, match=r"none.png: no face"):
            protect(photos, detector=bright, on_no_face="fail")


def test_landmarks_that_give_no_scale_cost_only_their_photo(photos, protect, bright):
    def broken(image: NDArray[np.uint8]) -> list[object]:
        found = bright.look(image)
        return [replace(f, landmarks=((5.0, 5.0),) * 5) for f in found] if len(found) == 2 else found

    counts = protect(photos, detector=Finder(broken)).counts
    assert (counts["ok"], counts["failed"], counts["no_face"]) == (1, 1, 1)


def test_large_photos_are_cut_into_smaller_batches(photos, protect, bright, monkeypatch):
    monkeypatch.setattr("privface.protect.local._BATCH_PIXELS", 60 * 60)
    protect(photos, detector=bright)
    assert [len(batch) for batch in bright.batches] == [1, 1, 1]


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
def test_every_face_gets_the_label_of_its_own_photo(faces, tmp_path, protect, batch_size):
    keys = keys_of(faces)
    protector = Shades({key: (20 * k + 5) / 255 for k, key in enumerate(keys)})
    del protector.shades[keys[3]]
    summary = protect(faces, "out", protector, batch_size=batch_size, image_format="png")
    assert (summary.counts["ok"], summary.counts["failed"]) == (10, 1)
    row = rows(summary)[keys[3]]
    assert (row.status, row.reason, row.output) == ("failed", "no shade for it", None)
    for key, shade in protector.shades.items():
        written = decode_image(tmp_path / "out" / Path(key).with_suffix(".png"))
        np.testing.assert_array_equal(written, np.full((SIZE, SIZE, 3), round(shade * 255), np.uint8))
    assert set(protector.asked) == {min(batch_size, 11)}, "batches have one shape, filling included"


def test_one_label_serves_neither_two_faces_nor_a_video(faces, protect):
    protector = Shades(dict.fromkeys(keys_of(faces), 0.25))
    two = protect(faces, "two", protector, detector=Finder(lambda _: [FACE, replace(FACE)]))
    assert two.counts["failed"] == 11
    assert "2 faces, and the one label" in str(read_manifest(two.manifest)[0].reason)
    (faces / "clip.mp4").write_bytes(b"never read")
    one = protect(faces, "one", protector, detector=Finder(lambda _: [FACE]), videos=True, paste=True)
    assert "a video has no label of its own" in str(rows(one)["clip.mp4"].reason)
    assert one.counts["ok"] == 11


@pytest.mark.realdata
def test_real_photos_are_found_by_default(tmp_path, real_data):
    for person in sorted((real_data / "lfw").iterdir())[:4]:
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
