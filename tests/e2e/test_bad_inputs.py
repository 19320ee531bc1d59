"""Every bad input ends with a message that names value, limit and cure; none with a traceback."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("tests_bad_inputs", Path(__file__).with_name("bad_inputs.py"))
assert _spec is not None
assert _spec.loader is not None
bad_inputs = importlib.util.module_from_spec(_spec)
sys.modules["tests_bad_inputs"] = bad_inputs  # also where `module:` finds the broken matcher
_spec.loader.exec_module(bad_inputs)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    root = tmp_path_factory.mktemp("kit")
    bad_inputs.build_kit(root)
    return root


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case.name)
def test_bad_input(case, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # usage errors are drawn in a box
    outcome = bad_inputs.run_case(case, kit, tmp_path / "w")
    assert case.says in outcome.said
    assert outcome.code == case.code
    assert "Traceback" not in outcome.said
    if outcome.said.startswith("error: "):
        assert "hint: " in outcome.said, "a message names the cure"


def test_the_page_has_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bad-inputs.md").read_text(encoding="utf-8")
    shown = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert shown[2:] == [case.name for case in bad_inputs.CASES]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_output(kit: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    case = bad_inputs.Case("", lambda w: bad_inputs._good_then(w, out=locked / "out"), 2, "Cannot write to")
    outcome = bad_inputs.run_case(case, kit, tmp_path / "w")
    assert outcome.code == 2
    assert case.says in outcome.said
