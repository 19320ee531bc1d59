"""Experiment 06: attackers share nobody with the eraser; test_readme.py holds its tables to its results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from privface.models.networks import FaceEncoder
from privface.training import ArraySource

SAN = Path(__file__).parents[2] / "experiments" / "03_san_family" / "results" / "san.json"


@pytest.fixture
def modules(experiment: Callable[..., dict[str, ModuleType]]) -> dict[str, ModuleType]:
    return experiment("06_erased_code", "run", "targets", "attackers", "white_box", "student")


def test_who_is_dominated_and_the_picture(modules, monkeypatch, tmp_path):
    targets = modules["targets"]
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    shutil.copy(SAN, tmp_path / "strong-0.json")
    lines = targets.dominates().splitlines()
    assert "blur: by strong-0" in lines
    assert "san: by none" in lines  # the same figures
    assert not any(line.startswith("none:") for line in lines)
    assert targets.plot() == f"tradeoff.png: {len(targets.points())} points"
    assert (tmp_path / "tradeoff.png").is_file()


def test_the_halves_share_nobody(modules):
    names = [f"{name}-{k % 20}" for name in ("lfw", "utkface", "extra") for k in range(200)]
    sets = np.repeat(["lfw", "utkface", "extra"], 200)
    people = pd.DataFrame({"identity": names, "set": sets, "learn": np.arange(600) % 3 > 0})
    ours, others = modules["white_box"].halves(people, seed=1)
    assert not set(people["identity"][ours]) & set(people["identity"][others])
    assert people["learn"][[*ours, *others]].all()
    assert people.loc[ours].groupby("set")["identity"].nunique().tolist() == [10, 10, 10]
    assert people.loc[others].groupby("identity").size().max() == 5


def test_the_further_figures_of_a_protector(modules, monkeypatch, tmp_path):
    """With a protector, a matcher and a classifier that look at mean colours."""
    import privface.faces
    import privface.models

    rng = np.random.default_rng(0)

    def look(images):
        return images.mean(axis=(2, 3))

    def prepare(name, _progress):
        pixels = rng.integers(0, 255, (80, 1, 1, 3)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
        male = np.where(np.arange(80) < 8, -1, np.arange(80) % 2)
        people = [f"{name}-{k // 4}" for k in range(80)]
        table = {"identity": people, "male": male, "read": male >= 0, "split": "val"}
        return pixels, pd.DataFrame(table)

    class Stub:
        fingerprint, name = "stub", "stub"

        def __call__(self, images):
            return images

        def codes(self, images):
            return look(images), look(images)

        def on(self, device):
            return self

        embed = staticmethod(look)

        def male_scores(self, images):
            return look(images)[:, 0]

        def detect(self, images):
            return [[1]] * 36 + [[]] * (len(images) - 36)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVFACE_MODELS", "models")
    monkeypatch.setattr(modules["attackers"], "prepare", prepare)
    monkeypatch.setattr(privface.models.Protector, "load", lambda _, *, device: Stub())
    for name in ("load_matcher", "load_gender_probe"):
        monkeypatch.setattr(privface.models, name, lambda _: Stub())
    monkeypatch.setattr(privface.faces, "MTCNNDetector", Stub)
    row = modules["run"].ROWS["strong-0"]
    modules["run"].further(row, tmp_path / "out.json", None, lambda *_: None)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["faces_found"] == {"after": 0.5, "before": 0.5}
    assert found["ssim"] == 1.0
    assert set(found["leakage"]) == set(found["frozen_auc"]) == {"utkface adults", "cfp"}
    attacked = found["leakage"]["cfp"]["code"]["photos"]
    assert attacked == 72, "cfp photos without a label are matched, not attacked"
    assert found["cfp_matching"]["P-P"] == found["cfp_matching"]["O-O"]


def test_attackers_read_what_is_there_and_nothing_else(modules):
    rng = np.random.default_rng(0)
    male = np.arange(600) % 2
    x = rng.normal(size=(600, 8))
    people = np.array([f"p{k}" for k in range(600)])
    nothing = modules["attackers"].between_halves(x, male, people)
    assert set(nothing["attackers"]) == {"rbf-svm", "quadratic", "logistic", "mlp"}
    assert nothing["worst"]["balanced_accuracy"] < 0.6
    x[:, 0] += 4 * male
    assert modules["attackers"].between_halves(x, male, people)["worst"]["balanced_accuracy"] > 0.9
    x[:, :4] *= 1 + 4 * male[:, None]  # read off the shape alone
    x[:, 0] = rng.normal(size=600)
    found = modules["attackers"].between_halves(x, male, people)["attackers"]
    assert found["quadratic"]["balanced_accuracy"] > 0.8


def tiny() -> FaceEncoder:
    torch.manual_seed(0)
    return FaceEncoder(outputs=3, channels=(8, 8), blocks=(1, 1))


def world(count: int = 48) -> tuple[ArraySource, np.ndarray]:
    """Plain images whose colour is the target."""
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 236, (count, 1, 1, 3), np.uint8)
    pixels = np.broadcast_to(colours, (count, 112, 112, 3)).copy()
    return ArraySource(pixels), (colours.reshape(count, 3).astype(np.float32) / 255 - 0.5)


def test_a_student_learns_its_teachers_directions(modules):
    source, targets = world()

    def likeness(images: int) -> float:
        settings = {"images": images, "batch_size": 16, "learning_rate": 5e-3}
        network = modules["student"].train_encoder(source, targets, network=tiny(), **settings)
        assert not network.training
        with torch.inference_mode():
            given = network(torch.from_numpy(source.batch(np.arange(48))) * 2 - 1)
        return float(F.cosine_similarity(given, torch.from_numpy(targets)).mean())

    learnt = likeness(1600)
    assert learnt > 0.5
    assert learnt > likeness(16) + 0.3


def test_a_resumed_student_equals_an_unbroken_one(modules, tmp_path, monkeypatch):
    train_encoder = modules["student"].train_encoder
    monkeypatch.setattr(modules["student"], "_EVERY", 2)
    source, targets = world(12)
    settings = {"images": 40, "batch_size": 8}
    unbroken = train_encoder(source, targets, network=tiny(), **settings)

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(source, targets, network=tiny(), folder=tmp_path, progress=stop, **settings)
    resumed = train_encoder(source, targets, network=tiny(), folder=tmp_path, **settings)
    for a, b in zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
