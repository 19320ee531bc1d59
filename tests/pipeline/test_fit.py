from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from privface.config import parse_settings
from privface.errors import CheckpointError, ModelError, PrivfaceError
from privface.models import VARIANTS, Protector, load_gender_probe, load_matcher
from privface.pipeline import read_provenance, train
from privface.pipeline.methods.base import pixel_adversary
from privface.pipeline.provenance import person_digest


def settings(world, **changes):
    content = copy.deepcopy(world.settings)
    for key, value in changes.items():
        place, _, last = key.rpartition("__")
        (content[place] if place else content)[last] = value
    return parse_settings(content)


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_run_folder_holds_what_it_should_and_no_image(world):
    files = {p.relative_to(world.run).as_posix() for p in world.run.rglob("*") if p.is_file()}
    assert files == {
        "model.safetensors", "model.yaml", "config.yaml", "provenance.json", "log.csv", "resume.ckpt",
        "classifiers/0/model.safetensors", "classifiers/0/model.yaml",
    }  # fmt: skip


def test_provenance_names_models_by_hash_and_people_not_at_all(world):
    found = read_provenance(world.run)
    assert found["matchers"] == [
        {"name": "mini:matcher", "sha256": load_matcher(f"mini:{world.matcher}").weights_sha256}
    ]
    classifier = load_gender_probe(f"mini:{world.run / 'classifiers' / '0'}")
    assert found["classifiers"] == [{"name": "own:0", "sha256": classifier.weights_sha256}]
    assert len(found["people"]) == 24, "validation people are met too"
    assert person_digest("P00003") in found["people"], "spelling does not hide a person"
    assert "p00003" not in json.dumps(found)
    assert found["data"]["train_images"] + found["data"]["validation_images"] == 72


