"""A grid of settings, trained, protected, audited and drawn as one trade-off, beside simpler methods.

Each point is worked on by a process of its own (:mod:`privface.pipeline.sweep_job`); here they are started, gathered and
compared. Nothing is done twice: what a folder holds already is taken over, and what was interrupted goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from privface.audit import AuditResult
from privface.audit.comparison import standing, trade_off
from privface.audit.result import figure_data, to_json_data
from privface.audit.subjects import People, Subjects
from privface.data import require_disjoint
from privface.errors import AuditError, ConfigError, OutputError
from privface.images import write_atomic
from privface.models import load_gender_probe, load_matcher
from privface.pipeline.battery import build_auditor
from privface.pipeline.faces import Progress, open_data, require_folder
from privface.pipeline.methods import asked_method
from privface.pipeline.provenance import person_digest, read_provenance
from privface.pipeline.sweep_job import SETTINGS_FILE, open_audited
from privface.pipeline.sweep_plan import FAILED_FILE, K_SAME, TRAINED, Point, SweepSettings, plan
from privface.protect.output import is_fresh, locked
from privface.report.compare import write_comparison
from privface.report.figures import sweep_figure, sweep_picture
from privface.report.reading import Reading

SCHEMA = "privface.sweep/1"
LOG_FILE = "log.txt"

_OUTPUTS = ("sweep.json", "sweep.html", "report-split.html", "tradeoff.svg", "tradeoff.png")
_POLL_SECONDS = 0.1
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_sweep(
    settings: SweepSettings, out: Path, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Train, protect and audit every point, then compare them.

    A point that fails is noted and stops no other one; run again, the sweep tries it again. ``out`` is new, empty, or of an earlier sweep; one
    process at a time may work on it. Up to 256 ``jobs`` work on points at once, each in a process with its share of the threads and GPUs.

    Returns:
        The document of ``sweep.json``. Same settings and inputs on a CPU, same thread share: same bytes,
        interrupted or not.

    Raises:
        PrivfaceError: If settings, data, people, models or ``out`` do not fit; most of it before anything is trained.
    """
    if not 1 <= jobs <= 256:
        raise ConfigError(f"jobs is {jobs}; it must be from 1 to 256.", hint="One a GPU, or a few on a CPU.")
    points = plan(settings, out)
    unseen = _check(settings, points)
    require_folder(out)
    with locked(out):
        if not (out / SETTINGS_FILE).is_file() and not is_fresh(out):
            raise OutputError(
                f"{out} is not empty and no earlier sweep.", hint="Choose another --out, or empty the folder."
            )
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(out / SETTINGS_FILE, text.encode())
        _work(points, settings.compared_on, jobs, progress)
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "settings": settings.model_dump(mode="json"),
            "axes": {
                "leakage": "worst retrained attacker, chosen on validation people",
                "tmr": "TMR at FMR 0.01, protected against protected, all impostors, the matcher that suffers most",
                "matchers": unseen,
            },
            **_compare(points, settings.compared_on, unseen),
            "selection": None,
            "report": None,
        }
        if settings.select is not None:
            chosen = choose(document["points"], max_tmr_loss=settings.choose.max_tmr_loss)
            document["selection"] = {"split": settings.select, **chosen}
            winner = next((point for point in points if point.name == chosen["winner"]), None)
            if winner is not None:  # only now is anything of the report split opened but its labels
                few = [point for point in points if point.method != TRAINED or point is winner]
                _work(few, settings.report, jobs, progress)
                looks = _earlier_looks(winner, settings.report)
                compared = _compare(few, settings.report, unseen)
                document["report"] = {**compared, "winner": winner.name, "earlier_looks": looks}
        document = to_json_data(document)
        _write(document, points, out)
        return document


def plan_sweep(settings: SweepSettings, out: Path) -> list[dict[str, str]]:
    """What a sweep would do: a row a point, with ``name``, ``method``, ``state`` and ``folder``; nothing is written.

    A state is done, failed before, begun or new. Raises what :func:`run_sweep` raises before the work.
    """
    points = plan(settings, out)
    _check(settings, points)
    rows = []
    for point in points:
        state = "failed before" if point.failure else "begun" if point.path.is_dir() else "new"
        if point.result(settings.compared_on) is not None:
            state = "done"
        rows.append({"name": point.name, "method": point.method, "state": state, "folder": point.path.name})
    return rows


