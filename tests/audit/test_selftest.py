from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from privface.audit.picture_probes import PixelProbe
from privface.audit.planted import EMBEDDING_LEAKS, IMAGE_LEAKS, plant
from privface.audit.probes import EmbeddingProbe
from privface.audit.selftest import Size, load_selftest, run_selftest
from privface.errors import AuditError, ConfigError

SMALL = Size(
    people=(300, 120, 300),
    dimensions=8,
    side=24,
    image_people=(80, 40, 80),
    nulls=6,
    null_people=(20, 10, 20),
    null_dimensions=8,
    null_image_people=(20, 10, 20),
    resamples=40,
)


def balanced(called: np.ndarray, genders: np.ndarray) -> float:
    return float((np.mean(called[genders == 1]) + np.mean(~called[genders == 0])) / 2)


def best_reader(leak: str, size: int):
    """The likelihood ratio of each leak, written down from its definition and not from the generator."""
    if leak == "linear":
        direction = np.random.default_rng(size).standard_normal(size)
        return lambda x: x @ (direction / np.linalg.norm(direction)) > 0
    if leak == "flip":
        return lambda x: x[:, 0] < 0
    if leak == "xor":
        return lambda x: x[:, 0] * x[:, 1] > 0
    if leak == "norm":
        one, other = (multivariate_normal(np.zeros(size), v * np.eye(size)) for v in (1.15**2, 1.0))
    else:
        mix = np.eye(size)
        for k in range(4):
            mix[k, k + 4] = mix[k + 4, k] = 0.6
        one, other = (multivariate_normal(np.zeros(size), c) for c in (mix, 2 * np.eye(size) - mix))
    return lambda x: one.logpdf(x) > other.logpdf(x)


@pytest.mark.parametrize("leak", EMBEDDING_LEAKS)
def test_the_stated_bayes_accuracy_is_what_the_best_reader_reaches(leak):
    made = plant(leak, people=20_000, photos=2, size=12, seed=0)
    reached = balanced(best_reader(leak, 12)(made.data.astype(np.float64)), made.genders)
    assert reached == pytest.approx(made.bayes, abs=0.01)
    assert 0.6 < made.bayes < 0.95


@pytest.mark.parametrize("leak", IMAGE_LEAKS)
def test_the_image_leaks_are_there_and_of_the_stated_size(leak):
    made = plant(leak, people=1200, photos=2, size=32, seed=0)
    pictures = made.data.astype(np.float64)
    if leak == "watermark":
        pattern = np.kron(np.random.default_rng(2018).choice([-6.0, 6.0], (16, 16)), np.ones((2, 2)))
        read = np.einsum(
            "nhwc,hw->n", pictures - pictures.mean(axis=(1, 2), keepdims=True), pattern - pattern.mean()
        )
        called = read > 0.5 * 3 * np.square(pattern - pattern.mean()).sum()
    elif leak == "local-texture":
        stripes = np.where(np.arange(16) // 2 % 2 == 0, 1.0, -1.0)[None, :, None]
        called = np.abs((pictures[:, 16:, :16] * stripes).mean(axis=(1, 2, 3))) > 7
    else:
        called = pictures[:, 16:].mean(axis=(1, 2, 3)) < 128
    assert balanced(called, made.genders) == pytest.approx(made.bayes, abs=0.02)


def test_nothing_is_planted_in_the_sets_without_a_leak():
    for leak, size in (("none", 8), ("none-image", 24)):
        made = plant(leak, people=600, photos=2, size=size, seed=1)
        rows = made.data.reshape(len(made.data), -1).astype(np.float64)
        gap = rows[made.genders == 1].mean(axis=0) - rows[made.genders == 0].mean(axis=0)
        spread = rows.std(axis=0) * np.sqrt(2 / 600)  # photos of a person are not independent: people count
        assert np.abs(gap / spread).max() < 5
        assert made.bayes == 0.5


def test_photos_of_a_person_are_alike_and_sets_share_nobody():
    made = plant("none", people=400, photos=2, size=16, seed=0)
    first, second = made.data[::2], made.data[1::2]
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(1 / 3, abs=0.05)
    assert not set(made.people) & set(plant("none", people=400, size=16, seed=1).people)
    np.testing.assert_array_equal(made.data, plant("none", people=400, photos=2, size=16, seed=0).data)


@dataclasses.dataclass
class Knowing:
    """A probe that learns nothing."""

    name: str
    scores: Callable[[np.ndarray], np.ndarray]

    def fit(self, *_data, seed):
        return SimpleNamespace(val_auc=0.5, setting="", scores=self.scores)


def test_a_battery_that_can_read_finds_and_a_blind_one_does_not():
    found = run_selftest(
        [EmbeddingProbe("logistic"), EmbeddingProbe("quadratic")], [PixelProbe()], size=SMALL, made="today"
    )
    leaks = {(row["medium"], row["leak"]): row for row in found["leaks"]}
    linear = leaks["embedding", "linear"]
    assert linear["best"] > linear["bayes"] - 0.06  # few people, so more than the 2 points of a real test
    assert leaks["embedding", "norm"]["best_probe"] == "quadratic"
    assert leaks["embedding", "xor"]["probes"]["logistic"] < 0.6
    flip = leaks["embedding", "flip"]
    assert flip["probes"]["frozen, folded"] == pytest.approx(flip["bayes"], abs=0.05)
    assert {row["probe"] for row in found["nulls"]} == {"logistic", "quadratic", "pixel-svm", "battery"}
    assert all(row["sets"] == 6 and row["rate"] == row["alarms"] / 6 for row in found["nulls"])
    assert found["made"] == "today"

    blind = Knowing("blind", lambda data: np.random.default_rng(0).normal(size=len(data)))
    assert not any(row["found"] for row in run_selftest([blind], [], size=SMALL)["leaks"])


def test_a_cheat_is_an_alarm():
    """A probe that knows the labels of the sets without a leak must be noticed by the alarm count."""

    def peek(data):
        for seed in range(10_000, 10_000 + 3 * SMALL.nulls):
            for people in SMALL.null_people:
                made = plant("none", people=people, photos=2, size=8, seed=seed)
                if np.array_equal(made.data, data):
                    return made.genders + np.linspace(0, 0.1, len(data))
        return np.linspace(0, 1, len(data))

    rows = run_selftest([Knowing("cheat", peek)], [], size=SMALL)["nulls"]
    assert {row["probe"]: row["rate"] for row in rows} == {"cheat": 1.0, "battery": 1.0}


def test_a_result_is_read_back_and_other_files_are_refused(tmp_path):
    found = run_selftest([EmbeddingProbe("logistic")], [], size=dataclasses.replace(SMALL, nulls=1))
    path = tmp_path / "s.json"
    path.write_text(json.dumps(found))
    assert load_selftest(path) == {**found, "same_libraries": True}
    path.write_text(json.dumps({**found, "libraries": {**found["libraries"], "numpy": "0.1"}}))
    assert load_selftest(path)["same_libraries"] is False
    path.write_text("{}")
    for wrong, told in ((path, "no self-test"), (tmp_path / "none.json", "No such file")):
        with pytest.raises(AuditError, match=told):
            load_selftest(wrong)


@pytest.mark.parametrize(
    ("leak", "size", "told"),
    [("gossip", 12, "'gossip' is no planted leak. Choose among"), ("watermark", 8, "at least 2, 1 and 24")],
)
def test_unknown_leaks_and_tiny_sets_are_refused(leak, size, told):
    with pytest.raises(ConfigError, match=told):
        plant(leak, people=10, size=size, seed=0)
