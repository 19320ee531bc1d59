"""The documents say what the code does: every command of the README is run, every setting of the code is explained."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from privface.audit import AuditResult
from privface.cli.show import EXIT_BUG, EXIT_GATE, EXIT_SOME_FAILED, EXIT_STOPPED, EXIT_USAGE
from privface.config import (
    AutoencoderSettings,
    ClassifierSettings,
    LoopOptions,
    LossSettings,
    TrainSettings,
)
from privface.erasers import METHODS
from privface.protect import read_manifest
from tests.e2e.conftest import started

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")

# A command that starts with the key is run with the value behind it: the same work, less of it.
SMALLER = {
    "privface train": "--set size=48 --set loop.epochs=1 --set loop.epoch_images=32 --set loop.precision=32-true"
    " --set loop.device=cpu"
    " --set loop.warmup_steps=0 --set loop.ema=0 --set loop.learning_rate=0.002 --set validation_share=0"
    " --set 'method_options={code_sizes: [6], drop: 2, regions: 1, channels: [8, 8, 8, 8, 8]}'",
    "privface audit": "--resamples 20 --effort quick --seed 9",
}

# What runs in a process of its own, by the installed program: the first command, and one with a gate.
BY_THE_SHELL = ("privface protect photos first", "privface audit --original photos")


PEOPLE = 48
"""Sixteen to learn from; the seed of the audits divides the others so that each part of attackers has both genders."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, own_photos: Callable[..., None]) -> Path:
    """What the README asks the reader to have: photos with labels, two matchers, the two YAML files."""
    place = tmp_path_factory.mktemp("readme")
    own_photos(place, people=PEOPLE, learners=16)
    side, train = blocks("yaml")
    (place / "models" / "matcher.yaml").write_text(side)
    (place / "train.yaml").write_text(train)
    return place


@pytest.fixture
def exit_code(place: Path, monkeypatch: pytest.MonkeyPatch, one_registry: None, command: Any) -> Any:
    """Runs a line and gives its exit code; most in this process, which loads torch once for all of them."""
    monkeypatch.chdir(place)

    def call(line: str) -> int:
        if line.startswith(BY_THE_SHELL):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = started("bash", "-c", line, cwd=place, PATH=path)
            code, said = done.returncode, done.stdout + done.stderr
        else:
            code, *parts = command(*shlex.split(line.removesuffix(" || true"))[1:])
            code, said = 0 if line.endswith(" || true") else code, "".join(parts)
        sys.stdout.write(said)  # shown where a line fails
        return code

    return call


@pytest.mark.slow
def test_every_command_for_own_photos_runs_in_order(place, exit_code):
    ours = [line for line in commands() if line.startswith("privface")]
    told = {"train", "protect", "match", "audit", "embed", "erase", "export", "models", "doctor"}
    assert {line.split()[1] for line in ours} >= told
    for line in ours:
        more = next((extra for start, extra in SMALLER.items() if line.startswith(start)), "")
        allowed = {0}
        if "--fail-if" in line:
            allowed = {0, EXIT_GATE}
        elif re.match("privface (protect|embed|erase apply|match)", line):
            # a detector need not take every drawing for a face, and what has no embedding stays empty
            allowed = {0, EXIT_SOME_FAILED}
        assert exit_code(f"{line} {more}".strip()) in allowed, line
    statuses = [row.status for row in read_manifest(place / "protected") if row.face in {None, 1}]
    assert len(statuses) == 2 * PEOPLE
    assert set(statuses) <= {"ok", "no_face"}
    assert statuses.count("ok") > 0.94 * len(statuses)
    audit = AuditResult.load(place / "audit" / "audit.json").to_dict()
    assert {row["matcher"]: row["seen"] for row in audit["matching"]} == {
        "onnx:matcher": True,
        "onnx:other_matcher": False,
        "white-box:code": True,
    }
    assert len(pd.read_parquet(place / "embeddings.parquet")) == 2 * PEOPLE

    for code in blocks("python"):  # needs the run that the commands have made
        done = started(sys.executable, "-c", f"{code}\nprint(protected.shape)", cwd=place)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("(1, 3, ")


