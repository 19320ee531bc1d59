"""Genuine and impostor pairs of photos, as index pairs ``i < j`` into a set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privface.errors import DataError
from privface.records import FaceTable

Pairs = NDArray[np.int64]
"""Index pairs, shape ``(P, 2)``, first below second, sorted."""


class FoldedPairs(NamedTuple):
    """The pairs of an LFW-style pairs file.

    Attributes:
        pairs: Positions in the table, shape ``(P, 2)``, in the order of the file.
        same: True for a genuine pair, shape ``(P,)``.
        folds: Fold number from 0, shape ``(P,)``.
    """

    pairs: Pairs
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


def genuine_pairs(identities: ArrayLike, *, cap_per_person: int = 45, seed: int) -> Pairs:
    """Pairs of two different photos of one person.

    Where a person has more than ``cap_per_person`` pairs, that many are drawn without replacement, so that
    a few people do not decide the figure. A person's draw depends on ``seed`` and their own photos only.

    Args:
        identities: Person of each photo, shape ``(N,)``.
        cap_per_person: Most pairs kept of one person, at least 1.
        seed: Seed of the draw, not negative.

    Returns:
        Shape ``(P, 2)``; empty where nobody has two photos.

    Raises:
        DataError: If the cap is below 1 or ``identities`` is not 1-D.
    """
    if cap_per_person < 1:
        raise DataError(f"cap_per_person is {cap_per_person}, it must be at least 1.", hint="45 is usual.")
    names = _vector(identities, "identities")
    people, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    by_person = np.argsort(inverse, kind="stable")
    chosen = [np.empty((0, 2), np.int64)]
    for person, end, count in zip(people, ends, counts, strict=True):
        members = by_person[end - count : end]
        total = len(members) * (len(members) - 1) // 2
        if total == 0:
            continue
        ranks = np.arange(total)
        if total > cap_per_person:
            digest = hashlib.blake2b(str(person).encode("utf-8", "surrogateescape"), digest_size=8).digest()
            rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
            ranks = rng.choice(total, cap_per_person, replace=False, shuffle=False)
        partners = np.arange(len(members) - 1, -1, -1)
        chosen.append(members[_unrank(ranks, partners, np.arange(1, len(members) + 1))])
    return _sorted(np.concatenate(chosen))


def impostor_pairs(
    identities: ArrayLike,
    *,
    count: int,
    seed: int,
    genders: ArrayLike | None = None,
    same_gender: bool = False,
) -> Pairs:
    """Pairs of photos of two different people, drawn uniformly without replacement.

    Args:
        identities: Person of each photo, shape ``(N,)``.
        count: How many to draw; where fewer exist, all of them are returned.
        seed: Seed of the draw, not negative.
        genders: Gender of each photo, shape ``(N,)``; needed for ``same_gender``.
        same_gender: Draw only among the pairs of one gender (the harder impostors).

    Returns:
        Shape ``(Q, 2)`` with ``Q = min(count, number of such pairs)``.

    Raises:
        DataError: If ``count`` is negative, or ``genders`` is missing or of another length.
    """
    if count < 0:
        raise DataError(f"count is {count}, it must not be negative.", hint="Ask for 0 pairs or more.")
    names = _vector(identities, "identities")
    person = np.unique(names, return_inverse=True)[1]
    block = np.zeros(len(names), np.int64)
    if same_gender:
        if genders is None:
            raise DataError("Same-gender impostors need the genders.", hint="Pass genders=table.genders.")
        block = np.unique(_vector(genders, "genders"), return_inverse=True)[1]
        if len(block) != len(names):
            raise DataError(
                f"{len(block)} genders for {len(names)} identities.", hint="Give one gender for each photo."
            )
    # Sorted by (block, person), the partners of a photo are those after its person and inside its block:
    # a run of places, so that each pair has a rank and can be drawn without listing them all.
    order = np.lexsort((person, block))
    person, block = person[order], block[order]
    group = np.cumsum(np.r_[False, (person[1:] != person[:-1]) | (block[1:] != block[:-1])][: len(names)])
    start = np.searchsorted(group, group, side="right")
    partners = np.searchsorted(block, block, side="right") - start
    total = int(partners.sum())
    if count < total:
        ranks = np.random.default_rng(seed).choice(total, count, replace=False, shuffle=False)
    else:
        ranks = np.arange(total)
    return _sorted(order[_unrank(ranks, partners, start)])


def read_pairs_file(path: Path, table: FaceTable) -> FoldedPairs:
    """Read a pairs file of Labeled Faces in the Wild (``pairs.txt``; Huang et al., 2007).

    The first line holds the number of folds and of genuine (and as many impostor) pairs in each; a single
    number means one fold. Then, fold by fold, ``NAME I J`` lines and ``NAME1 I NAME2 J`` lines.

    Args:
        path: The pairs file.
        table: Photos whose file names end in ``NAME_0001`` and so on.

    Raises:
        DataError: If the file is missing or malformed, or names photos that are not in the table.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The pairs file {path} cannot be read.", hint="Give LFW's pairs.txt.") from error
    folds, size = _pairs_header(lines, path)
    where = {PurePosixPath(file).stem: index for index, file in enumerate(table.files)}
    missing: dict[str, None] = {}
    pairs = np.empty((len(lines) - 1, 2), np.int64)
    same = np.empty(len(lines) - 1, np.bool_)
    for row, cells in enumerate(lines[1:]):
        same[row] = (row // size) % 2 == 0
        stems = _pair_stems(cells, genuine=bool(same[row]), where=f"{path.name}, pair {row + 1}")
        for column, stem in enumerate(stems):
            pairs[row, column] = where.get(stem, -1)
            if stem not in where:
                missing[stem] = None
    if missing:
        raise DataError(
            f"{len(missing)} photos of {path} are not in {table.name}: {', '.join(list(missing)[:5])}.",
            hint="The 10-fold protocol needs every photo of its list.",
        )
    return FoldedPairs(pairs, same, np.repeat(np.arange(folds, dtype=np.int64), 2 * size))


def _pairs_header(lines: Sequence[Sequence[str]], path: Path) -> tuple[int, int]:
    try:
        numbers = [int(cell) for cell in lines[0]]
        folds, size = (1, numbers[0]) if len(numbers) == 1 else numbers
    except (IndexError, ValueError) as error:
        raise DataError(
            f"{path} does not begin with the number of folds and pairs.", hint="Give LFW's pairs.txt."
        ) from error
    if folds < 1 or size < 1 or len(lines) - 1 != 2 * folds * size:
        raise DataError(
            f"{path} announces {folds} folds of 2 x {size} pairs but has {len(lines) - 1} pairs.",
            hint="Download it again.",
        )
    return folds, size


def _pair_stems(cells: Sequence[str], *, genuine: bool, where: str) -> tuple[str, str]:
    expected = 3 if genuine else 4
    numbers = (cells[1:] if genuine else cells[1::2]) if len(cells) == expected else ()
    if not numbers or not all(number.isdecimal() for number in numbers):
        kind = "NAME I J" if genuine else "NAME1 I NAME2 J"
        raise DataError(f"{where}: {' '.join(cells)!r} is not of the form {kind}.", hint="Download it again.")
    first, second = (cells[0], cells[0]) if genuine else (cells[0], cells[2])
    return f"{first}_{int(numbers[0]):04d}", f"{second}_{int(numbers[1]):04d}"


def _vector(values: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, it must be 1-D.", hint="Give one value a photo.")
    return array


def _unrank(ranks: Pairs, partners: Pairs, start: Pairs) -> Pairs:
    """Pair number ``r`` where place ``p`` has ``partners[p]`` partners, from place ``start[p]`` on."""
    ends = np.cumsum(partners)
    first = np.searchsorted(ends, ranks, side="right")
    offset = ranks - (ends - partners)[first] if len(ranks) else ranks
    second = start[first] + offset if len(ranks) else ranks
    return np.stack([first, second], axis=1).astype(np.int64)


def _sorted(pairs: Pairs) -> Pairs:
    pairs = np.sort(pairs, axis=1)
    return np.ascontiguousarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], dtype=np.int64)
