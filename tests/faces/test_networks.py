"""MTCNN's networks without torch: the reader of their weights, their graphs, and the same numbers as torch gives."""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from facenet_pytorch.models import mtcnn

from privface.errors import MissingExtraError, ModelError
from privface.faces import MTCNNDetector, _networks

GRAPHS = Path(__file__).parents[2] / "experiments" / "graphs.py"
SIDES = {"pnet": 31, "rnet": 24, "onet": 48}


def written(state: object) -> bytes:
    """As torch wrote files before version 1.6."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("name", _networks.NAMES)
def test_onnx_runtime_and_torch_agree(name: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (3, 3, SIDES[name], SIDES[name])).astype(np.float32)
    network = {"pnet": mtcnn.PNet, "rnet": mtcnn.RNet, "onet": mtcnn.ONet}[name](pretrained=False)
    network.load_state_dict({key: torch.from_numpy(array) for key, array in _networks.weights(name).items()})
    with torch.inference_mode():
        theirs = [found.numpy() for found in network.eval()(torch.from_numpy(images))]
    ours = _networks._network(name)(images)
    assert [found.shape for found in ours] == [found.shape for found in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_graphs_are_those_of_the_script_and_hold_no_weights() -> None:
    spec = importlib.util.spec_from_file_location("graphs", GRAPHS)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in _networks.NAMES:
        kept = onnx.load(_networks._GRAPHS / f"{name}.onnx", load_external_data=False)
        assert kept == onnx.load_model_from_string(getattr(script, name)())
        assert kept.ByteSize() < 4000


def test_weights_are_read_as_torch_reads_them() -> None:
    state = OrderedDict(a=torch.randn(2, 3).T, b=torch.arange(6.0)[2:5])
    found = _networks.read_state(written(state), name="made.pt")
    assert {name: array.tolist() for name, array in found.items()} == {
        k: v.tolist() for k, v in state.items()
    }


class Calls:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("was-here"),)


@pytest.mark.parametrize("state", [Calls(), {"a": Calls()}, {"a": torch.ones(2, dtype=torch.float64)}])
def test_a_file_that_names_anything_but_tensors_is_refused(
    state: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (written(state), pickle.dumps(state), written({"a": torch.ones(3)})[:-4]):
        with pytest.raises(ModelError, match=r"made\.pt is no file of weights"):
            _networks.read_state(content, name="made.pt")
    assert not list(tmp_path.iterdir())


def test_a_detector_that_was_used_goes_to_another_process() -> None:
    used = MTCNNDetector(min_face=40)
    photo = np.zeros((250, 250, 3), np.uint8)
    assert used.detect([photo]) == pickle.loads(pickle.dumps(used)).detect([photo]) == [[]]  # noqa: S301 - its own bytes


def test_a_missing_package_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_networks, "PACKAGE", "not_installed_here")
    with pytest.raises(MissingExtraError, match="facenet-pytorch") as caught:
        MTCNNDetector().detect([np.zeros((250, 250, 3), np.uint8)])
    assert "--no-deps" in str(caught.value.hint)
