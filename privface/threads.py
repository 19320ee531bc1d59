"""Work on several CPU cores: parts of a batch in threads, whole tasks in processes, each with one torch thread.

Small convolutions gain little from several threads in one operation, and lose much where cores are shared: each operation waits
for its slowest thread. Parts wait for nobody. And a part's result does not depend on how many threads there are, which that
of an operation may.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType
from typing import TypeVar

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")

_NAME = "privface-part"


def thread_count() -> int:
    """Threads that networks may use: torch's number where it is loaded, else OMP_NUM_THREADS, else one a core."""
    torch = _loaded_torch()
    if torch is not None:
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_thread_count(count: int) -> None:
    """Let networks of this process use so many threads, whether torch is loaded, will be, or is not there."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = _loaded_torch()
    if torch is not None:
        torch.set_num_threads(count)


def map_parts(function: Callable[[PartT], ResultT], parts: Sequence[PartT]) -> list[ResultT]:
    """``function`` of every part, in order, on as many cores as there are threads (:func:`thread_count`).

    Args:
        function: Called in other threads, several at a time; autograd modes are a thread's own, so it enters them itself.
        parts: Parts of a batch; few large ones keep cores idle.
    """
    threads = thread_count()
    if threads == 1 or threading.current_thread().name.startswith(_NAME):
        return [function(part) for part in parts]
    return list(_pool(threads, _loaded_torch()).map(function, parts))


def map_tasks(function: Callable[[PartT], ResultT], tasks: Iterable[PartT]) -> Iterator[ResultT]:
    """``function`` of every task, in order, in as many processes as there are threads, each with one thread.

    For what takes seconds and draws from a random generator that all threads of a process share. Processes stay for the next call,
    and end with this one. Only the next few tasks are taken at a time. No task goes through a file.

    Args:
        function: Of a module, as another process must find it.
        tasks: What it is called with; they can be pickled.

    Raises:
        BrokenProcessPool: If a process was killed, or could not make sense of its task.
    """
    import joblib  # noqa: PLC0415 - comes with scikit-learn

    with joblib.parallel_config("loky", inner_max_num_threads=1):
        # max_nbytes: large arrays would be handed over as files
        send = joblib.Parallel(
            thread_count(), max_nbytes=None, pre_dispatch="n_jobs + 1", return_as="generator"
        )
        yield from send(joblib.delayed(function)(task) for task in tasks)


def _loaded_torch() -> ModuleType | None:
    """Torch if it is in use: a process that computes without it need not load it."""
    torch = sys.modules.get("torch")
    return (
        torch if hasattr(torch, "set_num_threads") else None
    )  # while another thread imports it, it is not whole


@lru_cache(maxsize=4)
def _pool(threads: int, torch: ModuleType | None) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix=_NAME)
    if torch is None:
        return pool
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
