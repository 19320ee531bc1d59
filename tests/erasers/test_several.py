"""Erasers that take labels of more than two classes: against closed forms, a slow loop, and probes on new rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from privface.erasers import LEACE, GaussianTransport, RegionalTransport
from privface.erasers.transport import barycentre, transport_maps

SIZE = 6


def covariances(count: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.cov(rng.normal(size=(SIZE, 40)) * rng.uniform(0.3, 3.0, (SIZE, 1))) for _ in range(count)]


def clouds(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three labels that differ in mean and shape, on the sphere."""
    shapes = [np.linalg.cholesky(c) for c in covariances(3, seed=7)]
    means = 0.8 * np.random.default_rng(8).normal(size=(3, SIZE))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = np.stack([means[k] + shapes[k] @ rng.normal(size=SIZE) for k in y])
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def test_barycentre_of_covariances_that_commute_is_the_square_of_the_mean_root():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
    spreads = np.random.default_rng(1).uniform(0.2, 3.0, (4, SIZE))
    found = barycentre([(turn * s**2) @ turn.T for s in spreads])
    np.testing.assert_allclose(found, (turn * spreads.mean(axis=0) ** 2) @ turn.T, atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_map_leads_to_one_covariance_and_their_ways_back_cancel_out(count):
    """The second is what makes it the barycentre (Agueh and Carlier, 2011)."""
    given = covariances(count, seed=count)
    maps = transport_maps(given)
    ends = [there @ covariance @ there.T for there, covariance in zip(maps, given, strict=True)]
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], (count, SIZE, SIZE)), atol=1e-8)
    np.testing.assert_allclose(np.linalg.inv(maps).mean(axis=0), np.eye(SIZE), atol=1e-7)
    np.testing.assert_allclose(maps, maps.transpose(0, 2, 1), atol=1e-9)


def test_transport_is_what_a_slow_loop_over_rows_and_labels_gives():
    x, y = clouds(400)
    eraser = GaussianTransport(shrinkage=0.0, ridge=1e-9).fit(x, y)
    parts = [x[y == k] for k in range(3)]
    moments = [(p.mean(axis=0), np.cov(p.T, bias=True)) for p in parts]
    maps = transport_maps([c for _, c in moments])
    middle = np.mean([m for m, _ in moments], axis=0)
    expected = []
    for row in x:
        best, chosen = -np.inf, 0
        for k, (mean, covariance) in enumerate(moments):
            score = -0.5 * (row - mean) @ np.linalg.solve(covariance, row - mean)
            score -= 0.5 * np.linalg.slogdet(covariance)[1]
            if score > best:
                best, chosen = score, k
        moved = maps[chosen] @ (row - moments[chosen][0]) + middle
        expected.append(moved / np.linalg.norm(moved))
    np.testing.assert_allclose(eraser.transform(x), expected, atol=1e-5)


@pytest.mark.parametrize("eraser", [GaussianTransport, LEACE])
def test_parts_are_the_whole(eraser):
    x, y = clouds(900)
    parts = eraser()
    for rows in np.array_split(np.argsort(y, kind="stable"), 8):  # the first parts hold one label
        parts.partial_fit(x[rows], y[rows], classes=[0, 1, 2])
    np.testing.assert_allclose(parts.transform(x), eraser().fit(x, y).transform(x), atol=1e-8)


def test_no_linear_probe_reads_any_of_three_labels_after_leace():
    x, y = clouds(2000)
    erased = LEACE().fit(x, np.array(["a", "b", "c"])[y]).transform(x)
    np.testing.assert_allclose((erased - erased.mean(axis=0)).T @ np.eye(3)[y] / len(y), 0, atol=1e-12)
    read = LogisticRegression(class_weight="balanced", max_iter=1000)
    assert balanced_accuracy_score(y, read.fit(x, y).predict(x)) > 0.5
    assert balanced_accuracy_score(y, read.fit(erased, y).predict(erased)) < 0.4


@pytest.mark.parametrize(
    "eraser",
    [GaussianTransport(), *(RegionalTransport(drop=d, regions=r) for d, r in ((0, 1), (1, 1), (1, 3)))],
)
def test_a_quadratic_probe_reads_little_of_three_labels_from_new_rows(eraser):
    x, y = clouds(6000)
    moved = eraser.fit(x[:3000], y[:3000]).transform(x)
    assert moved.shape == (6000, SIZE - getattr(eraser, "drop", 0))
    probe = QuadraticDiscriminantAnalysis(priors=[1 / 3] * 3, reg_param=0.01)
    read = [
        balanced_accuracy_score(y[4500:], probe.fit(rows[3000:4500], y[3000:4500]).predict(rows[4500:]))
        for rows in (x, moved)
    ]
    assert read[0] > 0.8
    assert read[1] < 0.5
