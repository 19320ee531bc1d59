from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm, rankdata
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from privface.audit.curves import (
    auc,
    balanced_accuracy,
    best_threshold,
    d_prime,
    det_curve,
    eer,
    leakage,
    tmr_at_fmr,
)
from privface.errors import ConfigError, ScoreError, TooFewPairsError

D = 1.7


def quantiles(mean: float, count: int) -> np.ndarray:
    """Noise-free normal scores: no sampling error, so closed forms hold to 1 / count."""
    return norm.ppf((np.arange(count) + 0.5) / count) + mean


@pytest.fixture(scope="module")
def normal() -> tuple[np.ndarray, np.ndarray]:
    return quantiles(D, 20_000), quantiles(0.0, 400_000)


def test_closed_forms(normal):
    genuine, impostor = normal
    assert auc(genuine, impostor) == pytest.approx(0.88533, abs=2e-5)
    assert eer(genuine, impostor) == pytest.approx(0.19766, abs=1e-4)
    assert d_prime(genuine, impostor) == pytest.approx(D, abs=2e-3)
    assert tmr_at_fmr(genuine, impostor, fmr=1e-3).tmr == pytest.approx(0.0823, abs=2e-4)
    for fmr in (1e-1, 1e-2, 1e-3):
        expected = norm.sf(norm.isf(fmr) - D)
        assert tmr_at_fmr(genuine, impostor, fmr=fmr).tmr == pytest.approx(expected, abs=5e-4)
        assert tmr_at_fmr(genuine, impostor, fmr=fmr).fnmr == pytest.approx(1 - expected, abs=5e-4)


def assert_on_polyline(rate, fpr, tpr):
    # on a vertical piece many TMRs share the FMR: take the piece's ends
    touching = np.isclose(fpr, rate, atol=1e-9)
    if touching.any():
        assert tpr[touching].min() - 1e-9 <= 1 - rate <= tpr[touching].max() + 1e-9
    else:
        assert np.interp(rate, fpr, tpr) == pytest.approx(1 - rate, abs=1e-9)


@st.composite
def score_sets(draw):
    """Two sides of one kind; most kinds have ties within and between the sides."""
    kind = draw(st.sampled_from(["ties", "distinct", "constant", "infinite", "NaN", "empty"]))
    value = {
        "ties": st.integers(-4, 4).map(float),
        "constant": st.just(0.25),
        "infinite": st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf]),
        "NaN": st.sampled_from([math.nan, 0.0, 1.0]),
    }.get(kind, st.floats(-1.0, 1.0))
    sides = [np.array(draw(st.lists(value, min_size=20, max_size=60))) for _ in range(2)]
    if kind == "NaN":
        sides[draw(st.integers(0, 1))][0] = math.nan
    if kind == "empty":
        sides[draw(st.integers(0, 1))] = np.empty(0)
    return kind, *sides


@settings(max_examples=300)
@example(("distinct", np.linspace(1, 2, 50), np.linspace(-1, 0, 50)), 0.5)  # perfect separation
@given(score_sets(), st.sampled_from([0.5, 0.6, 0.9]))
def test_every_kind_of_set_is_read_as_sklearn_and_scipy_read_it(sets, fmr):
    kind, genuine, impostor = sets
    event(kind)
    labels, scores = np.repeat([1, 0], [genuine.size, impostor.size]), np.concatenate([genuine, impostor])
    if kind in ("NaN", "empty"):
        for figure in (auc, eer, lambda g, i: tmr_at_fmr(g, i, fmr=fmr)):
            with pytest.raises(ScoreError, match=r"NaN|empty"):
                figure(genuine, impostor)
        return
    ranks = rankdata(scores)  # scikit-learn refuses infinities; ranks order the same and are finite
    assert auc(genuine, impostor) == pytest.approx(roc_auc_score(labels, ranks), abs=1e-12)
    test = mannwhitneyu(ranks[labels == 1], ranks[labels == 0], method="asymptotic")
    assert auc(genuine, impostor) == pytest.approx(test.statistic / (genuine.size * impostor.size), abs=1e-12)
    fpr, tpr, _ = roc_curve(labels, ranks, drop_intermediate=False)
    assert_on_polyline(eer(genuine, impostor), fpr, tpr)
    point = tmr_at_fmr(genuine, impostor, fmr=fmr)
    assert point.tmr == pytest.approx(tpr[fpr <= fmr + 1e-9].max(), abs=1e-12)
    assert point.fmr <= fmr
    if kind != "infinite":
        assert point.fmr == pytest.approx(np.mean(impostor >= point.threshold), abs=1e-12)
        assert point.tmr == pytest.approx(np.mean(genuine >= point.threshold), abs=1e-12)


