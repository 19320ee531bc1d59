"""Experiment 08: its table says what its results say, and what is measured is done once."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OURS = ("run", "autoencoders", "measure", "drawing")
OTHERS = ("attackers", "white_box")  # of experiment 06


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The experiment's files, imported as its script does."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("06_erased_code", "08_which_code"):
        monkeypatch.syspath_prepend(str(EXPERIMENTS / folder))
    for name in (*OURS, *OTHERS):
        sys.modules.pop(name, None)
    yield {name: importlib.import_module(name) for name in OURS}
    for name in (*OURS, *OTHERS):
        sys.modules.pop(name, None)


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
    monkeypatch.setattr(sys.modules["white_box"], "READ", {"lfw": "lfw"})
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


def test_the_table_and_the_plot_are_made_of_the_results_alone(modules, monkeypatch, tmp_path):
    run, worst = modules["run"], {"attacker": "mlp", "balanced_accuracy": 0.612, "auc": 0.66}
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    rates = {name: {"0.01": value, "0.001": 0.1} for name, value in (("tmr", 0.25), ("tmr_before", 0.5))}
    row = {"kind": "linear", "width": 96, "seed": 0, **rates, "tmr_learnt_metric": {"0.01": 0.375}}
    row |= {"leakage": worst, "leakage_before": {**worst, "balanced_accuracy": 0.9}}
    face = {"kind": "linear", "width": 96, "seed": 0, "faces": 64, "tmr": {"0.01": 0.125}}
    face |= {"psnr": 15.0, "psnr_coarse": 18.0}
    (tmp_path / "codes.json").write_text(json.dumps([row, {**row, "width": 48}]))
    (tmp_path / "drawn.json").write_text(json.dumps([face]))
    first, second = run.table().splitlines()[2:]
    assert "| 0.500 | 0.250 | 0.375 | 0.900 | 0.612 | mlp | 0.125 | 15.0, 18.0 dB |" in first
    assert second.endswith("| mlp |  |  |"), "no face was drawn at that width"
    run.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_photos_of_several_sets_are_read_by_their_rows(modules):
    sets = [np.full((3, 4, 4, 3), 10, np.uint8), np.full((2, 4, 4, 3), 200, np.uint8)]
    photos = modules["drawing"]._Photos(sets, np.array([0, 2, 3, 4]))
    assert len(photos) == 4
    np.testing.assert_allclose(photos.batch(np.array([1, 2]))[:, 0, 0, 0] * 255, [10, 200], atol=1e-3)
