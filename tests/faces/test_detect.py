from pathlib import Path

import cv2
import numpy as np
import pytest
from facenet_pytorch import MTCNN

from privface.data import from_table
from privface.errors import InputRangeError
from privface.faces import Detection, MTCNNDetector, choose_face
from privface.faces.detect import _fit, _working_size
from privface.images import decode_image
from privface.records import ARCFACE_TEMPLATE, FaceTable


@pytest.fixture(scope="module")
def detector() -> MTCNNDetector:
    return MTCNNDetector()


def face(x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Detection:
    return Detection((x1, y1, x2, y2), score, ARCFACE_TEMPLATE)


def rows(faces: list[Detection]) -> np.ndarray:
    return np.array([[*f.box, f.score, *np.ravel(f.landmarks)] for f in faces]).reshape(-1, 15)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_the_central_face_is_chosen_before_a_large_one():
    # In a 101 x 101 photo with its centre at (50, 50): 20^2 - 0 = 400 against 30^2 - 2 * 16^2 = 388.
    centred, off = face(40, 40, 60, 60), face(51, 35, 81, 65)
    assert choose_face([off, centred], (101, 101)) is centred
    nearer = face(50, 35, 80, 65)  # 900 - 2 * 15^2 = 450
    assert choose_face([nearer, centred], (101, 101, 3)) is nearer
    weak, strong = face(20, 20, 30, 30, 0.8), face(20, 20, 30, 30, 0.95)
    assert choose_face([weak, strong], (99, 99)) is strong
    assert choose_face([], (99, 99)) is None


@pytest.mark.parametrize(
    ("shape", "padded", "scaled"),
    [
        ((250, 250), (250, 250), (250, 250)),
        ((100, 100), (100, 100), (200, 200)),
        ((1, 1000), (250, 1000), (250, 1000)),
        ((1, 1), (1, 1), (200, 200)),
        ((2560, 1280), (2560, 1280), (1280, 640)),
        ((10, 30), (10, 30), (200, 600)),
    ],
)
def test_working_sizes(shape, padded, scaled):
    assert _working_size(shape, max_side=1280) == (padded, scaled)


def test_tiny_long_and_mixed_photos_without_a_face(detector):
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 300), (3, 2), (40, 40), (1, 1)]
    photos = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    photos.append(np.zeros((210, 210, 3), np.uint8))
    assert detector.detect(photos) == [[] for _ in photos]
    assert detector.detect([]) == []


def test_bad_arguments_raise(detector):
    with pytest.raises(InputRangeError, match="Expected uint8 RGB"):
        detector.detect([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)])
    with pytest.raises(InputRangeError, match="min_face=5"):
        MTCNNDetector(min_face=5)


@pytest.fixture(scope="module")
def lfw(real_data: Path) -> FaceTable:
    return from_table(real_data, real_data / "lfw.csv").take(range(7, 10_349, 259)[:40])


@pytest.fixture(scope="module")
def photos(lfw: FaceTable) -> list[np.ndarray]:
    return [decode_image(record.path) for record in lfw]


@pytest.fixture(scope="module")
def found(detector: MTCNNDetector, photos: list[np.ndarray]) -> list[list[Detection]]:
    return detector.detect(photos)


@pytest.mark.realdata
def test_finds_the_labelled_faces(lfw, photos, found):
    overlaps = []
    for record, photo, faces in zip(lfw, photos, found, strict=True):
        chosen = choose_face(faces, photo.shape)
        assert record.box is not None
        overlaps.append(0.0 if chosen is None else iou(chosen.box, record.box))
    assert len(overlaps) == 40
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.95


@pytest.mark.realdata
def test_neighbours_order_and_batches_do_not_matter(detector, photos, found):
    small = cv2.resize(photos[1], (90, 90), interpolation=cv2.INTER_AREA)
    mixed = [np.zeros((50, 70, 3), np.uint8), photos[0], small, photos[1]]
    out = detector.detect(mixed)
    assert [len(f) for f in out] == [0, len(found[0]), len(out[2]), len(found[1])]
    assert np.allclose(rows(out[1]), rows(found[0]), atol=1e-2)
    assert np.allclose(rows(out[3]), rows(found[1]), atol=1e-2)
    reduced = choose_face(out[2], small.shape)
    full = choose_face(found[1], photos[1].shape)
    assert reduced is not None
    assert full is not None
    assert iou(tuple(v * 250 / 90 for v in reduced.box), full.box) > 0.7


@pytest.mark.realdata
def test_agrees_with_facenet_pytorchs_own_driver(detector, photos, found):
    oracle = MTCNN(keep_all=True, select_largest=False)
    for photo, faces in zip(photos[:8], found[:8], strict=True):
        boxes, scores, points = oracle.detect(photo, landmarks=True)
        if boxes is None:
            assert faces == []
            continue
        parts = [np.asarray(part, float).reshape(len(boxes), -1) for part in (boxes, scores, points)]
        theirs = np.concatenate(parts, axis=1)
        theirs = theirs[np.argsort(-theirs[:, 4], kind="stable")]
        assert np.allclose(rows(faces), theirs, atol=1e-2)


def test_a_very_long_photo_is_scaled_before_it_is_padded():
    shape = (16, 1_000_000)
    padded, scaled = _working_size(shape, max_side=1280)
    fitted = _fit(np.zeros((*shape, 3), np.uint8), padded, scaled)
    assert fitted.shape == (*scaled, 3)
    photo = np.full((100, 1000, 3), 200, np.uint8)
    padded, scaled = _working_size(photo.shape[:2], max_side=1280)
    fitted = _fit(photo, padded, scaled)
    rows = round(100 * scaled[0] / padded[0])
    assert (fitted[:rows] == 200).all()
    assert (fitted[rows:] == 0).all()
