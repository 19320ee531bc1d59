"""``privface sweep``: a grid of settings, trained, audited and drawn as one trade-off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privface.cli.show import EXIT_SOME_FAILED, AsJson, Console, progress_bars


def sweep(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="YAML: base, grid or points, audit, baselines; docs/sweep.md."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for all points, sweep.json, sweep.html and tradeoff.svg.")
    ],
    jobs: Annotated[
        int, typer.Option(help="Points at once, each in a process with its share of the threads and GPUs.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the points; write nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train a grid of settings, protect and audit each, and draw what is kept against what leaks.

    Run it again to go on: points that are done are kept, interrupted ones resume, failed ones are tried again.

    Example: `privface sweep experiments/20_trade_off/sweep.yaml --out runs/20 --jobs 2`
    """
    from privface.pipeline.sweep import failed_points, plan_sweep, run_sweep, sentences  # noqa: PLC0415
    from privface.pipeline.sweep_plan import load_sweep  # noqa: PLC0415

    settings = load_sweep(config)
    if dry_run:
        rows = plan_sweep(settings, out)
        Console.document("sweep", plan=rows)
        Console.table(list(rows[0]), [list(row.values()) for row in rows])
        left = sum(row["state"] != "done" for row in rows)
        Console.say(f"\n{len(rows)} points, {left} to do.")
        return
    with progress_bars() as progress:
        document = run_sweep(settings, out, jobs=jobs, progress=progress)
    for part in filter(None, (document, document["report"])):
        Console.say(f"\nPeople: {part['split'] or 'all'}")
        Console.comparison([row for row in part["points"] if row["status"] == "done"])
    Console.say("\n" + "\n".join(sentences(document)))
    files = {"report": out / "sweep.html", "figure": out / "tradeoff.svg", "figures": out / "sweep.json"}
    Console.say("\n" + "\n".join(f"{name.capitalize()}: {path}" for name, path in files.items()))
    shown = {key: document[key] for key in ("points", "front", "report")}
    Console.document("sweep", **shown, files=files)
    if failed_points(document):
        raise typer.Exit(EXIT_SOME_FAILED)
