"""Erasers that project directions out: what they promise holds, and scikit-learn's own checks pass."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from privface.erasers import INLP, LEACE, MeanProjection


def leaky(count: int = 600, size: int = 12, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.4).astype(int)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + y[:, None] * 2 * rng.normal(
        size=size
    ), y


def reads(x, y) -> float:
    probe = LogisticRegression(class_weight="balanced", max_iter=5000).fit(x, y)
    return float(np.mean([np.mean(probe.predict(x)[y == k] == k) for k in (0, 1)]))


def test_the_means_agree_after_mean_projection():
    x, y = leaky()
    assert reads(x, y) > 0.9
    erased = MeanProjection().fit(x, y).transform(x)
    np.testing.assert_allclose(erased[y == 0].mean(axis=0), erased[y == 1].mean(axis=0), atol=1e-10)
    assert reads(erased, y) < 0.55
    np.testing.assert_allclose(erased.mean(axis=0), x.mean(axis=0), atol=1e-10)


def test_inlp_takes_out_orthonormal_directions_until_nothing_is_read():
    x, y = leaky()
    eraser = INLP(rounds=10).fit(x, y)
    count = eraser.left_.shape[1]
    assert 1 <= count < 10
    np.testing.assert_allclose(eraser.left_.T @ eraser.left_, np.eye(count), atol=1e-8)
    assert np.all(eraser.accuracies_ > 0.55)
    assert reads(eraser.transform(x), y) <= 0.55
    assert INLP(rounds=1).fit(x, y).left_.shape == (12, 1)
    assert INLP(stop=1.0).fit(x, y).left_.shape == (12, 0)
    np.testing.assert_array_equal(INLP(stop=1.0).fit(x, y).transform(x), x)


@pytest.mark.parametrize(
    "eraser", [LEACE(), MeanProjection(), INLP(rounds=3)], ids=lambda e: type(e).__name__
)
def test_scikit_learn_habits(eraser):
    x, y = leaky(seed=2)
    names = np.array(["f", "m"])[y]
    fitted = clone(eraser).fit(x, names)
    np.testing.assert_allclose(fitted.transform(x), clone(eraser).fit(x, y).transform(x))
    assert fitted.transform(x.astype(np.float32)).dtype == np.float32
    make_pipeline(clone(eraser), LogisticRegression()).fit(x, y)
    with pytest.raises(ValueError, match="expecting 12 features"):
        fitted.transform(x[:, :5])
    with pytest.raises(ValueError, match="holds 1 class"):
        clone(eraser).fit(x, np.zeros_like(y))


def test_settings_out_of_range_are_refused():
    x, y = leaky()
    for wrong in ({"rounds": 0}, {"stop": 0.4}):
        with pytest.raises(ValueError, match="rounds is"):
            INLP(**wrong).fit(x, y)
