"""Work on several CPU cores: parts of a batch in threads, whole tasks in processes, each with one torch thread.

Small convolutions gain little from several threads in one operation, and lose much where cores are shared: each operation waits
for its slowest thread. Parts wait for nobody. And a part's result does not depend on how many threads there are, which that
of an operation may.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import TypeVar

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")

_NAME = "privface-part"


def thread_count() -> int:
    """Threads that networks may use: torch's number where it is loaded, else OMP_NUM_THREADS, else one a core."""
    torch = _loaded_torch()
    return int(torch.get_num_threads()) if torch is not None else core_count()


def core_count() -> int:
    """Cores that this process may use: OMP_NUM_THREADS, else all."""
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


def map_tasks(
    function: Callable[[PartT], ResultT],
    tasks: Iterable[PartT],
    *,
    processes: int,
    waiting: Callable[[], None] | None = None,
) -> Iterator[tuple[int, ResultT]]:
    """``function`` of every task, each in a process with one thread, as (number of the task, result) in the order of their ends.

    For what takes many seconds. No task goes through a file, and there are never more of them on the way than processes, which end
    with the last task, with the caller, and with this process.

    Args:
        function: Of a module, as another process must find it.
        tasks: What it is called with; they can be pickled.
        processes: How many.
        waiting: Called twice a second, so that the caller can stop by an exception.

    Raises:
        BrokenProcessPool: If a process was killed, or could not make sense of its task.
    """
    from joblib.externals.loky import ProcessPoolExecutor  # noqa: PLC0415 - comes with scikit-learn

    pool = ProcessPoolExecutor(
        processes, env={"OMP_NUM_THREADS": "1"}, initializer=_end_with, initargs=(os.getpid(),)
    )
    running: dict[Future[ResultT], int] = {}

    def ended(at_most: int) -> Iterator[tuple[int, ResultT]]:
        while len(running) > at_most:
            if not threading.main_thread().is_alive():
                raise SystemExit  # this process is about to end, and would wait for its pools
            for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
            if waiting is not None:
                waiting()

    try:
        for number, task in enumerate(tasks):
            running[pool.submit(function, task)] = number
            yield from ended(processes - 1)
        yield from ended(0)
    finally:
        pool.shutdown(kill_workers=True)


def _end_with(parent: int) -> None:
    """Let this process die when its parent does, whatever kills that."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads, however many cores there are: the last bits of a result depend on it.

    Small networks gain little from more than one, and lose much on a busy machine.
    """
    before = thread_count()
    torch = _loaded_torch()
    if torch is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def _loaded_torch() -> ModuleType | None:
    """Torch if it is in use: a process that computes without it need not load it."""
    torch = sys.modules.get("torch")
    whole = hasattr(torch, "set_num_threads")  # not while another thread imports it
    return torch if whole else None


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
