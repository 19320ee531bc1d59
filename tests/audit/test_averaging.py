"""The attacker who averages draws, against closed forms: a leak of size d under noise of spread sigma, in n draws."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import norm

from privface.audit import AuditData, AuditResult, Averaging, Draws, PixelProbe
from privface.audit.picture_probes import HOGProbe
from privface.errors import AuditError, ConfigError

LEAK, SIGMA = 16.0, 16.0
"""Difference between the genders and spread of a draw's noise, in grey levels."""


class Brightness:
    """A frozen classifier; noise of one value an image moves its score by as much."""

    name, seen, fingerprint = "brightness", False, "brightness-1"

    def male_scores(self, images):
        return images.mean(axis=(1, 2, 3)).astype(np.float64)


class Corner:
    """A matcher whose embeddings are means of 8 x 8 fields; they carry leak and noise alike."""

    name, seen, fingerprint = "corner", False, "corner-1"

    def embed(self, images):
        fields = images.reshape(len(images), 3, 2, 12, 2, 12).mean(axis=(3, 5))
        return fields.reshape(len(images), -1).astype(np.float32)


def leaking(people: int = 2000, *, sigma: float = SIGMA, count: int = 8, seed: int = 0) -> AuditData:
    """Grey pictures ``128 +- LEAK / 2`` by gender; a draw adds one normal number to all pixels of a photo.

    A single draw is told apart at accuracy ``Phi(LEAK / (2 sigma))``, the average of n at ``Phi(LEAK sqrt(n) / (2 sigma))``.
    """
    rng = np.random.default_rng(seed)
    genders = (np.arange(people) % 2).astype(np.int64)
    clean = np.full((people, 24, 24, 3), 128.0) + (LEAK * (genders - 0.5))[:, None, None, None]

    def draw(number: int) -> np.ndarray:
        noise = np.random.default_rng([seed, number]).normal(0.0, sigma, (people, 1, 1, 1))
        return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)

    texture = rng.integers(-3, 4, clean.shape)  # originals that no photo shares
    return AuditData(
        original=np.clip(clean + texture, 0, 255).astype(np.uint8),
        protected=draw(0),
        enrolled_original=np.ones(people, bool),
        enrolled_protected=np.ones(people, bool),
        files=tuple(f"{k}.png" for k in range(people)),
        identities=np.array([f"p{k}" for k in range(people)]),
        genders=genders,
        draws=Draws(draw, count),
    )


@pytest.fixture(scope="module")
def auditor(toy):
    def made(**changes):
        settings = {
            "matchers": [Corner()],
            "frozen_probes": [Brightness()],
            "image_probes": (PixelProbe(),),
            "resamples": 30,
            "set_sizes": (),
            "shares": (0.25, 0.15, 0.6),  # one number to learn, and many people to measure on
            "max_impostors": 50_000,
        }
        return toy.auditor(**{**settings, **changes})

    return made


@pytest.fixture(scope="module")
def found(auditor) -> AuditResult:
    return auditor().run(leaking())


ATTACKS = [
    ("pixel-svm", "image", "pixels"),
    ("pixel-svm", "image", "scores"),
    ("brightness", "image", "pixels"),
    ("brightness", "image", "scores"),
    ("logistic", "embedding:corner", "embeddings"),
]


def test_every_attacker_and_every_number_of_draws_has_a_row(found):
    keys = [(r["probe"], r["input"], r["combined"], r["draws"]) for r in found.document["averaging"]]
    assert sorted(keys) == sorted((*attack, n) for attack in ATTACKS for n in (1, 2, 4, 8))
    assert found.document["provenance"]["settings"]["averaging"]["draws"] == [1, 2, 4, 8]


