"""Parts on several cores: in order, one torch thread each, and nobody else's number of threads changed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privface.errors import AuditError
from privface.threads import map_parts, map_tasks, set_thread_count, thread_count, torch_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def test_parts_come_back_in_order_from_other_threads(two_threads: None) -> None:
    names: set[str] = set()
    gate = threading.Barrier(2, timeout=30)  # two at a time, or it breaks

    def square(value: int) -> tuple[int, int]:
        names.add(threading.current_thread().name)
        gate.wait()
        return value**2, torch.get_num_threads()

    assert map_parts(square, range(6)) == [(k**2, 1) for k in range(6)]
    assert threading.current_thread().name not in names
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


def test_a_part_may_have_parts_and_may_fail(two_threads: None) -> None:
    assert map_parts(lambda k: map_parts(abs, [-k, k]), [1, 2, 3]) == [[1, 1], [2, 2], [3, 3]]
    with pytest.raises(ZeroDivisionError):
        map_parts(lambda k: 1 // k, [1, 0])


def test_without_torch_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_count() == 3
    assert map_parts(abs, [-1, 2]) == [1, 2]
    set_thread_count(1)
    assert thread_count() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert thread_count() >= 1


def test_one_thread_stays_alone() -> None:
    with torch_threads(1):
        name = threading.current_thread().name
        assert map_parts(lambda _: threading.current_thread().name, [1, 2]) == [name, name]


def seen(data: NDArray[np.uint8]) -> tuple[str, int, int]:
    """What another process finds: the kind of its array, its sum, and how many threads it has."""
    if not data.any():
        raise AuditError("Nothing is there.", hint="Give something.")
    return type(data).__name__, int(data.sum()), thread_count()


def test_tasks_run_in_processes_of_one_thread_and_go_through_no_file() -> None:
    large = np.full(3_000_000, 2, np.uint8)  # joblib would hand such an array over as a file
    found = dict(map_tasks(seen, [large, large[:10], large[:20]], processes=2))
    assert found == {n: ("ndarray", total, 1) for n, total in enumerate((6_000_000, 20, 40))}


def test_an_error_of_a_task_keeps_its_hint() -> None:
    with pytest.raises(AuditError) as caught:
        list(map_tasks(seen, [np.zeros(3, np.uint8)], processes=2))
    assert caught.value.hint == "Give something."


def workers(parent: int) -> list[int]:
    """Processes of a pool of this parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat, line = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if (
                int(stat.rpartition(")")[2].split()[1]) == parent
                and b"loky" in line
                and b"tracker" not in line
            ):
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
def test_a_caller_that_stops_ends_its_processes() -> None:
    def stop() -> None:
        if workers(os.getpid()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_tasks(time.sleep, [60.0, 60.0], processes=2, waiting=stop))
    assert workers(os.getpid()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
def test_processes_die_with_a_killed_caller() -> None:
    code = "import time; from privface.threads import map_tasks; list(map_tasks(time.sleep, [60.0, 60.0], processes=2))"
    caller = subprocess.Popen([sys.executable, "-c", code])
    try:
        limit = time.monotonic() + 60
        while len(found := workers(caller.pid)) < 2 and time.monotonic() < limit:
            time.sleep(0.2)
        assert len(found) == 2
        time.sleep(3)  # their watch begins with their first task
    finally:
        caller.kill()
        caller.wait()
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < limit:
        time.sleep(0.2)
    assert [pid for pid in found if Path(f"/proc/{pid}").exists()] == []


def test_a_number_of_threads_is_for_a_while(two_threads: None) -> None:
    for count in (1, 3):
        with torch_threads(count):
            assert thread_count() == count
    assert thread_count() == 2
