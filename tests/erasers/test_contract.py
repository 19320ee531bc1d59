"""What holds for every eraser alike: scikit-learn's checks, saving, its promise, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from privface.erasers import METHODS, GaussianTransport, load_eraser, save_eraser
from privface.errors import CheckpointError

FEW_TREES, FEW_STEPS = {"trees": 5, "share": 0.3}, {"steps": 5, "batch_size": 16}
QUICK = {
    "rlace": {"steps": 40, "check": 20}, "ive": FEW_TREES, "multi-ive": FEW_TREES,
    "pfrnet": FEW_STEPS, "vleed": FEW_STEPS, "adversarial": FEW_STEPS,
}  # fmt: skip


def leaky(count: int = 300, size: int = 8, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.4).astype(int)
    x = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return x + y[:, None] * rng.normal(size=size), y


def make(method: str):
    return METHODS[method](**QUICK.get(method, {}))


every = pytest.mark.parametrize("method", METHODS)


@every
def test_scikit_learn_s_own_checks_pass(method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trees on tiny data and skipped checks warn
        found = check_estimator(make(method), on_skip=None, on_fail=None)
    failed = {row["check_name"]: repr(row["exception"]) for row in found if row["status"] == "failed"}
    assert not failed
    assert sum(row["status"] == "passed" for row in found) > 30


@every
def test_an_eraser_comes_back_from_disk_as_it_was(method, tmp_path):
    x, y = leaky()
    eraser = make(method).fit(x, np.array(["f", "m"])[y])
    people = np.array([7, 3, 2**64 - 1], np.uint64)
    save_eraser(tmp_path / "e", eraser, meta={"matcher": "m"}, people=people)
    saved = load_eraser(tmp_path / "e")
    np.testing.assert_array_equal(saved.eraser.transform(x), eraser.transform(x))
    assert saved.eraser.get_params() == eraser.get_params()
    assert saved.eraser.classes_.tolist() == ["f", "m"]
    assert saved.meta == {"matcher": "m"}
    assert saved.people.tolist() == [3, 7, 2**64 - 1]
    again = tmp_path / "again"
    save_eraser(again, saved.eraser, meta=saved.meta, people=saved.people)
    for name in ("eraser.safetensors", "eraser.yaml"):
        assert (again / name).read_bytes() == (tmp_path / "e" / name).read_bytes()


def test_settings_may_be_numbers_of_numpy(tmp_path):
    x, y = leaky()
    eraser = GaussianTransport(ridge=np.float64(0.01)).fit(x, y)
    save_eraser(tmp_path / "e", eraser, meta={"seed": np.int64(3)})
    saved = load_eraser(tmp_path / "e")
    assert saved.eraser.get_params()["ridge"] == 0.01
    assert saved.meta == {"seed": 3}


@every
def test_no_row_of_the_fitting_data_is_kept(method):
    x, y = leaky()
    for array in make(method).fit(x, y).state().values():
        if array.ndim == 2 and array.shape[1] == x.shape[1]:
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            for rows in (x, unit):
                assert not (np.abs(array[:, None] - rows[None]).max(axis=2) < 1e-6).any()


@every
def test_labels_may_be_words_and_must_be_two(method):
    x, y = leaky(seed=2)
    fitted = make(method).fit(x, y)
    named = make(method).set_output(transform="pandas").fit(x, np.array(["f", "m"])[y])
    np.testing.assert_array_equal(fitted.transform(x), named.transform(x))
    assert fitted.promise.kind in {"linear", "empirical", "broken"}
    with pytest.raises(ValueError, match="holds 1 class"):
        make(method).fit(x, np.zeros_like(y))


@pytest.mark.parametrize("method", ["leace", "mean-projection"])
def test_normalising_takes_the_certificate_back(method):
    x, y = leaky()
    kinds, covariances = [], []
    for normalize in (False, True):
        eraser = METHODS[method](normalize=normalize)
        kinds.append(eraser.stated().kind)
        erased = eraser.fit(x, y).transform(x)
        covariances.append(np.abs((erased - erased.mean(axis=0)).T @ (y - y.mean())).max() / len(y))
    assert kinds == ["linear", "empirical"]
    assert covariances[0] < 1e-12
    assert covariances[1] > 1e-6
    np.testing.assert_allclose(np.linalg.norm(erased, axis=1), 1.0)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("eraser.yaml", None, "has no eraser.yaml"),
        ("eraser.safetensors", None, "has no eraser.safetensors"),
        ("eraser.yaml", lambda _: b"method: [", "damaged"),
        ("eraser.yaml", lambda _: b"method: leace", "damaged"),
        ("eraser.safetensors", lambda _: b"\x80\x04K\x01.", "not a safetensors file"),
        ("eraser.yaml", lambda told: told.replace(b"leace", b"magic"), "'magic'"),
        ("eraser.yaml", lambda told: told.replace(b"method: leace", b"method: transport"), "does not fit"),
    ],
)
def test_damaged_erasers_and_pickles_are_refused(tmp_path, name, damage, message):
    save_eraser(tmp_path, METHODS["leace"]().fit(*leaky()))
    file = tmp_path / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        load_eraser(tmp_path)
