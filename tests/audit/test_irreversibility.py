"""Planted recoveries: an identity comes back whole, noise does not come back at all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from privface.audit import BootstrapParams, PixelProbe
from privface.audit.irreversibility import irreversibility_row
from privface.audit.recovery import EmbeddingRecoverer

SIDES = ("original", "protected", "recovered")


def noise(images):
    """Every photo becomes noise of its own."""
    return np.random.default_rng(5).integers(0, 256, images.shape, np.uint8)


def negative(images):
    """Everything turned over: a matcher is lost, and a recoverer undoes it."""
    return 255 - images


class Undo:
    """An attacker who knows how the negative was made."""

    name = "undo"

    def fit(self, protected_train, original_train, train_people, protected_val, original_val, *, seed):
        return SimpleNamespace(training=negative(protected_train), recover=negative)


def audited(toy, protect, **changes):
    settings = {"image_probes": (PixelProbe(),), "embedding_recoverers": (EmbeddingRecoverer(),), **changes}
    return toy.auditor(resamples=60, **settings).run(toy.data(protect, people=110)).document


def values(row):
    return [row[side]["0.01"]["value"] for side in SIDES]


def test_an_identity_is_a_full_failure(toy):
    document = audited(toy, toy.identity)
    (row,) = document["irreversibility"]
    original, protected, recovered = values(row)
    assert protected == original > 0.9
    assert recovered > 0.97 * original
    assert (row["input"], row["matcher"], row["recoverer"]) == ("embedding:toy", "toy", "regression")
    assert row["seen"] is False
    assert row["people"] == document["data"]["attacker_people"]["test"]
    for side in SIDES:
        figure = row[side]["0.01"]
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n"] == row["genuine_pairs"] == 6 * row["people"]
        assert "fewer than 30" in row[side]["0.001"]["reason"]


def test_noise_gives_back_nobody(toy):
    (row,) = audited(toy, noise)["irreversibility"]
    original, protected, recovered = values(row)
    assert original > 0.9
    assert protected < 0.06
    assert recovered < 0.06
    assert row["recovered"]["0.01"]["low"] < 0.02


def test_photos_and_embeddings_that_come_back_are_compared_with_every_matcher(toy):
    matchers = [toy.Matcher(), toy.Matcher(name="second", seen=True)]
    document = audited(toy, negative, matchers=matchers, image_recoverers=(Undo(),))
    embedding, _, image, second = document["irreversibility"]
    for row, name, seen in ((image, "toy", False), (second, "second", True)):
        assert (row["input"], row["matcher"], row["seen"]) == ("image", name, seen)
        original, protected, recovered = values(row)
        assert protected < 0.02
        assert recovered == original > 0.9
    assert values(embedding)[1] < 0.02
    assert values(embedding)[2] > 0.9 * original


def test_without_a_recoverer_there_is_no_such_part_and_nothing_else_changes(toy):
    with_it = audited(toy, toy.remove_cue)
    without = audited(toy, toy.remove_cue, embedding_recoverers=())
    assert "irreversibility" not in without
    assert with_it["matching"] == without["matching"]
    assert with_it["verdict"]["status"] == without["verdict"]["status"]


def test_only_victims_count_and_failures_are_no_match(toy):
    rng = np.random.default_rng(3)
    person, subjects = np.repeat(np.arange(200), 3), toy.subjects(200, 3)
    faces = rng.normal(size=(200, 24))[person] + 0.2 * rng.normal(size=(600, 24))
    faces = faces.astype(np.float32)
    victims = person >= 80
    back = faces.copy()
    back[~victims] = 0  # of people that taught the attacker: not looked at
    settings = {"names": {"matcher": "m"}, "params": BootstrapParams(resamples=20)}
    whole = irreversibility_row(faces, faces, back, subjects, victims, **settings)
    assert whole["recovered"]["0.001"] == whole["original"]["0.001"]
    assert whole["recovered"]["0.001"].value > 0.99
    assert (whole["people"], whole["genuine_pairs"]) == (120, 360)
    back[victims & (person % 4 == 0)] = np.nan
    some = irreversibility_row(faces, faces[:, :8], back, subjects, victims, **settings)
    assert some["recovered"]["0.01"].value == pytest.approx(0.75, abs=0.01)
    assert some["protected"]["0.01"].reason == "protected templates have a dimension of their own"
