"""A grid of settings, trained, protected, audited and drawn as one trade-off, beside simpler methods.

Each point is worked on by a process of its own (:mod:`privface.pipeline.sweep_job`); here they are started, gathered and
compared. Nothing is done twice: what a folder holds already is taken over, and what was interrupted goes on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import privface
from privface.audit import AuditResult
from privface.audit.comparison import standing, trade_off
from privface.audit.result import figure_data, to_json_data
from privface.audit.subjects import People, Subjects
from privface.data import require_disjoint
from privface.errors import AuditError, ConfigError, OutputError
from privface.images import write_atomic
from privface.models import load_gender_probe, load_matcher
from privface.pipeline.faces import Progress, open_data
from privface.pipeline.inspect import open_labelled, require_folder
from privface.pipeline.sweep_job import SETTINGS_FILE, PointFolder, protected_counts
from privface.pipeline.sweep_plan import ORIGINALS, TRAINED, Point, SweepSettings, digest, plan
from privface.protect.output import is_fresh, locked
from privface.records import FaceTable
from privface.report.compare import write_comparison
from privface.report.figures import sweep_figure, sweep_picture

SCHEMA = "privface.sweep/1"

_OUTPUTS = ("sweep.json", "sweep.html", "report-split.html", "tradeoff.svg", "tradeoff.png")
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class PlannedPoint:
    """What a sweep would do for a point.

    Attributes:
        point: The point.
        state: ``done``, ``trained`` (protection and audit are left), ``begun``, ``failed before`` or ``new``.
        training_images: Images that training would still see, epoch by epoch.
        photos: Photos that would still be protected and audited.
        minutes: What that took for finished points of the same method here; ``None`` where there is none.
    """

    point: Point
    state: str
    training_images: int
    photos: int
    minutes: float | None


@dataclass(frozen=True)
class _Job:
    """One point on one split."""

    point: Point
    split: str | None


@dataclass(frozen=True)
class _Checked:
    """What a look at labels and models has shown."""

    matchers: tuple[str, ...]
    tables: Mapping[str | None, FaceTable]


def run_sweep(
    settings: SweepSettings,
    out: Path,
    *,
    jobs: int = 1,
    devices: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, protect and audit every point, then compare them.

    ``out`` gets ``sweep.json``, ``sweep.html``, ``tradeoff.svg``, ``tradeoff.png`` and ``points/``, a folder a point. A
    point that fails is noted and stops no other one; run again, the sweep tries it again.

    Args:
        settings: What to train, audit and compare with.
        out: New, empty, or of an earlier sweep; one process at a time may work on it.
        jobs: Points that are worked on at once, each in a process with its share of the threads.
        devices: Where points are trained, ``cpu`` or ``cuda:N``, handed out in turn; by default as the settings say.
        progress: Told how many points are through.

    Returns:
        The document of ``sweep.json``, schema ``privface.sweep/1``: ``settings``, ``axes``, ``points``, ``front``,
        ``against``, ``selection`` and ``report``. Same settings and inputs on a CPU, same thread share: same bytes,
        interrupted or not.

    Raises:
        ConfigError: If a setting does not fit data or models, or ``jobs`` or ``devices`` are out of range.
        SplitOverlapError: If a person stands on two sides of training, selection and report.
        AuditError: If a split has too few people of a gender to be audited, or audits of the folder are of other
            photos than those of today.
        OutputError: If ``out`` holds something else, is in use or cannot be written.
    """
    slots = _slots(jobs, devices)
    points = plan(settings)
    checked = _check(settings, points, out)
    require_folder(out)
    with locked(out):
        if not (out / SETTINGS_FILE).is_file() and not is_fresh(out):
            raise OutputError(
                f"{out} is not empty and no earlier sweep.", hint="Choose another --out, or empty the folder."
            )
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(out / SETTINGS_FILE, text.encode())
        split = settings.compared_on
        _work(out, settings, [_Job(point, split) for point in points], slots, progress, "points")
        compared = _Compared(out, settings, points, split, checked.matchers)
        selection = _select(settings, compared)
        reported = None
        if selection is not None and selection["winner"] is not None:
            # only now is anything of the report split opened but its labels
            few = [p for p in points if p.method != TRAINED or p.name == selection["winner"]]
            _work(out, settings, [_Job(p, settings.report) for p in few], slots, progress, "report")
            reported = _Compared(out, settings, few, settings.report, checked.matchers)
        return _write(out, settings, checked.matchers, compared, selection, reported)


