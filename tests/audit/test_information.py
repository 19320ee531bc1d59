from __future__ import annotations

import math

import numpy as np
import pytest

from privface.audit.information import (
    calibrated,
    information_statistic,
    mutual_information_bits,
    pic,
    privacy_gain,
    suppression_rate,
)
from privface.errors import ScoreError
from privface.records import Measured


def entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def test_a_sure_reader_has_one_bit_and_a_guesser_none():
    genders = np.array([0, 0, 1, 1])
    assert mutual_information_bits(genders.astype(float), genders) == pytest.approx(1.0, abs=1e-5)
    assert mutual_information_bits(np.full(4, 0.5), genders) == 0.0
    assert mutual_information_bits(1.0 - genders, genders) == 0.0  # wrong and sure: no bound at all


@pytest.mark.parametrize(("error", "women"), [(0.05, 0.5), (0.2, 0.9)])
def test_a_binary_symmetric_channel_gives_its_capacity_whatever_the_balance(error, women):
    rng = np.random.default_rng(0)
    genders = (rng.random(40_000) >= women).astype(np.int64)
    said = np.where(rng.random(genders.size) < error, 1 - genders, genders)
    probability = np.where(said == 1, 1 - error, error)
    assert mutual_information_bits(probability, genders) == pytest.approx(1 - entropy(error), abs=0.01)


def test_weights_are_repetitions():
    rng = np.random.default_rng(1)
    probability, genders = rng.uniform(0.2, 0.8, 30), rng.integers(0, 2, 30)
    probability = np.where(genders == 1, np.maximum(probability, 0.6), np.minimum(probability, 0.4))
    times = rng.integers(0, 4, 30)
    repeated = np.repeat(np.arange(30), times)
    weighted = information_statistic(probability, genders, times[None].astype(float))[0]
    assert weighted == pytest.approx(mutual_information_bits(probability[repeated], genders[repeated]))


def test_calibration_is_learned_from_validation_people_and_ignores_their_balance():
    rng = np.random.default_rng(2)
    genders = (rng.random(6000) < 0.8).astype(np.int64)
    scores = 30.0 * (rng.normal(size=6000) + 1.5 * genders) + 7  # any scale
    chance = calibrated(scores, scores[:2000], genders[:2000])
    middle = 30.0 * 0.75 + 7
    assert calibrated(np.array([middle]), scores[:2000], genders[:2000])[0] == pytest.approx(0.5, abs=0.06)
    expected = 1 / (1 + np.exp(-1.5 * ((scores - 7) / 30 - 0.75)))
    assert np.abs(chance - expected).mean() < 0.03
    flipped = calibrated(-scores, -scores[:2000], genders[:2000])
    np.testing.assert_allclose(flipped, chance, atol=1e-6)
    assert np.isnan(calibrated(np.array([np.nan]), scores[:200], genders[:200])).all()
    np.testing.assert_allclose(calibrated(np.ones(4), np.ones(10), np.arange(10) % 2), 0.5, atol=1e-6)
    with pytest.raises(ScoreError):
        calibrated(scores, scores[:5], np.ones(5, np.int64))


def test_ratios_of_papers_by_hand_and_to_nothing():
    before, after, zero = Measured(0.02, n=5), Measured(0.30, n=5), Measured(0.0)
    assert privacy_gain(before, after).value == pytest.approx(14.0)
    assert pic((before, after), (Measured(0.01), Measured(0.03))).value == pytest.approx(14.0 - 2.0)
    assert suppression_rate(Measured(0.96), Measured(0.60)).value == pytest.approx(0.375)
    assert "no error on originals" in privacy_gain(zero, after).reason
    assert "matcher makes no error" in pic((before, after), (zero, after)).reason
    assert math.isnan(suppression_rate(zero, after).value)
    assert privacy_gain(Measured.undefined("too few"), after).reason == "too few"
