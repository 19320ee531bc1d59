"""Data that leak gender in a known way and by a known amount, and data that do not leak at all.

All sets are clustered by person, as face data are: a person's photos share a part of what varies, and no part
of it depends on gender but for what is planted. Photos on their own are then distributed as stated for each leak,
so the Bayes accuracy for a stranger's photo is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter

from privface.errors import ConfigError

SHIFT = 1.2
CORNER = 1.6
RADIUS = 1.15
CORRELATION, CORRELATED_PAIRS = 0.6, 4
MARKED = 0.9


@dataclass(frozen=True)
class Planted:
    """Data with labels and what the best possible reader reaches.

    Attributes:
        data: float32 ``(N, D)`` or uint8 RGB ``(N, S, S, 3)``.
        people: Identities, shape ``(N,)``.
        genders: 0 or 1, shape ``(N,)``; half of the people each.
        bayes: Balanced accuracy of the best reader of one photo of a stranger.
    """

    data: NDArray[Any]
    people: NDArray[np.str_]
    genders: NDArray[np.int64]
    bayes: float


def plant(leak: str, *, people: int, photos: int = 2, size: int, seed: int) -> Planted:
    """A set with one planted leak, or with none.

    Args:
        leak: One of :data:`EMBEDDING_LEAKS` or :data:`IMAGE_LEAKS`, or ``none`` and ``none-image``.
        people: Number of people, even.
        photos: Photos of each.
        size: Dimensions of embeddings (8 or more), or side of the images in pixels (24 or more).
        seed: Same seed, same set.

    Raises:
        ConfigError: If the leak is unknown or a number is too small.
    """
    if leak not in _MAKERS:
        raise ConfigError(f"{leak!r} is no planted leak.", hint=f"Choose among {', '.join(_MAKERS)}.")
    least = 24 if leak in (*IMAGE_LEAKS, "none-image") else 2 * CORRELATED_PAIRS
    if people < 2 or photos < 1 or size < least:
        raise ConfigError(
            f"people {people}, photos {photos}, size {size}: at least 2, 1 and {least} are needed for {leak}."
        )
    rng = np.random.default_rng([seed, *leak.encode()])
    person = np.repeat(np.arange(people), photos)
    genders = rng.permutation(np.arange(people) % 2)[person].astype(np.int64)
    data, bayes = _MAKERS[leak](rng, person, genders, size)
    return Planted(data, np.array([f"s{seed}-{k}" for k in person]), genders, bayes)


_Made = tuple[NDArray[Any], float]
_Maker = Callable[[np.random.Generator, NDArray[np.int64], NDArray[np.int64], int], _Made]


def _clustered(
    rng: np.random.Generator, person: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Standard normal values; a third of the variance is the person's."""
    own = rng.standard_normal((int(person.max()) + 1, *shape))
    noise = rng.standard_normal((person.size, *shape))
    return np.asarray(math.sqrt(1 / 3) * own[person] + math.sqrt(2 / 3) * noise, np.float64)