def test_rate_that_binary_floats_round_down_is_not_lost():
    impostor = np.arange(100.0)  # 0.29 * 100 == 28.999999999999996
    assert tmr_at_fmr(impostor, impostor, fmr=0.29).fmr == 0.29


def test_d_prime_leaves_out_failed_comparisons_and_needs_scores_that_vary():
    genuine, impostor = np.array([4.0, 5.0, -np.inf]), np.arange(3.0)
    assert d_prime(genuine, impostor) == d_prime(genuine[:2], impostor)
    assert math.isnan(d_prime(np.ones(9), np.ones(9)))
    assert math.isnan(d_prime(np.array([1.0]), impostor))


def test_undefined_input_is_refused():
    fine = np.arange(2000.0)
    with pytest.raises(ScoreError, match=r"shape \(2, 1\)"):
        auc(np.ones((2, 1)), fine)
    with pytest.raises(ScoreError, match="0 scores of women and 3 of men"):
        balanced_accuracy(np.arange(3.0), np.ones(3, np.int64), 0.0)
    with pytest.raises(TooFewPairsError):
        tmr_at_fmr(fine, fine, fmr=1e-3)
    tmr_at_fmr(fine, np.arange(10_000.0), fmr=1e-3)
    for fmr in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match=f"fmr is {fmr}; it must lie in"):
            tmr_at_fmr(fine, fine, fmr=fmr)


def test_det_points_lie_on_the_step_curves(normal):
    genuine, impostor = normal
    curve = det_curve(genuine, impostor, points=100)
    assert len(curve.fmr) <= 100
    assert np.all(np.diff(curve.fmr) >= 0)
    assert np.all(np.diff(curve.fnmr) <= 0)
    for fmr, fnmr, threshold in zip(curve.fmr[::10], curve.fnmr[::10], curve.threshold[::10], strict=True):
        assert fmr == pytest.approx(np.mean(impostor >= threshold), abs=1e-12)
        assert fnmr == pytest.approx(np.mean(genuine < threshold), abs=1e-12)
    assert curve.fmr[0] <= 1e-4
    assert curve.fnmr[-1] <= 1e-4
    with pytest.raises(ConfigError, match="points is 1; a curve needs 2"):
        det_curve(genuine, impostor, points=1)


def test_leakage_folds():
    assert leakage(0.1) == 0.9
    assert leakage(0.5) == 0.5
    assert math.isnan(leakage(math.nan))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=2, max_size=40), st.integers(-4, 4)
)
def test_balanced_accuracy_is_sklearns(rows, threshold):
    scores = np.array([r[0] for r in rows], np.float64)
    labels = np.array([r[1] for r in rows], np.int64)
    labels[:2] = (0, 1)
    expected = balanced_accuracy_score(labels, (scores >= threshold).astype(int))
    assert balanced_accuracy(scores, labels, threshold) == pytest.approx(expected, abs=1e-12)
    best = balanced_accuracy(scores, labels, best_threshold(scores, labels))
    everywhere = [balanced_accuracy(scores, labels, t) for t in np.arange(-4, 5) - 0.5]
    assert best == pytest.approx(max(everywhere), abs=1e-12)
