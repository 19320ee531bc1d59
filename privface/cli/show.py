"""What commands print: progress on a terminal, tables, the summary of an audit, errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from rich.progress import TaskID

    from privface.audit import AuditResult

Progress = Callable[[str, int, int], None]


class Console:
    """Where all output of the command line goes; ``quiet`` silences everything but errors."""

    debug: ClassVar[bool] = False
    quiet: ClassVar[bool] = False

    @classmethod
    def say(cls, text: str) -> None:
        """Plain lines on standard output."""
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
        """A table on standard output, as wide as the terminal."""
        if cls.quiet:
            return
        from rich.console import Console as Terminal  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(*columns, title=title, title_justify="left", show_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: names from users are no markup
        Terminal(width=None if sys.stdout.isatty() else 140).print(table)

    @classmethod
    def audit(cls, result: AuditResult) -> None:
        """Verdict, matching and leakage of an audit."""
        document = result.to_dict()
        cls.say(f"\n{document['verdict']['headline']}\n")
        rows = [
            [
                m["matcher"],
                _seen(m["seen"]),
                m["mode"],
                m["impostors"],
                _figure(m["tmr"]["0.01"]),
                _figure(m["tmr"]["0.001"]),
                _figure(m["eer"]),
            ]
            for m in document["matching"]
        ]
        cls.table(
            ["matcher", "seen", "mode", "impostors", "TMR@1e-2", "TMR@1e-3", "EER"],
            rows,
            title="Matching (kept)",
        )
        rows = [
            [
                r["probe"],
                r["kind"],
                r["input"],
                _seen(r["seen"]),
                _figure(r["original_auc"]),
                _figure(r["leakage"]),
                _figure(r["balanced_accuracy"]),
                "" if r["measurable"] else f"not measurable: {r['reason']}",
            ]
            for r in document["leakage"]
        ]
        cls.say("")
        cls.table(
            ["probe", "kind", "reads", "seen", "AUC before", "leakage after", "bal. acc. after", ""],
            rows,
            title="Gender leakage (hidden if near 0.5)",
        )
        cls.say(
            f"\nWorst retrained probe: {_named(document['worst_retrained'])}\nIllusion gap: {_figure(document['illusion_gap'])}"
        )

    @classmethod
    def changes(cls, rows: Sequence[Mapping[str, Any]]) -> None:
        """What an audit's figures became since an earlier one."""
        cls.say("")
        cls.table(
            ["figure", "before", "now", "change", ""],
            [
                [r["figure"], _figure(r["old"]), _figure(r["new"]), _number(r["difference"]), r["verdict"]]
                for r in rows
            ],
            title="Against the baseline",
        )

    @classmethod
    def comparison(cls, points: Sequence[Mapping[str, Any]]) -> None:
        """Methods by what they leak and keep."""
        cls.table(
            [
                "audit",
                "worst retrained leakage",
                "TMR@1e-2 P-P",
                "before",
                "matcher",
                "beaten by",
                "measured otherwise",
            ],
            [
                [
                    p["name"],
                    _figure(p["leakage"]),
                    _figure(p["tmr"]),
                    _figure(p["tmr_before"]),
                    str(p["matcher"]),
                    p["dominated_by"] or "",
                    ", ".join(p["differs"]),
                ]
                for p in points
            ],
        )

    @classmethod
    def battery(cls, found: Mapping[str, Any]) -> None:
        """What the attackers found of what was planted, and where they saw what was not there."""
        cls.table(
            ["planted leak", "in", "Bayes", "best attacker", "reached", ""],
            [
                [
                    r["leak"],
                    r["medium"],
                    _number(r["bayes"]),
                    str(r["best_probe"]),
                    _number(r["best"]),
                    "found" if r["found"] else "NOT FOUND",
                ]
                for r in found["leaks"]
            ],
            title="Planted leaks (balanced accuracy)",
        )
        cls.say("")
        cls.table(
            ["attacker", "on", "sets without a leak", "false alarms", "rate"],
            [
                [r["probe"], r["medium"], str(r["sets"]), str(r["alarms"]), f"{r['rate']:.1%}"]
                for r in found["nulls"]
            ],
            title="False alarms",
        )


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Rich progress bars with rate and time left, one a stage; silent where standard error is no terminal."""
    if Console.quiet or not sys.stderr.isatty():
        yield lambda _stage, _done, _total: None
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


def _figure(data: Mapping[str, Any] | None) -> str:
    if not data or data.get("value") is None or math.isnan(float(data["value"])):
        return "n/m"
    low, high = data.get("low"), data.get("high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{data['value']:.3f}{interval}"


def _number(value: float | None) -> str:
    return "n/m" if value is None or math.isnan(value) else f"{value:+.3f}" if value < 0 else f"{value:.3f}"


def _seen(seen: bool | None) -> str:
    return {True: "seen", False: "unseen", None: "?"}[seen]


def _named(worst: Mapping[str, Any] | None) -> str:
    if not worst or not worst.get("probe"):
        return "not measurable"
    return f"{worst['probe']} on {worst['input']}, leakage {_figure(worst['leakage'])}"
