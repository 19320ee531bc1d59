"""D_sys against closed forms and numeric integrals, and what an audit says of two protections."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from privface.audit import EmbeddingData
from privface.audit.intervals import BootstrapParams, PairSample
from privface.audit.unlinkability import LocalMeasure, d_sys, measure_d_sys, unlinkability_row
from privface.errors import AuditError, ScoreError
from privface.pipeline import AuditOptions, audit_tables


def level(local: LocalMeasure, scores: np.ndarray) -> np.ndarray:
    return local.levels[np.searchsorted(local.cuts, scores)]


def exact(shift: float) -> float:
    """D_sys of N(shift, 1) against N(0, 1) by the paper's formulas."""

    def under(s: float) -> float:
        m, n = norm.pdf(s - shift), norm.pdf(s)
        return m * max(0.0, (m - n) / (m + n)) if m + n > 0 else 0.0

    return quad(under, -8, 8 + shift, points=[shift / 2], limit=400)[0]


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 4.0])
def test_two_normal_distributions_give_the_integral(shift):
    rng = np.random.default_rng(1)
    mated, non_mated = rng.normal(shift, 1, 8000), rng.normal(0, 1, 12_000)
    assert d_sys(mated, non_mated) == pytest.approx(exact(shift), abs=0.015)
    # an exponential changes the scale and not what can be told; nor does a scale turned upside down
    assert d_sys(np.exp(mated), np.exp(non_mated)) == pytest.approx(d_sys(mated, non_mated), abs=0.002)
    assert d_sys(-mated, -non_mated) == pytest.approx(exact(shift), abs=0.015)


def test_identical_distributions_are_near_zero_on_average_and_disjoint_ones_are_one():
    rng = np.random.default_rng(2)
    found = [d_sys(rng.normal(size=500), rng.normal(size=1000), seed=k) for k in range(30)]
    assert np.mean(found) < 0.012  # 100 bins of equal width would say 0.1
    assert min(found) == 0.0
    assert d_sys(rng.uniform(2, 3, 500), rng.uniform(0, 1, 1000)) == 1.0
    assert d_sys(np.ones(500), np.zeros(1000)) == 1.0
    assert d_sys(np.ones(500), np.ones(1000)) == 0.0  # one face for everybody links nobody


def test_a_known_mixture_of_ties():
    """Of mated scores 3/4 are 1, of others 1/4: D(1) = 1/2, D(0) = 0, D_sys = 3/8."""
    mated, others = np.repeat([1.0, 0.0], [3000, 1000]), np.repeat([1.0, 0.0], [1000, 3000])
    local = LocalMeasure.fit(mated, others)
    np.testing.assert_allclose(level(local, np.array([0.0, 1.0])), [0.0, 0.5])
    assert d_sys(mated, others) == pytest.approx(0.375, abs=0.02)


def test_the_local_measure_is_the_formula():
    rng = np.random.default_rng(3)
    local = LocalMeasure.fit(rng.normal(1, 1, 40_000), rng.normal(0, 1, 40_000))
    s = np.linspace(-1.0, 2.5, 8)
    m, n = norm.pdf(s - 1), norm.pdf(s)
    np.testing.assert_allclose(level(local, s), np.maximum(0, (m - n) / (m + n)), atol=0.06)
    assert local.levels.min() >= 0
    assert local.levels.max() <= 1


