"""Batches on several CPU cores: every part in a thread of its own, every thread with one torch thread.

Small convolutions gain little from several threads in one operation, and lose much where cores are shared: each operation waits
for its slowest thread. Parts wait for nobody. And a part's result does not depend on how many threads there are, which that
of an operation may.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")

_NAME = "privface-part"


def map_parts(function: Callable[[PartT], ResultT], parts: Sequence[PartT]) -> list[ResultT]:
    """``function`` of every part, in order, on as many cores as torch may use (``torch.get_num_threads()``).

    Args:
        function: Called in other threads, several at a time; autograd modes are a thread's own, so it enters them itself.
        parts: Parts of a batch; few large ones keep cores idle.
    """
    threads = torch.get_num_threads()
    if threads == 1 or threading.current_thread().name.startswith(_NAME):
        return [function(part) for part in parts]
    return list(_pool(threads).map(function, parts))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix=_NAME)
    gate = threading.Barrier(threads + 1)

    def prepare() -> None:
        torch.get_num_threads()  # a thread takes over the global number at its first question, and then no more
        torch.set_num_threads(1)  # this thread's, and the global one
        gate.wait()

    for _ in range(threads):
        pool.submit(prepare)
    gate.wait()
    torch.set_num_threads(threads)  # the global one again
    return pool
