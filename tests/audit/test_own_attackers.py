"""Attackers with people of their own, and the curve through what more labels read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from privface.audit import AuditData, AuditResult, Draws
from privface.audit.intervals import BootstrapParams
from privface.audit.learning_curve import learning_curve
from privface.audit.subjects import People
from privface.errors import AuditError

SIDE = 48


class Pixels:
    """A matcher whose embedding is the first row of pixels, in grey levels from the middle."""

    name, seen, fingerprint = "pixels", False, "pixels"

    def embed(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0].astype(np.float32) - 0.5


def faces(people: int, *, first: int = 0, leak: float = 12.0) -> AuditData:
    """Two photos a person; the grey levels of the first row each tell a little of gender after protection."""
    rng = np.random.default_rng([0, first])
    person = np.repeat(np.arange(people), 2)
    genders = (person % 2).astype(np.int64)
    own = rng.normal(0, 25, (people, SIDE))[person] + rng.normal(0, 8, (len(person), SIDE))

    def images(shift: float) -> np.ndarray:
        row = own + shift * (2 * genders[:, None] - 1)
        out = np.full((len(person), SIDE, SIDE, 3), 128, np.uint8)
        out[:, 0] = np.clip(128 + row, 0, 255).astype(np.uint8)[..., None]
        return out

    count = len(person)
    return AuditData(
        original=images(40.0),
        protected=images(leak),
        enrolled_original=np.ones(count, bool),
        enrolled_protected=np.ones(count, bool),
        files=tuple(f"{first + p}-{k}.png" for k, p in enumerate(person)),
        identities=np.array([f"person-{first + p}" for p in person]),
        genders=genders,
        cohorts={"group": np.where(person < people // 2, "a", "b")},
    )


@pytest.fixture(scope="module")
def auditor(toy):
    return toy.auditor(matchers=[Pixels()], label_budgets=(20, 60))


@pytest.fixture(scope="module")
def both(auditor) -> tuple[AuditResult, AuditResult]:
    few, many = faces(60, leak=2.5), faces(600, first=1000, leak=2.5)
    return auditor.run(few), auditor.run(replace(few, attackers=many))


def test_all_audited_people_are_attacked_and_none_of_them_teaches(both) -> None:
    alone, own = (result.document for result in both)
    assert alone["data"]["attacker_people"]["test"] < 40
    people = own["data"]["attacker_people"]
    assert people["test"] == 60
    assert people["train"] + people["val"] == 600
    (row,) = own["leakage"]
    assert row["leakage"]["n"] == 120
    # more people read more
    assert row["leakage"]["value"] > alone["leakage"][0]["leakage"]["value"] + 0.03
    (curve,) = own["learning_curve"]
    assert curve["people"] == 600
    assert curve["leakage"] == own["label_budget"][-1]["leakage"]
    assert curve["ten_times"]["value"] >= curve["leakage"]["value"] - 0.02
    assert curve["ten_times"]["low"] <= curve["ten_times"]["value"] <= curve["ten_times"]["high"]


def test_matching_and_cohorts_are_those_of_the_audited(toy, both) -> None:
    alone, own = both
    assert own.document["matching"] == alone.document["matching"]
    rows = [[(r["value"], r["n"], r["fnmr_after"]) for r in result.document["cohorts"]] for result in both]
    assert rows[0] == rows[1]
    assert [row["leakage"]["n"] for row in toy.rows(own, "cohorts", cohort="group")] == [60, 60]


def test_attackers_who_do_not_fit_are_refused(auditor) -> None:
    few, others = faces(60), faces(60, first=1000)
    small = replace(others, original=others.original[:, :8], protected=others.protected[:, :8])
    draws = Draws.of([few.protected])
    for changes, message in (
        ({"attackers": few}, "60 audited people are among the attackers' people"),
        ({"attackers": others, "draws": draws}, "cannot average draws"),
        ({"attackers": small}, "attackers' photos are"),
    ):
        with pytest.raises(AuditError, match=message):
            auditor.run(replace(few, **changes))
    joined = replace(few, attackers=faces(2, first=1000)).with_attackers()
    with pytest.raises(AuditError, match="part has"):
        People.split(joined, seed=0, audited=120)


def test_a_power_law_is_found_again(toy) -> None:
    who, rng, found = toy.subjects(40_000), np.random.default_rng(0), []
    for people in (50, 200, 800, 3200):
        aim = 0.5 + 0.02 * people**0.3
        scores = rng.normal(size=40_000)
        scores[1::2] += np.sqrt(2) * norm.ppf(aim)
        found.append((people, scores))
    exponent, later = learning_curve(found, who, np.ones(40_000, bool), BootstrapParams(resamples=20))
    assert exponent.value == pytest.approx(0.3, abs=0.05)
    assert later.value == pytest.approx(0.5 + 0.02 * 32_000**0.3, abs=0.03)
    assert later.low < later.value < later.high


def test_where_labels_do_not_help_the_curve_is_flat_and_two_points_are_none(toy) -> None:
    who, test, params = toy.subjects(400), np.ones(400, bool), BootstrapParams(resamples=40)
    scores = np.random.default_rng(0).normal(size=400)
    scores[1::2] += 1.0
    found = [(people, scores) for people in (50, 200, 800)]
    exponent, later = learning_curve(found, who, test, params)
    assert exponent.value == 0
    assert later.value == pytest.approx(0.76, abs=0.05)
    exponent, later = learning_curve(found[:2], who, test, params)
    assert np.isnan(exponent.value)
    assert "needs 3" in str(later.reason)
