"""The page on integrations: every example runs as it stands there, on drawn faces and an untrained model."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from skimage.feature import hog
from sklearn.decomposition import PCA

from privface.data import generate_faces, write_faces
from privface.images import decode_image, to_pixels, to_unit
from privface.models import Protector, SemiAdversarialAutoencoder, save_network
from privface.models.export import export_protector
from tests.e2e.conftest import started

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = {
    section.split(":")[0]: re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}
PEOPLE, EACH = 60, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, one_registry: None) -> Path:
    """What the page says it expects."""
    place = tmp_path_factory.mktemp("integrations")
    faces = generate_faces(people=PEOPLE, photos_per_person=EACH, seed=6, gender_cue=2.0)
    table = write_faces(faces, place / "faces")
    (place / "face.png").write_bytes(table[0].path.read_bytes())

    torch.manual_seed(0)
    network = SemiAdversarialAutoencoder(width=4, depth=2, blocks=1)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    save_network(place / "runs" / "mine", network, kind="semi-adversarial-autoencoder", meta={"size": 112})
    export_protector(place / "runs" / "mine", place / "protector.onnx")

    small = [cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA).mean(axis=-1) for face in faces.pixels]
    edges = [hog(face, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(1, 1)) for face in small]
    embeddings = PCA(6, svd_solver="full").fit_transform(np.array(edges))
    columns = {key: [getattr(record, key) for record in table] for key in ("file", "identity", "gender")}
    frame = pd.DataFrame({**columns, "embedding": list(embeddings.astype(np.float32))})
    frame.loc[len(frame)] = ["lost.png", "p99999", "female", None]  # a photo without a face
    frame.to_parquet(place / "embeddings.parquet")
    return place


def run(name: str, place: Path, *, then: str = "") -> str:
    """Run an example as a script, and lines that print what came of it."""
    (code,) = EXAMPLES[name]
    (place / "example.py").write_text(f"{code}\n{then}\n", encoding="utf-8")
    offline = {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1"}
    done = started(sys.executable, "example.py", cwd=place, **offline)
    assert done.returncode == 0, done.stderr
    return done.stdout


def protected(place: Path, *files: Path) -> np.ndarray:
    """Pixels of crops as the run of the page protects them."""
    faces = to_unit(np.stack([decode_image(file) for file in files]))
    return to_pixels(Protector.load(place / "runs" / "mine")(faces)).astype(int)


def test_no_example_is_left_out():
    tested = {"scikit-learn", "torchvision", "PyTorch", "Hugging Face datasets", "ONNX Runtime"}
    assert {name: len(blocks) for name, blocks in EXAMPLES.items()} == dict.fromkeys(tested, 1)


def test_scikit_learn(place):
    then = "print(len(set(people[first]) & set(people[rest])), len(embeddings))"
    out = run("scikit-learn", place, then=then)
    before, after = (float(auc) for auc in re.findall(r"AUC (\d\.\d+)", out))
    assert before > 0.9
    assert after < before - 0.1
    assert out.endswith(f"0 {PEOPLE * EACH}\n")


def test_torchvision(place):
    then = "print(face.dtype, tuple(face.shape), float(face.min()) >= 0, float(face.max()) <= 1, len(people))"
    assert run("torchvision", place, then=then) == f"torch.float32 (3, 112, 112) True True {PEOPLE * EACH}\n"


def test_pytorch(place):
    then = "import numpy\nnumpy.save('batch.npy', faces.numpy())\nprint(people[:4].tolist())"
    assert run("PyTorch", place, then=then) == "[0, 0, 0, 1]\n"
    batch = np.load(place / "batch.npy")
    expected = protected(place, *sorted((place / "faces").rglob("*.png"))[:32])
    assert np.abs(np.moveaxis(batch, 1, -1) - expected).max() <= 1


def test_hugging_face_datasets(place):
    pytest.importorskip("datasets")
    out = run("Hugging Face datasets", place, then="print(protected[0]['image'].size)")
    assert out.endswith("(112, 112)\n")
    rows = pd.read_parquet(place / "protected.parquet")["image"]
    assert len(rows) == PEOPLE * EACH
    assert {row["path"] for row in rows} == {None}
    (expected,) = protected(place, min((place / "faces").rglob("*.png")))
    assert np.abs(decode_image(rows[0]["bytes"]) - expected).max() <= 1


def test_onnx_runtime(place):
    then = "import sys\nprint([name for name in ('privface', 'torch') if name in sys.modules])"
    assert run("ONNX Runtime", place, then=then) == "[]\n"
    (expected,) = protected(place, place / "face.png")
    written = decode_image(place / "protected.png")
    assert np.abs(written - expected).max() <= 1
    assert not np.array_equal(written, decode_image(place / "face.png"))