# before the work --------------------------------------------------------------------------------------------


def _check(settings: SweepSettings, points: Sequence[Point]) -> list[str]:
    """Names of the matchers that no point is trained against.

    Refuses now what would else show after hours: wrong paths, shared people, matchers that are all seen.
    """
    chosen = settings.audit
    splits = [settings.compared_on] + ([] if settings.report is None else [settings.report])
    tables = {split: open_audited(chosen, split) for split in splits}
    if not all(table.gendered for table in tables.values()):
        raise ConfigError(
            f"audit.original: no photo of {chosen.original} has a gender label, and a sweep ranks points by what is read of gender.",
            hint="Give audit.labels with a column gender, or train and audit each point by itself with `privface audit --attribute`.",
        )
    if settings.report is not None:
        names = (f"select: {settings.select}", f"report: {settings.report}")
        require_disjoint(*tables.values(), names=names)
    training = [(p.name, p.training, *asked_method(p.training)) for p in points if p.training is not None]
    for name, _, method, _ in training:
        if method.needs_genders:
            raise ConfigError(
                f"point {name!r}: method {method.name} protects with the true gender of each photo, which a sweep does not give it.",
                hint="Leave it out; train, protect (--genders) and audit it by itself.",
            )
    sets = [
        d for _, one, _, options in training for d in (one.data, *one.gender_data, *_of(options, "more_data"))
    ]
    starts = [read_provenance(Path(one.start)) for _, one, _, _ in training if one.start is not None]
    trained = {person for start in starts for person in start.get("people", ())}
    for table in tables.values():
        shared = sorted(person for person in set(table.identities) if person_digest(person) in trained)
        if shared:
            raise ConfigError(
                f"{len(shared)} people of {chosen.original} trained the model that points start from; the first is {shared[0]!r}.",
                hint="Audit other people, or leave start out.",
            )
    gallery = [settings.base.data for point in points if point.method == K_SAME]
    for data in dict.fromkeys([*sets, *gallery]):
        people = open_data(data)
        if people.gendered:
            people = people.labelled()
        for split, table in tables.items():
            audited = "the audited photos" if split is None else f"the audited split {split!r}"
            require_disjoint(people, table, names=(f"training data {data.source}", audited))
    for table in tables.values():
        subjects = Subjects(files=tuple(table.files), identities=table.identities, genders=table.genders)
        People.split(subjects, seed=chosen.seed)  # refuses too few people
    specs = {s for _, one, _, options in training for s in (*one.matchers, *_of(options, "encoders"))}
    met = {load_matcher(spec).weights_sha256 for spec in specs}
    met |= {entry["sha256"] for start in starts for entry in start["matchers"]}
    matchers = [load_matcher(spec) for spec in chosen.matchers]
    probes = [load_gender_probe(spec) for spec in chosen.probes]
    build_auditor(chosen, matchers=matchers, probes=probes)
    unseen = [matcher.name for matcher in matchers if matcher.weights_sha256 not in met]
    if not unseen:
        raise ConfigError(
            f"audit.matchers: points are trained against every one of {', '.join(chosen.matchers)}, so what matching loses with others would not show.",
            hint="Add a matcher that no point is trained against.",
        )
    return unseen


def _of(options: Any, name: str) -> tuple[Any, ...]:
    """What a method's own options name under ``name``; most methods have no such option."""
    return tuple(getattr(options, name, ()))


# the work ---------------------------------------------------------------------------------------------------


def _work(points: Sequence[Point], split: str | None, jobs: int, progress: Progress | None) -> None:
    """Do all points that are not done on a split, as many at once as there may be jobs."""
    pending = [point for point in points if point.result(split) is None]
    free, running = _shares(jobs), dict[subprocess.Popen[bytes], tuple[Point, dict[str, str]]]()
    stage = "points" if split is None else f"points on {split}"
    try:
        while pending or running:
            while pending and free:
                point, share = pending.pop(0), free.pop(0)
                running[_start(point, split, share)] = point, share
            for process in [process for process in running if process.poll() is not None]:
                point, share = running.pop(process)
                process.communicate()  # closes our end of its standard input
                free.append(share)
                if point.result(split) is None and point.failure is None:  # it could not say why
                    code = process.returncode
                    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                    reason = f"The process of this point ended with {ended}; see {LOG_FILE} beside it."
                    point.fail("process", reason)
            if progress is not None:
                progress(stage, len(points) - len(pending) - len(running), len(points))
            time.sleep(_POLL_SECONDS)
    finally:  # Ctrl-C: what is finished is kept
        for process in running:
            process.kill()
            process.communicate()


