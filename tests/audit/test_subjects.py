from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from privface.audit import EmbeddingData
from privface.audit.subjects import People, Subjects
from privface.errors import AuditError


def subjects(count: int = 40, **cohorts: list[str]) -> Subjects:
    return Subjects(
        files=tuple(f"{k}.png" for k in range(count)),
        identities=np.array([f"p{k // 2}" for k in range(count)]),
        genders=np.array([(k // 2) % 2 for k in range(count)], np.int64),
        cohorts={name: np.array(column) for name, column in cohorts.items()},
    )


def test_ages_are_reported_in_bands():
    ages = ["17", "18", "29.9", "30", "44", "45", "59", "60", "101", "", "nan", "old"]
    groups = {v: rows.sum() for c, v, rows in subjects(12, age=ages).groups() if c == "age"}
    assert groups == {"0-17": 1, "18-29": 2, "30-44": 2, "45-59": 2, "60+": 2, "old": 1}


def test_a_column_that_tells_photos_apart_is_no_cohort():
    column = [f"session {k}" for k in range(40)]
    found = {c for c, _, _ in subjects(40, session=column, site=["x", "y"] * 20).groups()}
    assert found == {"gender", "site"}


def test_parts_share_no_person_and_adding_people_moves_nobody():
    few, many = subjects(80), subjects(400)
    a, b = (People.split(s, (0.5, 0.15, 0.35), seed=3) for s in (few, many))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        mine, theirs = (set(many.identities[getattr(b, part)]) for part in (one, other))
        assert not mine & theirs
    np.testing.assert_array_equal(a.train, b.train[:80])
    np.testing.assert_array_equal(a.test, b.test[:80])


def test_too_few_people_are_refused():
    with pytest.raises(AuditError, match=r"part has \d (fe)?male people, 6 people are in the set"):
        People.split(subjects(12), (0.5, 0.15, 0.35), seed=0)


def test_embedding_tables_are_checked():
    who = subjects(8)
    fields = {f.name: getattr(who, f.name) for f in dataclasses.fields(who)}
    good = np.ones((8, 3), np.float32)
    EmbeddingData(embeddings={"m": (good, good[:, :2])}, **fields).check()  # another dimension is fine
    for bad, message in (
        ({}, "no embeddings"),
        ({"m": (good, good[:5])}, r"protected embeddings have shape \(5, 3\); 8 files"),
        ({"m": (good * 0, good)}, "no original row holds an embedding"),
        ({"m": (good, good * np.nan)}, "no protected row holds an embedding"),
    ):
        with pytest.raises(AuditError, match=message):
            EmbeddingData(embeddings=bad, **fields).check()
