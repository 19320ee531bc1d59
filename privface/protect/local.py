"""The engine for one machine: threads that decode ahead of the model and write behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from privface.protect.inputs import InputFile
from privface.protect.job import Book, Finished
from privface.protect.work import Loaded, Worker

_BATCH_PIXELS = 64_000_000
"""Photos wait in memory as decoded pixels until their batch is full; a batch of large ones is cut here."""


class LocalEngine:
    """Runs a job in this process."""

    def run(self, worker: Worker, items: Sequence[InputFile], ledger: Book) -> None:
        """See :class:`~privface.protect.job.Engine`: while one batch is computed, the last is written."""
        options = worker.options
        pool = ThreadPoolExecutor(options.workers, thread_name_prefix="privface-protect")
        writing: list[Finished] = []
        try:
            for batch in _batches(_load_ahead(worker, items, ledger, pool), options.batch_size):
                before, writing = writing, []
                try:
                    writing = [pool.submit(worker.finish, one) for one in worker.compute(batch)]
                finally:
                    ledger.commit(before)
                if ledger.stopped:
                    break
        finally:
            try:
                ledger.commit(writing)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _load_ahead(
    worker: Worker, items: Sequence[InputFile], ledger: Book, pool: ThreadPoolExecutor
) -> Iterator[Loaded]:
    """Files in order, read by the pool a bounded number ahead."""
    # Whole photos are large, so few of them wait; aligned faces are small.
    ahead = worker.options.batch_size if worker.detector is None else worker.options.workers + 1
    queue: deque[Future[Loaded]] = deque()
    for item in items:
        queue.append(pool.submit(worker.load, item, ledger.before))
        if len(queue) > ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _batches(loaded: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Groups with at most ``size`` files to compute; finished ones ride along, up to a limit."""
    batch: list[Loaded] = []
    waiting = pixels = 0
    for one in loaded:
        batch.append(one)
        if one.pixels is not None:
            waiting += 1
            pixels += one.pixels.shape[0] * one.pixels.shape[1]
        # A video is a job of its own. Finished files alone fill a batch too, but never cut one short: a resumed run
        # then forms the batches of an uninterrupted one.
        full = waiting == size or pixels >= _BATCH_PIXELS or one.video is not None
        if full or (not waiting and len(batch) >= 16 * size):
            yield batch
            batch, waiting, pixels = [], 0, 0
    if batch:
        yield batch