def _shares(jobs: int) -> list[dict[str, str]]:
    """What each job that may run at once gets of the threads and GPUs, as environment variables."""
    threads = dict.fromkeys(_THREADS, str(max(1, torch.get_num_threads() // jobs)))
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = told.split(",") if told else [str(number) for number in range(torch.cuda.device_count())]
    few = [gpus[job::jobs] or gpus[job % len(gpus) :][:1] if gpus else [] for job in range(jobs)]
    return [{**threads, "CUDA_VISIBLE_DEVICES": ",".join(mine)} for mine in few]


def _start(point: Point, split: str | None, share: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process for one point; it ends when the other end of its standard input is gone, so it never outlives us."""
    job = json.dumps([str(point.path.parents[1].absolute()), point.path.name, split])
    point.path.mkdir(parents=True, exist_ok=True)
    (point.path / FAILED_FILE).unlink(missing_ok=True)
    with (point.path / LOG_FILE).open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "privface.pipeline.sweep_job", job],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **share}, start_new_session=True,
        )  # fmt: skip


# the comparison -----------------------------------------------------------------------------------------------


def _compare(points: Sequence[Point], split: str | None, matchers: Sequence[str]) -> dict[str, Any]:
    """The points on one split, side by side: ``split``, ``points``, ``front`` and ``against``."""
    results = {p.name: result for p in points if (result := p.result(split)) is not None}
    measured = []
    try:
        if results:
            measured = trade_off([(k, v.to_dict()) for k, v in results.items()], matchers=matchers)
    except AuditError as error:
        raise AuditError(
            f"{error.message} They have changed since the first points were audited.",
            hint=f"Give another --out, or delete the audit-* folders below {points[0].path.parent}.",
        ) from error
    known = {row["name"]: row for row in measured}
    methods = {point.name: point.method for point in points}
    return {
        "split": split,
        "points": [_row(point, results.get(point.name), known.get(point.name, {})) for point in points],
        "front": [  # points with both figures that no other point beats; tied ones all stay
            row["name"]
            for row in measured
            if row["dominated_by"] is None and None not in (row["leakage"]["value"], row["tmr"]["value"])
        ],
        "against": standing(measured, methods, ours=TRAINED),
    }


def _row(point: Point, result: AuditResult | None, measured: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "name": point.name,
        "method": point.method,
        "changes": dict(point.changes),
        "folder": f"points/{point.path.name}",
    }
    if result is None:
        return {**row, "status": "failed", **(point.failure or {"stage": "process", "reason": "unknown"})}
    worst = result.document["worst_retrained"]
    return {
        **row,
        "status": "done",
        **measured,
        "attacker": {"probe": worst["probe"], "input": worst["input"]},
        "verdict": result.document["verdict"]["status"],
        "figures": {name: figure_data(figure) for name, figure in result.figures.items()},
    }


def choose(points: Sequence[Mapping[str, Any]], *, max_tmr_loss: float) -> dict[str, Any]:
    """The point that leaks least among those that keep matching; a tie goes to more TMR, then to the first.

    A point may lose ``max_tmr_loss`` of TMR against the originals of its own audit; what failed or could not be measured cannot win.

    Returns:
        ``winner`` (a name, or ``None`` with a ``reason``), ``tied`` (names that agree with it on both figures) and ``rule``.
    """
    known = []
    for point in (p for p in points if p["method"] == TRAINED and p["status"] == "done"):
        leakage, tmr, before = (point[key]["value"] for key in ("leakage", "tmr", "tmr_before"))
        if None not in (leakage, tmr, before):
            known.append((point["name"], (leakage, -tmr), before - tmr))
    eligible = [(name, rank) for name, rank, loss in known if loss <= max_tmr_loss + 1e-9]
    winner, best = min(eligible, key=lambda entry: entry[1], default=(None, None))
    least = f"the least loss is {min(e[2] for e in known):.3f}" if known else "none has both figures"
    return {
        "rule": f"lowest leakage among trained points that lose at most {max_tmr_loss:g} of TMR; a tie goes to the higher TMR, then to the first listed",
        "winner": winner,
        "tied": [name for name, rank in eligible if rank == best and name != winner],
        "reason": None if winner else f"no trained point loses at most {max_tmr_loss:g} of TMR: {least}",
    }


def _earlier_looks(winner: Point, split: str | None) -> list[str]:
    """Folders of other trained points that this folder has already shown on the report split."""
    name = winner.place("audit", split).name.rpartition("-")[0]
    reports = winner.path.parent.glob(f"{TRAINED}-*/{name}-{'[0-9a-f]' * 12}/report.html")
    return sorted({path.parent.parent.name for path in reports} - {winner.path.name})


# what is written ------------------------------------------------------------------------------------------------


def _write(document: Mapping[str, Any], points: Sequence[Point], out: Path) -> None:
    for name in _OUTPUTS:  # of an earlier run; what cannot be drawn now must not look as if it had been
        (out / name).unlink(missing_ok=True)
    matchers, notes = document["axes"]["matchers"], sentences(document)
    for page, part in (("sweep.html", document), ("report-split.html", document["report"])):
        if part is None:
            continue
        rows = [row for row in part["points"] if row["status"] == "done"]
        shown = {row["name"] for row in rows}
        results = {p.name: p.result(part["split"]) for p in points if p.name in shown}
        named = [(name, result.to_dict()) for name, result in results.items() if result is not None]
        if rows:
            title = f"Recognition against gender leakage, people: {part['split'] or 'all'}"
            figure = sweep_figure(rows, title=title)
            write_comparison(named, out / page, matchers=matchers, figure=figure, notes=notes)
            if part is document:
                write_atomic(out / "tradeoff.svg", figure.encode())
                write_atomic(out / "tradeoff.png", sweep_picture(rows, title=title))
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(out / "sweep.json", (text + "\n").encode())


def failed_points(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Points of a sweep's document that could not be finished, on either split."""
    rows = [*document["points"], *((document["report"] or {}).get("points", ()))]
    return [row for row in rows if row["status"] == "failed"]


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What a sweep has shown, and what it has not, in words."""
    axes, selection, report = document["axes"], document["selection"], document["report"]
    said = [
        f"Recognition: {axes['tmr']}, of {', '.join(axes['matchers'])}, which no point was trained against.",
        f"On the front, beaten by no other point: {', '.join(document['front']) or 'none'}.",
        *(f"On the compared people, {_standing(row)}" for row in document["against"]),
        *(f"{row['name']} failed ({row['stage']}): {row['reason']}" for row in failed_points(document)),
    ]
    if selection is None:
        tuned = "All points were compared on the same people. To take the best of them for its figure would be tuning on them"
        return [*said, f"{tuned}: give select and report, two splits of different people."]
    if report is None:
        no_winner = f"No winner on {selection['split']!r}: {selection['reason']}."
        return [*said, f"{no_winner} No photo of the report split was opened."]
    tied = f" (tied with {', '.join(selection['tied'])})" if selection["tied"] else ""
    said.append(f"Chosen on {selection['split']!r}: {selection['winner']}{tied}, by {selection['rule']}.")
    where = f"On the people of {report['split']!r}, whom the choice has not seen"
    for row in report["points"]:
        if row["name"] == report["winner"] and row["status"] == "done":
            leakage, tmr = (Reading.of(row[key]).text for key in ("leakage", "tmr"))
            said.append(f"{where}: leakage {leakage}, TMR {tmr}.")
    said += [f"{where}: {_standing(row)}" for row in report["against"]]
    if report["earlier_looks"]:
        looks = f"{len(report['earlier_looks'])} other trained points were shown on these people before"
        said.append(f"{looks}; each look makes the best figure a little more flattering.")
    return said


def _standing(row: Mapping[str, Any]) -> str:
    unmeasured = f", {row['unmeasured']} not measurable" if row["unmeasured"] else ""
    return (
        f"trained points beat {row['method']} at {row['dominated']} of {row['points']} points ({row['clearly']} of them beyond "
        f"the 95 % intervals, {row['tied']} tied{unmeasured}); {row['method']} beats {row['dominates']} of {row['ours']}."
    )
