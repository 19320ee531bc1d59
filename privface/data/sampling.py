"""Orders that give all genders of a set the same say, whatever it holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privface.errors import DataError, LabelError


def balanced_indices(
    genders: ArrayLike, *, seed: int, epoch: int, identities: ArrayLike | None = None
) -> NDArray[np.int64]:
    """One epoch's order in which each gender comes equally often.

    The larger gender's photos come once each; the smaller gender's are repeated as evenly as possible
    (counts differ by at most one). The order alternates in pairs of one female and one male photo, so that
    every batch of an even size is balanced too.

    Args:
        genders: 0 (female) or 1 (male) for each photo, shape ``(N,)``; -1 throughout for a set without gender labels, of
            which everybody comes equally often.
        seed: Seed of the run, not negative.
        epoch: Number of the epoch; the order depends on ``(seed, epoch)`` and the labels alone.
        identities: Person of each photo. Where given, people within a gender come equally often (as
            evenly as possible) instead of photos, so that people with many photos do not dominate.

    Returns:
        Positions, shape ``(2 * max(females, males),)``; without genders ``(N,)``.

    Raises:
        LabelError: If a gender is absent or a value is neither 0 nor 1.
        DataError: If ``identities`` has another length than ``genders``.
    """
    codes = _codes(genders)
    people = np.arange(len(codes)) if identities is None else np.asarray(identities)
    if people.shape != codes.shape:
        raise DataError(
            f"{len(people)} identities for {len(codes)} genders.", hint="Give one for each photo."
        )
    rng = np.random.default_rng([seed, epoch])
    length = int(np.bincount(codes).max())
    sides = [_rounds(np.flatnonzero(codes == code), people, length, rng) for code in np.unique(codes)]
    return rng.permuted(np.stack(sides, axis=1), axis=1).reshape(-1).astype(np.int64)


def _codes(genders: ArrayLike) -> NDArray[np.int64]:
    codes = np.asarray(genders)
    if codes.ndim == 1 and codes.size and (codes == -1).all():
        return np.zeros(len(codes), np.int64)
    if codes.ndim != 1 or not np.isin(codes, (0, 1)).all():
        raise LabelError("Genders must be a 1-D array of 0 (female) and 1 (male).", hint="Use table.genders.")
    counts = np.bincount(codes.astype(np.int64), minlength=2)
    if counts.min() == 0:
        raise LabelError(
            f"{counts[0]} female and {counts[1]} male photos cannot be balanced.",
            hint="Add the absent gender.",
        )
    return codes.astype(np.int64)


def _rounds(
    members: NDArray[np.int64], people: NDArray[np.generic], length: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``length`` photos: in each round every person, in random order, gives the next of their photos."""
    shuffled = rng.permutation(members)
    owner = np.unique(people[shuffled], return_inverse=True)[1]
    by_person = shuffled[np.argsort(owner, kind="stable")]
    counts = np.bincount(owner)
    first = np.cumsum(counts) - counts
    rounds = -(-length // len(counts))
    turns = np.stack([rng.permutation(len(counts)) for _ in range(rounds)])
    photos = by_person[first[turns] + np.arange(rounds)[:, None] % counts[turns]]
    return photos.reshape(-1)[:length]
