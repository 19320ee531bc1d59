"""Attackers on attributes with several classes, against data whose classes are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from privface.attributes import Attribute
from privface.audit import EmbeddingData
from privface.audit.attributes import _balanced_accuracy, _decide, _macro_auc
from privface.audit.intervals import BootstrapParams
from privface.audit.recovery import EmbeddingRecoverer
from privface.errors import AuditError

PEOPLE, PHOTOS = 240, 3
CLASSES = ("brass", "gold", "silver")


def data(**changes) -> EmbeddingData:
    """Embeddings that tell the plan and the town of each person; protected ones tell the town alone."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), PHOTOS)
    plan, town = rng.integers(0, 3, PEOPLE), rng.integers(0, 2, PEOPLE)
    rows = np.repeat(rng.normal(size=(PEOPLE, 8)), PHOTOS, 0) + 0.3 * rng.normal(size=(len(person), 8))
    tells = np.hstack(
        [rows, 6 * np.eye(3)[plan[person]] + rng.normal(size=(len(person), 3)), 5 * town[person, None]]
    )
    hides = np.hstack([rows, rng.normal(size=(len(person), 3)), 5 * town[person, None]])
    words = np.array(CLASSES)[plan[person]]
    words[::50] = ""
    given = {
        "files": tuple(map(str, range(len(person)))),
        "identities": np.array([f"p{k}" for k in person]),
        "genders": rng.integers(0, 2, PEOPLE)[person],
        "cohorts": {"plan": words, "town": np.array(["north", "south"])[town[person]]},
        "embeddings": {"toy": (tells.astype(np.float32), hides.astype(np.float32))},
    }
    return EmbeddingData(**{**given, **changes})


@pytest.fixture(scope="module")
def auditor(toy):
    def named(*names: str):
        attributes, probes = tuple(map(Attribute.parse, names)), ("logistic", "rbf-svm")
        return toy.auditor(matchers=(), embedding_probes=probes, attributes=attributes, resamples=60)

    return named


@pytest.fixture(scope="module")
def result(auditor):
    return auditor("plan", "town").run(data())


def test_a_hidden_attribute_is_not_read_and_a_kept_one_is(toy, result):
    (plan,), (town,) = (toy.rows(result, "attributes", attribute=a, medium="any") for a in ("plan", "town"))
    assert plan["classes"] == list(CLASSES)
    assert plan["chance"] == pytest.approx(1 / 3, abs=1e-5)
    assert plan["original"]["value"] > 0.95
    assert plan["protected"]["low"] < 1 / 3 + 0.05
    assert plan["highest"]["value"] < 0.5
    assert abs(plan["normalised"]["value"]) < 0.25
    assert town["protected"]["value"] > 0.95
    assert plan["protected"]["low"] < plan["protected"]["value"] < plan["protected"]["high"]
    assert {row["medium"] for row in toy.rows(result, "attributes", attribute="plan")} == {"any", "embedding"}
    assert not result.gate("leakage.plan>0.6").failed
    assert result.figure("leakage.plan").value == plan["upper"]["value"] >= plan["highest"]["high"]
    assert result.gate("leakage.town>0.6").failed
    assert result.gate("leakage.town.low>0.6").failed


def test_a_set_without_genders_has_a_verdict_on_its_attributes(auditor):
    nobody = np.full(PEOPLE * PHOTOS, -1)
    found = auditor("plan", "town").run(data(genders=nobody))
    verdict = found.document["verdict"]
    assert verdict["status"] == "leaks"
    assert verdict["headline"].startswith("The attribute town can be read at a macro AUC of 1.000")
    assert sum("where a guess has" in sentence for sentence in verdict["sentences"]) == 2
    assert not any("binary" in sentence for sentence in verdict["sentences"])
    for gate in ("leakage>0.6", "tmr_p_p_0.01_same_gender<0.5"):
        assert "the set has no gender labels" in found.gate(gate).reason
    assert found.gate("leakage.town>0.6").failed
    assert not found.gate("tmr_o_o_0.01<0.5").failed
    assert {row["cohort"] for row in found.document["cohorts"]} == {"plan", "town"}
    assert auditor("plan").run(data(genders=nobody)).document["verdict"]["status"] != "leaks"
    with pytest.raises(AuditError, match="no other attribute is asked for"):
        auditor().run(data(genders=nobody))
    with pytest.raises(AuditError, match="no column 'gender'"):
        auditor("gender").run(data(genders=nobody))


def test_what_was_recovered_is_read_by_the_best_attacker_on_the_attribute(auditor):
    chosen = dataclasses.replace(auditor("town"), embedding_recoverers=[EmbeddingRecoverer()])
    readings = chosen.run(data()).document["attribute_readings"]
    (turned,) = [row["probe"] for row in readings if row["probe"].startswith("recover+")]
    plain = [row for row in readings if not row["probe"].startswith("recover+")]
    assert turned == f"recover+{max(plain, key=lambda row: row['validation'])['probe']}"


def test_who_does_not_read_the_originals_does_not_count(toy, auditor):
    noise = np.random.default_rng(1).choice(CLASSES, PEOPLE * PHOTOS)
    found = auditor("plan").run(data(cohorts={"plan": noise}))
    (row,) = toy.rows(found, "attributes", medium="any")
    assert row["probe"] == "none"
    assert "macro AUC" in row["protected"]["reason"]
    assert found.gate("leakage.plan>0.9").failed, "silence is no proof"


@pytest.mark.parametrize(
    "cohorts",
    [{}, {"plan": np.full(PEOPLE * PHOTOS, "gold")}, {"plan": np.array(["gold"] * 718 + ["brass"] * 2)}],
    ids=["no column", "one class", "two rows"],
)
def test_labels_that_cannot_be_attacked_are_refused(auditor, cohorts):
    with pytest.raises(AuditError):
        auditor("plan").run(data(cohorts=cohorts))


def test_cohorts_of_gender_and_attribute_are_reported(auditor):
    columns = data().cohorts
    found = auditor("plan").run(data(cohorts={"plan": columns["plan"], "gender_now": columns["town"]}))
    crossed = {r["value"]: r["n"] for r in found.document["cohorts"] if r["cohort"] == "gender x plan"}
    assert set(crossed) == {f"{gender}, {name}" for gender in ("female", "male") for name in CLASSES}
    assert sum(crossed.values()) == PEOPLE * PHOTOS * 49 // 50
    reasons = {row["cohort"]: row["leakage"].get("reason") or "" for row in found.document["cohorts"]}
    assert "one gender" in reasons["gender"]
    assert "one gender" in reasons["gender x plan"]
    assert "one gender" not in reasons["gender_now"]  # its name only begins with gender


def test_figures_are_the_usual_ones():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 3, 600)
    scores = np.eye(3)[codes] + rng.normal(size=(600, 3))
    val = np.arange(600) < 200
    decided = _decide(scores, codes, val, ~val)
    people, params = np.arange(400).astype(str), BootstrapParams(resamples=50)
    accuracy = _balanced_accuracy(decided, codes[~val], people, params)
    assert accuracy.value == pytest.approx(balanced_accuracy_score(codes[~val], decided))
    area = _macro_auc(scores[~val], codes[~val], people, params)
    wanted = np.mean([roc_auc_score(codes[~val] == k, scores[~val, k]) for k in range(3)])
    assert area.value == pytest.approx(wanted)
    assert area.low < area.value < area.high
