"""Attackers with people of their own, and the curve through what more labels read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from privface.audit import AuditData, Auditor, Draws, EmbeddingProbe
from privface.audit.intervals import BootstrapParams
from privface.audit.learning_curve import learning_curve
from privface.audit.subjects import People, Subjects
from privface.errors import AuditError

SIDE = 48
PARAMS = BootstrapParams(resamples=40)


class Pixels:
    """A matcher whose embedding is the first row of pixels, in grey levels from the middle."""

    name, seen, fingerprint = "pixels", False, "pixels"

    def embed(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0].astype(np.float32) - 0.5


def faces(people: int, *, first: int = 0, leak: float = 12.0, seed: int = 0) -> AuditData:
    """Two photos a person; the grey levels of the first row each tell a little of gender after protection."""
    rng = np.random.default_rng([seed, first])
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


def audited(data: AuditData) -> dict:
    auditor = Auditor(
        matchers=[Pixels()],
        image_probes=[],
        embedding_probes=[EmbeddingProbe("logistic")],
        label_budgets=(20, 60),
        resamples=40,
    )
    return auditor.run(data).to_dict()


@pytest.fixture(scope="module")
def both() -> tuple[dict, dict]:
    few, many = faces(60, leak=2.5), faces(600, first=1000, leak=2.5)
    return audited(few), audited(replace(few, attackers=many))


def test_all_audited_people_are_attacked_and_none_of_them_teaches(both) -> None:
    alone, own = both
    assert alone["data"]["attacker_people"]["test"] < 40
    people = own["data"]["attacker_people"]
    assert people["test"] == 60
    assert people["train"] + people["val"] == 600
    (row,) = own["leakage"]
    assert row["leakage"]["n"] == 120


def test_more_people_read_more(both) -> None:
    alone, own = both
    assert own["leakage"][0]["leakage"]["value"] > alone["leakage"][0]["leakage"]["value"] + 0.03


def test_matching_and_cohorts_are_those_of_the_audited(both) -> None:
    alone, own = both
    assert own["matching"] == alone["matching"]
    assert [(r["value"], r["n"], r["fnmr_after"]) for r in own["cohorts"]] == [
        (r["value"], r["n"], r["fnmr_after"]) for r in alone["cohorts"]
    ]
    groups = [row for row in own["cohorts"] if row["cohort"] == "group"]
    assert [row["leakage"]["n"] for row in groups] == [60, 60]


def test_the_curve_goes_through_all_labels_and_beyond(both) -> None:
    (curve,) = both[1]["learning_curve"]
    assert curve["people"] == 600
    assert curve["leakage"] == both[1]["label_budget"][-1]["leakage"]
    assert curve["ten_times"]["value"] >= curve["leakage"]["value"] - 0.02
    assert curve["ten_times"]["low"] <= curve["ten_times"]["value"] <= curve["ten_times"]["high"]


def test_a_person_on_both_sides_is_refused() -> None:
    few = faces(60)
    with pytest.raises(AuditError, match="60 audited people are among the attackers' people"):
        audited(replace(few, attackers=few))


def test_draws_and_other_sizes_are_refused() -> None:
    few, others = faces(60), faces(60, first=1000)
    with pytest.raises(AuditError, match="cannot average draws"):
        audited(replace(few, attackers=others, draws=Draws.of([few.protected])))
    small = replace(others, original=others.original[:, :8], protected=others.protected[:, :8])
    with pytest.raises(AuditError, match="attackers' photos are"):
        audited(replace(few, attackers=small))


def test_people_of_both_genders_are_needed_among_the_attackers() -> None:
    joined = replace(faces(60), attackers=faces(2, first=1000)).with_attackers()
    with pytest.raises(AuditError, match="part has"):
        People.split(joined, seed=0, audited=120)


def subjects(count: int) -> Subjects:
    names = tuple(map(str, range(count)))
    return Subjects(files=names, identities=np.array(names), genders=np.arange(count) % 2)


def test_a_power_law_is_found_again() -> None:
    who, rng, found = subjects(40_000), np.random.default_rng(0), []
    for people in (50, 200, 800, 3200):
        aim = 0.5 + 0.02 * people**0.3
        scores = rng.normal(size=40_000)
        scores[1::2] += np.sqrt(2) * norm.ppf(aim)
        found.append((people, scores))
    exponent, later = learning_curve(found, who, np.ones(40_000, bool), BootstrapParams(resamples=20))
    assert exponent.value == pytest.approx(0.3, abs=0.05)
    assert later.value == pytest.approx(0.5 + 0.02 * 32_000**0.3, abs=0.03)
    assert later.low < later.value < later.high


def test_where_labels_do_not_help_the_curve_is_flat_and_two_points_are_none() -> None:
    who, test = subjects(400), np.ones(400, bool)
    scores = np.random.default_rng(0).normal(size=400)
    scores[1::2] += 1.0
    exponent, later = learning_curve([(50, scores), (200, scores), (800, scores)], who, test, PARAMS)
    assert exponent.value == 0
    assert later.value == pytest.approx(0.76, abs=0.05)
    exponent, later = learning_curve([(50, scores), (200, scores)], who, test, PARAMS)
    assert np.isnan(exponent.value)
    assert "needs 3" in str(later.reason)
