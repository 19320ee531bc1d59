from collections import Counter
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privface.data import genuine_pairs, impostor_pairs, read_pairs_file
from privface.errors import DataError
from privface.records import FaceRecord, FaceTable

people = st.lists(st.sampled_from("abcdef"), max_size=18)
seeds = st.integers(0, 2**32)


def listed(pairs: np.ndarray) -> list[tuple[int, int]]:
    assert pairs.dtype == np.int64
    assert pairs.shape[1:] == (2,)
    return [(int(i), int(j)) for i, j in pairs]


def slow_genuine(ids: list[str]) -> list[tuple[int, int]]:
    return [(i, j) for i, j in combinations(range(len(ids)), 2) if ids[i] == ids[j]]


def slow_impostor(ids: list[str], genders: list[int] | None = None) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, j in combinations(range(len(ids)), 2)
        if ids[i] != ids[j] and (genders is None or genders[i] == genders[j])
    ]


@settings(deadline=None)
@given(ids=people, seed=seeds)
def test_uncapped_genuine_pairs_equal_a_slow_loop(ids: list[str], seed: int) -> None:
    assert listed(genuine_pairs(np.array(ids, str), cap_per_person=10_000, seed=seed)) == slow_genuine(ids)


@settings(deadline=None)
@given(ids=people, seed=seeds, cap=st.integers(1, 12))
def test_capped_genuine_pairs(ids: list[str], seed: int, cap: int) -> None:
    pairs = listed(genuine_pairs(np.array(ids, str), cap_per_person=cap, seed=seed))
    assert pairs == sorted(set(pairs))
    assert set(pairs) <= set(slow_genuine(ids))
    assert Counter(ids[i] for i, _ in pairs) == {
        p: min(cap, comb(n, 2)) for p, n in Counter(ids).items() if n > 1
    }


def test_a_persons_draw_does_not_depend_on_others() -> None:
    alone = genuine_pairs(["x"] * 20, cap_per_person=10, seed=3)
    with_others = genuine_pairs(["x"] * 20 + ["a"] * 20, cap_per_person=10, seed=3)
    assert listed(alone) == listed(with_others)[:10]
    assert listed(alone) != listed(genuine_pairs(["x"] * 20, cap_per_person=10, seed=4))


def test_genuine_draw_is_uniform() -> None:
    counts = Counter(
        p for seed in range(3000) for p in listed(genuine_pairs(["x"] * 5, cap_per_person=2, seed=seed))
    )
    assert len(counts) == 10
    assert all(abs(c - 600) < 5 * np.sqrt(600 * 0.8) for c in counts.values())


@settings(deadline=None)
@given(ids=people, data=st.data(), seed=seeds)
def test_all_impostor_pairs_equal_a_slow_loop(ids: list[str], data: st.DataObject, seed: int) -> None:
    genders = data.draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))
    array = np.array(ids, str)
    assert listed(impostor_pairs(array, count=10_000, seed=seed)) == slow_impostor(ids)
    same = impostor_pairs(array, count=10_000, seed=seed, genders=np.array(genders, int), same_gender=True)
    assert listed(same) == slow_impostor(ids, genders)


@settings(deadline=None)
@given(ids=people, seed=seeds, count=st.integers(0, 40))
def test_sampled_impostor_pairs(ids: list[str], seed: int, count: int) -> None:
    allowed = slow_impostor(ids)
    pairs = listed(impostor_pairs(np.array(ids, str), count=count, seed=seed))
    assert pairs == sorted(set(pairs))
    assert len(pairs) == min(count, len(allowed))
    assert set(pairs) <= set(allowed)
    assert pairs == listed(impostor_pairs(np.array(ids, str), count=count, seed=seed))


def test_impostor_draw_is_uniform() -> None:
    ids = ["a", "b", "a", "c", "c", "a"]
    counts = Counter(p for seed in range(4400) for p in listed(impostor_pairs(ids, count=1, seed=seed)))
    expected = 4400 / len(slow_impostor(ids))
    assert set(counts) == set(slow_impostor(ids))
    assert all(abs(c - expected) < 5 * np.sqrt(expected) for c in counts.values())


def test_a_large_set_is_not_enumerated() -> None:
    ids = np.arange(200_000) // 2  # 2e10 pairs would take 300 GB
    pairs = impostor_pairs(ids, count=5000, seed=0)
    assert len(pairs) == 5000
    assert (ids[pairs[:, 0]] != ids[pairs[:, 1]]).all()


def test_bad_arguments_raise() -> None:
    with pytest.raises(DataError, match="cap_per_person is 0"):
        genuine_pairs(["a", "a"], cap_per_person=0, seed=0)
    with pytest.raises(DataError, match="count is -1"):
        impostor_pairs(["a", "b"], count=-1, seed=0)
    with pytest.raises(DataError, match="need the genders"):
        impostor_pairs(["a", "b"], count=1, seed=0, same_gender=True)
    with pytest.raises(DataError, match="1 genders for 2 identities"):
        impostor_pairs(["a", "b"], count=1, seed=0, genders=[0], same_gender=True)
    with pytest.raises(DataError, match="must be 1-D"):
        genuine_pairs(np.zeros((2, 2)), seed=0)


# --- pairs files ----------------------------------------------------------------------------------------

PAIRS = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBen\t3\nBen\t3\t12\nBen\t12\tAnn_Lee\t2\n"


def lfw() -> FaceTable:
    files = ["Ann_Lee/Ann_Lee_0001.jpg", "Ben/Ben_0012.jpg", "Ann_Lee/Ann_Lee_0002.jpg", "Ben/Ben_0003.jpg"]
    return FaceTable(tuple(FaceRecord(f, Path(f), identity=f.split("/")[0]) for f in files))


def test_pairs_file(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(PAIRS)
    pairs, same, folds = read_pairs_file(tmp_path / "pairs.txt", lfw())
    assert pairs.tolist() == [[0, 2], [0, 3], [3, 1], [1, 2]]
    assert same.tolist() == [True, False, True, False]
    assert folds.tolist() == [0, 0, 1, 1]


def test_pairs_file_with_one_fold(tmp_path: Path) -> None:
    (tmp_path / "pairsDev.txt").write_text("1\nAnn_Lee 1 2\nBen 3 Ann_Lee 2\n")
    pairs, same, folds = read_pairs_file(tmp_path / "pairsDev.txt", lfw())
    assert (pairs.tolist(), same.tolist(), folds.tolist()) == ([[0, 2], [3, 2]], [True, False], [0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        ("two folds\n", "does not begin with"),
        ("1 2 3\nAnn_Lee 1 2\n", "does not begin with"),
        ("2 1\nAnn_Lee 1 2\n", "announces 2 folds of 2 x 1 pairs but has 1"),
        ("1\nAnn_Lee 1 Ben 3\nAnn_Lee 1 2\n", "pair 1: .* is not of the form NAME I J"),
        ("1\nAnn_Lee 1 two\nAnn_Lee 1 Ben 3\n", "not of the form NAME I J"),
        ("1\nAnn_Lee 1 7\nAnn_Lee 1 Zoe 3\n", "2 photos of .* Ann_Lee_0007, Zoe_0003"),
    ],
)
def test_pairs_file_defects(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs_file(tmp_path / "pairs.txt", lfw())
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs_file(tmp_path / "none.txt", lfw())
