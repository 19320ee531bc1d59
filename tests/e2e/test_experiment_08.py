"""Experiment 08: what is measured is done once; test_readme.py holds its table to its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def modules(experiment: Callable[..., dict[str, ModuleType]]) -> dict[str, ModuleType]:
    return experiment("06_erased_code", "white_box") | experiment(
        "08_which_code", "run", "measure", "drawing"
    )


def world(count: int = 640) -> tuple[pd.DataFrame, np.ndarray]:
    """Made-up people of four photos each, and embeddings that tell who they are and their gender."""
    rng, person = np.random.default_rng(0), np.arange(count) // 4
    male = (person % 2).astype(int)
    rows = rng.normal(size=(count // 4, 40))[person] + 0.3 * rng.normal(size=(count, 40))
    rows[:, 0] += 3 * male
    train = person < 80
    people = pd.DataFrame({"identity": [f"p{k}" for k in person], "male": male, "set": "lfw"})
    return people.assign(learn=train, read=~train), rows.astype(np.float32)


def test_a_cell_tells_matches_and_attackers_and_is_measured_once(modules, monkeypatch, tmp_path):
    measure, (people, rows) = modules["measure"], world()
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "WIDTHS", (8,))
    monkeypatch.setattr(measure, "DROP", 4)
    monkeypatch.setattr(measure, "READ", {"lfw": "lfw"})
    monkeypatch.setattr(modules["white_box"], "READ", {"lfw": "lfw"})
    monkeypatch.setattr(measure, "prepare", lambda *_: (None, people))
    asked: list[str] = []
    monkeypatch.setattr(measure, "seen", lambda kind, _: asked.append(kind) or [rows])
    for _ in range(2):
        measure.measure(["linear"], seed=0, progress=lambda *_: None)
    (row,) = json.loads((tmp_path / "codes.json").read_text())
    assert asked == ["linear"]
    assert row["tmr"]["0.01"] > 0.5, "who it is, is kept"
    assert row["leakage_before"]["balanced_accuracy"] > 0.8 > row["leakage"]["balanced_accuracy"]
    assert set(row["attackers"]) == {"rbf-svm", "quadratic", "logistic", "mlp"}


def test_the_plot_is_made_of_the_results_alone(modules, tmp_path):
    modules["run"].plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_photos_of_several_sets_are_read_by_their_rows(modules):
    sets = [np.full((3, 4, 4, 3), 10, np.uint8), np.full((2, 4, 4, 3), 200, np.uint8)]
    photos = modules["drawing"]._Photos(sets, np.array([0, 2, 3, 4]))
    assert len(photos) == 4
    np.testing.assert_allclose(photos.batch(np.array([1, 2]))[:, 0, 0, 0] * 255, [10, 200], atol=1e-3)