def _sign(genders: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(2.0 * genders - 1.0, np.float64)


def _direction(size: int) -> NDArray[np.float64]:
    """The same in every set: what training people leak, test people leak."""
    vector = np.random.default_rng(size).standard_normal(size)
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _none(rng: np.random.Generator, person: NDArray[np.int64], _g: NDArray[np.int64], size: int) -> _Made:
    return _clustered(rng, person, (size,)).astype(np.float32), 0.5


def _linear(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """Means ``+-SHIFT`` along one direction of unit variance: ``Phi(SHIFT)``."""
    x = _clustered(rng, person, (size,)) + SHIFT * _sign(g)[:, None] * _direction(size)
    return x.astype(np.float32), float(stats.norm.cdf(SHIFT))


def _flip(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """The linear leak along the first axis, turned round: what a probe fixed on that axis reads is reversed."""
    x = _clustered(rng, person, (size,))
    x[:, 0] -= SHIFT * _sign(g)
    return x.astype(np.float32), float(stats.norm.cdf(SHIFT))


def _xor(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """Four corners ``(+-a, +-a)``, opposite ones of one gender: ``Phi(a)^2 + Phi(-a)^2`` by the sign of the product."""
    x = _clustered(rng, person, (size,))
    corner = rng.choice([-1.0, 1.0], int(person.max()) + 1)[person]
    x[:, 0] += CORNER * corner
    x[:, 1] += CORNER * corner * _sign(g)
    share = float(stats.norm.cdf(CORNER))
    return x.astype(np.float32), share**2 + (1.0 - share) ** 2


def _norm(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """Men's vectors are longer by ``RADIUS``: chi-squared lengths, cut where both densities are equal."""
    x = _clustered(rng, person, (size,)) * np.where(g == 1, RADIUS, 1.0)[:, None]
    cut = size * math.log(RADIUS**2) / (1.0 - RADIUS**-2)
    right = (stats.chi2.cdf(cut, size) + stats.chi2.sf(cut / RADIUS**2, size)) / 2.0
    return x.astype(np.float32), float(right)


def _covariance(
    rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int
) -> _Made:
    """Pairs of coordinates, correlated by ``+-rho`` and alike otherwise.

    The likelihood ratio is the sign of the sum of products, which is the difference of two scaled chi-squared
    variables with as many degrees of freedom as there are pairs: an F distribution.
    """
    x = _clustered(rng, person, (size,))
    a, b = x[:, :CORRELATED_PAIRS], x[:, CORRELATED_PAIRS : 2 * CORRELATED_PAIRS]
    b[:] = CORRELATION * _sign(g)[:, None] * a + math.sqrt(1.0 - CORRELATION**2) * b
    ratio = (1.0 - CORRELATION) / (1.0 + CORRELATION)
    return x.astype(np.float32), float(stats.f.sf(ratio, CORRELATED_PAIRS, CORRELATED_PAIRS))


def _pictures(rng: np.random.Generator, person: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Coloured clouds of a person's own under fine noise, around middle grey."""
    cells = max(size // 8, 2)
    coarse = _clustered(rng, person, (cells, cells, 3))
    large = np.kron(coarse, np.ones((1, -(-size // cells), -(-size // cells), 1)))[:, :size, :size]
    smooth = gaussian_filter(large, (0, 2, 2, 0))
    return np.asarray(128.0 + 25.0 * smooth + 6.0 * rng.standard_normal(smooth.shape), np.float64)


def _to_uint8(pictures: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.round(pictures), 0, 255).astype(np.uint8)


def _marked(rng: np.random.Generator, g: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a photo is marked: nine tenths of the men's are and one tenth of the women's."""
    return np.asarray(rng.random(g.size) < np.where(g == 1, MARKED, 1.0 - MARKED), np.bool_)


def _none_image(
    rng: np.random.Generator, person: NDArray[np.int64], _g: NDArray[np.int64], size: int
) -> _Made:
    return _to_uint8(_pictures(rng, person, size)), 0.5


def _watermark(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """A fixed pattern of six grey levels that nobody sees, on marked photos only: ``MARKED``."""
    pattern = np.random.default_rng(2018).choice([-6.0, 6.0], (-(-size // 2), -(-size // 2)))
    pattern = np.kron(pattern, np.ones((2, 2)))[:size, :size, None]
    pictures = _pictures(rng, person, size) + _marked(rng, g)[:, None, None, None] * pattern
    return _to_uint8(pictures), MARKED


def _texture(rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int) -> _Made:
    """Fine stripes of either sign in one quarter of marked photos: the mean picture shows nothing. ``MARKED``."""
    pictures = _pictures(rng, person, size)
    half = size // 2
    stripes = np.where(np.arange(half) // 2 % 2 == 0, 14.0, -14.0)[None, :, None]
    sign = rng.choice([-1.0, 1.0], g.size) * _marked(rng, g)
    pictures[:, half : 2 * half, :half] += sign[:, None, None, None] * stripes
    return _to_uint8(pictures), MARKED


def _image_flip(
    rng: np.random.Generator, person: NDArray[np.int64], g: NDArray[np.int64], size: int
) -> _Made:
    """The lower half is darker for men, by a shift of overlapping distributions: ``Phi(SHIFT)``."""
    pictures = _pictures(rng, person, size)
    lower = pictures[:, size // 2 :]
    lower -= lower.mean(axis=(1, 2, 3), keepdims=True)
    lower += 128.0 + 20.0 * (_clustered(rng, person, ()) - SHIFT * _sign(g))[:, None, None, None]
    return _to_uint8(pictures), float(stats.norm.cdf(SHIFT))


_MAKERS: Final[dict[str, _Maker]] = {
    "linear": _linear,
    "xor": _xor,
    "norm": _norm,
    "covariance": _covariance,
    "flip": _flip,
    "watermark": _watermark,
    "local-texture": _texture,
    "image-flip": _image_flip,
    "none": _none,
    "none-image": _none_image,
}
EMBEDDING_LEAKS: Final = ("linear", "xor", "norm", "covariance", "flip")
IMAGE_LEAKS: Final = ("watermark", "local-texture", "image-flip")
