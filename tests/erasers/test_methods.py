"""Each method does what its paper says on data whose leak is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.svm import SVC

from privface.erasers import (
    INLP,
    IVE,
    RLACE,
    VLEED,
    AdversarialEraser,
    GaussianTransport,
    MeanProjection,
    MultiIVE,
    PFRNet,
    RegionalTransport,
)
from privface.erasers.regional import _parts, _weights


def linear(x, y) -> float:
    probe = LogisticRegression(class_weight="balanced", max_iter=5000).fit(x, y)
    return float(balanced_accuracy_score(y, probe.predict(x)))


def quadratic(x, y, test_x, test_y) -> float:
    probe = QuadraticDiscriminantAnalysis(priors=[0.5, 0.5], reg_param=0.01).fit(x, y)
    return float(balanced_accuracy_score(test_y, probe.predict(test_x)))


def clouds(count: int = 4000, size: int = 16, *, seed: int = 0):
    """Two clouds of one mean and different shapes: a linear probe is blind, a quadratic one is not."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(size, size)))[0]
    scales = np.where(np.arange(size) % 2, 2.2, 1.0)
    x = rng.normal(size=(count, size)) * np.where(y[:, None] == 1, scales, scales[::-1])
    return x @ turn, y


def shifted(count: int = 600, size: int = 12):
    rng = np.random.default_rng(0)
    y = (rng.random(count) < 0.4).astype(int)
    x = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return x + y[:, None] * 2 * rng.normal(size=size), y


def test_the_means_agree_after_mean_projection():
    x, y = shifted()
    assert linear(x, y) > 0.9
    erased = MeanProjection().fit(x, y).transform(x)
    np.testing.assert_allclose(erased[y == 0].mean(axis=0), erased[y == 1].mean(axis=0), atol=1e-10)
    assert linear(erased, y) < 0.55
    np.testing.assert_allclose(erased.mean(axis=0), x.mean(axis=0), atol=1e-10)


def test_inlp_takes_out_orthonormal_directions_until_nothing_is_read():
    x, y = shifted()
    eraser = INLP(rounds=10).fit(x, y)
    count = eraser.left_.shape[1]
    assert 1 <= count < 10
    np.testing.assert_allclose(eraser.left_.T @ eraser.left_, np.eye(count), atol=1e-8)
    assert np.all(eraser.accuracies_ > 0.55)
    assert linear(eraser.transform(x), y) <= 0.55
    assert INLP(rounds=1).fit(x, y).left_.shape == (12, 1)
    np.testing.assert_array_equal(INLP(stop=1.0).fit(x, y).transform(x), x)


def test_rlace_takes_the_telling_direction_out():
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.5).astype(int)
    x = rng.normal(size=(2000, 10))
    x[:, 3] += 3.0 * y
    eraser = RLACE(rank=1, steps=600).fit(x, y)
    np.testing.assert_allclose(eraser.left_.T @ eraser.left_, np.eye(1), atol=1e-9)
    assert abs(eraser.left_[3, 0]) > 0.98
    assert linear(x, y) > 0.9
    assert linear(eraser.transform(x), y) < 0.55
    assert eraser.loss_ > 0.98
    assert RLACE(rank=3, steps=50).fit(x, y).left_.shape == (10, 3)
    with pytest.raises(ValueError, match="rank=10"):
        RLACE(rank=10).fit(x, y)


def test_variable_elimination_drops_what_tells():
    rng = np.random.default_rng(1)
    y = (rng.random(1500) < 0.5).astype(int)
    x = rng.normal(size=(1500, 12))
    x[:, [2, 7]] += 1.5 * y[:, None]
    assert not {2, 7} & set(IVE(share=1 / 6, steps=2).fit(x, y).kept_.tolist())
    assert IVE(share=0.5).fit(x, y).transform(x).shape == (1500, 6)
    turned = x @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    # spread over all variables by a rotation, it is found again in the right domain
    left = {
        domain: linear(MultiIVE(domain=domain, share=1 / 6, steps=2).fit(turned, y).transform(turned), y)
        for domain in ("none", "pca", "ica")
    }
    assert left["pca"] < left["none"] - 0.05
    assert min(left["pca"], left["ica"]) < 0.6


