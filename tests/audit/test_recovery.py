from __future__ import annotations

import numpy as np
import pytest

from privface.audit.image_recovery import ImageRecoverer
from privface.audit.recovery import EmbeddingRecoverer, people_folds
from privface.errors import AuditError


def pairs(count: int, *, curved: bool = False, seed: int = 0):
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(count, 6)).astype(np.float32)
    mixed = original @ np.random.default_rng(9).normal(size=(6, 10))
    if curved:
        mixed = np.tanh(mixed) * 3
    protected = (mixed + 0.01 * rng.normal(size=mixed.shape)).astype(np.float32)
    return protected, original, np.array([f"p{seed}-{k // 2}" for k in range(count)])


def fitted(protected, original, people, *, curved: bool = False):
    val, val_original, _ = pairs(100, curved=curved, seed=1)
    return EmbeddingRecoverer().fit(protected, original, people, val, val_original, seed=0)


@pytest.mark.parametrize("curved", [False, True])
def test_embeddings_come_back_on_strangers_and_by_folds(curved):
    protected, original, people = pairs(600, curved=curved)
    test, test_original, _ = pairs(100, curved=curved, seed=2)
    found, again = (fitted(protected, original, people, curved=curved) for _ in range(2))
    worst = np.square(test_original).mean()
    assert np.square(found.recover(test) - test_original).mean() < (0.2 if curved else 0.01) * worst
    assert np.square(found.training - original).mean() < (0.3 if curved else 0.01) * worst
    np.testing.assert_array_equal(found.recover(test), again.recover(test))


def test_noise_gives_back_nothing_but_the_mean():
    protected, original, people = pairs(400)
    noise = np.random.default_rng(4).normal(size=protected.shape).astype(np.float32)
    # cross-fitted, so the training rows are not remembered either
    assert (
        np.square(fitted(noise, original, people).training - original).mean()
        > 0.9 * np.square(original).mean()
    )


def test_no_person_is_in_two_folds():
    people = np.array([f"p{k % 17}" for k in range(200)])
    fold = people_folds(people, seed=3)
    assert {len(set(fold[people == name])) for name in set(people)} == {1}
    assert set(fold) == {0, 1, 2}
    with pytest.raises(AuditError, match="2 people cannot be divided into 3"):
        people_folds(np.array(["a", "b"]), seed=0)


def pictures(count: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(30, 225, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 6, 6, 1))).astype(np.uint8)


def test_a_colour_permutation_is_undone():
    hide = lambda images: 255 - images[..., ::-1]  # noqa: E731
    train, val, test = pictures(160, seed=0), pictures(30, seed=1), pictures(30, seed=2)
    people = np.array([f"p{k // 2}" for k in range(160)])
    recoverer = ImageRecoverer(epochs=8, width=4, batch_size=8)
    fitted = recoverer.fit(hide(train), train, people, hide(val), val, seed=0)
    before = np.abs(hide(test).astype(float) - test).mean()
    assert np.abs(fitted.recover(hide(test)).astype(float) - test).mean() < 0.35 * before
    assert np.abs(fitted.training.astype(float) - train).mean() < 0.45 * before


def test_an_image_recovery_starts_as_the_identity_and_is_reproducible():
    train, val = pictures(16, seed=0), pictures(8, seed=1)
    people = np.array([f"p{k}" for k in range(16)])
    one, two = (
        ImageRecoverer(epochs=1, width=4).fit(train, train, people, val, val, seed=5) for _ in range(2)
    )
    np.testing.assert_array_equal(one.recover(val), two.recover(val))
    assert np.abs(one.recover(val).astype(int) - val).mean() < 20
    odd = np.pad(val, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    assert one.recover(odd).shape == odd.shape


def test_pairs_that_do_not_fit_are_refused():
    tiny = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(AuditError, match="pairs of images of 16 pixels"):
        ImageRecoverer().fit(tiny, tiny, np.array(["a", "b"]), tiny, tiny, seed=0)
