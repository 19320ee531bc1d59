from __future__ import annotations

import stat

import numpy as np
import pytest

from privface.audit import Cache
from privface.errors import ConfigError


class Counter:
    calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"a": np.arange(self.calls * 3.0), "name": np.array("C=1")}


KEY = ("embed", 3, np.eye(2))


def test_the_same_key_is_computed_once_if_there_is_a_folder(tmp_path):
    work = Counter()
    first, again = (Cache(tmp_path / "c").arrays(KEY, work) for _ in range(2))
    assert work.calls == 1
    np.testing.assert_array_equal(first["a"], again["a"])
    assert str(again["name"]) == "C=1"
    for _ in range(2):
        Cache().arrays(KEY, work)
    assert work.calls == 3


@pytest.mark.parametrize(
    "other",
    [
        ("embed", 3, np.eye(2) + 1e-15),
        ("embed", 3, np.eye(2, dtype=np.float32)),
        ("embed", 3, np.eye(2).ravel()),
        ("embed", 3.0, np.eye(2)),
        ("embed", "3", np.eye(2)),
        ("embed", 3, np.eye(2), ""),
    ],
)
def test_another_key_is_another_entry(tmp_path, other):
    cache, work = Cache(tmp_path), Counter()
    cache.arrays(KEY, work)
    cache.arrays(other, work)
    assert work.calls == 2


def test_a_damaged_entry_is_made_again(tmp_path):
    cache, work = Cache(tmp_path), Counter()
    cache.arrays(KEY, work)
    (entry,) = tmp_path.glob("*.npz")
    entry.write_bytes(entry.read_bytes()[:50])
    assert [cache.arrays(KEY, work)["a"].size for _ in range(2)] == [6, 6]
    assert work.calls == 2


def test_only_its_owner_may_enter_and_a_file_is_no_folder(tmp_path):
    Cache(tmp_path / "private")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    (tmp_path / "f").write_text("x")
    with pytest.raises(ConfigError):
        Cache(tmp_path / "f")