def test_the_interval_holds_the_truth_where_people_repeat():
    """Scores of one person share half of their variance; the distribution of all is still N(1, 1) against N(0, 1)."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        whose = np.repeat(np.arange(120), 6)
        own = np.sqrt(0.5) * rng.normal(size=120)
        mated = 1 + own[whose] + np.sqrt(0.5) * rng.normal(size=whose.size)
        pairs = rng.integers(0, 120, (6000, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        sample = PairSample(mated, whose, rng.normal(size=len(pairs)), pairs, 120)
        figure = measure_d_sys(sample, BootstrapParams(resamples=200, seed=seed))
        assert figure.low <= figure.value <= figure.high
        assert figure.n == 720
        held += figure.low <= exact(1.0) <= figure.high
    assert held >= 34


def test_failed_comparisons_and_few_scores_are_said():
    rng = np.random.default_rng(4)
    mated, others = rng.normal(3, 1, 200), rng.normal(0, 1, 900)
    failed = np.concatenate([mated, np.full(50, -np.inf)])
    assert d_sys(failed, others) == pytest.approx(d_sys(mated, others), abs=0.06)
    assert np.isnan(d_sys(mated[:30], others))
    few = PairSample(mated[:30], np.arange(30), others, np.repeat(np.arange(900)[:, None], 2, 1), 900)
    reason = measure_d_sys(few, BootstrapParams(resamples=2)).reason
    assert reason is not None
    assert "fewer than 20" in reason
    with pytest.raises(ScoreError, match="mated has 1 NaN"):
        d_sys(np.array([np.nan, 1.0]), others)


def templates(people: int = 150, photos: int = 4, size: int = 32):
    rng = np.random.default_rng(5)
    person = np.repeat(np.arange(people), photos)
    faces = rng.normal(size=(people, size))[person] + 0.4 * rng.normal(size=(person.size, size))
    return faces.astype(np.float32), np.array([f"p{k:03d}" for k in person]), (person % 2).astype(np.int64)


def turned(faces: np.ndarray, key: int) -> np.ndarray:
    """A secret rotation: keeps matching, and two keys have nothing in common."""
    size = faces.shape[1]
    return (faces @ np.linalg.qr(np.random.default_rng(key).normal(size=(size, size)))[0]).astype(np.float32)


def test_one_key_links_two_keys_do_not():
    faces, people, _ = templates()
    params = BootstrapParams(resamples=100)
    same = unlinkability_row(turned(faces, 1), turned(faces, 1), people, matcher="m", params=params)
    other = unlinkability_row(turned(faces, 1), turned(faces, 2), people, matcher="m", params=params)
    assert same["d_sys"].value > 0.97
    assert same["d_sys_same_photo"].value == 1.0
    assert 0.9 < same["d_sys_same_photo"].low < 1  # no claim to be sure for ever
    assert other["d_sys"].value < 0.1
    assert other["d_sys"].low < 0.03
    assert other["d_sys_same_photo"].value < 0.15
    assert same["mated_pairs"] == 150 * 6
    assert len(same["local"]["d"]) == len(same["local"]["cuts"]) + 1


def test_what_cannot_be_compared_has_a_reason():
    faces, people, _ = templates(40)
    narrow = unlinkability_row(faces, faces[:, :8], people, matcher="m")
    assert narrow["d_sys"].reason == "the two protections have 32 and 8 dimensions"
    alone = unlinkability_row(faces[::4], faces[::4], people[::4], matcher="m")
    assert "no person has two photos" in alone["d_sys"].reason
    lost = unlinkability_row(faces, np.full_like(faces, np.nan), people, matcher="m")
    assert "0 pairs of a kind" in lost["d_sys"].reason
    assert "local" not in lost


def test_an_audit_of_photos_links_two_protections_and_changes_nothing_else(toy):
    data, auditor = toy.data(toy.remove_cue), toy.auditor()
    noise = np.random.default_rng(1).integers(0, 256, data.original.shape, np.uint8)
    plain, linked, blind = (
        auditor.run(dataclasses.replace(data, second=second and (second[0], np.ones(len(data), bool))))
        for second in (None, [toy.flip_cue(data.original)], [noise])
    )
    (row,) = linked.document["unlinkability"]
    assert row["matcher"] == "toy"
    assert row["d_sys"]["value"] > 0.9
    assert linked.gate("unlinkability>0.9").failed
    assert blind.figure("unlinkability").value < 0.1
    assert "unlinkability" not in plain.document
    assert "no second protection" in plain.gate("unlinkability>0.9").reason
    rest = linked.to_dict()
    del rest["unlinkability"]
    assert rest == plain.to_dict()


def test_an_audit_of_tables_does_and_refuses_what_does_not_fit(toy):
    faces, people, genders = templates()
    labels = {"files": tuple(map(str, range(len(faces)))), "identities": people, "genders": genders}
    tables = {"embeddings": {"m": (faces, turned(faces, 1))}, "second": {"m": turned(faces, 2)}}
    data, auditor = EmbeddingData(**labels, **tables), toy.auditor(matchers=())
    document = auditor.run(data).document
    assert document["unlinkability"][0]["d_sys"]["value"] < 0.1
    assert document["matching"][2]["tmr"]["0.01"]["value"] > 0.95  # the keys keep matching
    for second, message in (
        ({"other": faces}, r"matchers \['other'\]; audited are \['m'\]"),
        ({"m": faces[1:]}, r"second m: the protected embeddings have shape \(599, 32\)"),
    ):
        with pytest.raises(AuditError, match=message):
            auditor.run(dataclasses.replace(data, second=second))
    photos = toy.data(toy.identity)
    second = (photos.original[:, :16], np.ones(len(photos), bool))
    with pytest.raises(AuditError, match="second protected images"):
        toy.auditor().run(dataclasses.replace(photos, second=second))


def test_a_user_reaches_both_with_tables(tmp_path):
    faces, people, genders = templates(80)
    lean = faces + np.where(genders[:, None] == 1, 0.6, -0.6)
    keys = [f"{k}.png" for k in range(len(faces))]
    pd.DataFrame(
        {"file": keys, "identity": people, "gender": np.where(genders == 1, "male", "female")}
    ).to_csv(tmp_path / "labels.csv", index=False)
    for name, rows in (("before", lean), ("one", turned(lean, 1)), ("two", turned(lean, 2))):
        pd.DataFrame({"file": keys, "embedding": list(rows.astype(np.float32))}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    audit_tables(
        tmp_path / "before.parquet",
        tmp_path / "one.parquet",
        labels=tmp_path / "labels.csv",
        second=tmp_path / "two.parquet",
        out=tmp_path / "audit",
        options=AuditOptions(resamples=40),
    )
    document = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert document["unlinkability"][0]["d_sys"]["value"] < 0.5
    (row,) = document["irreversibility"]
    assert row["protected"]["0.01"]["value"] < 0.2
    assert row["recovered"]["0.01"]["value"] > 0.5  # a rotation is learned from pairs of others
    report = (tmp_path / "audit" / "report.html").read_text()
    assert 'id="irreversibility"' in report
    assert 'id="unlinkability"' in report