@pytest.mark.parametrize(("probe", "source", "combined"), ATTACKS)
def test_noise_is_averaged_away_as_fast_as_it_must(toy, found, probe, source, combined):
    rows = {
        row["draws"]: row
        for row in toy.rows(found, "averaging", probe=probe, input=source, combined=combined)
    }
    for draws, row in rows.items():
        d = LEAK * np.sqrt(draws) / SIGMA
        assert row["measurable"]
        assert row["leakage"]["value"] == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.04)
        assert row["balanced_accuracy"]["value"] == pytest.approx(norm.cdf(d / 2), abs=0.05)
        gain = row["leakage"]["value"] - rows[1]["leakage"]["value"]
        assert row["gain"]["value"] == pytest.approx(gain, abs=1e-5)
        assert row["gain"]["low"] <= row["gain"]["value"] <= row["gain"]["high"]
    (plain,) = toy.rows(found, probe=probe, input=source)
    assert rows[1]["leakage"] == plain["leakage"]
    assert rows[1]["gain"]["value"] == 0.0


def test_figures_gates_and_the_verdict_say_it(found):
    assert found.figure("averaging").value > 0.9
    assert found.gate("averaging_gain>0.1").failed
    sentences = " ".join(found.document["verdict"]["sentences"])
    assert "whoever holds 8 draws of each photo" in sentences


def test_one_draw_only_has_no_such_part_and_no_other_figure_changes(auditor, found):
    alone = auditor().run(dataclasses.replace(leaking(), draws=None))
    assert "averaging" not in alone.document
    assert "averaging" not in alone.document["provenance"]["settings"]
    assert "averaging" not in alone.figures
    with_draws = found.to_dict()
    del with_draws["averaging"], with_draws["provenance"]["settings"]["averaging"]
    sentences = with_draws["verdict"]["sentences"]
    with_draws["verdict"]["sentences"] = [s for s in sentences if "randomised" not in s]
    assert json.dumps(with_draws, sort_keys=True) == json.dumps(alone.to_dict(), sort_keys=True)
    outcome = alone.gate("averaging_gain.high>0.02")  # silence is no proof
    assert outcome.failed
    assert "one draw" in outcome.reason


def test_a_deterministic_protector_gains_nothing(auditor):
    data = leaking(400)
    result = auditor().run(dataclasses.replace(data, draws=Draws.of([data.protected] * 3)))
    assert {row["draws"] for row in result.document["averaging"]} == {1, 2, 4}
    assert {row["gain"]["value"] for row in result.document["averaging"]} == {0.0}
    assert result.figure("averaging_gain").value == 0.0


def test_same_data_same_bytes_and_a_list_is_as_good_as_a_function(toy, auditor):
    data = leaking(300, count=3)
    first = auditor().run(data)
    listed = dataclasses.replace(data, draws=Draws.of([data.draws.images(k) for k in (1, 2)]))
    assert auditor().run(listed).to_bytes() == first.to_bytes()
    rows = toy.rows(first, "averaging", probe="brightness", combined="scores")
    assert [row["draws"] for row in rows] == [1, 2, 3]


def test_probes_are_chosen_by_name(auditor):
    more = auditor(image_probes=(PixelProbe(), HOGProbe()), averaging=Averaging((1, 2), ("hog-svm",)))
    rows = more.run(leaking(300, count=2)).document["averaging"]
    assert {row["probe"] for row in rows} == {"hog-svm", "brightness"}


def test_photos_that_lack_a_draw_are_left_out(auditor):
    data = leaking(300, count=2)
    ok = (data.genders == 0) | (np.arange(300) % 4 == 1)
    result = auditor().run(dataclasses.replace(data, draws=Draws(data.draws.images, 2, ok)))
    scored, plain = ({row["leakage"]["n"] for row in result.document[p]} for p in ("averaging", "leakage"))
    assert max(scored) < min(plain)
    none = dataclasses.replace(data, draws=Draws(data.draws.images, 2, data.genders == 0))
    for row in auditor().run(none).document["averaging"]:
        assert row["leakage"]["value"] is None
        assert "too few photos enrolled in every draw: no male" in row["leakage"]["reason"]


def test_refusals(auditor):
    data = leaking(300)
    with pytest.raises(AuditError, match="nothing to average"):
        Draws(data.draws.images, 1)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        Averaging((0, 2))
    for draws, message in (
        (Draws.of([data.protected[:, :12]]), "Draw 2 is uint8"),
        (Draws.of([data.protected], ok=np.ones(3, bool)), r"draws\.ok has shape"),
    ):
        with pytest.raises(AuditError, match=message):
            auditor().run(dataclasses.replace(data, draws=draws))
