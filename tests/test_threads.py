"""Parts on several cores: in order, one torch thread each, and nobody else's number of threads changed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from privface.threads import map_parts, set_thread_count, thread_count


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        name = threading.current_thread().name
        assert map_parts(lambda _: threading.current_thread().name, [1, 2]) == [name, name]
    finally:
        torch.set_num_threads(before)
