"""Data that leak gender in a known way and by a known amount, and data that do not leak at all.

All sets are clustered by person, as face data are: a person's photos share a part of what varies, and no part
of it depends on gender but for what is planted. Photos on their own are then distributed as stated for each leak,
so the Bayes accuracy for a stranger's photo is known.
"""

from __future__ import annotations

import math
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

EMBEDDING_LEAKS: Final = ("linear", "xor", "norm", "covariance", "flip")
IMAGE_LEAKS: Final = ("watermark", "local-texture", "image-flip")


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
    known = (*EMBEDDING_LEAKS, *IMAGE_LEAKS, "none", "none-image")
    if leak not in known:
        raise ConfigError(f"{leak!r} is no planted leak.", hint=f"Choose among {', '.join(known)}.")
    images = leak in (*IMAGE_LEAKS, "none-image")
    least = 24 if images else 2 * CORRELATED_PAIRS
    if people < 2 or photos < 1 or size < least:
        raise ConfigError(
            f"people {people}, photos {photos}, size {size}: at least 2, 1 and {least} are needed for {leak}."
        )
    rng = np.random.default_rng([seed, *leak.encode()])
    person = np.repeat(np.arange(people), photos)
    genders = rng.permutation(np.arange(people) % 2)[person].astype(np.int64)
    data: NDArray[Any]
    if images:
        pictures = _pictures(rng, person, size)
        bayes = _mark_pictures(leak, rng, pictures, person, genders)
        data = np.clip(np.round(pictures), 0, 255).astype(np.uint8)
    else:
        rows = _clustered(rng, person, (size,))
        bayes = _mark_rows(leak, rng, rows, person, genders)
        data = rows.astype(np.float32)
    return Planted(data, np.array([f"s{seed}-{k}" for k in person]), genders, bayes)


def _clustered(
    rng: np.random.Generator, person: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Standard normal values; a third of the variance is the person's."""
    own = rng.standard_normal((int(person.max()) + 1, *shape))
    noise = rng.standard_normal((person.size, *shape))
    return np.asarray(math.sqrt(1 / 3) * own[person] + math.sqrt(2 / 3) * noise, np.float64)


def _mark_rows(
    leak: str,
    rng: np.random.Generator,
    x: NDArray[np.float64],
    person: NDArray[np.int64],
    genders: NDArray[np.int64],
) -> float:
    """Write gender into rows ``(N, D)``, in place; gives the accuracy of the best reader."""
    size, sign, share = x.shape[1], 2.0 * genders - 1.0, float(stats.norm.cdf(SHIFT))
    match leak:
        case "linear":
            # means +-SHIFT along one direction, the same in every set: Phi(SHIFT)
            direction = np.random.default_rng(size).standard_normal(size)
            x += SHIFT * sign[:, None] * (direction / np.linalg.norm(direction))
        case "flip":
            # the same along the first axis, turned round: a probe fixed on that axis reads the reverse
            x[:, 0] -= SHIFT * sign
        case "xor":
            # corners (+-a, +-a), opposite ones of one gender: Phi(a)^2 + Phi(-a)^2 by the sign of the product
            corner = rng.choice([-1.0, 1.0], int(person.max()) + 1)[person]
            x[:, 0] += CORNER * corner
            x[:, 1] += CORNER * corner * sign
            inside = float(stats.norm.cdf(CORNER))
            share = inside**2 + (1.0 - inside) ** 2
        case "norm":
            # men's vectors are longer: chi-squared lengths, cut where both densities are equal
            x *= np.where(genders == 1, RADIUS, 1.0)[:, None]
            cut = size * math.log(RADIUS**2) / (1.0 - RADIUS**-2)
            share = float((stats.chi2.cdf(cut, size) + stats.chi2.sf(cut / RADIUS**2, size)) / 2.0)
        case "covariance":
            # pairs of coordinates, correlated by +-rho and alike otherwise
            a, b = x[:, :CORRELATED_PAIRS], x[:, CORRELATED_PAIRS : 2 * CORRELATED_PAIRS]
            b[:] = CORRELATION * sign[:, None] * a + math.sqrt(1.0 - CORRELATION**2) * b
            # the likelihood ratio is the sign of the sum of products, the difference of two scaled chi-squared
            # variables with as many degrees of freedom as there are pairs: an F distribution
            ratio = (1.0 - CORRELATION) / (1.0 + CORRELATION)
            share = float(stats.f.sf(ratio, CORRELATED_PAIRS, CORRELATED_PAIRS))
        case _:
            share = 0.5
    return share


def _pictures(rng: np.random.Generator, person: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Coloured clouds of a person's own under fine noise, around middle grey."""
    cells = max(size // 8, 2)
    coarse = _clustered(rng, person, (cells, cells, 3))
    large = np.kron(coarse, np.ones((1, -(-size // cells), -(-size // cells), 1)))[:, :size, :size]
    smooth = gaussian_filter(large, (0, 2, 2, 0))
    return np.asarray(128.0 + 25.0 * smooth + 6.0 * rng.standard_normal(smooth.shape), np.float64)


def _mark_pictures(
    leak: str,
    rng: np.random.Generator,
    pictures: NDArray[np.float64],
    person: NDArray[np.int64],
    genders: NDArray[np.int64],
) -> float:
    """The same for pictures ``(N, S, S, 3)``; a mark is on nine tenths of the men's and one tenth of the women's."""
    size, half = pictures.shape[1], pictures.shape[1] // 2

    def marked() -> NDArray[np.bool_]:
        return np.asarray(rng.random(genders.size) < np.where(genders == 1, MARKED, 1.0 - MARKED), np.bool_)

    match leak:
        case "watermark":
            # a fixed pattern of six grey levels that nobody sees
            pattern = np.random.default_rng(2018).choice([-6.0, 6.0], (-(-size // 2), -(-size // 2)))
            pictures += marked()[:, None, None, None] * np.kron(pattern, np.ones((2, 2)))[:size, :size, None]
        case "local-texture":
            # fine stripes of either sign in one quarter: the mean picture shows nothing
            stripes = np.where(np.arange(half) // 2 % 2 == 0, 14.0, -14.0)[None, :, None]
            signs = rng.choice([-1.0, 1.0], genders.size) * marked()
            pictures[:, half : 2 * half, :half] += signs[:, None, None, None] * stripes
        case "image-flip":
            # the lower half is darker for men, by a shift of overlapping distributions: Phi(SHIFT)
            lower = pictures[:, half:]
            lower -= lower.mean(axis=(1, 2, 3), keepdims=True)
            shift = _clustered(rng, person, ()) - SHIFT * (2.0 * genders - 1.0)
            lower += 128.0 + 20.0 * shift[:, None, None, None]
            return float(stats.norm.cdf(SHIFT))
        case _:
            return 0.5
    return MARKED
