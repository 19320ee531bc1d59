from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm

from privface.audit import Auditor, BootstrapParams, Cache
from privface.audit.attacks import Attacks
from privface.audit.learning_curve import set_attack
from privface.audit.probes import EmbeddingProbe
from privface.audit.readings import Attacker, take_reading
from privface.audit.subjects import People, Subjects, View

PARAMS = BootstrapParams(resamples=50)


def subjects(people: int, photos: int) -> Subjects:
    person = np.repeat(np.arange(people), photos)
    return Subjects(
        files=tuple(f"{k}.png" for k in range(person.size)),
        identities=np.array([f"p{k}" for k in person]),
        genders=(person % 2).astype(np.int64),
    )


def reading_of(who: Subjects, scores: np.ndarray, *, test: np.ndarray | None = None):
    every = np.ones(len(who), bool)
    people = People(~every, every, every if test is None else test)
    return take_reading(who, people, PARAMS, Attacker("p", "retrained", "image", False), scores, scores)


@dataclasses.dataclass
class Counted:
    """A linear probe that counts how often it was trained."""

    fits: list[int] = dataclasses.field(repr=False)
    name: str = "counted"

    def fit(self, train, train_genders, train_people, val, val_genders, *, seed):
        self.fits.append(len(np.unique(train_people)))
        return EmbeddingProbe("logistic").fit(train, train_genders, train_people, val, val_genders, seed=seed)


def noisy_view(who: Subjects, *, lean: float = 2.0, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(who), 6)).astype(np.float32)
    x[:, 0] += lean * (who.genders - 0.5)
    return View.of_rows("embedding:m", None, x, x.copy())


def attacks(who: Subjects, cache: Cache | None = None) -> Attacks:
    people = People.split(who, (0.5, 0.15, 0.35), seed=0)
    return Attacks(Auditor(resamples=50, cache=cache or Cache()), who, people)


def test_a_set_of_photos_pools_independent_noise():
    who = subjects(16000, 8)
    rng = np.random.default_rng(0)
    scores = who.genders + rng.normal(size=len(who)) * 2  # d' of one photo is 1/2
    rows = set_attack(reading_of(who, scores), who, (2, 4, 8), seed=0, params=PARAMS)
    for row in rows:
        expected = norm.cdf(0.5 * np.sqrt(row["photos"]) / np.sqrt(2))
        assert row["people"] == 16000
        assert row["leakage"].value == pytest.approx(expected, abs=0.02)
        assert row["single"].value == pytest.approx(norm.cdf(0.5 / np.sqrt(2)), abs=0.02)


def test_a_set_needs_people_with_that_many_photos():
    who = subjects(20, 3)
    scores = np.random.default_rng(0).normal(size=len(who))
    two, four = set_attack(reading_of(who, scores), who, (2, 4), seed=0, params=PARAMS)
    assert two["people"] == 20
    assert four["people"] == 0
    assert "fewer than 5" in four["leakage"].reason


def test_only_test_people_are_in_a_set():
    who = subjects(60, 2)
    scores = np.random.default_rng(0).normal(size=len(who))
    test = np.isin(who.identities, [f"p{k}" for k in range(24)])
    (row,) = set_attack(reading_of(who, scores, test=test), who, (2,), seed=0, params=PARAMS)
    assert row["people"] == 24


def test_more_labels_read_more_and_the_last_row_is_the_full_attack():
    who = subjects(400, 3)
    view, probe = noisy_view(who, lean=1.2), Counted([])
    attack = attacks(who)
    rows, (curve,) = attack.label_budget(probe, view, (12, 60, 100_000))
    assert curve["leakage"] == rows[-1]["leakage"]
    assert [row["people"] for row in rows] == sorted(row["people"] for row in rows)
    assert len(rows) == 3  # 100,000 people there are not, but the full set is
    assert rows[0]["people"] == pytest.approx(12, abs=2)
    assert rows[-1]["leakage"].value == attack.retrained(probe, view).leakage.value
    assert rows[0]["leakage"].value < rows[-1]["leakage"].value


def test_a_budget_is_half_women():
    who = dataclasses.replace(
        subjects(300, 2), genders=(np.repeat(np.arange(300), 2) % 5 == 0).astype(np.int64)
    )
    kept = attacks(who)._some_people(np.ones(len(who), bool), 40)
    names, first = np.unique(who.identities[kept], return_index=True)
    assert len(names) == 40
    assert who.genders[kept][first].sum() == 20


def test_the_cache_saves_the_training_and_changes_nothing(tmp_path):
    who = subjects(60, 3)
    view, first, second = noisy_view(who), Counted([]), Counted([])
    plain = attacks(who).retrained(first, view)
    attacks(who, Cache(tmp_path)).retrained(second, view)
    third = Counted([])
    cached = attacks(who, Cache(tmp_path)).retrained(third, view)
    # both sides of this view are the same embeddings, so even the first cached run trains once
    assert (len(first.fits), len(second.fits), len(third.fits)) == (2, 1, 0)
    np.testing.assert_array_equal(plain.scores, cached.scores)
    assert plain.row() == cached.row()


def test_a_missing_gender_is_said(tmp_path):
    who = subjects(60, 3)
    view = noisy_view(who)
    gone = dataclasses.replace(view, protected_ok=view.protected_ok & (who.genders == 1))
    reading = attacks(who).retrained(Counted([]), gone)
    assert not reading.measurable
    assert "too few protected photos enrolled: no female" in reading.reason
    assert attacks(who).label_budget(Counted([]), gone, (20,)) == ([], [])


@dataclasses.dataclass(frozen=True)
class Undo:
    """Knows the secret rotation."""

    rotation: np.ndarray = dataclasses.field(repr=False)
    name: str = "undo"

    def fit(self, protected_train, original_train, train_people, protected_val, original_val, *, seed):
        undo = self

        class Fitted:
            training = protected_train @ undo.rotation

            def recover(self, protected):
                return protected @ undo.rotation

        return Fitted()


def test_recovery_turns_a_rotation_back():
    who = subjects(200, 3)
    view = noisy_view(who, lean=3.0)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    hidden = dataclasses.replace(view, protected=(view.original @ rotation.T).astype(np.float32))
    probe = Counted([])
    plain = attacks(who).retrained(probe, hidden)
    back = attacks(who).recover(Undo(rotation), hidden)
    retrained, original = attacks(who).recovered(plain, probe, hidden, back, "undo")
    np.testing.assert_allclose(back, hidden.original, atol=1e-4)
    assert (retrained.probe, original.probe) == ("recover+counted", "recover+original-counted")
    assert {retrained.kind, original.kind} == {"recovered"}
    assert retrained.auc.value == pytest.approx(plain.original_auc.value, abs=0.01)
    assert original.auc.value == pytest.approx(plain.original_auc.value, abs=0.01)
    assert original.measurable
