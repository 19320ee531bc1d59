"""The notebook runs from top to bottom, and holds no output that could go stale."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest

from privface.pipeline import demo

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "quickstart.ipynb"

SMALLER = {
    "model_people": 12, "model_photos": 3, "matcher_epochs": 1, "classifier_epochs": 1, "train_people": 40, "train_photos": 2,
    "train_epochs": 1, "code": 32, "drop": 16, "audit_people": 64, "audit_photos": 2, "cnn_epochs": 1, "resamples": 20, "side": 32,
}  # fmt: skip
"""What the notebook's demo is made of here: the same work, less of it."""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys, one_thread):
    """In this process: a kernel of Jupyter's own would prove that Jupyter works, and load torch once more."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(NOTEBOOK.parent)
    made = demo.DemoSize
    monkeypatch.setattr(demo, "DemoSize", lambda **given: made(**{**given, **SMALLER}))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names: dict[str, Any] = {}
    with plt.rc_context({"backend": "agg"}):
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"cell {number}", "exec"), names)  # noqa: S102  # our own notebook
    plt.close("all")
    said = capsys.readouterr().out
    assert (
        said.splitlines()[0] == names["audit"]["verdict"]["headline"]
    )  # any verdict: networks this small decide by chance
    assert "{'ok': 12," in said
    assert "LEACE" in said


def test_no_output_is_kept():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
