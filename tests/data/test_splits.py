import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privface.data import person_bucket, person_key, require_disjoint, split_people
from privface.errors import DataError, SplitOverlapError
from privface.records import FaceRecord, FaceTable

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def table(*people: str | None, prefix: str = "") -> FaceTable:
    return FaceTable(
        tuple(FaceRecord(f"{prefix}{i}.png", Path(f"{i}.png"), identity=p) for i, p in enumerate(people))
    )


def test_buckets_are_the_same_on_every_machine() -> None:
    # Literal values: a change here would silently move people between the splits of existing users.
    assert person_bucket("Aaron_Eckhart", salt="privface") == pytest.approx(0.325226519892976, abs=1e-15)
    assert person_bucket("n000001", salt="privface") == pytest.approx(0.9261000040543215, abs=1e-15)
    assert person_bucket("n000001", salt="probe") == pytest.approx(0.13995057700242652, abs=1e-15)


def test_buckets_are_uniform() -> None:
    values = np.array([person_bucket(f"person {i}", salt="s") for i in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    edges = np.sort(values)
    assert np.abs(edges - np.arange(1, 4001) / 4001).max() < 1.63 / np.sqrt(4000)  # Kolmogorov, 1 %


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_name_in_another_unicode_form_is_the_same_person(form: str) -> None:
    name = unicodedata.normalize(form, "José Müller")
    assert person_key(name) == person_key("JOSÉ MÜLLER ")
    assert person_bucket(name, salt="s") == person_bucket("josé müller", salt="s")
    assert person_key("José") != person_key("Jose")


people_lists = st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=4)), max_size=40)


@settings(deadline=None)
@given(people=people_lists, more=people_lists, salt=st.text(max_size=3))
def test_splits_are_disjoint_and_complete_and_adding_people_moves_nobody(
    people: list[str | None], more: list[str | None], salt: str
) -> None:
    whole = table(*people)
    parts = split_people(whole, shares=SHARES, salt=salt)
    assert list(parts) == list(SHARES)
    assert sorted(f for part in parts.values() for f in part.files) == sorted(whole.files)
    for one, other in combinations(parts.values(), 2):
        require_disjoint(one, other)
    after = split_people(table(*people, *more), shares=SHARES, salt=salt)
    for side in SHARES:
        assert set(parts[side].files) <= set(after[side].files)


def test_shares_hold_in_expectation() -> None:
    parts = split_people(table(*(f"p{i}" for i in range(5000))), shares=SHARES)
    sizes = {side: len(part) / 5000 for side, part in parts.items()}
    assert sizes == pytest.approx(SHARES, abs=0.02)
    assert parts["val"].name == "faces/val"


@pytest.mark.parametrize(
    "shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.0, "b": 1.0}, {"a": float("nan"), "b": 1.0}]
)
def test_bad_shares_raise(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="not all positive with the sum 1"):
        split_people(table("x"), shares=shares)


def test_overlap_names_the_people() -> None:
    a = table("José", *(f"p{i}" for i in range(8)))
    b = table(unicodedata.normalize("NFD", "JOSÉ"), *(f"P{i}" for i in range(8)), prefix="b")
    with pytest.raises(
        SplitOverlapError, match=r"train and test share 9 people: 'José', 'p0', 'p1', 'p2', 'p3'\."
    ):
        require_disjoint(a, b, names=("train", "test"))
    require_disjoint(table("a", "b"), table("c"))


def test_unlabelled_photos_are_compared_by_file() -> None:
    require_disjoint(table(None, prefix="x"), table(None, prefix="y"))
    for one, other in ((None, None), (None, "Ann"), ("Ann", None)):
        with pytest.raises(SplitOverlapError, match=r"share 1 unlabelled photos: '0\.png'"):
            require_disjoint(table(one), table(other))
