"""A column of the user's own in photos, from labels to an audited folder; tables: tests/e2e/test_without_genders.py."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from privface.app.methods import model_methods
from privface.audit import PixelProbe
from privface.cli.main import app
from privface.config import parse_settings
from privface.erasers import RegionalTransport
from privface.errors import ConfigError, LabelError
from privface.images import decode_image
from privface.models import Protector, load_protector
from privface.models.inventory import list_models
from privface.pipeline import battery, train
from privface.pipeline.inspect import require_classes
from privface.pipeline.methods import erased_code
from privface.protect import read_manifest
from privface.records import FaceRecord, FaceTable

pytestmark = pytest.mark.usefixtures("one_registry")


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def toned(faces: Path, out: Path) -> Path:
    """The labels of a set with a column that says how bright a photo is; every tenth cell is empty."""
    labels = pd.read_csv(faces / "labels.csv", dtype=str)
    light = np.array([decode_image(faces / file).mean() for file in labels["file"]])
    labels["tone"] = np.array(["dark", "middle", "bright"])[np.argsort(np.argsort(light)) * 3 // len(light)]
    labels.loc[::10, "tone"] = ""
    labels.to_csv(out, index=False)
    return out


@pytest.fixture(scope="module")
def labels(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("labels")
    return {name: toned(getattr(world, name), place / f"{name}.csv") for name in ("learners", "audited")}


def settings(world: Any, labels: dict[str, Path], **options: Any) -> Any:
    content = copy.deepcopy(world.settings)
    content["data"]["labels"] = str(labels["learners"])
    usual = {"code_sizes": [6], "drop": 3, "regions": 1, "rounds": 2, "channels": [8, 8, 8, 8, 8]}
    asked = {"attributes": ["gender", "tone"], **usual, **options}
    return {**content, "method": "erased-code", "method_options": asked}


@pytest.fixture(scope="module")
def run(world: Any, labels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("attributes")
    (place / "train.yaml").write_text(yaml.safe_dump(settings(world, labels)))
    call("train", "--config", place / "train.yaml", "--out", place / "run")
    return place / "run"


def test_start_guesses_the_code_of_every_choice(world, labels, run, tmp_path):
    content = settings(world, labels) | {"start": str(run)}
    del content["method_options"]["channels"]
    content["loop"] = {**content["loop"], "epochs": 1, "learning_rate": 1e-12, "ema": 0.0}
    train(parse_settings(content, where="test"), tmp_path / "r")
    before, after = (
        Protector.load(folder).network.decoder.first.weight.norm() for folder in (run, tmp_path / "r")
    )
    # each choice leaves other values of the code; from one alone, those that it takes away got weights of a million
    assert after < 3 * before


def test_erasers_are_told_what_is_kept(run, monkeypatch):
    told = []

    class Spy(RegionalTransport):
        def fit(self, rows, y, **keywords):
            told.append(keywords["strata"])
            return super().fit(rows, y, **keywords)

    monkeypatch.setattr(erased_code, "RegionalTransport", Spy)
    rng = np.random.default_rng(0)
    labels = {"gender": rng.integers(-1, 2, 200), "tone": rng.integers(0, 3, 200)}
    rows = {name: np.flatnonzero(codes >= 0) for name, codes in labels.items()}
    for hide, kept in (("tone", "gender"), ("gender", "tone")):
        network = Protector.load(run, hide=[hide]).network
        read = torch.from_numpy(rng.normal(size=(200, len(network.centres))).astype(np.float32))
        erased_code._erase(network, read, labels, rows, np.zeros(200, np.int64), 0)
        wanted = labels[kept][rows[hide]]
        assert len(told) == 2, "one fit a round"
        while told:
            np.testing.assert_array_equal(
                np.unique(told.pop(), return_inverse=True)[1], wanted - wanted.min()
            )


def test_each_combination_of_what_is_kept_has_a_number():
    labels = {
        "gender": np.array([0, 1, 0, 1, 0]),
        "tone": np.array([0, 0, 2, -1, 2]),
        "age": np.array([1, 1, 1, -1, 0]),
    }
    assert not erased_code.kept_classes(labels, tuple(labels)).any()
    numbers = erased_code.kept_classes(labels, ["gender"]).tolist()
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 4


def test_faces_are_protected_and_audited(world, labels, run, tmp_path, monkeypatch):
    monkeypatch.setattr(battery, "image_probes", lambda *_, **__: [PixelProbe()])  # the quickest
    out = tmp_path / "protected"
    call("protect", world.audited, out, "--model", run, "--faces", "aligned", "--hide", "tone,gender")
    assert all("+hide:gender,tone+code:6" in row.model for row in read_manifest(out))
    call(
        "audit", "--original", world.audited, "--protected", out, "--labels", labels["audited"], "--faces", "aligned",
        "--model", run, "--matcher", f"mini:{world.matcher}", "--attribute", "tone", "--effort", "quick",
        "--resamples", 20, "--out", tmp_path / "audit", "--fail-if", "leakage.tone>0.99",
    )  # fmt: skip
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert {row["medium"] for row in found["attributes"]} == {"any", "image", "embedding", "white-box"}
    assert "What is read of other attributes?" in (tmp_path / "audit" / "report.html").read_text()


def test_each_choice_is_a_chain_of_its_own(run, make_images):
    images = make_images(3, size=32)
    made = {hide: Protector.load(run, hide=hide) for hide in (("gender",), ("tone",), ("gender", "tone"))}
    assert len({protector.fingerprint for protector in made.values()}) == 3
    assert Protector.load(run).fingerprint == made[("gender",)].fingerprint, "gender is the default"
    assert Protector.load(run, hide=["tone", "gender"]).fingerprint == made[("gender", "tone")].fingerprint
    faces = [protector(images) for protector in made.values()]
    assert not np.array_equal(faces[0], faces[1])
    for protector in made.values():
        code, erased = protector.codes(images)
        assert code.shape == erased.shape == (3, 9), "what is told lies where it lay in the code"
        np.testing.assert_allclose(np.linalg.norm(erased, axis=1), 1, atol=1e-5)
        links = protector.network.eraser.links
        basis = torch.linalg.multi_dot([link.axes for link in links]).numpy()
        assert basis.shape == (9, 6)
        np.testing.assert_allclose(erased @ basis @ basis.T, erased, atol=1e-5)
    with pytest.raises(ConfigError, match="this model hides gender, tone"):
        Protector.load(run, hide=["age"])


def test_a_choice_is_built_into_an_export(run, tmp_path, make_images):
    call("export", run, tmp_path / "p.onnx", "--hide", "tone")
    images = make_images(2, size=32)
    np.testing.assert_allclose(
        load_protector(tmp_path / "p.onnx")(images), Protector.load(run, hide=["tone"])(images), atol=1e-4
    )


def test_the_page_and_the_list_of_models_offer_each_choice(run):
    names = [method.name for method in model_methods(run)]
    assert names == [f"Model run, hiding {what}" for what in ("gender", "tone", "gender and tone")]
    (entry,) = [entry for entry in list_models(run.parent) if entry.source == "trained by privface"]
    assert (entry.kind, entry.hides) == ("erased-code", ("gender", "tone"))


def test_what_cannot_be_hidden_is_refused(world, labels, tmp_path):
    for options, error in (({"attributes": ["identity"]}, LabelError), ({"bits": 8}, ConfigError)):
        with pytest.raises(error):
            train(parse_settings(settings(world, labels, **options)), tmp_path / "run")


def test_a_class_counts_with_the_attackers_people_too():
    def people(**counts: int) -> FaceTable:
        files = [(name, f"{name}{k}.png") for name, count in counts.items() for k in range(count)]
        return FaceTable(tuple(FaceRecord(file, Path(file), cohorts={"plan": name}) for name, file in files))

    few = people(gold=5, tin=20)
    with pytest.raises(LabelError, match="'gold' of 'plan' has 5 photos; 8 are the least"):
        require_classes(["plan"], [few])
    require_classes(["plan"], [few, people(gold=3, tin=20)])