def test_multi_ive_serves_several_attributes_at_once():
    rng = np.random.default_rng(2)
    genders, ages = (rng.random((2, 1500)) < 0.5).astype(int)
    x = rng.normal(size=(1500, 8))
    x[:, 1] += 2 * genders
    x[:, 5] += 2 * ages
    kept = MultiIVE(domain="none", share=0.25, steps=2).fit(x, np.column_stack([genders, ages])).kept_
    assert not {1, 5} & set(kept.tolist())
    with pytest.raises(ValueError, match="domain='fft'"):
        MultiIVE(domain="fft").fit(x, genders)


def test_transport_makes_means_and_covariances_agree():
    x, y = clouds()
    test_x, test_y = clouds(seed=1)
    assert linear(x, y) < 0.56
    assert quadratic(x, y, test_x, test_y) > 0.85
    eraser = GaussianTransport().fit(x, y)
    erased = eraser.transform(x)
    np.testing.assert_allclose(np.linalg.norm(erased, axis=1), 1.0)
    gaps = []
    for rows in (x / np.linalg.norm(x, axis=1, keepdims=True), erased):
        shapes = [np.cov(rows[y == k].T) for k in (0, 1)]
        gaps.append(np.linalg.norm(shapes[0] - shapes[1]) / np.linalg.norm(shapes[0]))
    assert gaps[1] < gaps[0] / 2
    assert quadratic(erased, y, eraser.transform(test_x), test_y) < 0.68


def test_similarity_is_the_dial_of_the_adversarial_eraser():
    x, y = clouds(3000)
    test_x, test_y = clouds(3000, seed=1)

    def kept(eraser) -> float:
        cosines = []
        for rows in (test_x[:300], eraser.transform(test_x[:300])):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            cosines.append((unit @ unit.T)[np.triu_indices(300, 1)])
        return float(np.corrcoef(*cosines)[0, 1])

    def read(eraser) -> float:
        return quadratic(eraser.transform(x), y, eraser.transform(test_x), test_y)

    start = GaussianTransport().fit(x, y)
    hiding, keeping = (
        AdversarialEraser(similarity=weight, steps=300, batch_size=256, width=64).fit(x, y)
        for weight in (20.0, 150.0)
    )
    assert read(hiding) < read(start) - 0.02 < 0.6
    assert read(hiding) < read(keeping) - 0.05
    assert kept(keeping) > kept(start)
    assert kept(hiding) > 0.85


def test_sets_are_aligned_each_by_itself():
    x, y = clouds(600)
    other, labels = clouds(600, seed=4)
    quick = {"steps": 20, "batch_size": 64, "width": 16}
    one = AdversarialEraser(**quick).fit(x, y)
    two = AdversarialEraser(**quick).fit(x, y, more=[(other + 3.0, labels)])
    assert not np.array_equal(one.transform(x), two.transform(x))
    with pytest.raises(ValueError, match="Set 1 of 2 holds 1 class"):
        AdversarialEraser(**quick).fit(x, y, more=[(other, np.zeros_like(labels))])
    with pytest.raises(ValueError, match="y holds 2"):
        AdversarialEraser(**quick).fit(x, y, more=[(other, labels + 1)])


def test_without_transport_one_network_serves_all():
    x, y = clouds(600)
    eraser = AdversarialEraser(transport=False, steps=20, batch_size=64, width=16).fit(x, y)
    assert not [name for name in eraser.state() if "maps_" in name]
    assert len({name.split(".")[2] for name in eraser.state() if ".sides." in name}) == 1


def test_disentangling_matches_the_moments_it_promises_in_a_shorter_code():
    rng = np.random.default_rng(5)
    y = np.arange(3000) % 2
    x = rng.normal(size=(3000, 12)) + y[:, None] * rng.normal(size=12)
    x += 3.0
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)

    def gap(rows):
        spread = rows.std(axis=0).mean()
        return np.linalg.norm(rows[y == 0].mean(axis=0) - rows[y == 1].mean(axis=0)) / spread

    for kind, weight in ((PFRNet, {"moments": 30.0}), (VLEED, {"entropy": 1.0})):
        erased = kind(size=6, steps=400, batch_size=256, width=64, **weight).fit(x, y).transform(x)
        assert erased.shape == (3000, 6)
        assert gap(erased) < 0.5 * gap(unit)