def test_the_page_on_erasers_names_every_method_and_its_promise():
    page = (ROOT / "docs" / "erasers.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, kind in METHODS.items():
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        assert kind.promise.kind in row, name


def test_no_command_of_the_readme_is_left_out():
    assert all(line.startswith(("privface ", "make ")) for line in commands())


def test_the_exit_codes_are_the_ones_of_the_command_line():
    expected = {0, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_GATE, EXIT_BUG, EXIT_STOPPED}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", COMMAND_LINE, re.MULTILINE)} == expected


def test_every_variable_and_every_command_with_json_is_on_the_page_of_the_command_line():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "privface").rglob("*.py")]
    variables = {name for text in sources for name in re.findall(r"PRIVFACE_[A-Z]+", text)}
    variables.discard("PRIVFACE_COMPLETE")
    commands = {name for text in sources for name in re.findall(r'Console\.document\(\s*"([^"]+)"', text)}
    assert {"PRIVFACE_DOWNLOAD", "PRIVFACE_MODELS"} <= variables
    assert {"audit", "models list", "doctor"} <= commands
    for name in variables | commands:
        assert f"`{name}`" in COMMAND_LINE, name


def leaves(model: type[BaseModel]) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        yield name, field.annotation
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from leaves(kind)


def test_every_setting_is_explained():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    names = [name for name, _ in leaves(TrainSettings)]
    assert len(names) > 50
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("title", "settings"),
    [
        ("classifiers", ClassifierSettings),
        ("autoencoder", AutoencoderSettings),
        ("losses", LossSettings),
        ("loop", LoopOptions),
    ],
)
def test_every_explained_default_is_the_true_one(title, settings):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.split(f"### `{title}`")[1].split("\n#")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]*)`? \|", section, re.MULTILINE))
    true = {name: field.default for name, field in settings.model_fields.items()}
    assert told.keys() == true.keys()
    for name, default in true.items():
        if default is None:
            assert told[name] in {"none", "all"}, name
        elif isinstance(default, int | float) and not isinstance(default, bool):
            assert float(told[name]) == default, name
        else:
            assert yaml.safe_load(told[name]) == default, name


def test_the_configuration_in_the_documents_is_valid():
    pages = ("README.md", "docs/training.md")
    found = [
        content
        for page in pages
        for block in re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
        if "data" in (content := yaml.safe_load(block))
    ]
    assert len(found) == len(pages)
    for content in found:
        TrainSettings.model_validate(content)


@pytest.mark.parametrize(
    ("script", "option", "page", "least"),
    [
        ("02_illusion_gap/run.py", "--summary", "README.md", 12),
        ("02_illusion_gap/run.py", "--table", "experiments/README.md", 12),
        ("02_illusion_gap/own_people.py", "--table", "experiments/README.md", 4),
        ("03_san_family/run.py", "table", "experiments/README.md", 30),
        ("03_san_family/run.py", "targets", "experiments/README.md", 17),
        ("03_san_family/run.py", "dominates", "experiments/README.md", 4),
        ("04_erasers/run.py", "--summary", "docs/erasers.md", 8),
        ("04_erasers/run.py", "--table", "experiments/README.md", 8),
        ("04_erasers/run.py", "--transfer", "experiments/README.md", 8),
        ("04_erasers/run.py", "--own-people", "experiments/README.md", 16),
        ("06_erased_code/run.py", "table", "experiments/README.md", 56),
        ("07_attributes/run.py", "table", "experiments/07_attributes/NOTES.md", 7),
        *(
            (
                "07_attributes/run.py",
                f"{what} --results {ROOT / 'experiments/07_attributes/results' / folder}",
                "experiments/07_attributes/NOTES.md",
                least,
            )
            for what, folder, least in (
                ("table", "second", 7),
                ("kept", "second", 7),
                ("divisions", "second", 6),
                ("trainings", "second", 6),
                ("efforts", "second", 4),
                ("table", "second/full-2", 4),
            )
        ),
        ("07_attributes/run.py", "codes", "experiments/07_attributes/NOTES.md", 12),
        ("08_which_code/run.py", "table", "experiments/08_which_code/NOTES.md", 29),
        ("family.py", None, "experiments/README.md", 12),
    ],
)
def test_tables_are_those_of_the_results(script, option, page, least, experiment, monkeypatch, capsys):
    path = ROOT / "experiments" / script
    monkeypatch.setattr(sys, "argv", [str(path), *(option or "").split()])
    experiment(str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("|\n") >= least
    assert printed.strip() in (ROOT / page).read_text(encoding="utf-8")
