from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from privface.cli import main as entry
from privface.cli.show import Console

COMMANDS = ["train", "protect", "audit", "embed", "demo", "models", "models list", "models verify", "doctor"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["privface", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            sys.exit(entry.main())  # main may also simply return
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    yield call
    Console.start(debug=False, quiet=False)


def quick(world, protected, out: Path) -> list[object]:
    return [
        "audit", "--original", world.audited, "--protected", protected, "--matcher", f"mini:{world.matcher}",
        "--model", world.run, "--out", out, "--effort", "quick", "--resamples", 5, "--faces", "aligned",
    ]  # fmt: skip


def photos(world, folder: Path, *, bad: bool = True) -> Path:
    """A folder with a face crop and, where wanted, a file that is none."""
    folder.mkdir()
    (folder / "good.png").write_bytes(next((world.audited / "p00100").glob("*.png")).read_bytes())
    if bad:
        (folder / "bad.png").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Usage:" in out
    assert "--help" in out


def test_version(run):
    from importlib.metadata import version

    assert run("--version")[:2] == (0, f"privface {version('privface')}\n")


def test_protect_ends_with_0_where_all_is_well_and_1_where_a_file_failed(run, world, tmp_path):
    good, bad = photos(world, tmp_path / "good", bad=False), photos(world, tmp_path / "bad")
    code, out, _ = run("protect", good, tmp_path / "a", "--model", world.run)
    assert (code, "1 ok;" in out) == (0, True)
    code, out, _ = run("protect", bad, tmp_path / "b", "--model", world.run, "--csv")
    assert (code, "1 ok, 1 unreadable" in out) == (1, True)
    assert (tmp_path / "b" / "manifest.csv").is_file()


def test_protect_with_a_baseline_says_what_it_is_worth(run, world, tmp_path):
    spec = "baseline:pixelation,cells=4,size=32"
    code, out, _ = run("protect", world.audited / "p00100", tmp_path / "out", "--model", spec)
    assert code == 0
    assert "reads gender nearly as before" in out
    assert "Model: baseline:pixelation,cells=4,size=32 (pixelate/1 cells=4 size=32)" in out


def test_audit_prints_figures_and_its_gate_decides_the_exit_code(run, world, protected, tmp_path):
    code, out, err = run(
        *quick(world, protected, tmp_path / "a"), "--fail-if", "psnr>0.0", "--fail-if", "psnr<0"
    )
    assert code == 3, err
    assert "Worst retrained probe:" in out
    assert re.search(r"mini:matcher\W+seen\W+P-P", out)
    assert "the build fails at > 0" in out
    assert (tmp_path / "a" / "report.html").is_file()


def test_audits_as_json(run, world, protected, tmp_path):
    code, out, err = run(*quick(world, protected, tmp_path / "a"), "--fail-if", "psnr>0", "--json")
    assert code == 3
    found = json.loads(out)
    assert found["command"] == "audit"
    saved = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert found["verdict"] == saved["verdict"]
    assert found["figures"]["worst_retrained"]["value"] == saved["worst_retrained"]["leakage"]["value"]
    assert [gate["failed"] for gate in found["gates"]] == [True]
    assert Path(found["files"]["report"]).is_file()
    assert found["changes"] is None
    assert "Worst retrained probe:" in err
    one, two = (f"{name}={tmp_path / 'a' / 'audit.json'}" for name in ("one", "two"))
    code, out, _ = run("--quiet", "compare", one, two, "--out", tmp_path / "c.html", "--json")
    assert (code, [row["name"] for row in json.loads(out)["methods"]]) == (0, ["one", "two"])


def test_gate_that_is_met_lets_pass_and_quiet_says_nothing(run, world, protected, tmp_path):
    code, out, err = run("--quiet", *quick(world, protected, tmp_path / "a"), "--fail-if", "psnr<0")
    assert (code, out, err) == (0, "", "")


def test_train_and_embed(run, world, tmp_path):
    config = world.run / "config.yaml"
    code, out, err = run("train", "--config", config, "--out", tmp_path / "r", "--set", "loop.epochs=1")
    assert code == 0, err
    assert "3 steps" in out
    assert f"privface protect PHOTOS OUTPUT --model {tmp_path / 'r'}" in out
    matcher = f"mini:{world.matcher}"
    code, out, _ = run(
        "embed", world.audited, tmp_path / "e.parquet", "--matcher", matcher, "--faces", "aligned"
    )
    assert (code, "256 embeddings, 0 failed" in out) == (0, True)
    source = photos(world, tmp_path / "in")
    code, out, err = run(
        "embed", source, tmp_path / "f.parquet", "--matcher", matcher, "--faces", "aligned", "--json"
    )
    found = json.loads(out)
    assert (code, found["embeddings"], list(found["failed"])) == (1, 1, ["bad.png"])
    assert "1 embeddings, 1 failed" in err


def test_protect_and_match_as_json(run, world, tmp_path):
    source, matcher = photos(world, tmp_path / "in"), f"mini:{world.matcher}"
    made = ["protect", source, tmp_path / "out", "--model", world.run, "--embeddings", matcher, "--json"]
    code, out, err = run(*made)
    found = json.loads(out)
    assert (code, found["counts"]["ok"], found["counts"]["unreadable"]) == (1, 1, 1)
    assert found["files"]["templates"] == str(tmp_path / "out" / "embeddings.parquet")
    assert "1 ok, 1 unreadable" in err
    gallery = found["files"]["templates"]
    probe = [
        "match",
        source / "good.png",
        "--gallery",
        gallery,
        "--templates",
        matcher,
        "--faces",
        "aligned",
        "--json",
    ]
    code, out, _ = run(*probe)
    best = json.loads(out)["candidates"][0]
    assert (code, best["rank"], best["file"], best["similarity"] > 0.5) == (0, 1, "good.png", True)


def test_errors_have_a_hint_and_a_traceback_only_on_request(run, tmp_path):
    arguments = ["protect", tmp_path / "no", tmp_path / "out", "--model", tmp_path / "none"]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert "Traceback" not in err
    code, _, err = run("--debug", *arguments)
    assert code == 2
    assert "Traceback" in err
    assert "CheckpointError" in err


def test_stop_and_full_disk_end_with_a_message(run, monkeypatch, tmp_path):
    from privface import pipeline

    def raises(error: BaseException):
        def embed(*_: object, **__: object) -> None:
            raise error

        return embed

    arguments = ["embed", tmp_path, tmp_path / "e.parquet", "--matcher", "mini:m"]
    monkeypatch.setattr(pipeline, "embed", raises(KeyboardInterrupt()))
    code, _, err = run(*arguments)
    assert code == 130
    assert "what was finished is kept" in err
    monkeypatch.setattr(pipeline, "embed", raises(OSError(28, "No space left on device", "e.parquet")))
    code, _, err = run(*arguments)
    assert code == 2
    assert "error: e.parquet: No space left on device." in err


def test_an_unforeseen_error_is_one_sentence_and_called_a_bug(run, monkeypatch, tmp_path):
    from privface import pipeline

    def embed(*_: object, **__: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(pipeline, "embed", embed)
    arguments = ["embed", tmp_path, tmp_path / "e.parquet", "--matcher", "mini:m"]
    code, out, err = run(*arguments, "--json")
    assert (code, out) == (70, "")
    assert err.splitlines()[0] == "error: This is a bug in privface: ZeroDivisionError: first line"
    assert "--debug" in err.splitlines()[1]
    assert len(err.splitlines()) == 2
    code, _, err = run("--debug", *arguments)
    assert code == 70
    assert "Traceback" in err
    assert "second line" in err


def test_the_demo_says_that_it_began_and_what_it_does(run, monkeypatch, tmp_path):
    from privface.errors import OutputError
    from privface.pipeline import demo

    def short(_out: Path, *, seed: int, progress) -> None:
        progress("train matcher", seed, 10)
        progress("train matcher", 10, 10)
        raise OutputError("That is enough.")

    monkeypatch.setattr(demo, "run_demo", short)
    _, out, err = run("demo", "--out", tmp_path / "d")
    assert out == ""
    assert err.splitlines() == [
        "demo, three to six minutes on two cores ...", "train matcher ...", "train matcher: all 10 done, 0:00",
        "error: That is enough.",
    ]  # fmt: skip
    assert run("--quiet", "demo", "--out", tmp_path / "d")[2] == "error: That is enough.\n"


def test_the_page_without_gradio_is_one_sentence_and_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "privface.app.page", raising=False)
    code, _, err = run("app", "--port", "0")
    assert code == 2
    assert err.splitlines() == [
        "error: The page needs gradio, which is not installed.",
        "hint: Install the extra: pip install 'privface[app]'.",
    ]


def test_completion_is_offered():
    """Through the script's own name, which typer builds the names of variables from."""

    def call(*arguments: str, **variables: str) -> str:
        script = "import sys; sys.argv[0] = 'privface'; from privface.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(entry.__file__).parents[2],
            env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **variables},
        ).stdout

    for shell in ("bash", "zsh", "fish"):
        assert "_PRIVFACE_COMPLETE=complete_" + shell in call("--show-completion", shell)
    found = call(_PRIVFACE_COMPLETE="complete_bash", COMP_WORDS="privface mod", COMP_CWORD="1")
    assert found.split() == ["models"]
    assert "--install-completion" in call("--help")


