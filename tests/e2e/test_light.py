"""The light install: protecting and matching where torch, scikit-learn, pandas and the like are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut
from typer.testing import CliRunner

from privface.cli.main import EXIT_USAGE, app
from privface.errors import OutputError
from privface.images import decode_image, encode_image
from privface.models import Protector, load_matcher
from privface.models.onnx_models import OnnxMatcher, OnnxProtector
from privface.protect import protect_photo, read_manifest
from tests.conftest import unit_faces
from tests.e2e.conftest import started

HEAVY = [
    "torch", "torchvision", "lightning_fabric", "sklearn", "skimage", "matplotlib", "pandas", "pyarrow", "scipy", "joblib",
    "threadpoolctl", "onnx", "onnxscript", "onnx2torch",
]  # fmt: skip

ABSENT = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name.partition(".")[0] in {HEAVY} else find(name, *where)
"""


def privface(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process where none of them is installed."""
    return started(sys.executable, "-c", f"{ABSENT}from privface.cli.main import main; main()", *arguments)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light") / "photos"
    folder.mkdir()
    (folder / "eileen.png").write_bytes(encode_image(astronaut(), ".png"))
    return folder


def test_a_photo_is_protected_as_with_torch(photos, tmp_path):
    done = privface("protect", photos / "eileen.png", tmp_path / "face.png", "--hide", "gender")
    assert done.returncode == 0, done.stderr
    (expected,) = protect_photo((photos / "eileen.png").read_bytes(), Protector.load("bundled:erased"))
    found, wanted = (
        decode_image(data).astype(int) for data in ((tmp_path / "face.png").read_bytes(), expected)
    )
    assert np.abs(found - wanted).max() <= 1


def test_a_folder_and_its_gallery_go_together_with_torch_but_not_half_and_half(photos, tmp_path):
    out, gallery = tmp_path / "out", tmp_path / "out" / "embeddings.npz"
    job = ["protect", str(photos), str(out), "--embeddings", "bundled:matcher"]
    done = privface(*job)
    assert done.returncode == 0, done.stderr
    (row,) = read_manifest(out)
    assert row.status == "ok"
    assert not [*out.glob("*.parquet")], "without pyarrow, tables are CSV and NPZ"
    assert row.model == f"{Protector.load('bundled:erased').fingerprint}@onnxruntime"
    asked = ["match", str(photos), "--gallery", str(gallery), "--templates", "bundled:matcher", "--json"]
    answers = [privface(*asked).stdout, CliRunner().invoke(app, asked).stdout]
    assert ['"file": "eileen.png"' in answer for answer in answers] == [True, True], answers
    assert CliRunner().invoke(app, [*job, "--runtime", "onnx"]).exit_code == 0, "the same with torch around"
    refused = CliRunner().invoke(app, job)
    assert isinstance(refused.exception, OutputError)
    assert "other settings: model" in refused.exception.message


ALL = "hint: Install all of privface: pip install 'privface[train]'."


@pytest.mark.parametrize(
    ("command", "said", "cure"),
    [
        ("train --config train.yaml --out run", "This needs ", ALL),
        ("audit --original a --protected b", "This needs ", ALL),
        ("export bundled:erased model.onnx", "This needs ", ALL),
        ("models verify bundled:gender", "This needs ", ALL),
        ("protect a b --model runs/mine", "This needs ", ALL),
        (
            "protect {photos}/eileen.png {out} --code-size 64",
            "code_size=64: ",
            "pip install 'privface[train]'",
        ),
        ("protect {photos} {out} --to parquet", "", "hint: For Parquet tables: pip install pyarrow."),
    ],
)
def test_what_needs_more_says_so_in_a_sentence_before_work_begins(photos, tmp_path, command, said, cure):
    done = privface(*command.format(photos=photos, out=tmp_path / "out").split())
    assert done.returncode == EXIT_USAGE
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: {said}")
    assert cure in hint
    assert not [*tmp_path.rglob("protected-*")]


def test_what_needs_none_of_it_works():
    for command in (["--help"], ["models", "list"], ["models", "card", "bundled:erased"], ["doctor"]):
        done = privface(*command)
        assert done.returncode == 0, done.stderr
    assert "in ONNX Runtime" in done.stdout
    verified = privface("models", "verify", "bundled:erased", "bundled:matcher")
    assert verified.returncode == 0, verified.stderr


def test_where_torch_is_installed_it_is_not_loaded_for_nothing():
    rooms = "cli.main, protect, faces, images, sessions, models.bundled, models.inventory, models.onnx_models, cli.doctor, pipeline.search"
    imports = "; ".join(f"import privface.{room}" for room in rooms.split(", "))
    code = f"import sys; {imports}; print([name for name in {[*HEAVY, 'facenet_pytorch']} if name in sys.modules])"
    assert started(sys.executable, "-c", code).stdout == "[]\n"


def test_the_graphs_give_what_torch_gives():
    faces = unit_faces(6, size=112)
    ours, theirs = OnnxProtector.load("bundled:erased"), Protector.load("bundled:erased")
    np.testing.assert_allclose(ours(faces), theirs(faces), atol=1e-4)
    matcher, reference = OnnxMatcher.load("bundled:matcher"), load_matcher("bundled:matcher")
    np.testing.assert_allclose(matcher.embed(faces), reference.embed(faces), atol=1e-3)
    assert matcher.fingerprint == reference.fingerprint, "a gallery stays usable"
