"""Baselines: closed forms, independence of order and batch size, refusal of wrong input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from privface.errors import ConfigError, InputRangeError
from privface.protect import (
    DownUpSample,
    GaussianBlur,
    GaussianNoise,
    ImageProtector,
    JPEGCompression,
    KSameAverage,
    Pixelate,
    is_baseline,
    load_baseline,
)

SIZE = 24


@pytest.fixture
def images():
    return np.random.default_rng(3).random((5, 3, SIZE, SIZE), dtype=np.float32)


GALLERY = np.random.default_rng(8).integers(0, 256, (9, SIZE, SIZE, 3)).astype(np.uint8)
PEOPLE = np.array(["a", "a", "b", "b", "c", "d", "e", "f", "g"])

PROTECTORS: list[ImageProtector] = [
    GaussianBlur(sigma=2.0, size=SIZE),
    Pixelate(cells=5, size=SIZE),
    GaussianNoise(sigma=0.2, seed=7, size=SIZE),
    JPEGCompression(quality=10, size=SIZE),
    DownUpSample(side=6, size=SIZE),
    KSameAverage(GALLERY, PEOPLE, k=3),
]


@pytest.mark.parametrize("protector", PROTECTORS, ids=lambda p: type(p).__name__)
def test_depends_on_the_image_alone(protector, images):
    before = images.copy()
    together = protector(images)
    alone = np.concatenate([protector(image[None]) for image in images])
    backwards = protector(np.ascontiguousarray(images[::-1]))[::-1]
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(backwards, together)
    assert together.dtype == np.float32
    assert together.min() >= 0
    assert together.max() <= 1
    assert np.abs(together - images).mean() > 0.05
    np.testing.assert_array_equal(images, before, err_msg="its argument is left as it is")


@pytest.mark.parametrize("protector", [PROTECTORS[0], PROTECTORS[-1]], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((2, 3, SIZE, SIZE + 1), np.float32),
        np.zeros((3, SIZE, SIZE), np.float32),
        np.full((1, 3, SIZE, SIZE), 255, np.float32),
        np.full((1, 3, SIZE, SIZE), -0.1, np.float32),
        np.full((1, 3, SIZE, SIZE), np.nan, np.float32),
    ],
    ids=["uint8", "size", "no-batch", "0..255", "negative", "nan"],
)
def test_wrong_input_is_refused(protector, wrong):
    with pytest.raises(InputRangeError):
        protector(wrong)


def test_pixelate_is_the_mean_of_each_cell_and_covers_a_side_that_cells_do_not_divide(images):
    mosaic = Pixelate(cells=4, size=SIZE)(images)
    cells = images.astype(np.float64).reshape(5, 3, 4, 6, 4, 6).mean(axis=(3, 5))
    np.testing.assert_allclose(mosaic, np.kron(cells, np.ones((6, 6))), atol=1e-6)
    uneven = Pixelate(cells=7, size=SIZE)(images)
    assert uneven.shape == images.shape
    assert len(np.unique(uneven[0, 0])) == 49


def test_blur_agrees_with_a_direct_convolution(images):
    taps = np.arange(-8, 9)
    kernel = np.exp(-(taps**2) / (2 * 2.0**2))
    kernel /= kernel.sum()
    expected = convolve1d(
        convolve1d(images.astype(float), kernel, 2, mode="nearest"), kernel, 3, mode="nearest"
    )
    np.testing.assert_allclose(GaussianBlur(sigma=2.0, size=SIZE)(images), expected, atol=1e-5)


def test_noise_has_the_stated_spread_and_depends_on_seed_and_content():
    grey = np.full((2, 3, 112, 112), 0.5, np.float32)
    grey[1, 0, 0, 0] = 0.25
    noisy = GaussianNoise(sigma=0.1, seed=1)(grey)
    assert np.std(noisy[0] - 0.5) == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.03
    assert not np.array_equal(noisy[0], GaussianNoise(sigma=0.1, seed=2)(grey)[0])


def test_down_and_up_keeps_what_a_coarse_picture_holds():
    coarse = np.repeat(np.repeat(np.random.default_rng(0).random((1, 3, 1, 1)), SIZE, 2), SIZE, 3)
    np.testing.assert_allclose(DownUpSample(side=4, size=SIZE)(coarse.astype(np.float32)), coarse, atol=1e-6)
    stripes = np.zeros((1, 3, SIZE, SIZE), np.float32)
    stripes[..., ::2] = 1.0
    np.testing.assert_allclose(DownUpSample(side=12, size=SIZE)(stripes), 0.5, atol=1e-6)


def test_jpeg_keeps_more_at_higher_quality(images):
    lost = [np.abs(JPEGCompression(q, size=SIZE)(images) - images).mean() for q in (5, 30, 95)]
    assert lost[0] > lost[1] > lost[2] > 0


def test_k_same_averages_the_nearest_face_of_each_of_k_less_one_people():
    image = GALLERY[0].astype(np.float32) / 255  # of person "a", whose two faces count once
    after = KSameAverage(GALLERY, PEOPLE, k=2)(np.moveaxis(image, -1, 0)[None])[0]
    np.testing.assert_allclose(after, np.moveaxis(image, -1, 0), atol=1e-6)  # the nearest is itself
    every = KSameAverage(GALLERY, PEOPLE, k=8)(np.moveaxis(image, -1, 0)[None])[0]
    faces = [GALLERY[0], GALLERY[4], GALLERY[5], GALLERY[6], GALLERY[7], GALLERY[8]]
    nearest_b = min((2, 3), key=lambda k: distance(GALLERY[k], GALLERY[0]))
    mean = (np.sum([*faces, GALLERY[nearest_b]], axis=0) / 255 + image) / 8
    np.testing.assert_allclose(every, np.moveaxis(mean, -1, 0), atol=1e-5)


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    small = [
        cv2.resize(x, (16, 16), interpolation=cv2.INTER_AREA).astype(float).mean(axis=-1) for x in (a, b)
    ]
    return float(np.square(small[0] - small[1]).sum())


@pytest.mark.parametrize(
    "build",
    [
        lambda: GaussianBlur(sigma=0),
        lambda: GaussianBlur(sigma=float("nan")),
        lambda: GaussianNoise(sigma=-1),
        lambda: Pixelate(cells=112),
        lambda: Pixelate(cells=0),
        lambda: DownUpSample(side=112),
        lambda: JPEGCompression(quality=0),
        lambda: JPEGCompression(quality=101),
        lambda: KSameAverage(GALLERY, PEOPLE, k=1),
        lambda: KSameAverage(GALLERY, PEOPLE, k=9),
    ],
)
def test_settings_that_would_let_the_original_through_are_refused(build):
    with pytest.raises(ConfigError, match=r"must be"):
        build()


def test_fingerprints_tell_settings_apart():
    prints = {
        "gaussian-blur/1 sigma=2 size=112": GaussianBlur(sigma=2.0),
        "gaussian-blur/1 sigma=2 size=64": GaussianBlur(sigma=2.0, size=64),
        "pixelate/1 cells=8 size=112": Pixelate(cells=8),
        "gaussian-noise/1 sigma=0.1 seed=1234567 size=112": GaussianNoise(sigma=0.1, seed=1_234_567),
        "jpeg/1 quality=10 size=112": JPEGCompression(10),
        "down-up/1 side=28 size=112": DownUpSample(28),
    }
    assert list(prints) == [each.fingerprint for each in prints.values()], "jobs that were begun go on"
    same = [KSameAverage(GALLERY[n:], PEOPLE[n:], k=k).fingerprint for n, k in ((0, 3), (0, 4), (1, 3))]
    assert len(set(same)) == 3


def test_a_baseline_is_made_from_what_people_write():
    made = {
        "blur,sigma=3": GaussianBlur(3.0),
        "blur,size=56,sigma=1.5": GaussianBlur(1.5, size=56),
        "pixelation,cells=16": Pixelate(16),
        "noise,sigma=0.2,seed=7": GaussianNoise(0.2, seed=7),
        "jpeg,quality=10": JPEGCompression(10),
        "down-up,side=24": DownUpSample(24),
    }
    assert {spec: load_baseline(f"baseline:{spec}") for spec in made} == made
    assert is_baseline("baseline:blur,sigma=3")
    assert not is_baseline("blur")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("baseline:smear", "There is no baseline 'smear'"),
        ("baseline:blur", "lacks sigma"),
        ("baseline:blur,sigma", "'sigma' in 'baseline:blur,sigma' is no setting of blur"),
        ("baseline:blur,sigma=wide", "'sigma=wide'"),
        ("baseline:pixelation,cells=1.5", "'cells=1.5'"),
        ("baseline:blur,sigma=3,seed=1", "'seed=1'"),
        ("baseline:blur,sigma=nan", "must be above 0"),
    ],
)
def test_a_baseline_that_cannot_be_made_is_refused_with_its_form(spec, said):
    with pytest.raises(ConfigError, match=said) as error:
        load_baseline(spec)
    assert error.value.hint
