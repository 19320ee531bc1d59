"""The first thing that people try: photos in, protected photos out, without a network, a model or a setting."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from privface.config import parse_settings
from privface.data import generate_faces, write_faces
from privface.errors import CheckpointError
from privface.images import decode_image
from privface.models import Protector, bundled
from privface.models.bundled import DEFAULT_PROTECTOR, MANIFEST, bundled_folder
from privface.models.checkpoint import load_network
from privface.models.inventory import verify_model
from privface.pipeline import train
from privface.protect import read_manifest
from tests.e2e.conftest import started

ROOT = Path(__file__).parents[2]
AUDIT = ROOT / "experiments" / "01_san_on_lfw" / "results" / "audit.json"

ALONE = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("the network was asked for")

socket.socket.connect = socket.getaddrinfo = refuse
sys.argv = ["privface", *sys.argv[1:]]
from privface.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundled") / "photos"
    write_faces(generate_faces(people=3, photos_per_person=2, seed=4), place)
    (place / "labels.csv").unlink()
    return place


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--faces", "detect", "--paste"]], ids=["aligned", "detect"])
def test_protecting_works_offline_from_an_empty_home(photos, tmp_path, options, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("PRIVFACE_", "XDG_", "TORCH_"))]:
        monkeypatch.delenv(name)
    arguments = ("protect", photos, tmp_path / "out", *options)
    done = started(sys.executable, "-c", ALONE, *arguments, cwd=tmp_path, HOME=str(home))
    rows = read_manifest(tmp_path / "out")
    assert len(rows) == 6, done.stderr
    protected = [row for row in rows if row.status == "ok"]
    # a detector need not take every drawing for a face
    assert done.returncode == (0 if len(protected) == 6 else 1), done.stderr
    assert len(protected) == 6 if not options else len(protected) >= 3
    assert {row.model for row in rows} == {Protector.load(DEFAULT_PROTECTOR).fingerprint}
    for row in protected:
        before, after = decode_image(photos / row.input), decode_image(tmp_path / "out" / str(row.output))
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).max() > 2
    assert "Model: bundled:erased" in done.stdout


def test_a_job_of_the_default_model_goes_on_under_its_folder_s_name_and_no_other_model_s(
    command, photos, world, tmp_path
):
    code, out, err = command("protect", photos, tmp_path / "out", "--json")
    first = json.loads(out)
    assert (code, first["model"], first["reused"]) == (0, DEFAULT_PROTECTOR, 0), err
    assert first["fingerprint"] == Protector.load(DEFAULT_PROTECTOR).fingerprint
    again = ("protect", photos, tmp_path / "out", "--json", "--model")
    assert json.loads(command(*again, bundled_folder(DEFAULT_PROTECTOR))[1])["reused"] == 6
    code, _, err = command(*again, world.run)
    assert code == 2
    assert "overwrite this one" in err


def test_wrong_names_and_labels_that_are_not_needed_are_refused(command, photos, tmp_path):
    code, _, err = command("protect", photos, tmp_path / "out", "--model", "bundled:sun")
    assert code == 2
    assert "'bundled:sun' does not come with privface" in err
    (tmp_path / "genders.csv").write_text("file,gender\na.png,female\n")
    code, _, err = command("protect", photos, tmp_path / "out", "--genders", tmp_path / "genders.csv")
    assert code == 2
    assert "bundled:erased asks for no gender" in err
    assert not (tmp_path / "out").exists()


def test_list_verify_card_and_doctor_know_them(command, monkeypatch):
    for name in ("PRIVFACE_DATA", "PRIVFACE_MODELS"):
        monkeypatch.delenv(name, raising=False)
    specs = ["bundled:erased", "bundled:gender", "bundled:matcher"]
    models = json.loads(command("models", "list", "--json")[1])["models"]
    assert [model["name"] for model in models][:3] == specs
    code, out, _ = command("models", "verify", *specs, "--json")
    rows = json.loads(out)["models"]
    assert (code, [row["model"] for row in rows]) == (0, specs)
    code, out, _ = command("models", "card", "bundled:erased")
    assert (code, out.startswith("# Model card: bundled:erased\n")) == (0, True)
    checks = {row["name"]: row for row in json.loads(command("doctor", "--json")[1])["checks"]}
    assert [checks[spec]["state"] for spec in specs] == ["ok"] * 3


def test_doctor_and_protect_say_that_a_file_is_damaged(command, photos, tmp_path, monkeypatch):
    shutil.copytree(bundled._ROOT, tmp_path / "weights")
    monkeypatch.setattr(bundled, "_ROOT", tmp_path / "weights")
    with (tmp_path / "weights" / "erased" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    code, out, _ = command("doctor", "--json")
    checks = {row["name"]: row for row in json.loads(out)["checks"]}
    assert code == 1
    assert checks["bundled:erased"]["state"] == "problem"
    assert "Install privface again" in checks["bundled:erased"]["cure"]
    assert checks["bundled:gender"]["state"] == "ok"
    code, _, err = command("protect", photos, tmp_path / "out")
    assert code == 2
    assert "is not what was shipped" in err
    assert not (tmp_path / "out").exists()
    (tmp_path / "weights" / MANIFEST).unlink()
    checks = {row["name"]: row for row in json.loads(command("doctor", "--json")[1])["checks"]}
    assert checks["bundled models"]["state"] == "problem"


@pytest.mark.slow
def test_the_wheel_holds_them(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds the package")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "privface", source / "privface", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = started(sys.executable, "-c", build, tmp_path, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for path in bundled._ROOT.rglob("*"):
            if path.is_file():
                name = path.relative_to(ROOT).as_posix()
                assert archive.read(name) == path.read_bytes(), name


# the command that puts them there -------------------------------------------------------------------------


@pytest.fixture
def script(experiment: Any) -> ModuleType:
    return experiment("", "bundle")["bundle"]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cards without models, as before the first use of the command."""
    for name in ("erased", "matcher", "gender"):
        (tmp_path / "to" / name).mkdir(parents=True)
        shutil.copyfile(bundled._ROOT / name / "README.md", tmp_path / "to" / name / "README.md")
    monkeypatch.setattr(bundled, "_ROOT", bundled._ROOT)  # the command changes it; put back afterwards
    return tmp_path / "to"


