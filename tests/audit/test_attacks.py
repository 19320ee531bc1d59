from __future__ import annotations

import copy
import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from privface.audit import Auditor, BootstrapParams, Cache, CNNProbe
from privface.audit.attacks import Attacks, _fitting, plain_attacks
from privface.audit.image_probe import FineTunedProbe
from privface.audit.image_recovery import ImageRecoverer
from privface.audit.learning_curve import set_attack
from privface.audit.probes import EmbeddingProbe
from privface.audit.readings import Attacker, take_reading
from privface.audit.subjects import People, Subjects, View

PARAMS = BootstrapParams(resamples=50)


def reading_of(who: Subjects, scores: np.ndarray, *, test: np.ndarray | None = None):
    every = np.ones(len(who), bool)
    people = People(~every, every, every if test is None else test)
    return take_reading(who, people, PARAMS, Attacker("p", "retrained", "image", False), scores, scores)


@dataclasses.dataclass
class Counted:
    """A linear probe that counts how often it was trained."""

    fits: int = dataclasses.field(default=0, repr=False)
    name: str = "counted"

    def fit(self, *data, seed):
        self.fits += 1
        return EmbeddingProbe("logistic").fit(*data, seed=seed)


def noisy_view(who: Subjects, *, lean: float = 2.0) -> View:
    x = np.random.default_rng(0).normal(size=(len(who), 6)).astype(np.float32)
    x[:, 0] += lean * (who.genders - 0.5)
    return View.of_rows("embedding:m", None, x, x.copy())


def attacks(who: Subjects, cache: Cache | None = None) -> Attacks:
    people = People.split(who, (0.5, 0.15, 0.35), seed=0)
    return Attacks(Auditor(resamples=50, cache=cache or Cache()), who, people)


def test_a_set_of_photos_pools_independent_noise(toy):
    who = toy.subjects(16000, 8)
    rng = np.random.default_rng(0)
    scores = who.genders + rng.normal(size=len(who)) * 2  # d' of one photo is 1/2
    rows = set_attack(reading_of(who, scores), who, (2, 4, 8), seed=0, params=PARAMS)
    for row in rows:
        expected = norm.cdf(0.5 * np.sqrt(row["photos"]) / np.sqrt(2))
        assert row["people"] == 16000
        assert row["leakage"].value == pytest.approx(expected, abs=0.02)
        assert row["single"].value == pytest.approx(norm.cdf(0.5 / np.sqrt(2)), abs=0.02)


def test_sets_are_of_test_people_with_that_many_photos(toy):
    who = toy.subjects(60, 3)
    scores = np.random.default_rng(0).normal(size=len(who))
    reading = reading_of(who, scores, test=np.arange(len(who)) < 24 * 3)
    two, four = set_attack(reading, who, (2, 4), seed=0, params=PARAMS)
    assert two["people"] == 24
    assert four["people"] == 0
    assert "fewer than 5" in four["leakage"].reason


def test_more_labels_read_more_and_the_last_row_is_the_full_attack(toy):
    who = toy.subjects(400, 3)
    view, probe = noisy_view(who, lean=1.2), Counted()
    attack = attacks(who)
    rows, (curve,) = attack.label_budget(probe, view, (12, 60, 100_000))
    assert curve["leakage"] == rows[-1]["leakage"]
    assert [row["people"] for row in rows] == sorted(row["people"] for row in rows)
    assert len(rows) == 3  # 100,000 people there are not, but the full set is
    assert rows[0]["people"] == pytest.approx(12, abs=2)
    assert rows[-1]["leakage"].value == attack.retrained(probe, view).leakage.value
    assert rows[0]["leakage"].value < rows[-1]["leakage"].value


def test_a_budget_is_half_women(toy):
    few_women = (np.repeat(np.arange(300), 2) % 5 == 0).astype(np.int64)
    who = toy.subjects(300, 2, genders=few_women)
    kept = attacks(who)._some_people(np.ones(len(who), bool), 40)
    names, first = np.unique(who.identities[kept], return_index=True)
    assert len(names) == 40
    assert who.genders[kept][first].sum() == 20


def test_the_cache_saves_the_training_and_changes_nothing(toy, tmp_path):
    who = toy.subjects(60, 3)
    view, probes = noisy_view(who), [Counted(), Counted(), Counted()]
    caches = [Cache(), Cache(tmp_path), Cache(tmp_path)]
    plain, _, cached = (
        attacks(who, cache).retrained(p, view) for p, cache in zip(probes, caches, strict=True)
    )
    # both sides of this view are the same embeddings, so it trains once
    assert [probe.fits for probe in probes] == [1, 1, 0]
    np.testing.assert_array_equal(plain.scores, cached.scores)
    assert plain.row() == cached.row()


