import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privface.errors import ImageError, InputRangeError
from privface.faces import align_face, as_aligned, paste_back, similarity_transform
from privface.records import ARCFACE_TEMPLATE

TEMPLATE = np.array(ARCFACE_TEMPLATE)


def similarity(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama_svd(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equations 38 to 43 of the paper, by singular values; the oracle of the complex closed form."""
    ms, mt = source.mean(0), target.mean(0)
    u, d, vt = np.linalg.svd((target - mt).T @ (source - ms) / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / (source - ms).var(axis=0).sum()
    return np.hstack([scale * rotation, (mt - scale * rotation @ ms)[:, None]])


def smooth_photo(height: int, width: int, period: float = 40.0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = (
        np.sin(2 * np.pi * x / period),
        np.cos(2 * np.pi * y / period),
        np.sin(2 * np.pi * (x + y) / period),
    )
    return np.rint(128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def face_at(scale: float, x: float = 60.0, y: float = 50.0, angle: float = 0.2) -> np.ndarray:
    return apply(similarity(angle, scale, x, y), TEMPLATE)


@settings(deadline=None)
@given(
    angle=st.floats(-np.pi, np.pi), scale=st.floats(0.05, 30), x=st.floats(-500, 500), y=st.floats(-500, 500)
)
def test_a_similarity_is_recovered_exactly(angle: float, scale: float, x: float, y: float) -> None:
    truth = similarity(angle, scale, x, y)
    source = apply(np.linalg.inv(np.vstack([truth, [0, 0, 1]]))[:2], TEMPLATE)
    assert np.allclose(similarity_transform(source), truth, atol=1e-6 * max(1, abs(x), abs(y)))


@settings(deadline=None)
@given(noise=st.lists(st.floats(-40, 40), min_size=10, max_size=10))
def test_least_squares_equals_umeyamas_svd(noise: list[float]) -> None:
    source = TEMPLATE + np.array(noise).reshape(5, 2) * 0.7
    assert np.allclose(similarity_transform(source), umeyama_svd(source, TEMPLATE), atol=1e-8)


def test_a_mirrored_face_is_not_reflected_and_the_frame_scales_about_pixel_edges() -> None:
    mirrored = TEMPLATE * (-1, 1) + (112, 0)
    matrix = similarity_transform(mirrored)
    assert np.linalg.det(matrix[:, :2]) > 0
    assert np.allclose(matrix, umeyama_svd(mirrored, TEMPLATE))
    assert np.allclose(similarity_transform(TEMPLATE, size=224), [[2, 0, 0.5], [0, 2, 0.5]])


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (np.full((5, 2), 7.0), ImageError, "coincide"),
        (np.full((5, 2), np.nan), ImageError, "not finite"),
        (np.zeros((4, 2)), InputRangeError, r"\(4, 2\)"),
    ],
)
def test_bad_landmarks_raise(points: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        similarity_transform(points)


def test_bad_pixels_and_sizes_raise() -> None:
    with pytest.raises(InputRangeError, match="float64"):
        align_face(np.zeros((9, 9, 3)), TEMPLATE)  # type: ignore[arg-type]
    with pytest.raises(InputRangeError, match="size is 0"):
        align_face(np.zeros((9, 9, 3), np.uint8), TEMPLATE, size=0)
    with pytest.raises(InputRangeError, match="face has shape"):
        paste_back(smooth_photo(200, 200), smooth_photo(50, 50), TEMPLATE)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.9, 2.5, 7.3])
def test_aligning_samples_the_photo_at_the_right_place(scale: float) -> None:
    """Against the sine's value at the mapped place: a shift of a tenth of a pixel would show."""
    period = 60.0 * scale
    photo = smooth_photo(int(190 * scale) + 40, int(190 * scale) + 40, period)
    points = face_at(scale, 35 * scale + 5, 10 * scale + 5)
    face = align_face(photo, points).astype(float)
    y, x = np.mgrid[:112, :112]
    back = np.linalg.inv(np.vstack([similarity_transform(points), [0, 0, 1]]))[:2]
    where = apply(back, np.stack([x, y], axis=-1).reshape(-1, 2))
    expected = 128 + 100 * np.sin(2 * np.pi * where[:, 0] / period)
    inside = ((where > 2) & (where < np.array(photo.shape[1::-1]) - 3)).all(axis=1)
    assert inside.mean() > 0.9
    assert np.abs(face[..., 0].ravel() - expected)[inside].max() < 3.0


def test_shrinking_does_not_alias() -> None:
    """A one-pixel chessboard is mean grey from afar; without averaging first it turns into moire."""
    board = np.where(np.indices((1200, 1200)).sum(0) % 2, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    points = face_at(8.3, 150, 100)
    assert np.abs(align_face(board, points).astype(int) - 127).max() < 30
    plain = cv2.warpAffine(board, similarity_transform(points), (112, 112))
    assert np.abs(plain.astype(int) - 127).max() > 100


def test_outside_the_photo_the_border_repeats_and_very_wide_photos_align() -> None:
    photo = np.full((60, 60, 3), 200, np.uint8)
    assert (align_face(photo, face_at(1.0, -30, -30)) == 200).all()
    assert (align_face(photo, face_at(1.0, 900, -900)) == 200).all()
    photo = np.zeros((60, 40_000, 3), np.uint8)  # OpenCV warps no side above 32,767
    photo[:, 39_900:] = 250
    assert align_face(photo, TEMPLATE * 0.5 + (39_930, 0)).mean() > 240
    assert align_face(photo, TEMPLATE * 0.5).mean() == 0


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("size", [112, 224])
def test_align_then_paste_back_restores_the_photo(scale: float, size: int) -> None:
    photo = smooth_photo(420, 400, 80.0)
    points = face_at(scale, 40, 30, 0.15)
    face = align_face(photo, points, size=size)
    result = paste_back(photo, face, points, size=size)
    assert result.shape == photo.shape
    assert np.abs(result.astype(int) - photo).max() <= 6


def test_pasting_covers_the_face_and_leaves_the_rest() -> None:
    photo = np.full((300, 320, 3), 40, np.uint8)
    points = face_at(1.5, 80, 60, 0.3)
    before = photo.copy()
    result = paste_back(photo, np.full((112, 112, 3), 220, np.uint8), points)
    assert (photo == before).all()
    y, x = np.mgrid[:300, :320]
    place = apply(similarity_transform(points), np.stack([x, y], axis=-1).reshape(-1, 2).astype(float))
    apart = np.linalg.norm(((place + 0.5) / 112 - (0.5, 0.52)) / (0.47, 0.48), ord=3, axis=1).reshape(
        300, 320
    )
    assert (result[apart < 0.83] == 220).all()
    assert (result[apart > 1] == 40).all()
    ramp = result[(apart > 0.88) & (apart < 0.96)]
    assert ramp.min() > 40
    assert ramp.max() < 220
    eyes_and_mouth = apply(np.linalg.inv(np.vstack([similarity_transform(points), [0, 0, 1]]))[:2], TEMPLATE)
    assert all((result[round(y), round(x)] == 220).all() for x, y in eyes_and_mouth)
    jumps = np.abs(np.diff(result[..., 0].astype(int), axis=1)).max()
    assert jumps < 40  # a hard edge would jump by 180
    outside = paste_back(photo, np.zeros((112, 112, 3), np.uint8), face_at(1.0, 500, 500))
    assert (outside == photo).all()


def test_as_aligned() -> None:
    square = smooth_photo(112, 112)
    assert (as_aligned(square) == square).all()
    for height, width in ((1, 1), (50, 55), (200, 190)):
        assert as_aligned(smooth_photo(height, width), size=112).shape == (112, 112, 3)
    flat = np.full((1000, 1000, 3), 77, np.uint8)
    assert (as_aligned(flat, size=96) == 77).all()
    with pytest.raises(ImageError, match="120 x 100 pixels: the sides differ by 20%"):
        as_aligned(smooth_photo(100, 120))
