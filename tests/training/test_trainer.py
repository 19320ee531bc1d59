from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ConfigError, TrainingError
from privface.images import to_unit
from privface.models import Autoencoder, Protector, variant
from privface.training import ArraySource, LoopSettings, LossWeights


class StopError(Exception):
    pass


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def fit(toy, run: Path, *, step=None, progress=None, resume: bool = False, **changes):
    pixels, genders = toy.people()
    trainer = toy.trainer(step or toy.step(seed=changes.get("seed", 0)), progress=progress, **changes)
    return trainer.fit(ArraySource(pixels), genders, run=run, meta={"size": 32}, resume=resume)


def stop_after(steps: int):
    def progress(done: int, total: int, figures) -> None:
        if done == steps:
            raise StopError

    return progress


def rows(run: Path) -> list[list[str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def unbroken(toy, tmp_path_factory) -> Path:
    """Three epochs of two steps, refreshing an adversary each epoch."""
    run = tmp_path_factory.mktemp("unbroken")
    assert fit(toy, run, refresh_epochs=1).steps == 6
    return run


@pytest.mark.parametrize(("stop", "minutes"), [(3, 5.0), (3, 1e-9), (4, 5.0), (5, 1e-9), (6, 5.0)])
def test_stopped_and_resumed_equals_unbroken(toy, tmp_path, unbroken, stop, minutes):
    """Stops inside and at the end of an epoch, with checkpoints an epoch and (nearly) every step."""
    options = {"refresh_epochs": 1, "checkpoint_minutes": minutes}
    with pytest.raises(StopError):
        fit(toy, tmp_path, progress=stop_after(stop), **options)
    assert not (tmp_path / "model.safetensors").exists()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("7,total,99\n5,tot")  # what a killed process may leave behind
    seen: list[int] = []
    fit(toy, tmp_path, resume=True, progress=lambda done, *_: seen.append(done), **options)
    assert seen[0] > 1, "it must go on, not begin again"
    assert weights_of(tmp_path) == weights_of(unbroken)
    assert rows(tmp_path) == rows(unbroken)


@pytest.mark.parametrize("kind", ["variational", "denoising", "dropout"])
def test_noise_of_a_resumed_run_is_that_of_an_unbroken_one(toy, tmp_path, kind):
    def step():
        made = toy.step()
        torch.manual_seed(0)
        made.autoencoder = Autoencoder(variant(kind, shape=(3, 32, 32)))
        return made

    fit(toy, tmp_path / "whole", step=step())
    with pytest.raises(StopError):
        fit(toy, tmp_path / "parts", step=step(), progress=stop_after(3))
    again = step()
    torch.rand(7)  # another process draws otherwise
    fit(toy, tmp_path / "parts", step=again, resume=True)
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")


def test_validation_of_an_epoch_stays_in_the_log_of_a_resumed_run(toy, tmp_path):
    def validate(_):
        return {"x": 1.0}

    with pytest.raises(StopError):
        fit(toy, tmp_path, progress=stop_after(3), validate=validate)
    fit(toy, tmp_path, resume=True, validate=validate)
    assert [row[0] for row in rows(tmp_path) if row[1] == "validation_x"] == ["2", "4", "6"]


def test_a_network_without_a_weight_that_learns_is_refused(toy, tmp_path):
    step = toy.step()
    step.autoencoder.requires_grad_(False)
    with pytest.raises(TrainingError, match="no weight that learns"):
        fit(toy, tmp_path, step=step)


def test_another_seed_gives_other_weights(toy, tmp_path, unbroken):
    fit(toy, tmp_path, refresh_epochs=1, seed=1)
    assert weights_of(tmp_path) != weights_of(unbroken)


def test_moments_of_past_batches_survive_a_stop(toy, tmp_path):
    def step():
        return toy.step(align=True, weights=LossWeights(alignment=1.0))

    fit(toy, tmp_path / "whole", step=step())
    with pytest.raises(StopError):
        fit(toy, tmp_path / "parts", step=step(), progress=stop_after(3))
    fit(toy, tmp_path / "parts", step=step(), resume=True)
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    assert [row for row in rows(tmp_path / "whole") if row[1] == "alignment" and float(row[2]) > 0]


def test_resume_needs_a_checkpoint_of_the_same_settings(toy, tmp_path):
    with pytest.raises(CheckpointError, match=r"no resume\.ckpt"):
        fit(toy, tmp_path, resume=True)
    fit(toy, tmp_path, epochs=1)
    other = toy.step(weights=LossWeights(matching=0.5))
    for changes in ({"epochs": 2}, {"learning_rate": 0.5}, {"seed": 9}, {"step": other}):
        with pytest.raises(CheckpointError, match="made with other settings"):
            fit(toy, tmp_path, resume=True, **{"epochs": 1, **changes})
    (tmp_path / "resume.ckpt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(toy, tmp_path, resume=True, epochs=1)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(toy, tmp_path):
    step, calls = toy.step(), []
    forward = step.reconstruction.forward

    def broken(protected, original):
        calls.append(1)
        return forward(protected, original) * (float("nan") if len(calls) == 4 else 1.0)

    step.reconstruction.forward = broken
    with pytest.raises(TrainingError, match=r"The loss is nan in epoch 2, step 2.*learning_rate"):
        fit(toy, tmp_path, step=step)
    state = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    assert state["done"] == 2
    assert all(torch.isfinite(v).all() for v in state["autoencoder"].values())


def test_refresh_changes_one_adversary_at_a_time(toy):
    step = toy.step(adversaries=3)
    trainer = toy.trainer(step, refresh_epochs=2)

    def changed(epoch: int, *, at_start: bool = True) -> list[int]:
        before = [[p.detach().clone() for p in a.parameters()] for a in step.pixel_adversaries]
        trainer._refresh(epoch, at_start=at_start)
        return [
            k
            for k, a in enumerate(step.pixel_adversaries)
            if any(not torch.equal(p, q) for p, q in zip(a.parameters(), before[k], strict=True))
        ]

    assert [changed(epoch) for epoch in range(9)] == [[], [], [0], [], [1], [], [2], [], [0]]
    assert changed(2, at_start=False) == [], "a run resumed inside the epoch has refreshed already"


def test_training_removes_a_planted_cue_and_keeps_identity(toy, tmp_path):
    pixels, genders = toy.people(96)
    step = toy.step(weights=LossWeights(reconstruction=0.5, matching=2.0, frozen=2.0, adversary=1.0))
    trainer = toy.trainer(step, epochs=12, epoch_images=None, learning_rate=1e-2, ema=0.5)
    trainer.fit(ArraySource(pixels), genders, run=tmp_path, meta={"size": 32})
    fresh, labels = toy.people(64, seed=9)
    before = to_unit(fresh)
    after = Protector.load(tmp_path)(before)
    classifier, matcher = step.classifiers[0], step.matchers[0]

    def gap(images: np.ndarray) -> float:
        scores = classifier.male_scores(images)
        return abs(float(scores[labels == 1].mean() - scores[labels == 0].mean()))

    assert gap(before) > 3
    assert gap(after) < 0.4 * gap(before)
    a, b = matcher.embed(before), matcher.embed(after)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() > 0.9


def test_average_of_weights_becomes_the_protector(toy, tmp_path):
    step = toy.step()
    fit(toy, tmp_path / "last", step=step, ema=0.0)
    loaded = Protector.load(tmp_path / "last").network.state_dict()
    for name, value in step.autoencoder.state_dict().items():
        torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=1e-5)
    fit(toy, tmp_path / "mean", ema=0.9)
    assert weights_of(tmp_path / "mean") != weights_of(tmp_path / "last")


def test_validation_and_sheets_see_a_protector_an_epoch_and_reach_the_log(toy, tmp_path):
    pixels, genders = toy.people()
    epochs: list[int] = []
    trainer = toy.trainer(
        epochs=2,
        validate=lambda protector: {"spread": float(protector(to_unit(pixels[:2])).std())},
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    summary = trainer.fit(ArraySource(pixels), genders, run=tmp_path, meta={"size": 32})
    assert epochs == [0, 1]
    assert summary.validation["spread"] > 0
    assert [r[0] for r in rows(tmp_path) if r[1] == "validation_spread"] == ["2", "4"]


def test_schedule_out_of_range_is_refused(toy, tmp_path):
    for name, value in (("batch_size", 7), ("epochs", 0), ("precision", "8-bit"), ("ema", 1.0)):
        with pytest.raises(ConfigError, match=f"{name}.*{value}"):
            LoopSettings(**{name: value})
    with pytest.raises(ConfigError, match="48 images an epoch do not fill one batch of 100"):
        fit(toy, tmp_path, batch_size=100, epoch_images=None)


TWO = """
import sys, importlib.util
from pathlib import Path
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("parts", sys.argv[1])
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
from privface.training import ArraySource
pixels, genders = parts.people()
trainer = parts.make_trainer(devices=2, batch_size=4)
trainer.fit(ArraySource(pixels), genders, run=Path(sys.argv[2]), meta={"size": 32})
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(toy, tmp_path):
    """torchrun with gloo: two half batches average to one whole batch (up to what each view draws)."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            str(script), str(Path(__file__).with_name("conftest.py")), str(tmp_path / "run"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    fit(toy, tmp_path / "one")
    # at batch 8 = 2 x 4 the same 6 steps; matching and reconstruction are means over the batch
    ours, theirs = (Protector.load(tmp_path / name).network.state_dict() for name in ("one", "run"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=2e-3, rtol=0)
