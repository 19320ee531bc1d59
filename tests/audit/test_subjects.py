from __future__ import annotations

import numpy as np
import pytest

from privface.audit import EmbeddingData
from privface.audit.subjects import People
from privface.errors import AuditError


def test_ages_are_reported_in_bands_and_a_column_that_tells_photos_apart_is_no_cohort(toy):
    ages = ["17", "18", "29.9", "30", "44", "45", "59", "60", "101", "", "nan", "old"]
    columns = {"age": ages * 3, "session": [f"session {k}" for k in range(36)]}
    who = toy.subjects(36, cohorts={name: np.array(column) for name, column in columns.items()})
    found = [(cohort, value, rows.sum() // 3) for cohort, value, rows in who.groups() if cohort != "gender"]
    bands = {"0-17": 1, "18-29": 2, "30-44": 2, "45-59": 2, "60+": 2, "old": 1}
    assert found == [("age", value, count) for value, count in bands.items()]


def test_parts_share_no_person_and_adding_people_moves_nobody(toy):
    few, many = (People.split(toy.subjects(n, 2), seed=3) for n in (40, 200))
    people, parts = toy.subjects(200, 2).identities, list(many.parts().values())
    assert sum(len(set(people[part])) for part in parts) == 200
    for part, before in zip(parts, few.parts().values(), strict=True):
        np.testing.assert_array_equal(part[:80], before)


def test_too_few_people_are_refused(toy):
    with pytest.raises(AuditError, match=r"part has \d (fe)?male people, 6 people are in the set"):
        People.split(toy.subjects(6, 2), seed=0)


def test_embedding_tables_are_checked(toy):
    good, fields = np.ones((8, 3), np.float32), vars(toy.subjects(8))
    EmbeddingData(embeddings={"m": (good, good[:, :2])}, **fields).check()  # another dimension is fine
    for bad, message in (
        ({}, "no embeddings"),
        ({"m": (good, good[:5])}, r"protected embeddings have shape \(5, 3\); 8 files"),
        ({"m": (good * 0, good)}, "no original row holds an embedding"),
        ({"m": (good, good * np.nan)}, "no protected row holds an embedding"),
    ):
        with pytest.raises(AuditError, match=message):
            EmbeddingData(embeddings=bad, **fields).check()