@pytest.mark.parametrize(
    ("eraser", "message"),
    [
        (GaussianTransport(shrinkage=2.0), "shrinkage=2.0"),
        (AdversarialEraser(dropout=1.0), "dropout=1.0"),
        (AdversarialEraser(steps=0), "steps=0"),
        (PFRNet(order=9), "order=9"),
        (VLEED(learning_rate=0.0), "learning_rate=0.0"),
        (IVE(share=1.5), "share=1.5"),
        (INLP(rounds=0), "rounds is 0"),
        (INLP(stop=0.4), "stop 0.4"),
    ],
)
def test_settings_out_of_range_are_refused(eraser, message):
    x, y = clouds(100)
    with pytest.raises(ValueError, match=message):
        eraser.fit(x, y)


# regional ------------------------------------------------------------------------------------------------


def two_kinds_of_people(count: int = 6000, size: int = 12):
    """Labels that differ in opposite ways in neighbouring groups: one quadratic gate and map cannot mend all of them."""
    rng = np.random.default_rng(1)
    labels, group = rng.integers(0, 2, count), rng.integers(0, 3, count)
    rows = rng.normal(size=(count, size))
    rows[:, 0] += 6.0 * (group - 1)
    rows[:, 1] += np.where(group == 1, 1.0, -1.0) * (2 * labels - 1) * 1.5
    rows[:, 2] += 12.0
    return rows, labels


def worst_of(rows, labels):
    half = len(rows) // 2
    probe = SVC(class_weight="balanced").fit(rows[:half], labels[:half])
    return roc_auc_score(labels[half:], probe.decision_function(rows[half:]))


def test_regions_hide_what_one_map_cannot():
    rows, labels = two_kinds_of_people()
    assert worst_of(rows, labels) > 0.9
    single, several = (
        RegionalTransport(regions=regions, prior=0.0).fit(rows[:4000], labels[:4000]).transform(rows)[4000:]
        for regions in (1, 3)
    )
    assert worst_of(several, labels[4000:]) < worst_of(single, labels[4000:]) - 0.1
    assert worst_of(several, labels[4000:]) < 0.65


def test_one_region_without_anything_else_is_the_gaussian_transport():
    rows, labels = two_kinds_of_people(2000)
    keep = np.sort(np.concatenate([np.flatnonzero(labels == label)[:900] for label in (0, 1)]))
    regional, plain = (
        eraser.fit(rows[keep], labels[keep]).transform(rows)
        for eraser in (RegionalTransport(regions=1), GaussianTransport())
    )
    np.testing.assert_allclose(regional, plain, atol=1e-8)


def test_rows_are_put_together_from_signs_and_dropped_directions_are_gone():
    rows, labels = two_kinds_of_people(2000)
    eraser = RegionalTransport(drop=2, regions=2, bits=40).fit(rows, labels)
    told, moved = eraser.transform(rows), eraser.transported(rows)
    assert told.shape == moved.shape == (2000, 10)
    np.testing.assert_allclose(np.linalg.norm(told, axis=1), 1)
    assert (told * moved).sum(1).mean() > 0.9
    signs = moved @ eraser.projection_ > eraser.thresholds_
    np.testing.assert_allclose(signs.mean(0), 0.5, atol=0.01, err_msg="thresholds are medians")
    same = np.flatnonzero((signs == signs[0]).all(1))
    np.testing.assert_array_equal(told[same], np.broadcast_to(told[0], (len(same), 10)))
    np.testing.assert_allclose(eraser.axes_.T @ eraser.axes_, np.eye(10), atol=1e-10)


def test_a_narrow_code_keeps_the_main_components():
    rows, labels = two_kinds_of_people(2000)
    rows[:, 6:] *= 0.01
    narrow = RegionalTransport(size=6, drop=2, regions=2).fit(rows, labels)
    assert narrow.transform(rows).shape == (2000, 4)
    alone = RegionalTransport(drop=2, regions=2).fit(rows[:, :6], labels)
    angles = [rows @ rows.T for rows in (narrow.transform(rows)[:200], alone.transform(rows[:, :6])[:200])]
    np.testing.assert_allclose(*angles, atol=0.05)
    for wrong, words in (({"size": 13}, "size"), ({"size": 4, "drop": 4}, "drop")):
        with pytest.raises(ValueError, match=words):
            RegionalTransport(**wrong).fit(rows, labels)