def plan_sweep(settings: SweepSettings, out: Path) -> list[PlannedPoint]:
    """What a sweep would do; nothing is written.

    Args:
        settings: The sweep.
        out: Its folder; need not exist.

    Raises:
        PrivfaceError: As :func:`run_sweep`, for what can be known before the work.
    """
    points = plan(settings)
    checked = _check(settings, points, out)
    photos = len(checked.tables[settings.compared_on])
    lengths: dict[str, int] = {}
    found = []
    for point in points:
        folder = PointFolder(out, point, settings)
        done = folder.result(settings.compared_on) is not None
        images = 0
        if point.training is not None and not done and not folder.trained:
            chosen = point.training
            key = digest([chosen.data.model_dump(mode="json"), chosen.validation_share])
            if key not in lengths:
                genders = [record.gender for record in open_data(chosen.data).labelled()]
                larger = max(genders.count(gender) for gender in set(genders))
                lengths[key] = round(2 * larger * (1 - chosen.validation_share))
            images = chosen.loop.epochs * (chosen.loop.epoch_images or lengths[key])
        state = (
            "done"
            if done
            else "failed before"
            if folder.failure()
            else "trained"
            if folder.trained
            else "begun"
            if folder.path.is_dir()
            else "new"
        )
        minutes = None if done else _usual_minutes(point, points, settings, out, trained=folder.trained)
        found.append(PlannedPoint(point, state, images, 0 if done else photos, 0.0 if done else minutes))
    return found


def _usual_minutes(
    point: Point, points: Sequence[Point], settings: SweepSettings, out: Path, *, trained: bool
) -> float | None:
    """Mean of the finished points of the same kind: every baseline costs about the same."""
    kind = point.method in {TRAINED, ORIGINALS}
    taken = []
    for other in points:
        folder = PointFolder(out, other, settings)
        alike = other.method == point.method if kind else other.method not in {TRAINED, ORIGINALS}
        if alike and folder.result(settings.compared_on) is not None:
            taken.append(sum(v for k, v in folder.minutes().items() if not (trained and k == "train")))
    return sum(taken) / len(taken) if taken else None


# before the work --------------------------------------------------------------------------------------------


def _check(settings: SweepSettings, points: Sequence[Point], out: Path) -> _Checked:
    """Refuse now what would else show after hours: wrong paths, shared people, matchers that are all seen."""
    chosen = settings.audit
    splits = dict.fromkeys(
        (settings.compared_on, settings.report) if settings.report else (settings.compared_on,)
    )
    labels = None if chosen.labels is None else Path(chosen.labels)
    tables = {split: open_labelled(Path(chosen.original), labels=labels, split=split) for split in splits}
    if settings.report is not None:
        names = (f"select: {settings.select}", f"report: {settings.report}")
        require_disjoint(*(tables[split] for split in splits), names=names)
    met: set[str] = set()
    training = {digest(p.training.data.model_dump(mode="json")): p.training for p in points if p.training}
    for one in training.values():
        people = open_data(one.data).labelled()
        for split, table in tables.items():
            audited = "the audited photos" if split is None else f"the audited split {split!r}"
            require_disjoint(people, table, names=(f"training data {one.data.source}", audited))
    for table in tables.values():  # too few people for an audit would else show once all points are trained
        subjects = Subjects(files=tuple(table.files), identities=table.identities, genders=table.genders)
        People.split(subjects, seed=chosen.seed)
    for spec in dict.fromkeys(spec for p in points if p.training for spec in p.training.matchers):
        met.add(load_matcher(spec).weights_sha256)
    matchers = [load_matcher(spec) for spec in chosen.matchers]
    names_ = [matcher.name for matcher in matchers]
    if len(set(names_)) != len(names_):
        raise ConfigError(
            f"audit.matchers: two matchers share a name: {names_}.", hint="Rename a file or folder."
        )
    unseen = tuple(matcher.name for matcher in matchers if matcher.weights_sha256 not in met)
    if not unseen:
        raise ConfigError(
            f"audit.matchers: {', '.join(names_)}: a point is trained against every one of them, so what matching loses with others would not show.",
            hint="Add a matcher that no point is trained against.",
        )
    for spec in chosen.probes:
        load_gender_probe(spec)
    home = out.resolve()
    for parent in {record.path.resolve().parent for table in tables.values() for record in table}:
        if home == parent or home in parent.parents:
            raise OutputError(
                f"The originals lie in {parent}, inside the output folder {out}.",
                hint="Choose another --out.",
            )
    return _Checked(unseen, tables)


