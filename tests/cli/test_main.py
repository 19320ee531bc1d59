from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from privface.cli import main as entry
from privface.errors import OutputError


def photos(world, folder: Path) -> Path:
    """A folder with a face crop and a file that is none."""
    folder.mkdir()
    (folder / "good.png").write_bytes(next((world.audited / "p00100").glob("*.png")).read_bytes())
    (folder / "bad.png").write_bytes(b"x")
    return folder


def test_version(command):
    from importlib.metadata import version

    assert command("--version")[:2] == (0, f"privface {version('privface')}\n")


def test_help_of_every_command(command):
    def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
        yield path
        for name, one in getattr(group, "commands", {}).items():
            yield from commands(one, *path, name)

    for path in commands(get_command(entry.app)):
        code, out, _ = command(*path, "--help")
        assert (code, f"Usage: privface {' '.join(path)}".strip() in out) == (0, True), path


@pytest.mark.parametrize(
    ("name", "value", "coloured"),
    [("TERM", "xterm", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)],
)
def test_colours_can_be_turned_off(command, monkeypatch, name, value, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for key, told in (("FORCE_COLOR", "1"), ("TERM", "xterm"), (name, value)):
        monkeypatch.setenv(key, told)
    assert bool(re.search(r"\x1b\[[\d;]*3\dm", command("--help")[1])) == coloured


def test_protect_with_a_baseline_says_what_it_is_worth(command, world, tmp_path):
    spec = "baseline:pixelation,cells=4,size=32"
    code, out, _ = command("protect", world.audited / "p00100", tmp_path / "out", "--model", spec)
    assert code == 0
    assert "read gender nearly as before" in out
    assert "Model: baseline:pixelation,cells=4,size=32 (pixelate/1 cells=4 size=32)" in out


def test_an_audit_as_text_and_as_json_and_its_gates_decide_the_exit_code(command, world, protected, tmp_path):
    audit = [
        "audit", "--original", world.audited, "--protected", protected, "--matcher", f"mini:{world.matcher}",
        "--model", world.run, "--out", tmp_path / "a", "--effort", "quick", "--resamples", 5, "--faces", "aligned",
    ]  # fmt: skip
    assert command("--quiet", *audit, "--fail-if", "psnr<0") == (0, "", "")
    code, out, err = command(*audit, "--fail-if", "psnr>0.0", "--fail-if", "psnr<0", "--json")
    assert code == 3, err
    assert "Worst retrained probe:" in err
    assert re.search(r"mini:matcher\W+seen\W+P-P", err)
    assert "the build fails at > 0" in err
    found = json.loads(out)
    saved = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert found["command"] == "audit"
    assert found["verdict"] == saved["verdict"]
    assert found["figures"]["worst_retrained"]["value"] == saved["worst_retrained"]["leakage"]["value"]
    assert [gate["failed"] for gate in found["gates"]] == [True, False]
    assert Path(found["files"]["report"]).is_file()
    assert found["changes"] is None
    one, two = (f"{name}={tmp_path / 'a' / 'audit.json'}" for name in ("one", "two"))
    code, out, _ = command("--quiet", "compare", one, two, "--out", tmp_path / "c.html", "--json")
    assert (code, [row["name"] for row in json.loads(out)["methods"]]) == (0, ["one", "two"])
    assert command("--quiet", "compare", one, two, "--out", tmp_path / "c.html") == (0, "", "")


def test_train_and_embed(command, world, tmp_path):
    config = world.run / "config.yaml"
    code, out, err = command("train", "--config", config, "--out", tmp_path / "r", "--set", "loop.epochs=1")
    assert code == 0, err
    assert "3 steps" in out
    assert f"privface protect PHOTOS OUTPUT --model {tmp_path / 'r'}" in out
    embed = ("--matcher", f"mini:{world.matcher}", "--faces", "aligned")
    code, out, _ = command("embed", world.audited, tmp_path / "e.parquet", *embed)
    assert (code, "256 embeddings, 0 failed" in out) == (0, True)
    code, out, err = command(
        "embed", photos(world, tmp_path / "in"), tmp_path / "f.parquet", *embed, "--json"
    )
    found = json.loads(out)
    assert (code, found["embeddings"], list(found["failed"])) == (1, 1, ["bad.png"])
    assert "1 embeddings, 1 failed" in err


def test_protect_and_match(command, world, tmp_path):
    source, matcher = photos(world, tmp_path / "in"), f"mini:{world.matcher}"
    made = ["protect", source, tmp_path / "out", "--model", world.run, "--embeddings", matcher, "--csv"]
    code, out, err = command(*made, "--json")
    found = json.loads(out)
    assert (code, found["counts"]["ok"], found["counts"]["unreadable"]) == (1, 1, 1)
    assert "1 ok, 1 unreadable" in err
    assert (tmp_path / "out" / "manifest.csv").is_file()
    gallery = found["files"]["templates"]
    assert gallery == str(tmp_path / "out" / "embeddings.parquet")
    how = ("--gallery", gallery, "--templates", matcher, "--faces", "aligned")
    code, out, _ = command("match", source / "good.png", *how, "--json")
    best = json.loads(out)["candidates"][0]
    assert (code, best["rank"], best["file"], best["similarity"] > 0.5) == (0, 1, "good.png", True)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "error: Stopped; what was finished is kept."),
        (
            OSError(28, "No space left on device", "e.parquet"),
            2,
            "error: e.parquet: No space left on device.",
        ),
        (OutputError("That is enough.", hint="Go home."), 2, "error: That is enough."),
        (
            ZeroDivisionError("first line\nsecond line"),
            70,
            "error: This is a bug in privface: ZeroDivisionError: first line",
        ),
    ],
)
def test_what_stops_a_command_is_one_sentence_a_hint_and_an_exit_code(
    command, monkeypatch, tmp_path, error, code, told
):
    from privface import pipeline

    def embed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "embed", embed)
    arguments = ["embed", tmp_path, tmp_path / "e.parquet", "--matcher", "mini:m"]
    found, out, err = command(*arguments, "--json")
    first, second = err.strip().splitlines()
    assert (found, out, first) == (code, "", told)
    assert second.startswith("hint: ")
    assert ("--debug" in second) == (code == 70)
    if code != 130:
        found, _, err = command("--debug", *arguments)
        assert found == code
        assert "Traceback" in err
        assert str(error) in err


