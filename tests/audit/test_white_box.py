"""Attacks on the code that a model draws its faces from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from privface.audit import Averaging, Draws, PixelProbe
from privface.audit.comparison import trade_off
from privface.audit.recovery import EmbeddingRecoverer
from privface.errors import AuditError

NAME = "white-box:code"


def audit(toy, data, **settings):
    fields = {
        "embedding_probes": ("logistic", "rbf-svm"),
        "embedding_recoverers": (EmbeddingRecoverer(),),
        "image_probes": (PixelProbe(),),
        "label_budgets": (40,),
        "resamples": 60,
    }
    return toy.auditor(**{**fields, **settings}).run(data)


def coded(data, *, kept: float):
    """The data with a code of 16 values: 15 tell the person, the first tells gender and is scaled to ``kept`` of itself."""
    rng = np.random.default_rng(3)
    _, person = np.unique(data.identities, return_inverse=True)
    code = 0.3 * rng.normal(size=(person.max() + 1, 16))[person] + 0.05 * rng.normal(size=(len(data), 16))
    erased = code.copy()
    cue = (2 * data.genders - 1) + 0.3 * rng.normal(size=len(data))
    code[:, 0], erased[:, 0] = cue, kept * cue + (1 - kept) * erased[:, 0]
    found = [
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (code, erased)
    ]
    return dataclasses.replace(data, codes={"code": (found[0], found[1])})


def noise(images):
    """The same noise for everybody: such pictures tell nothing."""
    one = np.random.default_rng(5).integers(0, 256, images.shape[1:], np.uint8)
    return np.broadcast_to(one, images.shape).copy()


def white(document, part="leakage"):
    return [row for row in document[part] if row.get("white_box")]


@pytest.fixture(scope="module")
def planted(toy):
    return audit(toy, coded(toy.data(noise, people=100), kept=1.0))


@pytest.fixture(scope="module")
def clean(toy):
    return audit(toy, coded(toy.data(toy.remove_cue, people=160), kept=0.0))


def test_a_leak_of_the_code_is_found_though_the_pictures_tell_nothing(planted):
    document = planted.document
    rows = white(document)
    assert {row["input"] for row in rows} == {NAME}
    assert {row["seen"] for row in rows} == {True}
    assert {row["probe"] for row in rows if row["kind"] == "retrained"} == {"logistic", "rbf-svm"}
    assert {row["kind"] for row in rows} == {"retrained", "recovered"}
    assert all(row["leakage"]["value"] > 0.9 for row in rows if row["kind"] == "retrained")
    assert all(row["leakage"]["value"] < 0.6 for row in document["leakage"] if row["input"] == "image")
    worst = document["worst_white_box"]
    assert worst["leakage"]["value"] > 0.9
    assert worst["white_box"] is True
    assert document["worst_retrained"] == worst
    assert document["verdict"]["status"] == "leaks"
    assert "holds the model" in document["verdict"]["headline"]
    assert any("White box: whoever holds the model" in text for text in document["verdict"]["sentences"])
    assert {row["input"] for row in document["set_attack"]} > {NAME}
    assert NAME in {row["input"] for row in document["label_budget"]}
    assert NAME in {row["input"] for row in document["recovery"]}


def test_figures_keep_the_code_apart(planted):
    assert planted.gate("worst_white_box>0.68").failed
    assert planted.gate("worst_white_box.low>0.68").failed
    assert planted.figure("worst_retrained") == planted.figure("worst_white_box")
    assert planted.figure("worst_image").value < 0.6
    assert not planted.figure("worst_embedding").value > 0.6


def test_a_clean_code_is_measured_and_its_raw_side_proves_the_attackers(clean):
    rows = [row for row in white(clean.document) if row["kind"] == "retrained"]
    assert len(rows) == 2
    for row in rows:
        assert row["measurable"]
        assert row["original_auc"]["value"] > 0.95
        assert row["leakage"]["low"] < 0.6
    assert clean.figure("worst_white_box").value < 0.68
    assert clean.document["verdict"]["status"] in {"inconclusive", "no-leak-found"}


def test_matching_is_that_of_faces_however_well_the_code_does(toy, planted):
    """The pictures are all the same, so matching is lost; the code still tells everybody apart."""
    mine = {(row["mode"], row["impostors"]): row for row in white(planted.document, "matching")}
    assert {mode for mode, _ in mine} == {"O-O", "P-P", "P-O"}
    assert {row["matcher"] for row in mine.values()} == {NAME}
    assert mine["P-P", "all"]["tmr"]["0.01"]["value"] > 0.9
    assert not planted.figure("tmr").value > 0.1
    assert not any("white-box" in text for text in planted.document["verdict"]["sentences"])
    assert {row["matcher"] for part in planted.document["curves"].values() for row in part} <= {"toy"}
    (point,) = trade_off([("one", planted.to_dict())])
    assert point["matcher"] == "toy"
    worse = coded(toy.data(toy.identity), kept=1.0)
    blank = np.random.default_rng(1).normal(size=worse.codes["code"][0].shape).astype(np.float32)
    worse = dataclasses.replace(worse, codes={"code": (worse.codes["code"][0], blank)})
    kept = audit(toy, worse, max_leakage=1.0)  # the code is lost, the faces are not
    assert kept.document["verdict"]["status"] != "matching-lost"
    assert kept.figure("tmr").value > 0.9


def test_without_a_code_nothing_changes_and_with_one_only_rows_are_added(toy, planted):
    plain = audit(toy, toy.data(noise, people=100))
    assert "white" not in json.dumps(plain.to_dict())
    assert "worst_white_box" not in plain.figures
    outcome = plain.gate("worst_white_box>0.68")  # silence is no proof
    assert outcome.failed
    assert "no code" in outcome.reason
    for part in ("leakage", "matching"):
        others = [row for row in planted.document[part] if not row.get("white_box")]
        assert others == plain.to_dict()[part]
    again = audit(toy, coded(toy.data(noise, people=100), kept=1.0))
    assert again.to_bytes() == planted.to_bytes()


def test_draws_are_averaged_over_faces_and_photos_without_a_code_are_left_out(toy):
    data = coded(toy.data(toy.flip_cue), kept=1.0)
    sides = [side.copy() for side in data.codes["code"]]
    sides[1][::9] = np.nan
    data = dataclasses.replace(
        data, codes={"code": (sides[0], sides[1])}, draws=Draws.of([data.protected.copy()])
    )
    document = audit(toy, data, averaging=Averaging((1, 2)), embedding_recoverers=()).document
    assert {row["input"] for row in document["averaging"]} == {"image", "embedding:toy"}
    image = next(row for row in document["leakage"] if row["input"] == "image")
    assert all(0 < row["leakage"]["n"] < image["leakage"]["n"] for row in white(document))
    fte = {
        row["mode"]: row["fte"]["value"] for row in white(document, "matching") if row["impostors"] == "all"
    }
    assert fte["O-O"] == 0.0 < fte["P-P"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda code: code[:-1], r"code: the protected embeddings have shape \(239, 16\); 240 files need"),
        (lambda code: code * np.nan, "code: no protected row holds an embedding"),
    ],
)
def test_codes_that_do_not_fit_are_refused(toy, change, message):
    data = coded(toy.data(toy.identity), kept=1.0)
    before, after = data.codes["code"]
    with pytest.raises(AuditError, match=message):
        audit(toy, dataclasses.replace(data, codes={"code": (before, change(after))}))