def _slots(jobs: int, devices: Sequence[str]) -> list[str | None]:
    """The device of each job that may run at once."""
    if not 1 <= jobs <= 256:
        raise ConfigError(f"jobs is {jobs}; it must be from 1 to 256.", hint="One a GPU, or a few on a CPU.")
    for device in devices:
        found = re.fullmatch(r"cpu|cuda:(\d+)", device)
        if found is None:
            raise ConfigError(f"{device!r} is no device.", hint="Such as --devices cuda:0,cuda:1, or cpu.")
        if found[1] is not None and int(found[1]) >= torch.cuda.device_count():
            raise ConfigError(
                f"There is no {device}; CUDA devices here: {torch.cuda.device_count()}.",
                hint="See `privface doctor`; leave --devices out to train where the settings say.",
            )
    return [devices[number % len(devices)] if devices else None for number in range(jobs)]


def _threads(jobs: int) -> int:
    """Threads of each job: its share of OMP_NUM_THREADS where that is set, else of the cores we may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    whole = int(told) if told.isdecimal() and int(told) else os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        whole = min(whole, len(os.sched_getaffinity(0)))
    return max(1, whole // jobs)


# the work ---------------------------------------------------------------------------------------------------


def _work(
    out: Path,
    settings: SweepSettings,
    wanted: Sequence[_Job],
    slots: Sequence[str | None],
    progress: Progress | None,
    stage: str,
) -> None:
    """Do all jobs that are not done, as many at once as there are slots."""
    pending = deque(j for j in wanted if PointFolder(out, j.point, settings).result(j.split) is None)
    free, running = deque(slots), dict[subprocess.Popen[bytes], tuple[_Job, str | None]]()
    through = len(wanted) - len(pending)

    def tell() -> None:
        if progress is not None:
            progress(stage, through, len(wanted))

    tell()
    try:
        while pending or running:
            while pending and free:
                job, device = pending.popleft(), free.popleft()
                folder = PointFolder(out, job.point, settings)
                running[_start(out, folder, job, device, threads=_threads(len(slots)))] = (job, device)
            for process in [process for process in running if process.poll() is not None]:
                job, device = running.pop(process)
                _close(process)
                free.append(device)
                _note_end(PointFolder(out, job.point, settings), job.split, process.returncode)
                through += 1
                tell()
            time.sleep(_POLL_SECONDS)
    finally:  # Ctrl-C: what is finished is kept
        for process in running:
            _close(process)
            process.kill()
            process.wait()


def _start(
    out: Path, folder: PointFolder, job: _Job, device: str | None, *, threads: int
) -> subprocess.Popen[bytes]:
    """A process for one point; it ends when the other end of its standard input is gone, so it never outlives us."""
    command = [sys.executable, "-m", "privface.pipeline.sweep_job", str(out.absolute()), job.point.folder]
    if job.split is not None:
        command.append(f"--split={job.split}")
    package = str(Path(privface.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {name: value for name, value in os.environ.items() if name not in _RANKS}
    environment |= {name: str(threads) for name in _THREADS} | {"PYTHONPATH": path}
    if device is not None:
        command.append(f"--device={device.partition(':')[0]}")
        environment["CUDA_VISIBLE_DEVICES"] = _visible(device)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # our own module
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _visible(device: str) -> str:
    """What the job may see, as CUDA_VISIBLE_DEVICES; our own number may already be one of a part."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ""
    ours = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ours.split(",")[int(number)] if ours else number


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _note_end(folder: PointFolder, split: str | None, code: int) -> None:
    """A process that failed has said why; one that was killed could not."""
    if folder.result(split) is not None or (code == 1 and folder.failure() is not None):
        return
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    folder.fail("process", f"The process of this point ended with {ended}; see {folder.log.name} beside it.")


# the comparison -----------------------------------------------------------------------------------------------