def test_looking_and_resuming_change_nothing(world, tmp_path):
    """Contact sheets where asked for, a finished run resumed, and checkpoints as often as one likes."""
    first = train(settings(world, loop__checkpoint_minutes=1e-6), tmp_path / "r", save_images=True)
    images = sorted(p.name for p in (tmp_path / "r").rglob("*") if p.suffix in {".jpg", ".png"})
    assert images == ["contact_epoch_001.jpg", "contact_epoch_002.jpg"]
    assert weights_of(tmp_path / "r") == weights_of(world.run)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    again = train(settings(world), tmp_path / "r", resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert (again.steps, again.precision) == (first.steps, first.precision)
    assert again.validation == pytest.approx(first.validation, abs=1e-4)
    assert again.validation, "the figures of a finished run are not lost"
    (tmp_path / "r" / "model.safetensors").unlink()
    rebuilt = train(settings(world), tmp_path / "r", resume=True)
    assert weights_of(tmp_path / "r") == weights_of(world.run)
    assert rebuilt.validation == pytest.approx(first.validation)


def test_run_stopped_before_its_first_checkpoint_can_be_resumed(world, tmp_path):
    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("train gender"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings(world), tmp_path / "r", progress=stop)
    assert not (tmp_path / "r" / "resume.ckpt").exists()
    train(settings(world), tmp_path / "r", resume=True)
    assert weights_of(tmp_path / "r") == weights_of(world.run)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loop__epochs": 3}, "loop.epochs 2, now 3"),
        ({"losses__margin": 0.9}, "losses.margin 1.0, now 0.9"),
        ({"seed": 8}, "seed 3, now 8"),
        ({"data__split": "train"}, "data.split None, now 'train'"),
        ({"method": "flow-san"}, "method 'san', now 'flow-san'"),
    ],
)
def test_resume_with_other_settings_is_refused(world, tmp_path, changes, named):
    run = tmp_path / "r"
    run.mkdir()
    (run / "config.yaml").write_bytes((world.run / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        train(settings(world, **changes), run, resume=True)
    assert named in caught.value.message


def test_failed_start_leaves_nothing_that_the_next_try_trips_over(world, tmp_path):
    for changes, error in (
        ({"data__source": "nowhere"}, PrivfaceError),
        ({"data__split": "none"}, PrivfaceError),
        ({"matchers": ["onnx:none.onnx"]}, ModelError),
    ):
        with pytest.raises(error):
            train(settings(world, **changes), tmp_path / "r")
        assert list((tmp_path / "r").iterdir()) == []
    train(settings(world), tmp_path / "r")


def test_start_goes_on_from_a_network_and_from_the_people_it_met(world, tmp_path):
    still = {"loop__learning_rate": 1e-12, "loop__ema": 0.0}
    people = read_provenance(world.run)["people"]
    train(settings(world, start=str(world.run), validation_share=0.0, **still), tmp_path / "r")
    before, after = (Protector.load(run).network.state_dict() for run in (world.run, tmp_path / "r"))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6)
    found = read_provenance(tmp_path / "r")
    assert found["people"] == people
    fingerprint = parse_settings(world.settings).fingerprint()
    assert found["start"] == {"settings": fingerprint, "steps": found["steps"]}


def test_start_from_another_network_or_from_nowhere_is_refused(world, tmp_path):
    with pytest.raises(CheckpointError, match=r"no readable provenance\.json"):
        train(settings(world, start=str(tmp_path / "none")), tmp_path / "r")
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        train(settings(world, start=str(world.run), autoencoder__width=12), tmp_path / "r")


def test_opponents_may_be_of_another_architecture_and_adversaries_begin_as_its_copy(world, tmp_path):
    shape = {"size": 16, "width": 8, "stages": 1, "separable": True}
    found = settings(world, classifiers=[{**shape, "epochs": 1}], adversaries=[shape], loop__epochs=1)
    train(found, tmp_path / "run")
    classifier = load_gender_probe(f"mini:{tmp_path / 'run' / 'classifiers' / '0'}")
    full = load_gender_probe(f"mini:{world.run / 'classifiers' / '0'}")
    sizes = [sum(w.numel() for w in probe.network.parameters()) for probe in (classifier, full)]
    assert sizes[0] < sizes[1]
    cold = found.adversaries[0].model_copy(update={"warm_start": False})

    def weights(entry, met) -> list[torch.Tensor]:
        torch.manual_seed(0)
        return list(pixel_adversary(entry, [met]).network.parameters())

    own, fresh = list(classifier.network.parameters()), weights(cold, classifier)
    torch.testing.assert_close(weights(found.adversaries[0], classifier), own, rtol=0, atol=0)
    torch.testing.assert_close(weights(found.adversaries[0], full), fresh, rtol=0, atol=0)


def test_killed_command_line_run_resumes_to_the_same_bytes(world, tmp_path):
    """SIGKILL, not an exception: nothing gets the chance to tidy up."""
    config = tmp_path / "c.yaml"
    content = copy.deepcopy(world.settings)
    content["loop"]["epochs"] = 12
    config.write_text(yaml.safe_dump(content))
    run = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "privface", "train", "--config", str(config), "--out", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 200
    while not (run / "resume.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, stderr.decode()
    assert not (run / "model.safetensors").exists()
    train(parse_settings(content), run, resume=True)
    train(parse_settings(content), tmp_path / "unbroken")
    assert weights_of(run) == weights_of(tmp_path / "unbroken")
    assert (run / "log.csv").read_bytes().count(b"total") == 36


@pytest.mark.parametrize("name", VARIANTS)
def test_every_autoencoder_is_a_backbone_by_configuration_alone(world, tmp_path, name, make_images):
    options = {"code": 6, "output": "sigmoid"}
    if VARIANTS[name].architecture != "fully-connected":
        options["width"] = 4
    chosen = {"variant": name, "options": options}
    summary = train(settings(world, autoencoder=chosen, losses__code=0.01, loop__epochs=1), tmp_path / "r")
    assert summary.steps == 3
    images = make_images(2, size=32)
    protected = Protector.load(tmp_path / "r")(images)
    assert protected.shape == images.shape
    assert not np.array_equal(protected, images)
    assert ",code," in (tmp_path / "r" / "log.csv").read_text()
