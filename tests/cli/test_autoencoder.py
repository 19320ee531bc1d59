"""`privface autoencoder`, from folders to folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from privface.cli.main import app
from privface.data import generate_faces, write_faces
from privface.errors import CheckpointError, ConfigError, DataError, ModelError, OutputError
from privface.images import decode_image
from privface.models import Autoencoder, save_network, variant
from privface.speech import generated_noise, mix, read_wav, write_wav

TINY = ("--size", 32, "--epochs", 1, "--set", "width=4", "--set", "code=8")
SPEECH = ("--epochs", 1, "--pieces", 20, "--set", "width=4", "--set", "code=4", "--set", "depth=3")


def run(*parts: object):
    return CliRunner().invoke(app, ["autoencoder", *map(str, parts)])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_faces(generate_faces(people=12, photos_per_person=3, seed=4), folder)
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """Gives a small trained autoencoder of a variant."""
    root = tmp_path_factory.mktemp("models")

    def model(variant):
        if not (root / variant).exists():
            done = run("train", photos, "--out", root / variant, "--variant", variant, *TINY)
            assert done.exit_code == 0, done.output
            assert "best epoch 1 of 1" in done.output
        return root / variant

    return model


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in {".png", ".jpg"})


def test_train_then_reconstruct_but_never_into_the_input(photos, trained, tmp_path):
    model = trained("convolutional")
    assert sorted(p.name for p in model.iterdir()) == ["model.safetensors", "model.yaml"]
    done = run("reconstruct", photos, tmp_path / "out", "--model", model, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "schema": "privface.command/1",
        "command": "autoencoder reconstruct",
        "written": len(names(photos)),
        "failed": {},
        "files": {"images": str(tmp_path / "out")},
    }
    assert names(tmp_path / "out") == names(photos)
    assert decode_image(tmp_path / "out" / names(photos)[0]).shape == (32, 32, 3)
    refused = run("reconstruct", photos, photos / "out", "--model", model)
    assert isinstance(refused.exception, ConfigError)
    assert not (photos / "out").exists()


def test_a_set_too_large_for_memory_gives_the_same_weights(photos, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("privface.pipeline.autoencoders.IN_MEMORY", 1000)
    assert run("train", photos, "--out", tmp_path / "m", "--variant", "convolutional", *TINY).exit_code == 0
    found, expected = (
        (at / "model.safetensors").read_bytes() for at in (tmp_path / "m", trained("convolutional"))
    )
    assert found == expected


def test_denoise_keeps_each_size_and_a_broken_file_is_reported(photos, trained, tmp_path):
    (tmp_path / "in").mkdir()
    data = (photos / names(photos)[0]).read_bytes()
    (tmp_path / "in" / "a.png").write_bytes(data)
    (tmp_path / "in" / "b.png").write_bytes(data[:200])
    done = run("denoise", tmp_path / "in", tmp_path / "out", "--model", trained("denoising"), "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["command"], document["written"]) == (1, "autoencoder denoise", 1)
    assert document["failed"].keys() == {"b.png"}
    assert "1 images written, 1 failed" in done.stderr
    assert names(tmp_path / "out") == ["a.png"]
    assert decode_image(tmp_path / "out" / "a.png").shape == decode_image(tmp_path / "in" / "a.png").shape


def test_colourise_needs_a_colouriser(photos, trained, tmp_path):
    done = run("colourise", photos, tmp_path / "out", "--model", trained("colourising"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["written"] == len(names(photos))
    refused = run("colourise", photos, tmp_path / "out2", "--model", trained("denoising"))
    assert isinstance(refused.exception, ConfigError)
    assert "colour" in str(refused.exception)


def test_sample_draws_the_same_images_again(trained, tmp_path):
    for name in ("one", "two"):
        done = run("sample", tmp_path / name, "--model", trained("variational"), "--count", 5, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["files"]["sheet"] == str(tmp_path / name / "sheet.png")
    drawn = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert sorted(drawn[0]) == [*(f"{k:04d}.png" for k in range(5)), "sheet.png"]
    assert drawn[0] == drawn[1]
    refused = run("sample", tmp_path / "three", "--model", trained("sparse"))
    assert isinstance(refused.exception, ModelError)


def test_speech_is_learnt_and_denoised(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(5):
        time = np.arange(24_000) / 16_000
        voice = np.sin(2 * np.pi * (120 + 20 * k) * time) * (np.sin(2 * np.pi * 3 * time) > 0)
        write_wav(tmp_path / "clean" / f"{k}.wav", (0.4 * voice).astype(np.float32))
    done = run("train", tmp_path / "clean", "--out", tmp_path / "m", "--speech", *SPEECH)
    assert done.exit_code == 0, done.output
    noisy, _ = mix(read_wav(tmp_path / "clean" / "0.wav"), generated_noise(0, 24_000, rng), snr=0.0)
    write_wav(tmp_path / "noisy.wav", noisy)
    files = (tmp_path / "noisy.wav", tmp_path / "out.wav")
    done = run("denoise", "--speech", *files, "--model", tmp_path / "m", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["seconds"] == 1.5
    assert len(read_wav(tmp_path / "out.wav")) == 24_000
    done = run("train", tmp_path / "clean", "--out", tmp_path / "again", "--speech", *SPEECH)
    first, again = (tmp_path / name / "model.safetensors" for name in ("m", "again"))
    assert first.read_bytes() == again.read_bytes()
    no_mask = Autoencoder(variant("denoising", shape=(1, 256, 128), width=4, code=4))
    save_network(tmp_path / "old", no_mask, kind="speech-denoiser", meta={})
    refused = run("denoise", "--speech", *files, "--model", tmp_path / "old")
    assert isinstance(refused.exception, CheckpointError)
    write_wav(tmp_path / "clean" / "silent.wav", np.zeros(24_000, np.float32))
    refused = run("train", tmp_path / "clean", "--out", tmp_path / "none", "--speech", *SPEECH)
    assert isinstance(refused.exception, DataError)
    assert "silent.wav holds only silence" in str(refused.exception)


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("photos --out full", OutputError, "is not an empty folder"),
        ("few --out m", DataError, "10 are needed"),
        ("photos --out m --variant quantum", ModelError, "no autoencoder"),
        ("photos --out m --set bredth=3", ModelError, "bredth"),
        ("photos --out m --set code", ConfigError, "key=value"),
        ("photos --out m --size 30", ModelError, "cannot be halved"),
        ("photos --out m --resume", CheckpointError, "to resume from"),
        ("photos --out m --speech", DataError, "4 are needed"),
        ("photos --out m --speech --variant sparse", ConfigError, "whose code is a map"),
        ("photos --out m --noise photos", SystemExit, "2"),
    ],
)
def test_wrong_use_is_refused(photos, tmp_path, monkeypatch, line, error, words):
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(photos)
    Path("few").mkdir()
    Path("full").mkdir()
    Path("full/x").write_text("mine")
    found = run("train", *line.split())
    assert isinstance(found.exception, error), found.exception
    assert words in str(found.exception)
    assert Path("full/x").read_text() == "mine"