class _Compared:
    """The points on one split, side by side."""

    def __init__(
        self,
        out: Path,
        settings: SweepSettings,
        points: Sequence[Point],
        split: str | None,
        matchers: Sequence[str],
    ) -> None:
        self.split, self.points, self.matchers = split, points, matchers
        self._folders = {point.name: PointFolder(out, point, settings) for point in points}
        found = {name: folder.result(split) for name, folder in self._folders.items()}
        self.results: dict[str, AuditResult] = {name: r for name, r in found.items() if r is not None}
        self.named = [(name, result.to_dict()) for name, result in self.results.items()]
        try:
            self.trade_off = trade_off(self.named, matchers=matchers) if self.named else []
        except AuditError as error:
            raise AuditError(
                f"{error.message} They have changed since the first points were audited.",
                hint=f"Give another --out, or delete the audit-* folders below {out / 'points'}.",
            ) from error
        self.methods = {point.name: point.method for point in points}

    def rows(self) -> list[dict[str, Any]]:
        """The points as ``sweep.json`` lists them."""
        measured = {point["name"]: point for point in self.trade_off}
        return [self._row(point, measured.get(point.name)) for point in self.points]

    def _row(self, point: Point, measured: Mapping[str, Any] | None) -> dict[str, Any]:
        folder = self._folders[point.name]
        row: dict[str, Any] = {
            "name": point.name,
            "method": point.method,
            "changes": dict(point.changes),
            "folder": f"points/{point.folder}",
        }
        if measured is None:
            failure = folder.failure() or {"stage": "process", "reason": "no reason was noted"}
            return {**row, "status": "failed", **failure}
        result = self.results[point.name]
        worst = result.document["worst_retrained"]
        return {
            **row,
            "status": "done",
            **{
                key: measured[key]
                for key in ("leakage", "tmr", "tmr_before", "matcher", "dominated_by", "differs")
            },
            "front": point.name in self.front,
            "attacker": {"probe": worst["probe"], "input": worst["input"]},
            "verdict": result.document["verdict"]["status"],
            "protected": protected_counts(folder, self.split),
            "figures": {name: figure_data(figure) for name, figure in result.figures.items()},
        }

    @property
    def front(self) -> list[str]:
        """Points with both figures that no other point beats; tied ones all stay."""
        return [
            p["name"]
            for p in self.trade_off
            if p["dominated_by"] is None and None not in (p["leakage"]["value"], p["tmr"]["value"])
        ]

    def against(self) -> list[dict[str, Any]]:
        """How the trained points stand against each other method."""
        return standing(self.trade_off, self.methods, ours=TRAINED)

    def drawn(self) -> list[dict[str, Any]]:
        """The points as the figure takes them."""
        return [
            {**p, "kind": self.methods[p["name"]] if self.methods[p["name"]] in _KINDS else "baseline"}
            for p in self.trade_off
        ]


_KINDS = {TRAINED, ORIGINALS}


def choose(points: Sequence[Mapping[str, Any]], *, max_tmr_loss: float) -> dict[str, Any]:
    """The point that leaks least among those that keep matching; a tie goes to more TMR, then to the first.

    Args:
        points: Points of :func:`privface.audit.comparison.trade_off`, the trained ones.
        max_tmr_loss: How much TMR a point may lose against the originals of its own audit.

    Returns:
        ``winner`` (a name, or ``None`` with a ``reason``), ``tied`` (names that agree with it on both figures), ``eligible``
        and ``of`` (numbers of points) and ``rule``.
    """
    losses = {}
    for point in points:
        values = [point[key]["value"] for key in ("leakage", "tmr", "tmr_before")]
        if None not in values:
            losses[point["name"]] = values[2] - values[1]
    eligible = [p for p in points if losses.get(p["name"], 2.0) <= max_tmr_loss + 1e-9]
    found: dict[str, Any] = {
        "rule": f"lowest leakage among trained points that lose at most {max_tmr_loss:g} of TMR; a tie goes to the higher TMR, then to the first listed",
        "eligible": len(eligible),
        "of": len(points),
        "winner": None,
        "tied": [],
        "reason": None,
    }
    if not eligible:
        least = f"the least loss is {min(losses.values()):.3f}" if losses else "none has both figures"
        found["reason"] = f"no trained point loses at most {max_tmr_loss:g} of TMR: {least}"
        return found

    def rank(point: Mapping[str, Any]) -> tuple[float, float]:
        return point["leakage"]["value"], -point["tmr"]["value"]

    best = min(eligible, key=rank)
    found["winner"] = best["name"]
    found["tied"] = [p["name"] for p in eligible if p is not best and rank(p) == rank(best)]
    return found


def _select(settings: SweepSettings, compared: _Compared) -> dict[str, Any] | None:
    if settings.select is None:
        return None
    trained = [p for p in compared.trade_off if compared.methods[p["name"]] == TRAINED]
    return {"split": settings.select, **choose(trained, max_tmr_loss=settings.choose.max_tmr_loss)}


def _earlier_looks(out: Path, settings: SweepSettings, winner: Point) -> list[str]:
    """Folders of other trained points that this folder has already shown on the report split."""
    name = PointFolder(out, winner, settings).audit(settings.report).name.rpartition("-")[0]
    found = {path.parent.parent.name for path in (out / "points").glob(f"{TRAINED}-*/{name}-*/report.html")}
    return sorted(found - {winner.folder})


