from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privface.attributes import Attribute, column, parse_attributes
from privface.errors import ConfigError, LabelError
from privface.records import FaceRecord, FaceTable


def test_words_become_codes_and_unknown_ones_none():
    words = ["red"] * 9 + ["green"] * 8 + ["", "blue"]
    found = Attribute("colour").with_classes(words[:-1])
    assert found.classes == ("green", "red")
    assert found.codes(["red", "green", "", "blue"]).tolist() == [1, 0, -1, -1]
    assert found.with_classes(["other"]) is found, "known classes are kept"
    assert Attribute.from_dict(found.to_dict()) == found


def test_numbers_are_cut_where_the_user_says():
    found = Attribute.parse("age=16,30,45").with_classes(["20"] * 8 + ["31"] * 8 + ["90"] * 8)
    assert found.classes == ("16-30", "30-45", "45+")
    assert found.codes(["15.9", "16", "29", "30", "45", "", "nan"]).tolist() == [-1, 0, 0, 1, 2, -1, -1]
    assert Attribute.parse(found.text).bands == found.bands
    assert Attribute.parse("year=19700101,19700102").text == "year=19700101,19700102"
    assert Attribute.parse(" gender ").classes == ("female", "male")
    assert found.chance == pytest.approx(1 / 3)


def test_what_names_no_attribute_is_refused():
    for text in (
        "", "=3,4", "age=30", "age=30,16", "age=30,30", "age=old,young", "age=", "age=nan,3", "skin+tone", "a,b",
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            Attribute.parse(text)
    for texts in (["race", "age=16,30", "race"], list("abcdef")):
        with pytest.raises(ConfigError):
            parse_attributes(texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plan", ["gold"] * 20),
        ("plan", ["gold"] * 20 + ["silver"] * 2),
        ("plan", [str(k) for k in range(40)] * 9),
        ("age=16,30", ["20"] * 9 + ["31"] * 2),
        ("age=16,30", ["young"] * 20),
    ],
    ids=["one class", "two rows of a class", "forty classes", "two rows of a band", "words in bands"],
)
def test_labels_that_cannot_be_learnt_from_are_refused(text, words):
    with pytest.raises(LabelError):
        Attribute.parse(text).with_classes(words)


def test_a_column_is_found_or_the_others_are_named():
    records = [
        FaceRecord("a.png", Path("a.png"), gender="male", cohorts={"plan": "gold"}),
        FaceRecord("b.png", Path("b.png")),
    ]
    table = FaceTable(tuple(records))
    np.testing.assert_array_equal(column(table, "gender"), ["male", ""])
    np.testing.assert_array_equal(column(table, "plan"), ["gold", ""])
    with pytest.raises(LabelError) as error:
        column(table, "race")
    assert "plan" in str(error.value.hint)


def test_a_card_of_a_stranger_is_no_attribute():
    for content in ({}, {"name": "a"}, "gender", {"name": "a", "bands": ["x"], "classes": []}):
        with pytest.raises(ValueError, match="no attribute"):
            Attribute.from_dict(content)
