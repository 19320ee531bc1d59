"""What commands print: progress on a terminal, tables, the summary of an audit, JSON for programs, errors."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TextIO

import typer

from privface.report.reading import Reading

if TYPE_CHECKING:
    from rich.progress import TaskID

    from privface.audit import AuditResult, GateOutcome

Progress = Callable[[str, int, int], None]

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_GATE, EXIT_BUG, EXIT_STOPPED = 1, 2, 3, 70, 130

SCHEMA = "privface.command/1"
"""Of every document that ``--json`` prints."""

_PIPE_WIDTH = 10_000  # a pipe has no width: a row is a line, which can be searched
_LONG_WORD = 16  # longer ones, such as paths, may break
_WHOLE = re.compile(r"[+\-]?[\d,.]+ ?%?( \[.*\])?|n/m|[0-9a-f]{64}|yes|no|seen|unseen|\?|")
"""Cells that are never broken."""

_LINE_EVERY = 60.0
"""Seconds between two lines of a stage in a log."""


class Console:
    """Where all output of the command line goes; ``quiet`` silences everything but errors and ``--json``."""

    debug: ClassVar[bool] = False
    quiet: ClassVar[bool] = False
    _document: ClassVar[TextIO | None] = None  # the real standard output, while --json is on

    @classmethod
    def start(cls, *, debug: bool, quiet: bool) -> None:
        """Take the options of every command; ``--json`` is off until a command asks for it."""
        cls.debug, cls.quiet, cls._document = debug, quiet, None

    @classmethod
    def as_json(cls, context: typer.Context, value: bool) -> bool:
        """From here on, whatever is printed goes to standard error, so that the document stands alone."""
        if value:
            cls._document = sys.stdout
            context.with_resource(redirect_stdout(sys.stderr))
        return value

    @classmethod
    def document(cls, command: str, **content: Any) -> None:
        """The outcome as one JSON document on standard output, if ``--json`` was given; paths become text, NaN null."""
        if cls._document is None:
            return
        import json  # noqa: PLC0415

        data = {"schema": SCHEMA, "command": command, **_plain(content)}
        cls._document.write(json.dumps(data, indent=2, allow_nan=False) + "\n")

    @classmethod
    def say(cls, text: str) -> None:
        """Plain lines on standard output, or on standard error beside ``--json``."""
        if not cls.quiet:
            sys.stdout.write(f"{text}\n")

    @staticmethod
    def error(message: str, hint: str | None) -> None:
        """One sentence and a hint on standard error."""
        sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))

    @classmethod
    def table(
        cls, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None
    ) -> None:
        """A table on standard output, as wide as the terminal; blocks where that is too narrow."""
        if cls.quiet:
            return
        from rich.console import Console as Terminal  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        width = shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
        terminal = Terminal(width=width)
        least = [max(_least(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
        if sum(least) + 3 * (len(least) - 1) > width:
            terminal.print(Text(_blocks(columns, rows, title=title, width=width)), soft_wrap=True)
            return
        table = Table(title=title, title_justify="left", show_edge=False)
        for number, name in enumerate(columns):
            fixed = all(_WHOLE.fullmatch(row[number]) for row in rows)
            whole = bool(rows) and fixed and " " not in name
            # fold: an ellipsis would hide in what two long names differ
            table.add_column(name, min_width=least[number], no_wrap=whole, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: names from users are no markup
        terminal.print(table)

    @classmethod
    def rows(
        cls, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], *, title: str | None = None
    ) -> None:
        """A table of rows: for each heading the key, or what is said of a row; figures get their interval."""
        cells = [
            [_cell(row[get] if isinstance(get, str) else get(row)) for get in columns.values()]
            for row in rows
        ]
        cls.table(list(columns), cells, title=title)

    @classmethod
    def audit(cls, result: AuditResult) -> None:
        """Verdict, matching and leakage of an audit."""
        document = result.to_dict()
        cls.say(f"\n{document['verdict']['headline']}\n")
        matching = {
            "matcher": "matcher",
            "seen": _seen,
            "mode": "mode",
            "impostors": "impostors",
            "TMR@1e-2": lambda row: row["tmr"]["0.01"],
            "TMR@1e-3": lambda row: row["tmr"]["0.001"],
            "EER": "eer",
        }
        cls.rows(document["matching"], matching, title="Matching (kept)")
        leakage = {
            "probe": "probe",
            "kind": "kind",
            "reads": "input",
            "seen": _seen,
            "AUC before": "original_auc",
            "leakage after": "leakage",
            "bal. acc. after": "balanced_accuracy",
            "": lambda row: "" if row["measurable"] else f"not measurable: {row['reason']}",
        }
        if document["leakage"]:
            cls.say("")
            cls.rows(document["leakage"], leakage, title="Gender leakage (hidden if near 0.5)")
        if "attributes" in document:
            cls.say("")
            columns = {
                "attribute": "attribute",
                "worst probe": "probe",
                "reads": "input",
                "before": "original",
                "after": "protected",
                "a guess": "chance",
            }
            rows = [row for row in document["attributes"] if row["medium"] == "any"]
            title = "Other attributes, balanced accuracy (hidden if near a guess)"
            cls.rows(rows, columns, title=title)
        gap = Reading.of(document["illusion_gap"]).text
        cls.say(f"\nWorst retrained probe: {_worst(document['worst_retrained'])}\nIllusion gap: {gap}")
        if "worst_white_box" in document:
            cls.say(f"Worst reader of the model's own code: {_worst(document['worst_white_box'])}")

    @classmethod
    def changes(cls, rows: Sequence[Mapping[str, Any]]) -> None:
        """What an audit's figures became since an earlier one."""
        columns = {"figure": "figure", "before": "old", "now": "new", "change": "difference", "": "verdict"}
        cls.say("")
        cls.rows(rows, columns, title="Against the baseline")

    @classmethod
    def comparison(cls, points: Sequence[Mapping[str, Any]]) -> None:
        """Methods by what they leak and keep."""
        columns = {
            "audit": "name",
            "worst retrained leakage": "leakage",
            "TMR@1e-2 P-P": "tmr",
            "before": "tmr_before",
            "matcher": lambda point: str(point["matcher"]),
            "beaten by": lambda point: point["dominated_by"] or "",
            "measured otherwise": lambda point: ", ".join(point["differs"]),
        }
        cls.rows(points, columns)

    @classmethod
    def battery(cls, selftest: Mapping[str, Any]) -> None:
        """What the attackers found of what was planted, and where they saw what was not there."""
        leaks = {
            "planted leak": "leak",
            "in": "medium",
            "Bayes": "bayes",
            "best attacker": lambda row: str(row["best_probe"]),
            "reached": "best",
            "": lambda row: "found" if row["found"] else "NOT FOUND",
        }
        cls.rows(selftest["leaks"], leaks, title="Planted leaks (balanced accuracy)")
        cls.say("")
        nulls = {
            "attacker": "probe",
            "on": "medium",
            "sets without a leak": lambda row: str(row["sets"]),
            "false alarms": lambda row: str(row["alarms"]),
            "rate": lambda row: f"{row['rate']:.1%}",
        }
        cls.rows(selftest["nulls"], nulls, title="False alarms")


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=Console.as_json,
        is_eager=True,
        help="Print the outcome as one JSON document on standard output; everything else goes to standard error.",
    ),
]
"""The option of every command whose outcome a script wants."""