def test_what_the_label_occurs_with_stays_where_it_is_named():
    rng = np.random.default_rng(0)
    kept = rng.integers(0, 2, 4000)
    labels = np.where(rng.random(4000) < 0.85, kept, 1 - kept)
    rows = 0.3 * rng.normal(size=(4000, 8))
    rows[:, 0] += 2 * labels - 1
    rows[:, 1] += 0.6 * kept - 0.3
    without, named = (
        RegionalTransport(regions=1).fit(rows, labels, strata=strata).transform(rows)
        for strata in (None, kept)
    )
    of_rows, of_without, of_named = (apart(x[:, 1], kept) for x in (rows, without, named))
    assert of_without < 0.75 * of_rows
    assert of_named > 0.95 * of_rows
    for group in (0, 1):  # within each class of what is kept, the label is nearly gone
        part = kept == group
        assert linear(rows[part], labels[part]) > 0.99
        assert linear(named[part], labels[part]) < 0.6


def apart(values, labels) -> float:
    """Distance between two classes' means, in standard deviations."""
    groups = [values[labels == label] for label in (0, 1)]
    return float(abs(groups[1].mean() - groups[0].mean()) / np.mean([g.std() for g in groups]))


def test_labels_weigh_the_same_in_each_stratum_of_each_set():
    rng = np.random.default_rng(0)
    labels, sets, strata = rng.integers(0, 3, 3000), rng.integers(0, 2, 3000), rng.integers(0, 2, 3000)
    labels[(strata == 1) & (rng.random(3000) < 0.5)] = 2
    cells = np.zeros((2, 2, 3))
    np.add.at(cells, (sets, strata, labels), _weights(labels, sets, strata, np.arange(3)))
    np.testing.assert_allclose(cells, np.broadcast_to(cells[..., :1], cells.shape))
    np.testing.assert_allclose(cells.sum(axis=(1, 2)), 1500)
    with pytest.raises(ValueError, match="each set needs all labels"):
        RegionalTransport().fit(rng.normal(size=(3000, 4)), labels, sets=labels)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        RegionalTransport().fit(rng.normal(size=(3000, 4)), labels, sets=sets, strata=strata[:-1])


def test_small_strata_are_put_together():
    rows, labels = two_kinds_of_people(2000)
    plain = RegionalTransport(regions=1).fit(rows, labels)
    each = RegionalTransport(regions=1).fit(rows, labels, strata=np.arange(2000))
    assert np.array_equal(plain.maps_, each.maps_), "2,000 strata of one row are none"
    # 10 rows of one label alone cannot be balanced: they go with the smaller of the other two
    strata = np.where(np.arange(2000) < 1200, "large", "small")
    strata[np.flatnonzero(labels == 1)[:10]] = "odd"
    joined = np.where(strata == "odd", "small", strata)
    ours, theirs = (RegionalTransport(regions=1).fit(rows, labels, strata=s) for s in (strata, joined))
    assert np.array_equal(ours.maps_, theirs.maps_)
    assert not np.array_equal(ours.maps_, plain.maps_)
    # two small ones are enough for each other
    strata = np.array(["large"] * 1970 + ["a"] * 15 + ["b"] * 15)
    codes = np.tile([0, 1], 1000)
    codes[-30:] = [0] * 12 + [1] * 3 + [1] * 12 + [0] * 3
    assert [len(part) for part in _parts(codes, strata, labels=2)] == [2000], "15 of each are too few"
    strata[:60] = "a"
    assert sorted(len(part) for part in _parts(codes, strata, labels=2)) == [90, 1910]


def test_regions_that_lack_a_label_have_the_map_for_all():
    x, y = shifted(400)
    y[:] = 0
    y[:15] = 1
    eraser = RegionalTransport(regions=16, prior=0.0).fit(x, y)
    assert np.isfinite(eraser.transform(x)).all()
    whole = [n for n in range(1, 17) if np.array_equal(eraser.maps_[n], eraser.maps_[0])]
    assert 0 < len(whole) < 16


def test_networks_learn_from_the_smallest_batches():
    x, y = shifted(120)
    eraser = AdversarialEraser(batch_size=4, steps=5, width=8).fit(x, y)
    assert np.isfinite(eraser.transform(x)).all()
