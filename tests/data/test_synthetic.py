"""Generated faces: same bytes for the same seed, a face a face detector accepts, cues that can be learnt."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from privface.data.synthetic import GeneratedFaces, generate_faces, write_faces
from privface.errors import DataError, OutputError
from privface.images import decode_image
from privface.records import ARCFACE_TEMPLATE, GENDERS


@pytest.fixture(scope="module")
def faces() -> GeneratedFaces:
    return generate_faces(people=6, photos_per_person=3, seed=11)


# --- reproducible ---


def test_same_seed_gives_the_same_bytes(faces: GeneratedFaces) -> None:
    assert faces.pixels.shape == (18, 112, 112, 3)
    assert faces.pixels.dtype == np.uint8
    assert faces.identities.tolist() == [k for k in range(6) for _ in range(3)]
    again = generate_faces(people=6, photos_per_person=3, seed=11)
    np.testing.assert_array_equal(again.pixels, faces.pixels)
    np.testing.assert_array_equal(again.genders, faces.genders)
    other = generate_faces(people=6, photos_per_person=3, seed=12)
    assert np.abs(other.pixels.astype(int) - faces.pixels).mean() > 10


def test_a_person_does_not_depend_on_how_many_others_or_photos_are_drawn(faces: GeneratedFaces) -> None:
    alone = generate_faces(people=1, photos_per_person=5, seed=11, first_person=3)
    assert alone.identities.tolist() == [3] * 5
    assert alone.genders[0] == faces.genders[faces.identities == 3][0]
    np.testing.assert_array_equal(alone.pixels[:3], faces.pixels[faces.identities == 3])


def test_photos_of_a_person_differ_less_than_photos_of_two_people() -> None:
    faces = generate_faces(people=30, photos_per_person=2, seed=4)
    # the inner face, colour-blind to the lamp: each photo's own mean and spread are taken out
    inner = faces.pixels[:, 30:105, 25:87].astype(np.float64).mean(axis=-1).reshape(len(faces), -1)
    inner = (inner - inner.mean(axis=1, keepdims=True)) / inner.std(axis=1, keepdims=True)
    likeness = inner @ inner.T / inner.shape[1]
    first, second = np.triu_indices(len(faces), 1)
    same = faces.identities[first] == faces.identities[second]
    assert roc_auc_score(same, likeness[first, second]) > 0.85
    assert likeness[first, second][same].max() < 0.999  # two photos, not one photo twice


def test_with_less_nuisance_photos_of_a_person_are_more_alike() -> None:
    none, less, whole = (
        generate_faces(people=6, photos_per_person=2, seed=4, nuisance=nuisance).pixels.astype(np.float64)
        for nuisance in (0.0, 0.35, 1.0)
    )
    apart = [np.abs(faces[::2] - faces[1::2]).mean() for faces in (none, less, whole)]
    assert 0 < apart[0] < 5  # the noise of 0 to 255 is left
    assert apart[0] < 0.5 * apart[1] < 0.35 * apart[2]


# --- gender ---


@pytest.mark.parametrize(("people", "first"), [(400, 0), (40, 7), (41, 0)])
def test_half_of_the_people_are_women_and_their_numbers_tell_nothing(people: int, first: int) -> None:
    faces = generate_faces(people=people, photos_per_person=1, seed=3, first_person=first)
    assert abs(faces.genders.sum() - people / 2) <= 1
    if people == 400:  # standard error of 200 coin flips: 0.035
        assert abs((faces.identities % 2 == faces.genders).mean() - 0.5) < 0.1


def test_the_cue_changes_faces_and_zero_takes_it_out() -> None:
    one, none, strong = (
        generate_faces(people=4, photos_per_person=1, seed=9, gender_cue=cue) for cue in (1.0, 0.0, 2.0)
    )
    np.testing.assert_array_equal(one.genders, none.genders)  # the labels stay, only the pixels move
    moved, more = (np.abs(f.pixels.astype(int) - none.pixels).mean(axis=(1, 2, 3)) for f in (one, strong))
    assert (moved > 0.5).all()
    assert more.mean() > moved.mean()


# --- in the frame ---


@pytest.mark.filterwarnings("ignore")  # facenet-pytorch's own
@pytest.mark.usefixtures("one_thread")
def test_a_face_detector_finds_the_five_points_near_the_template() -> None:
    mtcnn = pytest.importorskip("facenet_pytorch").MTCNN(device="cpu")
    faces = generate_faces(people=24, photos_per_person=1, seed=2)
    border, scale = 40, 1.5
    framed = []
    for pixels in faces.pixels:
        wide = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
        framed.append(cv2.resize(wide, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    _, _, points = mtcnn.detect(framed, landmarks=True)
    found = np.array([p[0] for p in points if p is not None], np.float64)
    assert len(found) >= 0.9 * len(faces)
    in_frame = (found + 0.5) / scale - 0.5 - border
    error = np.linalg.norm(in_frame - np.array(ARCFACE_TEMPLATE), axis=-1)
    assert np.median(error) < 3.5
    assert error.mean(axis=1).max() < 7.0


def test_faces_are_smooth_drawings_not_noise(faces: GeneratedFaces) -> None:
    grey = faces.pixels.astype(np.float64).mean(axis=-1)
    step = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    spread = grey.std(axis=(1, 2))
    assert (step < 0.3 * spread).all()  # independent pixels: 2 / sqrt(pi) = 1.13 times the spread
    assert (spread > 15).all()
    assert ((faces.pixels == 255).mean(axis=(1, 2, 3)) < 0.2).all()  # the light does not burn out


# --- on disk ---


def test_written_faces_come_back_bit_by_bit_with_their_labels(faces: GeneratedFaces, tmp_path: Path) -> None:
    root, unwritten = tmp_path / "set", faces.table()
    assert (unwritten[4].file, unwritten[4].identity) == ("p00001/p00001_0001.png", "p00001")
    assert unwritten[4].path == Path(unwritten[4].file)
    table = write_faces(faces, root)
    assert table.files == unwritten.files
    np.testing.assert_array_equal(table.genders, faces.genders)
    for record, pixels in zip(table, faces.pixels, strict=True):
        assert record.path == root / record.file
        np.testing.assert_array_equal(decode_image(record.path), pixels)
    with (root / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "identity", "gender"]
    assert [row["file"] for row in rows] == table.files
    assert [GENDERS.index(row["gender"]) for row in rows] == faces.genders.tolist()  # type: ignore[arg-type]
    written = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    assert written == sorted([*table.files, "labels.csv"])
    with pytest.raises(OutputError):
        write_faces(faces, root / "labels.csv")


# --- refused ---


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("people", 0),
        ("photos_per_person", 0),
        ("seed", -1),
        ("first_person", -1),
        ("gender_cue", -0.5),
        ("gender_cue", math.nan),
        ("gender_cue", math.inf),
        ("nuisance", -0.1),
        ("nuisance", 1.1),
        ("nuisance", math.nan),
    ],
)
def test_arguments_out_of_range_are_named(changed: str, value: float) -> None:
    arguments: dict[str, float] = {"people": 1, "photos_per_person": 1, "seed": 0} | {changed: value}
    with pytest.raises(DataError, match=rf"{changed} is {value}") as caught:
        generate_faces(**arguments)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "Use 0 for no cue" in caught.value.hint or changed != "gender_cue"


# --- learnable, on people that the probe never saw ---


def _flat(faces: GeneratedFaces) -> NDArray[np.float32]:
    small = [cv2.resize(p, (40, 40), interpolation=cv2.INTER_AREA) for p in faces.pixels]
    return np.stack(small).reshape(len(faces), -1).astype(np.float32)


def _gender_auc(train: GeneratedFaces, test: GeneratedFaces) -> float:
    probe = make_pipeline(PCA(150, whiten=True, random_state=0), SVC()).fit(_flat(train), train.genders)
    return float(roc_auc_score(test.genders, probe.decision_function(_flat(test))))


@pytest.mark.slow
def test_gender_and_identity_are_read_from_unseen_people() -> None:
    seen = generate_faces(people=400, photos_per_person=5, seed=7)
    unseen = generate_faces(people=150, photos_per_person=4, seed=7, first_person=1000)
    assert _gender_auc(seen, unseen) >= 0.95
    matcher = make_pipeline(PCA(300, random_state=0), LinearDiscriminantAnalysis(n_components=60))
    codes = matcher.fit(_flat(seen), seen.identities).transform(_flat(unseen))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    first, second = np.triu_indices(len(codes), 1)
    scores = (codes @ codes.T)[first, second]
    same = unseen.identities[first] == unseen.identities[second]
    same_gender = unseen.genders[first] == unseen.genders[second]
    for impostors in (~same, ~same & same_gender):
        threshold = np.quantile(scores[impostors], 0.99)
        assert (scores[same] > threshold).mean() >= 0.95


@pytest.mark.slow
def test_without_the_cue_the_same_probe_reads_nothing() -> None:
    train = generate_faces(people=400, photos_per_person=2, seed=7, gender_cue=0.0)
    test = generate_faces(people=300, photos_per_person=1, seed=7, gender_cue=0.0, first_person=1000)
    assert 0.4 <= _gender_auc(train, test) <= 0.6  # standard error of the AUC on 300 people: 0.033
