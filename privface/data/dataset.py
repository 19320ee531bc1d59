"""Decoding a whole set into memory, in parallel and in a fixed order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import DataError, MissingExtraError, PrivfaceError
from privface.images import decode_image
from privface.records import FaceRecord, FaceTable, Reject
from privface.threads import thread_count

Prepare: TypeAlias = Callable[[NDArray[np.uint8], FaceRecord], NDArray[np.uint8]]
"""Turns one decoded photo (uint8 RGB, ``(H, W, 3)``) into an aligned face (uint8, ``(S, S, 3)``)."""


@dataclass(frozen=True)
class LoadedFaces:
    """A set of aligned faces in memory.

    Attributes:
        pixels: uint8 RGB, shape ``(N, S, S, 3)``.
        table: The ``N`` faces in the same order; what could not be loaded is among its rejects.
    """

    pixels: NDArray[np.uint8]
    table: FaceTable

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.table):
            raise DataError(
                f"{len(self.pixels)} images for {len(self.table)} records.", hint="Give one image a record."
            )

    def __len__(self) -> int:
        return len(self.table)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> LoadedFaces:
        """The faces at ``index`` (positions or a boolean mask)."""
        return LoadedFaces(self.pixels[index], self.table.take(index))


_MOST_WORKERS = 8
"""Threads that decode: each holds a few whole photos."""


def load_faces(
    table: FaceTable,
    prepare: Prepare,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedFaces:
    """Decode and prepare every photo of a set.

    Photos are decoded by as many threads as networks may use, eight at most; the result does not depend on their number.

    Args:
        table: The set.
        prepare: Aligns one photo, from several threads at once; a :class:`~privface.errors.PrivfaceError` makes it a reject.
        progress: Called with (done, total) after each photo, in the calling thread.

    Returns:
        The faces in the order of ``table``.

    Raises:
        DataError: If no photo can be loaded, or ``prepare`` gives images of different shapes.
    """
    pixels: NDArray[np.uint8] | None = None
    kept: list[int] = []
    rejects: list[Reject] = []
    for index, result in enumerate(_in_order(table, prepare)):
        if isinstance(result, PrivfaceError):
            rejects.append(Reject(table.records[index].file, result.message))
        else:
            shape = (len(result), len(result), 3) if pixels is None else pixels.shape[1:]
            if result.dtype != np.uint8 or result.shape != shape:
                raise DataError(
                    f"{table.records[index].file}: prepared to {result.dtype} {result.shape}, expected uint8 {shape}.",
                    hint="prepare must give squares of one size.",
                )
            if pixels is None:
                pixels = np.empty((len(table), *shape), np.uint8)
            pixels[len(kept)] = result
            kept.append(index)
        if progress is not None:
            progress(index + 1, len(table))
    if pixels is None:
        first = f" The first: {rejects[0].file}: {rejects[0].reason}" if rejects else ""
        raise DataError(
            f"None of the {len(table)} photos of {table.name} could be loaded.{first}",
            hint="Check the folder and the alignment.",
        )
    loaded = FaceTable(tuple(table.records[i] for i in kept), table.rejects + tuple(rejects), table.name)
    return LoadedFaces(pixels[: len(kept)], loaded)


def _in_order(table: FaceTable, prepare: Prepare) -> Iterator[NDArray[np.uint8] | PrivfaceError]:
    def load(record: FaceRecord) -> NDArray[np.uint8] | PrivfaceError:
        try:
            return prepare(decode_image(record.path), record)
        except MissingExtraError:
            raise  # no photo's fault
        except PrivfaceError as error:
            return error

    workers = min(thread_count(), _MOST_WORKERS)
    waiting: deque[Future[NDArray[np.uint8] | PrivfaceError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record in table.records:
                waiting.append(pool.submit(load, record))
                if len(waiting) >= 4 * workers:  # bounded, so that decoded photos do not pile up in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
