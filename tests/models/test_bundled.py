from __future__ import annotations

import fnmatch
import hashlib
import json
import pickle
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ModelError, PrivfaceError
from privface.models import Protector, bundled, erased_code, load_gender_probe, load_matcher
from privface.models.bundled import bundled_folder, bundled_models, find_bundled, model_card
from privface.models.inventory import list_models, verify_model
from privface.models.protectors import load_protector
from privface.pipeline import read_provenance

ROOT = Path(__file__).parents[2]
SPECS = ["bundled:erased", "bundled:gender", "bundled:matcher"]
LOADERS = {
    "bundled:erased": load_protector,
    "bundled:matcher": load_matcher,
    "bundled:gender": load_gender_probe,
}


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of what was shipped, read instead of it."""
    root = tmp_path / "weights"
    shutil.copytree(bundled._ROOT, root)
    monkeypatch.setattr(bundled, "_ROOT", root)
    return root


@pytest.mark.parametrize(
    "use", [*LOADERS.values(), Protector.load, model_card, verify_model, read_provenance]
)
def test_an_unknown_name_is_told_which_there_are_and_what_left_why(use):
    for spec, left in (("bundled:sam", False), ("bundled:san", True), ("bundled:san-grey", True)):
        with pytest.raises(ModelError, match=f"'{spec}' does not come with privface") as caught:
            use(spec)
        assert all(there in str(caught.value.hint) for there in SPECS)
        assert ("It left" in str(caught.value.hint)) == left


@pytest.mark.parametrize("spec", SPECS)
def test_another_kind_of_model_is_refused(spec):
    for load in {*LOADERS.values()} - {LOADERS[spec]}:
        with pytest.raises(PrivfaceError, match="is needed"):
            load(spec)


def test_the_matcher_is_the_protector_s_encoder_and_an_audit_marks_it_as_seen(make_images, caplog):
    from privface.pipeline.inspect import _load_models

    matcher, network = load_matcher("bundled:matcher"), Protector.load("bundled:erased").network
    faces = make_images(2, size=112)
    with torch.inference_mode():
        read = network.read(torch.from_numpy(faces)).numpy()
    rows = matcher.embed(faces)
    np.testing.assert_allclose(rows / np.linalg.norm(rows, axis=1, keepdims=True), read, atol=1e-4)
    for run in (Path("bundled:erased"), bundled_folder("bundled:erased")):
        assert _load_models(["bundled:matcher"], [], run).matchers[0].seen is True
    assert "bundled:erased keeps no list of the people it learnt from" in caplog.text


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("file", ["model.safetensors", "model.yaml"])
def test_a_damaged_file_is_refused_by_all_that_read_it(copy, spec, file):
    path = find_bundled(spec).folder / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit: weights that still load, and tell nobody
    path.write_bytes(content)
    for use in (LOADERS[spec], verify_model):
        with pytest.raises(CheckpointError, match="is not what was shipped"):
            use(spec)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        LOADERS[spec](spec)


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_manifest_is_named(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        load_matcher("bundled:matcher")


def test_the_list_shows_licence_size_hash_and_origin_and_verification_knows_what_each_is():
    rows = {entry.name: entry for entry in list_models()}
    for spec in SPECS:
        row = rows[spec]
        weights = Path(row.where)
        assert row.present
        assert row.bytes == weights.stat().st_size
        assert row.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert row.licence.startswith("MIT for the weights; learnt from ")
        assert row.source.startswith("trained by privface")
    assert [rows[spec].kind for spec in SPECS] == ["protector", "gender classifier", "matcher"]
    outputs = [verify_model(spec)[3] for spec in SPECS]
    assert outputs == ["protected image 112 x 112", "gender score", "embedding of 256"]


def test_the_package_data_hold_every_file_and_nothing_else_lies_there():
    assert [model.spec for model in bundled_models()] == SPECS
    files = [path for path in bundled._ROOT.rglob("*") if path.is_file()]
    manifest = bundled._ROOT / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
    listed = {manifest}
    for model in bundled_models():
        listed |= {model.card, *(model.folder / name for name in model.files)}
        assert model.files["model.safetensors"] in model_card(model.spec)
        assert "## Not for what" in model_card(model.spec)
    assert set(files) == listed
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["privface"]
    for path in files:
        name = path.relative_to(ROOT / "privface").as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_what_is_shipped_names_nobody_and_no_place():
    run = read_provenance("bundled:erased")
    assert "people" not in run
    assert run["people_not_listed"] > 0
    for path in bundled._ROOT.rglob("*"):
        if path.suffix in {".json", ".yaml"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|tmp|work|Users|mnt)/", text), path
            assert ".jpg" not in text, path


def test_a_folder_that_is_called_like_one_is_no_eraser(tmp_path, monkeypatch):
    from privface.erasers.storage import CARD
    from privface.protect.templates import template_maker

    (tmp_path / "matcher").mkdir()
    (tmp_path / "matcher" / CARD).write_text("kind: eraser")
    monkeypatch.chdir(tmp_path)
    assert template_maker("bundled:matcher").fingerprint == load_matcher("bundled:matcher").fingerprint


def test_erased_traces_nothing_once_it_is_loaded_or_copied_to_another_process(monkeypatch):
    """While torch.fx traces, a module that another thread calls is traced, too, and fails."""
    protector = Protector.load("bundled:erased")
    copied = pickle.loads(pickle.dumps(protector.network))  # noqa: S301  # our own
    monkeypatch.setattr(erased_code, "frozen", None)
    faces = np.random.default_rng(0).random((2, 3, 112, 112), np.float32)
    drawn = protector(faces)
    np.testing.assert_array_equal(copied(torch.from_numpy(faces)).detach().numpy().clip(0, 1), drawn)