def _write(
    out: Path,
    settings: SweepSettings,
    matchers: Sequence[str],
    compared: _Compared,
    selection: dict[str, Any] | None,
    reported: _Compared | None,
) -> dict[str, Any]:
    for name in _OUTPUTS:  # of an earlier run; what cannot be drawn now must not look as if it had been
        (out / name).unlink(missing_ok=True)
    report = None
    if reported is not None and selection is not None:
        winner = next(p for p in reported.points if p.name == selection["winner"])
        report = {
            "split": settings.report,
            "winner": winner.name,
            "points": reported.rows(),
            "against": reported.against(),
            "earlier_looks": _earlier_looks(out, settings, winner),
        }
    document: dict[str, Any] = to_json_data(
        {
            "schema": SCHEMA,
            "settings": settings.model_dump(mode="json"),
            "axes": {
                "leakage": "worst retrained attacker, chosen on validation people",
                "tmr": "TMR at FMR 0.01, protected against protected, all impostors, the matcher that suffers most",
                "matchers": list(matchers),
                "split": compared.split,
            },
            "points": compared.rows(),
            "front": compared.front,
            "against": compared.against(),
            "selection": selection,
            "report": report,
        }
    )
    if compared.named:
        drawn, title = compared.drawn(), "Recognition against gender leakage, by point"
        figure = sweep_figure(drawn, title=title)
        write_atomic(out / "tradeoff.svg", figure.encode())
        write_atomic(out / "tradeoff.png", sweep_picture(drawn, title=title))
        notes = sentences(document)
        write_comparison(compared.named, out / "sweep.html", matchers=matchers, figure=figure, notes=notes)
    if reported is not None and reported.named:
        figure = sweep_figure(reported.drawn(), title="Recognition against gender leakage, report people")
        write_comparison(reported.named, out / "report-split.html", matchers=matchers, figure=figure)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(out / "sweep.json", (text + "\n").encode())
    return document


def failed_points(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Points of a sweep's document that could not be finished, on either split."""
    rows = [*document["points"], *((document["report"] or {}).get("points", ()))]
    return [row for row in rows if row["status"] == "failed"]


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What a sweep has shown, and what it has not, in words."""
    axes = document["axes"]
    said = [
        f"Recognition: {axes['tmr']}, of {', '.join(axes['matchers'])}, which no point was trained against.",
        f"On the front, beaten by no other point: {', '.join(document['front']) or 'none'}.",
    ]
    said += [_standing_sentence(row) for row in document["against"]]
    said += [f"{row['name']} failed ({row['stage']}): {row['reason']}" for row in failed_points(document)]
    selection, report = document["selection"], document["report"]
    if selection is None:
        said.append(
            "All points were compared on the same people. To take the best of them for its figure would be tuning on these "
            "people: give select and report, two splits of different people."
        )
    elif selection["winner"] is None:
        said.append(
            f"No winner on {selection['split']!r}: {selection['reason']}. Nobody of the report split was looked at."
        )
    else:
        tied = f" (tied with {', '.join(selection['tied'])})" if selection["tied"] else ""
        said.append(f"Chosen on {selection['split']!r}: {selection['winner']}{tied}, by {selection['rule']}.")
        said += _report_sentences(report)
    return said


def _report_sentences(report: Mapping[str, Any]) -> list[str]:
    row = next(row for row in report["points"] if row["name"] == report["winner"])
    if row["status"] == "failed":
        return [f"On the people of {report['split']!r} it could not be audited."]
    said = [
        f"On the people of {report['split']!r}, whom the choice has not seen: leakage {_text(row['leakage'])}, TMR {_text(row['tmr'])}."
    ]
    said += [_standing_sentence(other) for other in report["against"]]
    if report["earlier_looks"]:
        said.append(
            f"{len(report['earlier_looks'])} other trained points were shown on these people before; each look makes the best figure a little more flattering."
        )
    return said


def _standing_sentence(row: Mapping[str, Any]) -> str:
    subject = (
        "The trained point dominates"
        if row["ours"] == 1
        else f"Of {row['ours']} trained points, one or another dominates"
    )
    unmeasured = f", {row['unmeasured']} not measurable" if row["unmeasured"] else ""
    return (
        f"{subject} {row['method']} at {row['dominated']} of {row['points']} points ({row['clearly']} of them beyond the 95 % intervals, "
        f"{row['tied']} tied{unmeasured}); {row['method']} dominates {row['dominates']} of {row['ours']}."
    )


def _text(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return f"not measurable ({figure.get('reason', 'no reason given')})"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