def test_models_and_doctor_as_json(run, world, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "m.onnx").write_bytes(b"weights")
    (tmp_path / "theirs" / "LICENSE.txt").write_text("free")
    monkeypatch.setenv("PRIVFACE_MODELS", str(tmp_path / "theirs"))
    monkeypatch.delenv("PRIVFACE_DATA", raising=False)
    code, out, _ = run("models", "list", world.run, "--json")
    models = {row["name"]: row for row in json.loads(out)["models"]}
    assert code == 0
    assert models["facenet:vggface2"]["present"] is False
    assert models["facenet:vggface2"]["source"].startswith("https://")
    theirs = models[f"onnx:{tmp_path / 'theirs' / 'm.onnx'}"]
    assert (theirs["bytes"], theirs["licence"]) == (7, "see LICENSE.txt")
    assert theirs["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert models[f"mini:{world.run / 'classifiers' / '0'}"]["kind"] == "gender-classifier"
    code, _, err = run("models", "list", tmp_path / "none")
    assert code == 2
    assert "is no folder" in err
    code, out, _ = run("models", "verify", f"mini:{world.matcher}", "--json")
    assert (code, json.loads(out)["models"][0]["output"]) == (0, "embedding of 16")
    code, out, _ = run("doctor", "--json")
    checks = {row["name"]: row for row in json.loads(out)["checks"]}
    assert (code, json.loads(out)["problems"]) == (0, 0)
    for name in ("privface", "torch", "device", "extra [ray]", "extra [app]", "facenet:vggface2", "disk"):
        assert name in checks
    assert all(row["state"] == "ok" or row["cure"] for row in checks.values())


def test_doctor_says_what_to_install(monkeypatch):
    from privface.cli import doctor

    monkeypatch.setitem(doctor._EXTRAS, "track", (("no-such-package",), "figures"))
    cures = {check.name: check.cure for check in doctor._extras()}
    assert cures["extra [track]"] == "For figures: pip install 'privface[track]'"


def test_models_list_verify_and_doctor_without_colour_where_nobody_looks(run, world, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("PRIVFACE_DATA", str(tmp_path / "none"))
    assert "facenet:vggface2" in run("models", "list")[1]
    code, out, err = run("models", "verify", f"mini:{world.matcher}", world.run)
    assert code == 0
    assert "embedding of 16" in out
    assert "aligned RGB 32 x 32" in out
    assert "\x1b[" not in out + err
    code, out, _ = run("doctor")
    assert code == 1, "a folder that is set and missing is a problem"
    assert "no folder" in out


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_is_respected(run, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    _, out, _ = run("--help")
    assert "\x1b[3" not in out
    _, out, _ = run("erase", "methods")
    assert "\x1b[3" not in out


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