@pytest.fixture(scope="module")
def coded(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one encoder of ours that met what the committed audit calls seen; nobody writes into it."""
    run = tmp_path_factory.mktemp("coded") / "run"
    options = {"code_sizes": [8], "drop": 2, "regions": 2, "bits": 24, "channels": [8, 8, 8, 8, 8]}
    loop = {**world.settings["loop"], "epochs": 1}
    changes = {"method": "erased-code", "method_options": options, "loop": loop}
    train(parse_settings({**world.settings, **changes}), run)
    file = run / "provenance.json"
    made = json.loads(AUDIT.read_text())["provenance"]
    seen = {
        key: [{"name": m["name"], "sha256": m["fingerprint"]} for m in made[audited] if m["seen"]]
        for key, audited in (("matchers", "matchers"), ("classifiers", "probes"))
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **seen}))
    return run


def test_one_command_refreshes_weights_hashes_and_cards(script, coded, world, target):
    asked = [str(coded), str(world.run / "classifiers" / "0"), "--to", str(target), "--data=erased=drawn"]
    asked += ["--audit", str(AUDIT), "--trained-by", "erased=privface train --out RUN"]
    script.main(asked)
    made = load_network(target / "erased").weights
    was = load_network(coded).weights
    for name, tensor in made.items():
        half = tensor.ndim > 1 and not name.startswith(("erasers.", "axes"))
        assert tensor.dtype == (torch.float16 if half else was[name].dtype), name
        torch.testing.assert_close(tensor.float(), was[name].float(), atol=1e-4, rtol=1e-3)
    assert not (target / "matcher" / "model.safetensors").exists()
    assert verify_model("bundled:erased")[3] == "protected image 32 x 32"
    run = json.loads((target / "erased" / "provenance.json").read_text())
    assert "people" not in run
    assert run["people_not_listed"] == len(json.loads((coded / "provenance.json").read_text())["people"])
    assert run["matchers"][-1] == {"name": "bundled:matcher", "sha256": verify_model("bundled:matcher")[1]}
    card = (target / "erased" / "README.md").read_text()
    audit = json.loads(AUDIT.read_text())
    assert audit["verdict"]["headline"] in card
    worst = audit["worst_retrained"]["leakage"]
    assert f"{worst['value']:.3f} [{worst['low']:.3f}, {worst['high']:.3f}]" in card
    assert "can have them) of other people | not measured" in card, "that audit saw no code"
    assert "`privface train --out RUN`" in card
    assert "drawn people (MIT)" in card
    assert (
        "Not measured: the audit of bundled:erased was made without it."
        in (target / "matcher" / "README.md").read_text()
    )
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    asked[1] = str(target / "gender")  # as by default: what is there is halved in its place
    script.main(asked)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_sets_and_teachers_are_read_from_the_run(script, coded, tmp_path):
    assert script._learnt_from(coded) == ["learners", "mobilefacenet_a"]
    more = [{"source": "table:faces", "labels": f"faces/{name}.csv"} for name in ("utkface", "extra")]
    config = {"data": {"source": "faces", "labels": "lfw.csv"}, "method_options": {"more_data": more}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    met = [{"name": "onnx:matcher_dlib_resnet"}, {"name": "mini:student"}]
    (tmp_path / "provenance.json").write_text(json.dumps({"matchers": met}))
    assert script._learnt_from(tmp_path) == ["lfw", "utkface", "extra", "dlib_resnet"]


def test_paths_unknown_data_and_an_audit_of_another_run_are_refused(script, coded, target, world, tmp_path):
    gender, options = str(world.run / "classifiers" / "0"), ["--to", str(target), "--data=erased=drawn"]
    with pytest.raises(SystemExit, match="names a place on a machine: 'privface train --out /somewhere'"):
        script.main([str(coded), gender, *options, "--trained-by", "erased=privface train --out /somewhere"])
    with pytest.raises(KeyError, match="celeba"):
        script.main([str(coded), gender, *options, "--data=gender=celeba"])
    with pytest.raises(SystemExit, match="is no erased-code with one encoder of ours"):
        script.main([str(world.run), gender, *options])
    run = tmp_path / "run"
    shutil.copytree(coded, run)
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "matchers": []}))
    with pytest.raises(SystemExit, match="The audit is of another run"):
        script.main([str(run), gender, *options, "--audit", str(AUDIT)])
    card = run / "model.yaml"
    card.write_text(card.read_text().replace("meta:", "meta:\n  from: /somewhere/run"))
    with pytest.raises(SystemExit, match="names a place on a machine"):
        script.main([str(run), gender, *options])
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        script.main([str(run), gender, *options])
