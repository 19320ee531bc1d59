"""Experiment 03: every image-level method under one audit, and where ours stands among them.

    PRIVFACE_DATA=... PRIVFACE_MODELS=... python experiments/03_san_family/run.py make ROW [ROW ...]

`make` trains a row (where it is trained here) and audits it; `train` and `audit` do one of the two. Run again after a stop, each goes on;
what is finished is left alone (`--again` audits once more). Photos, attackers, seeds and cache are those of experiment 02, whose audits of
nine methods stand in the tables, too. `draws` protects the photos eight times by a row whose network is random and sends the attackers who
average (results/draws/ROW.json). `sheet` puts 20 photos above their protected versions into OUT/sheets. Results go to results/ROW.json and
results/training/ROW.json, from which these are printed:

    python experiments/03_san_family/run.py table | targets [ROW] | dominates | commands | plot
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from rows import LAST, RESULTS, find_row


def main() -> None:
    arguments = _parser().parse_args()
    shown = {"table", "targets", "dominates", "commands", "plot"}
    if arguments.what in shown:
        show(arguments.what, arguments.row)
        return
    if arguments.overrides and arguments.what != "train":
        raise SystemExit("--set is for `train` alone: a row's figures are those of its configuration.")
    rows = [find_row(name) for name in arguments.row]
    if not rows:
        raise SystemExit("Name one row or more; `commands` lists them.")
    given = [row.name for row in rows if row.source == "given"]
    if given:
        raise SystemExit(f"Experiment 02 makes {', '.join(given)}: {find_row(given[0]).command()}")
    work(rows, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=(
            "make",
            "train",
            "audit",
            "draws",
            "sheet",
            "table",
            "targets",
            "dominates",
            "commands",
            "plot",
        ),
    )
    parser.add_argument("row", nargs="*", help="rows; for `targets` the one that is judged")
    parser.add_argument("--run", type=Path, default=Path("runs/01"), help="run folder of experiment 01")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/03"), help="run folders and protected pixels (biometric data)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/02/cache"),
        help="what experiment 02 kept of the originals (biometric data)",
    )
    parser.add_argument("--effort", choices=("quick", "standard", "full"), default="full")
    parser.add_argument("--again", action="store_true", help="audit rows that have a result, too")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change the training's settings",
    )
    return parser


def show(what: str, names: list[str]) -> None:
    """Print or draw what the committed results say."""
    import tables

    if what == "plot":
        from plot import draw

        draw(RESULTS / "tradeoff.png")
        return
    texts = {"table": tables.tables, "dominates": tables.dominates, "commands": tables.commands}
    print(texts[what]() if what in texts else tables.targets(*(names or [LAST])[:1]))


def work(rows: list[Any], arguments: argparse.Namespace) -> None:
    """Train and audit, one row after the other."""
    from making import Places, audit_row, draws_row, sheet_row, train_row

    from privface.cli.show import progress_bars

    places = Places(arguments.run, arguments.out, arguments.cache, Path(os.environ["PRIVFACE_MODELS"]))
    with progress_bars() as progress:
        for row in rows:
            if arguments.what == "sheet":
                print(sheet_row(row, places, progress=progress))
                continue
            if arguments.what == "draws":
                result = draws_row(row, places, progress=progress)
                print(f"{row.name}: {result.document['verdict']['headline']}", flush=True)
                continue
            if arguments.what != "audit" and row.source == "trained":
                train_row(row, places, overrides=arguments.overrides, progress=progress)
                print(f"{row.name}: trained", flush=True)
            if arguments.what == "train" or (row.result.is_file() and not arguments.again):
                continue
            began, kept = time.monotonic(), _entries(places.cache)
            result = audit_row(row, places, effort=arguments.effort, progress=progress)
            minutes = (time.monotonic() - began) / 60
            print(f"{row.name}: {result.document['verdict']['headline']}", flush=True)
            print(
                f"{row.name}: {minutes:.1f} minutes, {_entries(places.cache) - kept} parts computed anew",
                flush=True,
            )


def _entries(cache: Path) -> int:
    return sum(1 for _ in cache.glob("*.npz"))


if __name__ == "__main__":
    main()
