from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from privface.audit.curves import eer, tmr_at_fmr
from privface.audit.intervals import BootstrapParams
from privface.audit.matching import choose_pairs, cosine_scores, evaluate_matching
from privface.errors import AuditError

PARAMS = BootstrapParams(resamples=50)


def world(people: int = 40, photos: int = 3, *, noise: float = 0.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    centre = rng.normal(size=(people, 16))
    embeddings = (centre[person] + rng.normal(0, noise, (person.size, 16))).astype(np.float32)
    return embeddings, np.array([f"p{k}" for k in person]), (person % 2).astype(np.int64)


def slow_scores(gallery, probe, identities, genders, *, same_gender):
    """Every pair, women first, one cosine at a time; never a photo with itself."""
    genuine, impostor = [], []
    for i, j in itertools.combinations(np.argsort(genders, kind="stable"), 2):
        a, b = gallery[i].astype(np.float64), probe[j].astype(np.float64)
        score = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        if identities[i] == identities[j]:
            genuine.append(score)
        elif not same_gender or genders[i] == genders[j]:
            impostor.append(score)
    return np.array(genuine), np.array(impostor)


def match(original, protected, identities, genders, **settings):
    """Results by mode and kind of impostors."""
    settings = {"matcher": "m", "params": PARAMS, **settings}
    rows = evaluate_matching(original, protected, identities, genders, **settings)
    return {(row.mode, row.impostors): row for row in rows}


def test_every_mode_equals_the_slow_double_loop():
    original, identities, genders = world()
    protected = world(noise=1.5, seed=1)[0] + original
    found = match(original, protected, identities, genders)
    assert len(found) == 6
    sides = {"O": original, "P": protected}
    for (mode, kind), row in found.items():
        genuine, impostor = slow_scores(
            sides[mode[0]], sides[mode[2]], identities, genders, same_gender=kind == "same-gender"
        )
        assert (row.genuine_pairs, row.impostor_pairs) == (genuine.size, impostor.size)
        assert row.eer.value == pytest.approx(eer(genuine, impostor), abs=1e-9)
        assert row.tmr[1e-2].value == pytest.approx(tmr_at_fmr(genuine, impostor, fmr=1e-2).tmr, abs=1e-9)
        assert row.eer.low <= row.eer.value <= row.eer.high


def test_a_photo_never_meets_its_own_protected_version():
    # one photo per person: nothing is left to match, however well x fits protect(x)
    original, identities, genders = world(photos=1)
    row = match(original, original, identities, genders)["P-O", "all"]
    assert row.genuine_pairs == 0
    assert "no genuine pair" in row.eer.reason


def test_rule_of_30_leaves_small_rates_undefined():
    original, identities, genders = world()  # 7,020 impostor pairs
    row = match(original, original, identities, genders)["O-O", "all"]
    assert not math.isnan(row.tmr[1e-2].value)
    for fmr, expected in ((1e-3, "7"), (1e-4, "0.7")):
        assert math.isnan(row.tmr[fmr].value)
        assert row.tmr[fmr].reason.endswith(f" {expected} expected false matches, fewer than 30")


def test_failures_to_enrol_are_counted_and_do_not_match():
    original, identities, genders = world(noise=0.1)
    protected = original.copy()
    protected[::3] = np.nan  # the first photo of each person
    found = match(original, protected, identities, genders)
    assert found["O-O", "all"].fte.value == 0.0
    assert found["P-P", "all"].fte.value == pytest.approx(1 / 3)
    assert found["O-O", "all"].tmr[1e-2].value == 1.0
    # of three genuine pairs of a person two hold the lost photo
    row = found["P-P", "all"]
    assert (row.genuine_pairs, row.impostor_pairs) == (120, 80 * 79 // 2 - 40)
    assert row.tmr[1e-2].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("blank", [np.nan, 0.0], ids=["NaN", "null vectors"])
def test_nobody_enrolled_is_undefined(blank):
    original, identities, genders = world()
    lost = np.full_like(original, blank)
    found = match(original, lost, identities, genders)
    assert found["P-P", "all"].fte.value == 1.0
    assert found["P-P", "all"].eer.reason == "no impostor pair between enrolled photos"


def test_genuine_pairs_are_capped_per_person():
    identities = np.array(["celebrity"] * 30 + ["a", "a", "b"])
    pairs = choose_pairs(identities, seed=1)
    assert len(pairs.genuine) == 45 + 1
    assert len({tuple(p) for p in pairs.genuine.tolist()}) == 46
    assert np.all(identities[pairs.genuine[:, 0]] == identities[pairs.genuine[:, 1]])
    assert np.all(pairs.genuine[:, 0] < pairs.genuine[:, 1])
    assert np.array_equal(pairs.genuine, choose_pairs(identities, seed=1).genuine)
    assert not np.array_equal(pairs.genuine, choose_pairs(identities, seed=2).genuine)
    assert len(pairs.impostor) == 30 * 3 + 2


@pytest.mark.parametrize("limit", [300, 60])
def test_impostor_cap_keeps_people_even(limit):
    identities = np.array([f"p{k}" for k in range(20) for _ in range(1 + 19 * (k == 0))])
    pairs = choose_pairs(identities, max_impostors=limit)
    assert 0 < len(pairs.impostor) <= limit
    assert len({tuple(p) for p in pairs.impostor.tolist()}) == len(pairs.impostor)
    assert np.all(identities[pairs.impostor[:, 0]] != identities[pairs.impostor[:, 1]])
    assert np.all(pairs.impostor[:, 0] < pairs.impostor[:, 1])
    if limit == 60:  # below one photo per person (190 pairs): a random draw of them
        assert len(pairs.impostor) == 60


def test_cosine_scores_in_blocks_and_singly_agree():
    embeddings, _, _ = world()
    other = world(seed=5)[0]
    i, j = np.triu_indices(len(embeddings), 1)
    pairs = np.stack([i, j], axis=1)
    dense = cosine_scores(embeddings, other, pairs, block=16)
    sparse = np.concatenate([cosine_scores(embeddings, other, pairs[k : k + 1]) for k in range(0, 200, 7)])
    np.testing.assert_allclose(dense[0:200:7], sparse, atol=1e-12)
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    np.testing.assert_allclose(cosine_scores(embeddings, other, pairs[shuffled]), dense[shuffled], atol=1e-12)


def test_equal_faces_tie():
    _, identities, genders = world()
    same = np.tile(np.random.default_rng(0).normal(size=16).astype(np.float32), (len(identities), 1))
    row = match(same, same, identities, genders)["O-O", "all"]
    assert (row.eer.value, row.auc.value, row.tmr[1e-2].value) == (0.5, 0.5, 0.0)
    assert "do not vary" in row.d_prime.reason


def test_shapes_that_do_not_fit_are_refused():
    original, identities, genders = world()
    with pytest.raises(AuditError, match="do not fit 120 identities"):
        evaluate_matching(original, original[:-1], identities, genders, matcher="m")


def test_streamed_figures_equal_held_ones():
    original, identities, genders = world(people=60, photos=4, noise=0.9)
    protected = world(people=60, photos=4, noise=1.5, seed=1)[0] + original
    protected[::17] = np.nan
    held = match(original, protected, identities, genders)
    streamed = match(original, protected, identities, genders, max_impostors=10)
    for key, row in held.items():
        other = streamed[key]
        for name in ("genuine_pairs", "impostor_pairs", "fte"):
            assert getattr(row, name) == getattr(other, name)
        assert row.eer.value == pytest.approx(other.eer.value, abs=1e-9)
        assert row.auc.value == pytest.approx(other.auc.value, abs=1e-5)
        assert row.d_prime.value == pytest.approx(other.d_prime.value, abs=1e-4)
        assert row.tmr[1e-2].value == other.tmr[1e-2].value
        for end in ("low", "high"):  # of resampled sums of weights, so float32 apart
            assert getattr(row.tmr[1e-2], end) == pytest.approx(getattr(other.tmr[1e-2], end), abs=0.02)
        np.testing.assert_allclose(row.histogram["impostor"], other.histogram["impostor"], atol=2e-3)
        assert row.histogram["genuine"].sum() <= 1.0


def test_templates_of_another_dimension_are_not_compared_with_originals():
    original, identities, genders = world()
    found = match(original, original[:, :7], identities, genders)
    assert found["P-P", "all"].eer.value >= 0
    assert "dimension of their own" in found["P-O", "all"].eer.reason
    assert found["P-O", "all"].det is None
