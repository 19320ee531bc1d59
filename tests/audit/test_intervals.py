from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from privface.audit.curves import auc, balanced_accuracy, d_prime, eer, tmr_at_fmr
from privface.audit.intervals import (
    BootstrapParams,
    Interval,
    PairSample,
    draw_pairs,
    draw_probe,
    leakage_interval,
    people_multiplicities,
    percentile_interval,
    probe_interval,
    thin_impostors,
    weighted_auc,
    weighted_balanced_accuracy,
    weighted_eer,
)
from privface.errors import ConfigError, ScoreError

PARAMS = BootstrapParams(resamples=40, seed=3)


def pair_world(people: int, seed: int, *, photos: int = 3, digits: int | None = None) -> PairSample:
    """Photos as noisy points of people; the people effect makes pairs dependent."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    points = rng.normal(size=(people, 8))[person] + rng.normal(0, 0.6, (person.size, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    i, j = np.triu_indices(person.size, 1)
    scores = (points @ points.T)[i, j] if digits is None else np.round((points @ points.T)[i, j], digits)
    same, both = person[i] == person[j], np.stack([person[i], person[j]], 1)
    return PairSample(scores[same], person[i][same], scores[~same], both[~same], people)


def slow_draws(pairs: PairSample, params: BootstrapParams, fmr: float) -> np.ndarray:
    """EER, AUC, d' and TMR of every resample by repeating pairs, and the plain curves on the repeated scores."""
    out = []
    for drawn in people_multiplicities(pairs.n_people, params):
        a, b = pairs.impostor_people.T
        genuine = np.repeat(pairs.genuine, drawn[pairs.genuine_people])
        impostor = np.repeat(pairs.impostor, drawn[a] * drawn[b])
        rates = [figure(genuine, impostor) for figure in (eer, auc, d_prime)]
        out.append([*rates, tmr_at_fmr(genuine, impostor, fmr=fmr).tmr])
    return np.transpose(out)


@pytest.mark.parametrize(("digits", "failed"), [(None, False), (1, False), (None, True)])
def test_pair_draws_equal_the_slow_loop(digits, failed):
    pairs = pair_world(20, 0, digits=digits)
    if failed:
        genuine = np.where(np.arange(pairs.genuine.size) % 4 == 0, -np.inf, pairs.genuine)
        pairs = dataclasses.replace(pairs, genuine=genuine)
    fast, slow = draw_pairs(pairs, PARAMS, fmrs=(0.05,), corrected=False), slow_draws(pairs, PARAMS, 0.05)
    np.testing.assert_allclose([fast.eer, fast.auc, fast.tmr[0.05]], slow[[0, 1, 3]], atol=1e-9)
    np.testing.assert_allclose(fast.d_prime, slow[2], rtol=1e-4)


def test_noise_of_single_pairs_is_counted_once():
    people = 80
    pairs_of_people = np.stack(np.triu_indices(people, 1), axis=1)
    impostor = np.random.default_rng(4).normal(size=len(pairs_of_people))  # nobody is alike anybody
    sample = PairSample(np.ones(people), np.arange(people), impostor, pairs_of_people, people)
    params = BootstrapParams(resamples=800, seed=2)
    share = float(np.mean(impostor < 1.0))
    truth = np.sqrt(share * (1 - share) / impostor.size)
    assert np.std(draw_pairs(sample, params, corrected=False).auc) > 1.5 * truth
    corrected = draw_pairs(sample, params).auc
    assert np.std(corrected) == pytest.approx(truth, rel=0.15)
    assert np.mean(corrected) == pytest.approx(share, abs=truth)


def test_thinning_keeps_the_tail_and_the_count():
    ranks, weights = thin_impostors(100_000, tail=1000)
    assert weights.sum() == 100_000
    assert np.array_equal(ranks[:1000], np.arange(1000))
    assert np.all(np.diff(ranks) > 0)
    assert ranks[-1] < 100_000
    assert ranks.size < 6000
    # the weight before a rank is the rank, to within half a step
    assert np.abs(np.cumsum(weights) - weights / 2 - ranks).max() <= weights.max()
    ranks, weights = thin_impostors(1000, tail=1000)
    assert ranks.size == 1000
    assert np.all(weights == 1)


def test_thinned_draws_are_close_to_exact_ones():
    pairs = pair_world(100, 2, photos=4)
    params = BootstrapParams(resamples=64, seed=1)
    exact = draw_pairs(pairs, params, fmrs=(1e-2,))
    thin = draw_pairs(pairs, params, fmrs=(1e-2,), tail=16_384)
    assert pairs.impostor.size > 70_000
    assert np.std(thin.tmr[1e-2] - exact.tmr[1e-2]) < 0.25 * np.std(exact.tmr[1e-2])
    np.testing.assert_allclose(thin.auc, exact.auc, atol=2e-3)
    np.testing.assert_allclose(thin.eer, exact.eer, atol=4e-3)
    assert np.std(thin.eer - exact.eer) < 0.25 * np.std(exact.eer)


