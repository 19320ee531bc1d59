"""Exported protectors: the same answers as torch, in plain ONNX Runtime, and refusals in words."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from privface.cli.main import app
from privface.data import generate_faces, write_faces
from privface.errors import CheckpointError, ConfigError, InputRangeError, ModelError
from privface.images import decode_image
from privface.models import Protector, export, load_matcher, save_network
from privface.models.erased_code import FrozenReader
from privface.models.export import ExportSummary, export_protector
from privface.models.onnx_models import OnnxProtector
from privface.models.protectors import load_protector
from privface.protect import read_manifest
from tests.models.conftest import san

SIZE = 32

pytestmark = pytest.mark.usefixtures("one_registry")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; nobody writes into it."""
    place = tmp_path_factory.mktemp("export") / "run"
    save_network(place, san(), kind="semi-adversarial-autoencoder", meta={"size": SIZE})
    return place


@pytest.fixture(scope="module")
def half(run: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportSummary:
    """The run exported at half strength; nobody writes to the file."""
    return export_protector(run, tmp_path_factory.mktemp("half") / "m.onnx", strength=0.5)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, SIZE, SIZE), np.float32)


def test_plain_onnx_runtime_gives_torch_s_answer_for_any_batch(run: Path, half: ExportSummary) -> None:
    found = half
    assert found.difference < 1e-5
    assert [p.name for p in found.path.parent.iterdir()] == ["m.onnx"]  # no weights beside it
    session = onnxruntime.InferenceSession(str(found.path))
    protector = Protector.load(run, strength=0.5)
    for count in (1, 2, 7):
        (answer,) = session.run(["protected"], {"images": images(count)})
        np.testing.assert_allclose(answer, protector(images(count)), atol=1e-5)
    assert not np.allclose(protector(images(2)), images(2), atol=0.01)
    meta = {p.key: p.value for p in onnx.load(found.path).metadata_props}
    assert meta["privface.fingerprint"] == protector.fingerprint
    assert meta["privface.size"] == str(SIZE)
    assert b"autoencoders.py" not in found.path.read_bytes()  # nor where this machine keeps its code


def test_a_graph_that_differs_is_not_written(run, tmp_path, monkeypatch):
    honest = export.session_outputs
    monkeypatch.setattr(export, "session_outputs", lambda *a, **k: honest(*a, **k) + np.float32(2e-4))
    with pytest.raises(ModelError, match=r"differs from torch by 0.0002"):
        export_protector(run, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_refusals(run: Path, half: ExportSummary, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in .onnx"):
        export_protector(run, tmp_path / "m.pt")
    with pytest.raises(CheckpointError):
        export_protector(tmp_path, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"has strength 0\.5 and all choices built in"):
        load_protector(half.path, strength=2.0)
    with pytest.raises(InputRangeError):
        load_protector(half.path)(images(1) * 255)
    model = onnx.load(half.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    for name, told in (
        ("m", "does not exist"),
        ("other", "no protector of privface"),
        ("text", "cannot be opened"),
    ):
        with pytest.raises(ModelError, match=told):
            OnnxProtector.load(tmp_path / f"{name}.onnx")


def test_protect_with_an_exported_file(run: Path, tmp_path: Path) -> None:
    write_faces(generate_faces(people=3, photos_per_person=2, seed=1), tmp_path / "in")

    def call(*parts: object) -> str:
        done = CliRunner().invoke(app, [str(part) for part in parts])
        assert done.exit_code == 0, done.output
        return done.output

    assert "differs from torch by at most" in call("export", run, tmp_path / "m.onnx")
    for model, out in ((run, "torch"), (tmp_path / "m.onnx", "onnx")):
        call("protect", tmp_path / "in", tmp_path / out, "--model", model)
    rows = read_manifest(tmp_path / "onnx")
    assert [row.status for row in rows] == ["ok"] * 6
    for row in rows:
        ours, theirs = (decode_image(tmp_path / out / row.input).astype(int) for out in ("torch", "onnx"))
        assert np.abs(ours - theirs).max() <= 1


def test_a_run_folder_runs_in_onnx_runtime_without_a_file(run: Path, half: ExportSummary) -> None:
    protector = load_protector(run, runtime="onnx")
    assert isinstance(protector, OnnxProtector)
    np.testing.assert_allclose(protector(images(3)), Protector.load(run)(images(3)), atol=1e-5)
    again = load_protector(run, runtime="onnx")
    assert again.fingerprint == protector.fingerprint, "or a rerun would start anew"
    assert load_protector(run, runtime="onnx", strength=0.5).fingerprint != protector.fingerprint
    assert isinstance(load_protector(run, runtime="torch"), Protector)
    assert isinstance(load_protector(half.path, runtime="onnx"), OnnxProtector)
    with pytest.raises(ConfigError, match="runs in ONNX Runtime only"):
        load_protector(half.path, runtime="torch")
    copied = copy.copy(protector)  # as Ray does for its actors; a session cannot be copied
    assert copied is not protector
    assert copied.fingerprint == protector.fingerprint
    np.testing.assert_array_equal(copied(images(2)), protector(images(2)))


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(  # the two whose graphs compute shapes
    "name", [pytest.param("dlib_resnet", marks=pytest.mark.long), "mobilefacenet_b"]
)
def test_real_matchers_can_be_encoders_of_an_exported_protector(name: str, real_models: Path) -> None:
    matcher = load_matcher(f"onnx:{real_models / f'matcher_{name}.onnx'}")
    reader = FrozenReader.of(matcher)
    reader.prepare()
    sent = pickle.dumps(reader)
    assert len(sent) < 1.1 * len(reader.content), "the graph once, without what it was turned into"
    reader = pickle.loads(sent)  # noqa: S301  # ours
    reader.unpack()
    session = onnxruntime.InferenceSession(export._graph(reader, 112, {}))
    for count in (1, 3):
        photos = np.random.default_rng(count).random((count, 3, 112, 112), np.float32)
        (answer,) = session.run(None, {"images": photos})
        np.testing.assert_allclose(answer, matcher.embed(photos), atol=1e-4)