def test_a_missing_gender_is_said(toy):
    who = toy.subjects(60, 3)
    view = noisy_view(who)
    gone = dataclasses.replace(view, protected_ok=view.protected_ok & (who.genders == 1))
    reading = attacks(who).retrained(Counted(), gone)
    assert not reading.measurable
    assert "too few protected photos enrolled: no female" in reading.reason
    assert attacks(who).label_budget(Counted(), gone, (20,)) == ([], [])


def test_recovery_turns_a_rotation_back(toy):
    who = toy.subjects(200, 3)
    view = noisy_view(who, lean=3.0)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    hidden = dataclasses.replace(view, protected=(view.original @ rotation.T).astype(np.float32))

    class Undo:
        """Knows the secret rotation."""

        name = "undo"

        def fit(self, protected_train, *_others, seed):
            return SimpleNamespace(training=protected_train @ rotation, recover=lambda rows: rows @ rotation)

    probe = Counted()
    plain = attacks(who).retrained(probe, hidden)
    back = attacks(who).recover(Undo(), hidden)
    retrained, original = attacks(who).recovered(plain, probe, hidden, back, "undo")
    np.testing.assert_allclose(back, hidden.original, atol=1e-4)
    assert (retrained.probe, original.probe) == ("recover+counted", "recover+original-counted")
    for reading in (retrained, original):
        assert reading.kind == "recovered"
        assert reading.measurable
        assert reading.auc.value == pytest.approx(plain.original_auc.value, abs=0.01)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("privface.audit.attacks._MANY", 10)


def pictures(who: Subjects) -> View:
    photos = np.random.default_rng(0).integers(0, 256, (len(who), 16, 16, 3), np.uint8)
    every = np.ones(len(who), bool)
    return View("image", None, photos, photos[::-1].copy(), every, every)


def heard(who: Subjects) -> tuple[Attacks, list[tuple[str, int, int]]]:
    """Attacks, and the stages of their progress that end."""
    told: list[tuple[str, int, int]] = []
    settings = Auditor(resamples=50, progress=lambda *step: told.append(step) if step[1] == step[2] else None)
    return Attacks(settings, who, People.split(who, (0.5, 0.15, 0.35), seed=0)), told


@pytest.mark.usefixtures("two_cores")
def test_networks_that_learn_side_by_side_give_what_they_give_alone(toy, monkeypatch):
    who = toy.subjects(40, 2)
    view, probe, recoverer = pictures(who), CNNProbe(epochs=2), ImageRecoverer(epochs=1)
    together, told = heard(who)
    together.ahead(list(plain_attacks(probe, view).values()), [(recoverer, view)])
    assert told == [("train networks", 3, 3)]
    alone = attacks(who)
    expected, back = alone.retrained(probe, view), alone.recover(recoverer, view)
    monkeypatch.setattr(CNNProbe, "fit", None)
    monkeypatch.setattr(ImageRecoverer, "fit", None)
    found = together.retrained(probe, view)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.row() == expected.row()
    np.testing.assert_array_equal(together.recover(recoverer, view), back)


@pytest.mark.usefixtures("two_cores")
def test_attackers_with_few_labels_learn_side_by_side_and_the_last_is_the_full_attack(toy):
    who = toy.subjects(60, 2)
    view, probe = pictures(who), CNNProbe(epochs=1)
    at_once, told = heard(who)
    at_once.ahead(list(plain_attacks(probe, view).values()))
    assert at_once.label_budget(probe, view, (12,)) == attacks(who).label_budget(probe, view, (12,))
    assert told == [("train networks", 2, 2), ("train networks", 2, 2)]


@pytest.mark.usefixtures("two_cores")
def test_a_network_that_no_other_process_can_have_learns_here(toy):
    who = toy.subjects(40, 2)
    base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1))
    probe = FineTunedProbe("own", lambda: copy.deepcopy(base), epochs=1)
    here, told = heard(who)
    here.ahead(list(plain_attacks(probe, pictures(who)).values()))
    assert told == []


def test_large_sets_have_fewer_processes():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert _fitting(whole // 48) == 4
    assert _fitting(whole) == 0