def test_probe_draws_equal_the_slow_loop():
    rng = np.random.default_rng(5)
    people = rng.integers(0, 15, 60)
    labels = (people % 2).astype(np.int64)
    scores = np.round(rng.normal(size=60) + labels, 1)
    _, number = np.unique(people, return_inverse=True)
    fast = [
        draw_probe(scores, labels, people, statistic, PARAMS)
        for statistic in (weighted_auc, weighted_eer, weighted_balanced_accuracy(0.5))
    ]
    for r, drawn in enumerate(people_multiplicities(number.max() + 1, PARAMS)):
        index = np.repeat(np.arange(60), drawn[number])
        male, female = scores[index][labels[index] == 1], scores[index][labels[index] == 0]
        assert fast[0][r] == pytest.approx(auc(male, female), abs=1e-9)
        assert fast[1][r] == pytest.approx(eer(male, female), abs=1e-9)
        assert fast[2][r] == pytest.approx(balanced_accuracy(scores[index], labels[index], 0.5), abs=1e-9)


def test_clustered_photos_widen_the_interval():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 10)
    labels = (people % 2).astype(np.int64)
    scores = rng.normal(size=60)[people] + 0.3 * labels
    clustered = probe_interval(scores, labels, people, weighted_auc, BootstrapParams(400))
    naive = probe_interval(scores, labels, np.arange(600), weighted_auc, BootstrapParams(400))
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_multiplicities():
    draws = people_multiplicities(50, BootstrapParams(2000, seed=1))
    assert draws.shape == (2000, 50)
    assert np.all(draws.sum(axis=1) == 50)
    assert draws.mean(axis=0) == pytest.approx(np.ones(50), abs=0.15)
    assert np.array_equal(draws, people_multiplicities(50, BootstrapParams(2000, seed=1)))
    assert not np.array_equal(draws, people_multiplicities(50, BootstrapParams(2000, seed=2)))


def test_leakage_interval_folds():
    assert leakage_interval(Interval(0.4, 0.55)) == Interval(0.5, pytest.approx(0.6))
    assert leakage_interval(Interval(0.1, 0.2)) == Interval(0.8, 0.9)
    assert leakage_interval(Interval(0.7, 0.8)) == Interval(0.7, 0.8)
    assert math.isnan(leakage_interval(Interval(math.nan, math.nan)).high)


def test_mostly_undefined_draws_give_no_interval():
    draws = np.r_[np.full(20, np.nan), np.arange(80.0)]
    assert math.isnan(percentile_interval(draws, 0.95).low)
    draws[:15] = 1.0
    assert percentile_interval(draws, 0.5).high == pytest.approx(np.quantile(draws[~np.isnan(draws)], 0.75))


def test_bad_settings_are_refused():
    for name, value in (("resamples", 1), ("level", 95)):
        with pytest.raises(ConfigError, match=f"{name} is {value}; it must"):
            BootstrapParams(**{name: value})
    with pytest.raises(ScoreError, match="do not fit"):
        draw_probe(np.ones(3), np.ones(2, np.int64), np.arange(3), weighted_auc, PARAMS)
    with pytest.raises(ScoreError, match="3 genuine scores"):
        PairSample(np.ones(3), np.zeros(2, np.int64), np.ones(1), np.zeros((1, 2), np.int64), 2)


def covered(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.slow
def test_coverage_of_probe_intervals():
    # AUC of N(0.8, 2) over N(0, 2) is Phi(0.8 / sqrt(2 * 2)): person effect and photo noise of variance 1 each
    truth, hits = 0.655422, 0
    for seed in range(100):
        rng = np.random.default_rng([seed, 9])
        people = np.repeat(np.arange(120), rng.integers(1, 6, 120))
        labels = (people % 2).astype(np.int64)
        scores = rng.normal(size=120)[people] + rng.normal(size=people.size) + 0.8 * labels
        interval = probe_interval(scores, labels, people, weighted_auc, BootstrapParams(300, seed=seed))
        hits += covered(interval, truth)
    assert 88 <= hits <= 99


@pytest.mark.slow
def test_coverage_of_pair_intervals():
    big = pair_world(500, 10_000, photos=3)
    truth_auc, truth_eer = auc(big.genuine, big.impostor), eer(big.genuine, big.impostor)
    truth_tmr = tmr_at_fmr(big.genuine, big.impostor, fmr=0.01).tmr
    hits = np.zeros(3, int)
    for seed in range(100):
        draws = draw_pairs(pair_world(40, seed), BootstrapParams(200, seed=seed), fmrs=(0.01,))
        truths = ((draws.auc, truth_auc), (draws.eer, truth_eer), (draws.tmr[0.01], truth_tmr))
        hits += [covered(percentile_interval(values, 0.95), truth) for values, truth in truths]
    assert np.all((hits >= 87) & (hits <= 100)), hits
