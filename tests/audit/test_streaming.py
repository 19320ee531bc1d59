from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privface.audit import curves, streaming
from privface.audit.streaming import stream_impostors
from privface.errors import ScoreError

FMRS = (1e-2, 1e-3)


def world(people: int, photos: int, dimensions: int, *, seed: int, noise: float = 1.0, fail: float = 0.0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    person = person[np.argsort(person % 2, kind="stable")]
    centre = rng.normal(size=(people, dimensions))
    sides = []
    for _ in range(2):
        side = (centre[person] + noise * rng.normal(size=(person.size, dimensions))).astype(np.float32)
        side[rng.random(person.size) < fail] = np.nan
        sides.append(side)
    return sides[0], sides[1], person, person % 2


def sorted_reference(gallery, probe, person, gender):
    """All scores, one array each: the figures that streaming must give."""
    sides = (side.astype(np.float64) for side in (gallery, probe))
    g, p = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    scores = np.clip(np.round(g @ p.T, 10), -1, 1)
    i, j = np.triu_indices(len(person), 1)
    found, same = scores[i, j], person[i] == person[j]
    genuine = np.where(np.isnan(found[same]), -np.inf, found[same])
    made = ~same & ~np.isnan(found)
    return genuine, found[made], found[made & (gender[i] == gender[j])]


def assert_equal_figures(streamed, genuine, impostor, *, ties: bool = False):
    assert streamed.size == impostor.size
    for fmr in FMRS:
        if impostor.size * fmr >= 10:
            mine, theirs = (
                streamed.tmr_at_fmr(genuine, fmr=fmr),
                curves.tmr_at_fmr(genuine, impostor, fmr=fmr),
            )
            assert vars(mine) == pytest.approx(vars(theirs), abs=1e-9)
    assert streamed.eer(genuine) == pytest.approx(curves.eer(genuine, impostor), abs=1e-6)
    if not ties:  # within a bin, scores count as spread evenly: one score may be off
        area = pytest.approx(curves.auc(genuine, impostor), abs=max(1e-6, 1 / impostor.size))
        assert streamed.auc(genuine) == area
    apart = pytest.approx(curves.d_prime(genuine, impostor), rel=1e-3, abs=1e-6, nan_ok=True)
    assert streamed.d_prime(genuine) == apart


@pytest.mark.parametrize(("noise", "fail"), [(0.3, 0.0), (1.0, 0.0), (1.0, 0.1), (4.0, 0.0)])
def test_figures_equal_those_of_the_sorted_scores(noise, fail, monkeypatch):
    monkeypatch.setattr(streaming, "_TILE", 128)  # so that a small set has tiles of every kind
    rows, seen = world(150, 4, 24, seed=3, noise=noise, fail=fail), []
    genuine, impostor, same = sorted_reference(*rows)
    found = stream_impostors(*rows, genuine, fmrs=FMRS, progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1]
    assert_equal_figures(found[0], genuine, impostor)
    assert_equal_figures(found[1], genuine, same)


@settings(max_examples=60)
@example(people=4, photos=4, dimensions=4, levels=0.5, seed=18)  # float32 splits a tie between two bins
@given(
    people=st.integers(2, 30),
    photos=st.integers(1, 4),
    dimensions=st.integers(2, 6),
    levels=st.sampled_from([None, 1.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_figures_equal_those_of_the_sorted_scores_on_small_sets(people, photos, dimensions, levels, seed):
    gallery, probe, person, gender = world(people, photos, dimensions, seed=seed)
    if levels is not None:  # few directions, so many ties
        gallery, probe = (
            np.round(side / 2 / levels) * levels + np.float32(0.25) for side in (gallery, probe)
        )
    genuine, impostor, same = sorted_reference(gallery, probe, person, gender)
    if not genuine.size:
        return
    found = stream_impostors(gallery, probe, person, gender, genuine, fmrs=FMRS)
    assert_equal_figures(found[0], genuine, impostor, ties=levels is not None)
    if same.size:
        assert_equal_figures(found[1], genuine, same, ties=levels is not None)
    else:
        assert found[1] is None


def test_one_face_for_everybody_is_a_tie(monkeypatch):
    monkeypatch.setattr(streaming, "_HEAVY", 1000)
    constant = np.tile(np.array([0.3, -0.7, 0.2], np.float32), (120, 1))
    genuine, labels = np.ones(60), (np.repeat(np.arange(60), 2), np.zeros(120, np.int64))
    found, _ = stream_impostors(constant, constant, *labels, genuine, fmrs=FMRS)
    assert found.eer(genuine) == 0.5
    assert found.auc(genuine) == 0.5
    assert found.tmr_at_fmr(genuine, fmr=1e-2).tmr == 0.0
    assert np.isnan(found.d_prime(genuine))


def test_weights_stand_for_all_pairs_and_rank_as_they_do(monkeypatch):
    monkeypatch.setattr(streaming, "TAIL", 500)
    monkeypatch.setattr(streaming, "SAMPLE", 20_000)
    rows = world(200, 3, 16, seed=1)
    genuine, impostor, _ = sorted_reference(*rows)
    found, _ = stream_impostors(*rows, genuine, fmrs=FMRS)
    scores, people, weights = found.thinned()
    assert weights.sum() == pytest.approx(impostor.size)
    assert (people[:, 0] != people[:, 1]).all()
    assert 400 < found.tail.size <= 500
    np.testing.assert_allclose(np.sort(found.tail), np.sort(impostor)[-found.tail.size :])
    for share in (0.001, 0.01, 0.1, 0.5):
        threshold = np.quantile(impostor, 1 - share)
        assert weights[scores >= threshold].sum() / impostor.size == pytest.approx(share, rel=0.1)


def test_nobody_and_nothing_to_compare():
    for count in (0, 4):  # nobody, and photos of one person
        side, person = np.eye(count, 4, dtype=np.float32), np.zeros(count, np.int64)
        assert stream_impostors(side, side, person, person, np.ones(1), fmrs=FMRS) == (None, None)


def test_bins_by_hand():
    assert streaming.bin_of(np.array([-np.inf, -1.0, 0.0, 1.0])).tolist() == [8, 8, 32768, 65528]
    counts = np.zeros(streaming.BINS, np.int64)
    counts[[10, 20, 30]] = 5, 3, 2
    assert [streaming.rank_bin(counts, rank) for rank in (0, 1, 2, 4, 5, 9)] == [30, 30, 20, 20, 10, 10]
    assert streaming.crossing_bin(counts, (np.array([20, 20, 5, 5]) + 0.5 - 32768) / 32760) == 20


def test_unsorted_genders_are_refused():
    two = np.eye(2, dtype=np.float32)
    with pytest.raises(ScoreError, match="sorted by gender"):
        stream_impostors(two, two, np.arange(2), np.array([1, 0]), np.ones(1), fmrs=FMRS)
