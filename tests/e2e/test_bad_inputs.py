"""Every bad input ends with a message that names value, limit and cure; none with a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e import bad_inputs


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    root = tmp_path_factory.mktemp("kit")
    bad_inputs.build_kit(root)
    return root


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case.name)
def test_bad_input(case, kit, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # usage errors are drawn in a box
    outcome = bad_inputs.run_case(case, kit, tmp_path / "w")
    assert case.says in outcome.said
    assert outcome.code == case.code
    assert "Traceback" not in outcome.said
    if outcome.said.startswith("error: "):
        assert "hint: " in outcome.said, "a message names the cure"


def test_the_page_has_every_row():
    page = (Path(__file__).parents[2] / "docs" / "bad-inputs.md").read_text(encoding="utf-8")
    shown = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert shown[2:] == [case.name for case in bad_inputs.CASES]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_output(kit, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    case = bad_inputs.Case("", lambda w: bad_inputs._protect(w, out=locked / "out"), 2, "Cannot write to")
    outcome = bad_inputs.run_case(case, kit, tmp_path / "w")
    assert outcome.code == 2
    assert case.says in outcome.said
