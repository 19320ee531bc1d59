from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from privface.erasers import LEACE


def leaky(count: int = 600, size: int = 12, *, rank: int | None = None, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.3).astype(int)
    x = rng.normal(size=(count, rank or size)) @ rng.normal(size=(rank or size, size))
    lean = rng.normal(size=size) @ rng.normal(size=(size, size)) if rank is None else x[0]
    return x + y[:, None] * lean, y


@pytest.mark.parametrize("rank", [None, 5])
def test_no_linear_probe_reads_the_fitting_data(rank):
    x, y = leaky(rank=rank)
    assert LogisticRegression(C=1e3).fit(x, y).score(x, y) > 0.75
    erased = LEACE().fit(x, y).transform(x)
    centred = erased - erased.mean(axis=0)
    assert np.abs(centred.T @ (y - y.mean())).max() / len(y) < 1e-10
    probe = LogisticRegression(C=1e3, tol=1e-10, max_iter=5000).fit(erased, y)
    assert np.abs(probe.coef_).max() < 1e-4
    assert (probe.predict(erased) == 0).all()


def concept_erasure():
    """The package of LEACE's authors; importing it warns about torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("concept_erasure")


@pytest.mark.parametrize("seed", range(100))
def test_agrees_with_the_authors_package(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 60))
    rank = int(rng.integers(1, size)) if seed % 3 == 0 else None
    count = int(rng.integers(3 * size, 12 * size))
    x, y = leaky(count, size, rank=rank, seed=seed)
    exact = {"dtype": torch.float64, "shrinkage": False, "constrain_cov_trace": False, "svd_tol": 1e-12}
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    theirs = concept_erasure().LeaceFitter(size, 1, **exact).update(rows, labels).eraser(rows).numpy()
    ours = LEACE().fit(x, y).transform(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * max(1.0, float(np.abs(x).max())))


def test_the_change_is_the_smallest_in_the_data_s_own_metric():
    x, y = leaky(seed=3)
    eraser = LEACE().fit(x, y)
    change = eraser.transform(x) - x
    assert np.linalg.matrix_rank(change - change.mean(axis=0), tol=1e-8) == 1
    # projecting out the mean difference also erases linearly, but moves rows further (Mahalanobis)
    inverse = np.linalg.inv(np.cov(x.T))
    d = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    d /= np.linalg.norm(d)
    plain = -np.outer((x - x.mean(axis=0)) @ d, d)
    cost = [np.einsum("nd,de,ne->", m, inverse, m) for m in (change, plain)]
    assert cost[0] < cost[1]
