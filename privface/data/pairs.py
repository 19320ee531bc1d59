"""Lists of genuine and impostor pairs of photos, as index pairs into a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from privface.errors import DataError
from privface.records import FaceTable


class FoldedPairs(NamedTuple):
    """The pairs of an LFW-style pairs file.

    Attributes:
        pairs: Positions in the table, shape ``(P, 2)``, in the order of the file.
        same: True for a genuine pair, shape ``(P,)``.
        folds: Fold number from 0, shape ``(P,)``.
    """

    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


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