def test_the_demo_says_that_it_began_and_what_it_does(command, monkeypatch, tmp_path):
    from privface.pipeline import demo

    def short(_out: Path, *, seed: int, progress) -> None:
        progress("train matcher", seed, 10)
        progress("train matcher", 10, 10)
        raise OutputError("That is enough.")

    monkeypatch.setattr(demo, "run_demo", short)
    _, out, err = command("demo", "--out", tmp_path / "d")
    assert out == ""
    assert err.splitlines() == [
        "demo, three to five minutes on two cores ...", "train matcher ...", "train matcher: all 10 done, 0:00",
        "error: That is enough.",
    ]  # fmt: skip
    assert command("--quiet", "demo", "--out", tmp_path / "d")[2] == "error: That is enough.\n"


def test_the_page_without_gradio_is_one_sentence_and_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "privface.app.page", raising=False)
    code, _, err = command("app", "--port", "0")
    assert code == 2
    assert err.splitlines() == [
        "error: The page needs gradio, which is not installed.",
        "hint: Install the extra: pip install 'privface[app]'.",
    ]


def test_completion_is_offered():
    """Through the script's own name, which typer builds the names of variables from."""
    script = "import sys; sys.argv[0] = 'privface'; from privface.cli.main import main; main()"
    asked = {"_PRIVFACE_COMPLETE": "complete_bash", "COMP_WORDS": "privface mod", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(entry.__file__).parents[2],
        env={**os.environ, **asked},
    )
    assert done.stdout.split() == ["models"]


def test_models_and_doctor(command, world, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "m.onnx").write_bytes(b"weights")
    (tmp_path / "theirs" / "LICENSE.txt").write_text("free")
    monkeypatch.setenv("PRIVFACE_MODELS", str(tmp_path / "theirs"))
    monkeypatch.delenv("PRIVFACE_DATA", raising=False)
    assert "facenet:vggface2" in command("models", "list")[1]
    code, out, _ = command("models", "list", world.run, "--json")
    models = {row["name"]: row for row in json.loads(out)["models"]}
    assert code == 0
    assert models["facenet:vggface2"]["present"] is False
    assert models["facenet:vggface2"]["source"].startswith("https://")
    theirs = models[f"onnx:{tmp_path / 'theirs' / 'm.onnx'}"]
    assert (theirs["bytes"], theirs["licence"]) == (7, "see LICENSE.txt")
    assert theirs["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert models[f"mini:{world.run / 'classifiers' / '0'}"]["kind"] == "gender-classifier"
    code, _, err = command("models", "list", tmp_path / "none")
    assert (code, "is no folder" in err) == (2, True)
    code, out, err = command("models", "verify", f"mini:{world.matcher}", world.run)
    assert code == 0
    assert "embedding of 16" in out
    assert "aligned RGB 32 x 32" in out
    assert "\x1b[" not in out + err, "no colour where nobody looks"
    code, out, _ = command("doctor", "--json")
    checks = {row["name"]: row for row in json.loads(out)["checks"]}
    assert (code, json.loads(out)["problems"]) == (0, 0)
    assert {"privface", "torch", "device", "extra [ray]", "facenet:vggface2", "disk"} <= checks.keys()
    assert all(row["state"] == "ok" or row["cure"] for row in checks.values())
    monkeypatch.setenv("PRIVFACE_DATA", str(tmp_path / "none"))
    code, out, _ = command("doctor", "--json")
    found = {row["name"]: row for row in json.loads(out)["checks"]}["PRIVFACE_DATA"]
    assert (code, found["state"]) == (1, "problem"), "a folder that is set and missing is a problem"
    assert "no folder" in found["finding"]
    assert found["cure"]


def test_doctor_says_what_to_install(monkeypatch):
    from privface.cli import doctor

    monkeypatch.setitem(doctor._EXTRAS, "track", (("no-such-package",), "figures"))
    cures = {check.name: check.cure for check in doctor._extras()}
    assert cures["extra [track]"] == "For figures: pip install 'privface[track]'"


def test_doctor_needs_no_package_of_training(monkeypatch):
    from privface.cli import doctor

    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    monkeypatch.delitem(sys.modules, "privface.training.trainer", raising=False)
    assert doctor._torch().state == "ok"


def test_import_is_light_and_warns_of_nothing():
    """Heavy libraries load inside the command that needs them; the package itself loads not even what commands need."""
    heavy = "{'torch', 'numpy', 'pandas', 'sklearn', 'scipy', 'cv2', 'PIL', 'matplotlib', 'lightning_fabric', 'gradio', 'fastapi'}"
    code = (
        f"import sys, privface; print(sorted(({heavy} | {{'typer'}}) & set(sys.modules)))\n"
        f"import privface.cli.main, privface.errors; print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(entry.__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout == "[]\n[]\n"
