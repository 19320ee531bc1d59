"""What the documents assume a reader to have."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from privface.data import generate_faces, write_faces
from privface.images import decode_image, encode_image

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, ModuleType]]]:
    """Imports files of a folder of experiments/, as its script does; forgotten afterwards, as experiments name files alike."""

    def load(folder: str, *names: str) -> dict[str, ModuleType]:
        monkeypatch.syspath_prepend(str(EXPERIMENTS / folder))
        return {name: importlib.import_module(name) for name in names}

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(EXPERIMENTS)):
                del sys.modules[name]

    monkeypatch.setattr(sys, "path", list(sys.path))  # a file may add to it
    forget()
    yield load
    forget()


def started(*words: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """How a command ended in a process of its own."""
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.fixture(scope="session")
def own_photos() -> Callable[..., None]:
    """Writes into a folder what "Your own photos" of the README asks for."""
    return write_own_photos


def write_own_photos(place: Path, *, people: int, learners: int) -> None:
    """Photos with labels, one photo beside them, two matchers.

    Args:
        place: Folder to write into.
        people: How many, with two photos each.
        learners: The first so many are of the split ``train``, the others of ``val``.
    """
    table = write_faces(generate_faces(people=people, photos_per_person=2, seed=4), place / "photos")
    (place / "face.png").write_bytes(table[0].path.read_bytes())  # an aligned crop
    for record in table:  # photos, not crops: faces have to be found in them
        photo = np.pad(decode_image(record.path), ((6, 6), (20, 20), (0, 0)), mode="edge")
        record.path.write_bytes(encode_image(photo, ".png"))
    labels = pd.read_csv(place / "photos" / "labels.csv")
    first_other = f"p{learners:05d}"
    labels["split"] = ["train" if str(record.identity) < first_other else "val" for record in table]
    labels.to_csv(place / "photos" / "labels.csv", index=False)
    (place / "models").mkdir()
    for seed, name in enumerate(("matcher", "other_matcher")):
        onnx.save(_tiny_matcher(seed), place / "models" / f"{name}.onnx")


def _tiny_matcher(seed: int) -> onnx.ModelProto:
    """Sixteen random filters and their mean responses: an embedding, if a poor one."""
    weights = np.random.default_rng(seed).normal(size=(16, 3, 8, 8)).astype(np.float32) / 255
    image = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["n", 3, 112, 112])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 16])
    nodes = [
        helper.make_node("Conv", ["rgb", "w"], ["a"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [out], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
