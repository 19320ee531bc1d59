"""Tables that fit, JSON for programs, and what is said where nobody watches."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from privface.cli.show import AsJson, Console, StageLines, progress_bars

LEAKAGE = ["probe", "kind", "reads", "seen", "AUC before", "leakage after", "bal. acc. after", ""]
FIGURE = "0.970 [0.950, 0.990]"
ROWS = [
    ["rbf-svm", "retrained", "embedding:mini:matcher-unseen", "unseen", FIGURE, FIGURE, FIGURE, ""],
    ["stock", "frozen", "image", "seen", FIGURE, "n/m", "n/m", "not measurable: AUC 0.84 on originals"],
]


@pytest.fixture(autouse=True)
def loud():
    Console.start(debug=False, quiet=False)
    yield
    Console.start(debug=False, quiet=False)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_figure_is_torn_and_no_line_too_long(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    Console.table(LEAKAGE, ROWS, title="Gender leakage")
    out = capsys.readouterr().out
    assert out.count(FIGURE) == 4
    assert max(map(len, out.splitlines())) <= width
    assert "Gender leakage" in out
    assert "…" not in out
    for word in ("rbf-svm", "retrained", "unseen", "n/m"):
        assert word in out


def test_names_of_users_are_no_markup_in_either_form(monkeypatch, capsys):
    for width in ("20", "200"):
        monkeypatch.setenv("COLUMNS", width)
        Console.table(["[red]a", "b"], [["[bold]x[/bold]", "1" * 30]])
        assert "[bold]x[/bold]" in capsys.readouterr().out


app = typer.Typer()


@app.command()
def some(json: AsJson = False) -> None:
    print("a library that prints")  # noqa: T201
    Console.say("a message")
    Console.table(["a"], [["cell"]])
    Console.document("some", value=math.nan, path=Path("a/b"), rows=[{"n": 1, "yes": True, "none": None}])


def test_json_stands_alone_on_standard_output():
    done = CliRunner().invoke(app, ["--json"])
    assert json.loads(done.stdout) == {
        "schema": "privface.command/1",
        "command": "some",
        "value": None,
        "path": "a/b",
        "rows": [{"n": 1, "yes": True, "none": None}],
    }
    assert "a library that prints" in done.stderr
    assert "a message" in done.stderr
    assert "cell" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("kind", "term"), [(io.StringIO, "xterm"), (Terminal, "dumb")])
def test_a_log_names_each_stage_as_it_begins_and_ends(kind, term, monkeypatch):
    told = kind()
    monkeypatch.setattr("sys.stderr", told)
    monkeypatch.setenv("TERM", term)
    with progress_bars() as progress:
        for done in (0, 1, 2000, 2000):
            progress("train", done, 2000)
        progress("protect", 1, 1)
        progress("audit", 1, 3)  # never ends: what follows is the error
    expected = ["train ...", "train: all 2,000 done, 0:00", "protect ...", "protect: done, 0:00", "audit ..."]
    assert told.getvalue().splitlines() == expected
    Console.start(debug=False, quiet=True)
    with progress_bars() as progress:
        progress("more", 1, 2)
    assert told.getvalue().splitlines() == expected


def test_a_log_hears_once_a_minute_of_a_long_stage(capsys):
    now = [0.0]
    lines = StageLines(clock=lambda: now[0])
    for done in range(6):
        lines("train", done, 5)
        now[0] += 31.0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train ...",
        "train: 2 of 5, 1:02",
        "train: 4 of 5, 2:04",
        "train: all 5 done, 2:35",
    ]
