"""``privface sweep``: a grid of settings, trained, audited and drawn as one trade-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privface.cli.show import AsJson, Console, progress_bars

if TYPE_CHECKING:
    from privface.pipeline.sweep import PlannedPoint

EXIT_SOME_FAILED = 1


def sweep(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="YAML: base, grid or points, audit, baselines; docs/sweep.md."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for all points, sweep.json, sweep.html and tradeoff.svg.")
    ],
    jobs: Annotated[
        int | None,
        typer.Option(help="Points at once, each in a process of its own; by default one a device, else one."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Where points are trained, handed out in turn: cuda:0,cuda:1 or cpu.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list the points and the work; write nothing.")
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
    chosen = [name.strip() for name in devices.split(",")] if devices is not None else []
    at_once = jobs if jobs is not None else max(1, len(chosen))
    if dry_run:
        _list(plan_sweep(settings, out), jobs=at_once)
        return
    with progress_bars() as progress:
        document = run_sweep(settings, out, jobs=at_once, devices=chosen, progress=progress)
    _table(document["points"], title=None)
    if document["report"] is not None:
        _table(document["report"]["points"], title=f"Report split {document['report']['split']!r}")
    Console.say("\n" + "\n".join(sentences(document)))
    Console.say(
        f"\nReport: {out / 'sweep.html'}\nFigure: {out / 'tradeoff.svg'}\nFigures: {out / 'sweep.json'}"
    )
    Console.document(
        "sweep",
        points=document["points"],
        front=document["front"],
        report=document["report"],
        files={"report": out / "sweep.html", "figure": out / "tradeoff.svg", "figures": out / "sweep.json"},
    )
    if failed_points(document):
        raise typer.Exit(EXIT_SOME_FAILED)


def _table(rows: Sequence[Mapping[str, Any]], *, title: str | None) -> None:
    Console.table(
        ["point", "worst retrained leakage", "TMR@1e-2 P-P", "worst attacker", "front or beaten by"],
        [_cells(row) for row in sorted(rows, key=_leakage)],
        title=title,
    )


def _leakage(row: Mapping[str, Any]) -> float:
    value = row["leakage"]["value"] if row["status"] == "done" else None
    return 2.0 if value is None else float(value)


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [row["name"], "failed", "", "", f"{row['stage']}: {row['reason']}"]
    probe, source = row["attacker"]["probe"], row["attacker"]["input"]
    return [
        row["name"],
        _figure(row["leakage"]),
        _figure(row["tmr"]),
        f"{probe} on {source}" if probe else "none",
        "front" if row["front"] else row["dominated_by"] or "",
    ]


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "n/m"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _list(found: Sequence[PlannedPoint], *, jobs: int) -> None:
    Console.document(
        "sweep",
        plan=[
            {
                "name": planned.point.name,
                "method": planned.point.method,
                "state": planned.state,
                "training_images": planned.training_images,
                "photos": planned.photos,
                "minutes": planned.minutes,
                "folder": planned.point.folder,
            }
            for planned in found
        ],
    )
    Console.table(
        ["point", "method", "state", "images to train on", "photos to audit", "minutes", "folder"],
        [
            [
                planned.point.name,
                planned.point.method,
                planned.state,
                f"{planned.training_images:,}",
                f"{planned.photos:,}",
                "?" if planned.minutes is None else f"{planned.minutes:.1f}",
                planned.point.folder,
            ]
            for planned in found
        ],
    )
    left = [planned for planned in found if planned.state != "done"]
    known = [planned.minutes for planned in left if planned.minutes is not None]
    Console.say(
        f"\n{len(found)} points, {len(left)} to do: {sum(p.training_images for p in left):,} images to train on, "
        f"{sum(p.photos for p in left):,} photos to protect and audit."
    )
    if left and len(known) == len(left):
        Console.say(
            f"About {sum(known) / jobs:.0f} minutes with {jobs} at once, by the points that are done."
        )
    elif left:
        Console.say("How long that takes shows once a point of each kind is done.")
