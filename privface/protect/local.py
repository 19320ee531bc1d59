"""The engine for one machine: threads that decode ahead of the model and write behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from privface.protect.inputs import InputFile
from privface.protect.job import Commit, Finished
from privface.protect.work import Known, Loaded, Worker

_BATCH_PIXELS = 64_000_000
"""Photos wait in memory as decoded pixels until their batch is full; a batch of large ones is cut here."""


class LocalEngine:
    """Runs a job in this process."""

    def run(self, worker: Worker, items: Sequence[InputFile], known: Known, commit: Commit) -> None:
        """See :class:`~privface.protect.job.Engine`: while one batch is computed, the last is written."""
        pool = ThreadPoolExecutor(worker.options.workers, thread_name_prefix="privface-protect")
        writing: list[Finished] = []
        stop = False
        try:
            for batch in _batches(worker, items, known, pool):
                before, writing = writing, []
                try:
                    writing = [pool.submit(worker.finish, one) for one in worker.compute(batch)]
                finally:
                    stop = commit(before)
                if stop:
                    break
        finally:
            try:
                commit(writing)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _batches(
    worker: Worker, items: Sequence[InputFile], known: Known, pool: ThreadPoolExecutor
) -> Iterator[list[Loaded]]:
    """Files in order, read by the pool a bounded number ahead, in groups of at most ``batch_size`` to compute.

    Finished ones ride along, up to a limit.
    """
    size = worker.options.batch_size
    # Whole photos are large, so few of them wait; aligned faces are small.
    ahead = size if worker.detector is None else worker.options.workers + 1
    queue: deque[Future[Loaded]] = deque()
    waiting_items = iter(items)
    batch: list[Loaded] = []
    finished: list[Loaded] = []
    pixels = 0
    while True:
        while len(queue) <= ahead and (item := next(waiting_items, None)) is not None:
            queue.append(pool.submit(worker.load, item, known))
        if not queue:
            break
        one = queue.popleft().result()
        (finished if one.is_final else batch).append(one)
        if one.pixels is not None:
            pixels += one.pixels.shape[0] * one.pixels.shape[1]
        # A video is a job of its own. Finished files go alone where they are many, but never cut a batch short: a resumed
        # run then forms the batches of an uninterrupted one.
        if len(batch) == size or pixels >= _BATCH_PIXELS or one.video is not None:
            yield [*finished, *batch]
            finished, batch, pixels = [], [], 0
        elif len(finished) >= 16 * size:
            yield finished
            finished = []
    if finished or batch:
        yield [*finished, *batch]