def audit_content(result: AuditResult, gates: Sequence[GateOutcome] = ()) -> dict[str, Any]:
    """What ``--json`` says of an audit: its verdict, every named figure, its gates."""
    document = result.to_dict()
    worst = document["worst_retrained"]
    return {
        "verdict": document["verdict"],
        "worst_retrained": {key: worst.get(key) for key in ("probe", "input")},
        "figures": {name: vars(figure) for name, figure in sorted(result.figures.items())},
        "gates": [vars(gate) for gate in gates],
    }


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Rich progress bars on standard error with rate and time left, one a stage; lines for a log where nothing can be redrawn."""
    if Console.quiet:
        yield lambda _stage, _done, _total: None
        return
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield StageLines()
        return
    from rich import progress as parts  # noqa: PLC0415
    from rich.console import Console as Terminal  # noqa: PLC0415

    columns = [
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
        parts.TextColumn("left"),
        parts.TimeRemainingColumn(),
    ]
    with parts.Progress(*columns, console=Terminal(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


class StageLines:
    """A line on standard error as a stage begins, one a minute while it lasts, and one as it ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._ended: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take how far a stage is."""
        now = self._clock()
        if stage not in self._begun:
            self._begun[stage] = self._told[stage] = now
            self._say(f"{stage} ...")
        if stage in self._ended:
            return
        minutes, seconds = divmod(int(now - self._begun[stage]), 60)
        if done >= total:
            self._ended.add(stage)
            self._say(f"{stage}: {f'all {total:,} ' if total > 1 else ''}done, {minutes}:{seconds:02d}")
        elif now - self._told[stage] >= _LINE_EVERY:
            self._told[stage] = now
            self._say(f"{stage}: {done:,} of {total:,}, {minutes}:{seconds:02d}")

    @staticmethod
    def _say(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _least(cell: str) -> int:
    """How narrow a cell can be: figures with their interval stay whole, other text breaks between words."""
    if _WHOLE.fullmatch(cell):
        return len(cell)
    return min(max(map(len, cell.split()), default=0), _LONG_WORD)


def _blocks(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None, width: int) -> str:
    """A table for a narrow terminal: the first cell of a row as a heading, and below it the others, each with its name."""
    names = [name or "note" for name in columns[1:]]
    room = max(map(len, names), default=0) + 2
    lines = [] if title is None else [title]
    for heading, *cells in rows:
        lines += _wrapped(heading, width, hang=2)
        for name, cell in zip(names, cells, strict=True):
            if cell:
                lines += _wrapped(cell, width, start=f"  {name.ljust(room)}", hang=room + 2)
    return "\n".join(lines)


def _wrapped(text: str, width: int, *, start: str = "", hang: int) -> list[str]:
    import textwrap  # noqa: PLC0415

    return textwrap.wrap(
        text,
        max(width, hang + 20),
        initial_indent=start,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(value: Any) -> Any:
    """JSON data of what commands have at hand."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else Reading.of(value).text


def _seen(row: Mapping[str, Any]) -> str:
    return {True: "seen", False: "unseen", None: "?"}[row["seen"]]


def _worst(part: Mapping[str, Any] | None) -> str:
    if not part or not part.get("probe"):
        return "not measurable"
    return f"{part['probe']} on {part['input']}, leakage {Reading.of(part['leakage']).text}"
