from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from pydantic import BaseModel

from privface.config import load_settings
from privface.data import generate_faces, write_faces
from privface.errors import ConfigError, OutputError, PrivfaceError, SplitOverlapError
from privface.models import CompactResNet, save_network
from privface.pipeline import sweep as room
from privface.pipeline.sweep import choose, failed_points, plan_sweep, run_sweep, sentences
from privface.pipeline.sweep_job import PointFolder, StageError, run_point
from privface.pipeline.sweep_plan import SweepSettings, load_sweep, plan
from privface.protect.output import locked

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Place:
    """Drawn people in two splits, two matchers of which one is trained against, and a small sweep."""

    root: Path
    content: dict[str, Any]

    def config(self, folder: Path, **changes: Any) -> Path:
        content = copy.deepcopy(self.content)
        for key, value in changes.items():
            target, _, last = key.rpartition("__")
            (content[target] if target else content)[last] = value
        path = folder / "sweep.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return path

    def settings(self, folder: Path, **changes: Any) -> SweepSettings:
        return load_sweep(self.config(folder, **changes))


@pytest.fixture(scope="module")
def place(world, tmp_path_factory) -> Place:
    root = tmp_path_factory.mktemp("sweep")
    write_faces(
        generate_faces(people=128, photos_per_person=2, seed=5, first_person=100, gender_cue=2.0),
        root / "audited",
    )
    labels = pd.read_csv(root / "audited" / "labels.csv")
    labels["split"] = ["val" if name < "p00164" else "test" for name in labels["identity"]]
    labels.to_csv(root / "audited" / "labels.csv", index=False)
    torch.manual_seed(1)
    meta = {"input_size": 32, "crop": [0.0, 0.0, 112.0, 112.0]}
    save_network(root / "fresh", CompactResNet(outputs=16, width=8, stages=1), kind="matcher", meta=meta)
    base = copy.deepcopy(world.settings)
    base["validation_share"] = 0
    base["classifiers"][0]["epochs"] = 1
    content = {
        "base": base,
        "grid": {"losses.matching": [1.0, 4.0]},
        "audit": {
            "original": str(root / "audited"), "matchers": [f"mini:{world.matcher}", f"mini:{root / 'fresh'}"],
            "effort": "quick", "faces": "aligned", "size": 32, "resamples": 5,
            "seed": 3,  # divides the few people of either split so that attackers have some of both genders
        },
        "baselines": [{"method": "blur", "sigma": 2.0}, {"method": "pixelation", "cells": 6, "name": "mosaic"}],
        "select": "val",
        "report": "test",
        "choose": {"max_tmr_loss": 1.0},
    }  # fmt: skip
    return Place(root, content)


def work_here(out: Path, settings: SweepSettings, wanted: Any, slots: Any, progress: Any, stage: str) -> None:
    """The work of a sweep without processes, which take seconds each to start."""
    for job in wanted:
        try:
            run_point(out, job.point, settings, split=job.split)
        except StageError as error:
            PointFolder(out, job.point, settings).fail(error.stage, str(error.__cause__))


@pytest.fixture
def here(monkeypatch, one_thread) -> None:
    monkeypatch.setattr(room, "_work", work_here)


@pytest.fixture(scope="module")
def done(place, one_thread, tmp_path_factory) -> Path:
    """A finished sweep; nobody writes into it."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_work", work_here)
        run_sweep(place.settings(tmp_path_factory.mktemp("c")), out)
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text())


# end to end -------------------------------------------------------------------------------------------------


def test_points_and_baselines_stand_in_one_document_picture_and_page(done):
    document = read(done)
    assert document["schema"] == "privface.sweep/1"
    names = ["originals", "blur sigma=2", "mosaic", "matching=1.0", "matching=4.0"]
    assert [row["name"] for row in document["points"]] == names
    for row in document["points"]:
        assert row["status"] == "done"
        assert 0.5 <= row["leakage"]["low"] <= row["leakage"]["value"] <= row["leakage"]["high"] <= 1
        assert 0 <= row["tmr"]["value"] <= 1
        assert row["matcher"] == "mini:fresh", "the one that no point has met, for baselines too"
        assert {"worst_frozen", "psnr", "tmr_p_p_0.01"} <= row["figures"].keys()
        assert (done / row["folder"] / "settings.yaml").is_file()
    protected = {row["name"]: row["protected"] for row in document["points"]}
    assert protected == {name: {} if name == "originals" else {"ok": 128} for name in names}
    (front,) = {
        tuple(sorted(r["name"] for r in document["points"] if r["front"])),
        tuple(sorted(document["front"])),
    }
    assert front
    assert [row["method"] for row in document["against"]] == ["originals", "blur", "pixelation"]
    page, picture = (done / "sweep.html").read_text(), (done / "tradeoff.svg").read_text()
    for name in names:
        assert name in page
        assert name in picture
    with Image.open(done / "tradeoff.png") as drawn:
        assert drawn.size[0] > 1000
    for sentence in sentences(document)[:2]:
        assert sentence.split(",")[0] in page


def test_the_originals_are_audited_unchanged(done):
    row = read(done)["points"][0]
    assert row["tmr"] == row["tmr_before"]
    assert row["figures"]["ssim"]["value"] == pytest.approx(1.0)


def test_winner_is_chosen_on_one_split_and_reported_on_the_other(done):
    document = read(done)
    selection, report = document["selection"], document["report"]
    trained = [row for row in document["points"] if row["method"] == "trained"]
    assert selection["winner"] == min(trained, key=lambda row: row["leakage"]["value"])["name"]
    assert [row["name"] for row in report["points"]] == [
        "originals",
        "blur sigma=2",
        "mosaic",
        selection["winner"],
    ]
    assert report["split"] == "test"
    assert report["earlier_looks"] == []
    loser = next(row for row in trained if row["name"] != selection["winner"])
    assert not list((done / loser["folder"]).glob("*test*")), "others are not shown to the report people"
    winner = report["points"][-1]
    assert winner["leakage"] != next(r for r in trained if r["name"] == selection["winner"])["leakage"]


def test_done_points_are_not_done_again_and_the_bytes_are_the_same(done, place, tmp_path, monkeypatch):
    shutil.copytree(done, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "points").rglob("*") if p.is_file()}
    monkeypatch.setattr(room, "_start", lambda *_, **__: pytest.fail("nothing is left to do"))
    run_sweep(place.settings(tmp_path), tmp_path / "out", jobs=2)
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "points").rglob("*") if p.is_file()
    } == before
    for name in ("sweep.json", "tradeoff.svg", "tradeoff.png", "sweep.html"):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


def test_selection_never_looks_at_the_report_split(done, place, here, tmp_path):
    """Other photos of the report people: the same choice, and not a readable file of theirs was needed."""
    shutil.copytree(place.root / "audited", tmp_path / "audited")
    labels = pd.read_csv(tmp_path / "audited" / "labels.csv")
    for file in labels["file"][labels["split"] == "test"]:
        (tmp_path / "audited" / file).write_bytes(b"no photo")
    out = tmp_path / "out"
    shutil.copytree(done, out, ignore=lambda _, names: [n for n in names if n.startswith("audit-")])
    settings = place.settings(tmp_path, audit__original=str(tmp_path / "audited"))
    document = run_sweep(settings, out)
    first = read(done)
    assert document["selection"] == first["selection"]
    strip = [{k: v for k, v in row.items() if k != "figures"} for row in document["points"]]
    assert strip == [{k: v for k, v in row.items() if k != "figures"} for row in first["points"]]
    assert [row["status"] for row in document["report"]["points"]] == ["failed"] * 4


def test_without_a_report_split_there_is_no_winner(done, place, here, tmp_path):
    """The audits of `val` serve again: they do not depend on what they are for."""
    shutil.copytree(done, tmp_path / "out")
    settings = place.settings(tmp_path, select=None, report=None, audit__split="val")
    document = run_sweep(settings, tmp_path / "out")
    assert document["selection"] is None
    assert document["report"] is None
    assert any("would be tuning on these people" in said for said in sentences(document))
    assert document["points"] == read(done)["points"]


def test_a_later_winner_is_told_that_the_report_people_were_looked_at_before(done, place, here, tmp_path):
    shutil.copytree(done, tmp_path / "out")
    winner = read(done)["selection"]["winner"]
    value = 4.0 if winner == "matching=1.0" else 1.0
    document = run_sweep(place.settings(tmp_path, grid={"losses.matching": [value]}), tmp_path / "out")
    assert document["report"]["winner"] != winner
    assert len(document["report"]["earlier_looks"]) == 1
    assert any(
        "looked" not in said and "shown on these people before" in said for said in sentences(document)
    )


def test_a_point_that_fails_is_recorded_and_stops_no_other(done, place, here, tmp_path):
    shutil.copytree(done, tmp_path / "out")
    points = [{"name": "torn", "settings": {"classifiers.0.spec": "mini:none"}}]
    document = run_sweep(place.settings(tmp_path, points=points), tmp_path / "out")
    (row,) = failed_points(document)
    assert (row["name"], row["stage"]) == ("torn", "train")
    assert row["reason"]
    assert sum(r["status"] == "done" for r in document["points"]) == 5
    assert document["selection"]["of"] == 2, "what failed cannot win"
    assert f"torn failed (train): {row['reason']}" in sentences(document)


# processes --------------------------------------------------------------------------------------------------


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "privface", "sweep", str(config), "--out", str(out), *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(place, tmp_path):
    """SIGKILL of the sweep in the middle of a training; its jobs die with it, and what they had is taken up."""
    few = {
        "grid": {"losses.matching": [1.0]},
        "baselines": None,
        "base": copy.deepcopy(place.content["base"]),
    }
    few["base"]["loop"]["epochs"] = 40
    config = place.config(tmp_path, **few)
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(config, out, "--jobs", "2"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 400
    while not list(out.glob("points/trained-*/run/resume.ckpt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (out / "sweep.json").exists()
    (run,) = out.glob("points/trained-*")
    with patient_lock(run):
        assert not (run / "run" / "provenance.json").exists(), "it was killed while it trained"
    for target in (out, tmp_path / "unbroken"):
        done = subprocess.run(
            command(config, target, "--jobs", "2"),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "matching=1.0" in done.stdout
    for name in ("sweep.json", "tradeoff.svg", "sweep.html"):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name


def patient_lock(folder: Path) -> Any:
    """A point's lock, once its orphan is gone."""
    deadline = time.monotonic() + 60
    while True:
        try:
            lock = locked(folder)
            lock.__enter__()
        except OutputError:
            assert time.monotonic() < deadline, "a job outlived its sweep"
            time.sleep(0.1)
        else:
            lock.__exit__(None, None, None)
            return locked(folder)


@pytest.mark.slow
def test_a_job_that_is_killed_is_a_failed_point_and_the_exit_code_is_1(done, place, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    points = [{"name": "long", "settings": {"loop.epochs": 5000}}]
    config = place.config(tmp_path, points=points)
    process = subprocess.Popen(
        command(config, out), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    new = next(p.folder for p in plan(load_sweep(config)) if p.name == "long")
    deadline = time.monotonic() + 300
    while not (out / "points" / new / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(
        OutputError, match="Another job is writing"
    ):  # two sweeps on one folder are locked out
        run_sweep(load_sweep(config), out)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(listed[0]), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "ended with signal SIGKILL" in re.sub(r"\s+", " ", said)
    (row,) = failed_points(read(out))
    assert (row["name"], row["stage"]) == ("long", "process")


# plans ------------------------------------------------------------------------------------------------------


def test_dry_run_lists_points_and_work_and_writes_nothing(done, place, tmp_path):
    before = sorted(done.rglob("*"))
    points = [{"settings": {"loop.epochs": 3}}]
    found = plan_sweep(place.settings(tmp_path, points=points), done)
    assert [planned.state for planned in found] == ["done"] * 5 + ["new"]
    assert (found[-1].training_images, found[-1].photos) == (3 * 24, 128)
    assert found[-1].minutes is not None
    assert sorted(done.rglob("*")) == before
    fresh = plan_sweep(place.settings(tmp_path), tmp_path / "none")
    assert [planned.state for planned in fresh] == ["new"] * 5
    assert fresh[0].minutes is None
    assert not (tmp_path / "none").exists()


def test_dry_run_on_the_command_line(place, tmp_path, monkeypatch, capsys):
    from privface.cli import main as entry

    monkeypatch.setenv("COLUMNS", "200")
    config, out = place.config(tmp_path), tmp_path / "none"
    monkeypatch.setattr(sys, "argv", ["privface", "sweep", str(config), "--out", str(out), "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        sys.exit(entry.main())
    assert not stop.value.code
    said = capsys.readouterr().out
    assert "matching=4.0" in said
    assert "5 points, 5 to do: 96 images to train on, 640 photos to protect and audit." in said
    assert not out.exists()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    with pytest.raises(SystemExit):
        sys.exit(entry.main())
    printed = json.loads(capsys.readouterr().out)
    assert (printed["schema"], printed["command"]) == ("privface.command/1", "sweep")
    assert [(row["state"], row["minutes"]) for row in printed["plan"]] == [("new", None)] * 5


def test_outcome_as_json(done, place, monkeypatch, capsys, tmp_path):
    from privface.cli import main as entry

    config, out = place.config(tmp_path), tmp_path / "out"
    shutil.copytree(done, out)
    monkeypatch.setattr(sys, "argv", ["privface", "sweep", str(config), "--out", str(out), "--json"])
    with pytest.raises(SystemExit) as stop:
        sys.exit(entry.main())
    assert not stop.value.code
    printed, document = json.loads(capsys.readouterr().out), read(out)
    for key in ("points", "front", "report"):
        assert printed[key] == document[key]
    assert printed["files"]["figures"] == str(out / "sweep.json")


def test_folders_follow_from_what_a_point_is_not_from_its_name_or_device(place, tmp_path):
    plain = plan(place.settings(tmp_path))
    base = copy.deepcopy(place.content["base"])
    base["loop"] |= {"device": "auto", "checkpoint_minutes": 1.0}
    named = [{"name": "strong", "settings": {"losses.matching": 4.0}}]
    other = plan(place.settings(tmp_path, base=base, grid=None, points=named))
    assert other[-1].name == "strong"
    assert other[-1].folder == plain[-1].folder
    assert len({point.folder for point in plain}) == 5


def test_grid_is_the_product_and_points_come_after_it(place, tmp_path):
    grid = {"losses.matching": [2, 3], "autoencoder.width": [4, 8]}
    points = [{"settings": {}}, {"name": "own", "settings": {"classifiers.0.width": 16, "seed": 9}}]
    found = plan(place.settings(tmp_path, grid=grid, points=points, baselines=None))
    assert [point.name for point in found] == [
        "originals", "matching=2, width=4", "matching=2, width=8", "matching=3, width=4", "matching=3, width=8",
        "base", "own",
    ]  # fmt: skip
    assert found[-1].training.classifiers[0].width == 16
    assert found[3].training.losses.matching == 3.0


def test_settings_with_the_same_last_word_are_named_in_full(place, tmp_path):
    grid = {"losses.matching": [1], "loop.epochs": [2], "classifiers.0.epochs": [1]}
    (found,) = (p.name for p in plan(place.settings(tmp_path, grid=grid)) if p.method == "trained")
    assert found == "losses.matching=1, loop.epochs=2, classifiers.0.epochs=1"


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"grid": None}, "grid and points are both empty"),
        ({"grid": {"losses.matching": []}}, "grid.losses.matching: List should have at least 1 item"),
        ({"grid": {"losses.matchin": [1]}}, "losses.matchin: Extra inputs are not permitted (got '1')"),
        ({"grid": {"losses.matching": [-1]}}, "greater than or equal to 0 (got '-1')"),
        ({"grid": {"losses.matching": [1, 1.0]}}, "Two points are the same in all settings that count"),
        ({"grid": {"seed.deep": [1]}}, "'seed' holds no further settings"),
        ({"grid": {"classifiers.4.width": [8]}}, "'4' holds no further settings"),
        ({"grid": {"seed": list(range(1001))}}, "1,001 points, the limit is 1,000"),
        ({"points": [{"name": "mosaic", "settings": {"seed": 1}}]}, "Two points are called 'mosaic'"),
        ({"points": [{"name": " ", "settings": {"seed": 1}}]}, "must have 1 to 60, all printable"),
        ({"baselines": [{"method": "blurr", "sigma": 1}]}, "does not match any of the expected tags"),
        ({"baselines": [{"method": "blur"}]}, "sigma: Field required"),
        ({"baselines": [{"method": "blur", "sigma": 0}]}, "greater than 0 (got '0')"),
        ({"baselines": [{"method": "pixelation", "cells": 32}]}, "cells is 32, photos have a side of 32"),
        ({"report": None}, "select and report go together"),
        ({"report": "val"}, "select and report are both 'val'"),
        ({"audit__split": "val"}, "audit.split and select exclude each other"),
        ({"audit__matchers": []}, "audit.matchers: Tuple should have at least 1 item"),
        ({"audit__colour": 1}, "audit.colour: Extra inputs are not permitted (got '1')"),
        ({"protect": {"store": "memory", "faces": "detect"}}, "leave protect.faces out"),
        ({"protect": {"store": "memory"}, "audit__size": 64}, "has size 32, audit.size is 64"),
        ({"base": "none.yaml"}, "none.yaml: No such file"),
        ({"base": {"data": {"source": "x"}}}, "base.matchers: Field required"),
        ({"audit__original": "${NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE, which is not set"),
        ({"choose": {"max_tmr_loss": 2}}, "choose.max_tmr_loss: Input should be less than or equal to 1"),
    ],
)
def test_faulty_configurations_are_named_with_a_cure(place, tmp_path, monkeypatch, changes, fragment):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(ConfigError) as caught:
        place.settings(tmp_path, **changes)
    assert fragment in caught.value.message
    assert caught.value.hint


def test_faults_have_lines_and_double_keys_are_refused(tmp_path):
    path = tmp_path / "s.yaml"
    text = "base: {data: {source: x}, matchers: [mini:m]}\ngrid:\n  seed: [1]\naudit:\n  original: x\n  matchers: [mini:m]\n"
    path.write_text(text + "  effort: hard\n")
    with pytest.raises(ConfigError, match=r"line 7: audit\.effort: Input should be 'demo'"):
        load_sweep(path)
    path.write_text(text.replace("  seed: [1]\n", "  seed: [1]\n  seed: [2]\n"))
    with pytest.raises(ConfigError, match=r"line 4: grid\.seed is given twice, first in line 3"):
        load_sweep(path)
    path.write_text("grid: [")
    with pytest.raises(ConfigError, match=r"not readable YAML.*line 1"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("changes", "options", "error", "fragment"),
    [
        ({}, {"jobs": 0}, ConfigError, "jobs is 0"),
        ({}, {"devices": ["gpu"]}, ConfigError, "'gpu' is no device"),
        ({}, {"devices": ["cuda:99"]}, ConfigError, "There is no cuda:99"),
        ({"report": "none"}, {}, PrivfaceError, "in the split 'none'"),
        ({"audit__probes": ["mini:none"]}, {}, PrivfaceError, "none"),
    ],
)
def test_what_does_not_fit_shows_before_the_work(place, tmp_path, changes, options, error, fragment):
    with pytest.raises(error) as caught:
        run_sweep(place.settings(tmp_path, **changes), tmp_path / "out", **options)
    assert fragment in caught.value.message
    assert not (tmp_path / "out").exists()


def test_too_few_people_to_audit_show_before_the_training(place, tmp_path):
    with pytest.raises(PrivfaceError, match=r"part has \d \w+ people"):
        run_sweep(place.settings(tmp_path, audit__seed=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matchers_that_are_all_trained_against_are_refused(place, world, tmp_path):
    settings = place.settings(tmp_path, audit__matchers=[f"mini:{world.matcher}"])
    with pytest.raises(ConfigError, match="trained against every one of them"):
        run_sweep(settings, tmp_path / "out")


def test_people_on_two_sides_are_refused(place, world, tmp_path):
    labels = pd.read_csv(place.root / "audited" / "labels.csv")
    labels.loc[labels.index[:1], "split"] = "test"
    labels.to_csv(tmp_path / "l.csv", index=False)
    source = f"table:{place.root / 'audited'}"
    settings = place.settings(tmp_path, audit__original=source, audit__labels=str(tmp_path / "l.csv"))
    with pytest.raises(SplitOverlapError, match="select: val and report: test share 1 people"):
        run_sweep(settings, tmp_path / "out")
    plain = {"select": None, "report": None, "audit__original": str(world.learners)}
    with pytest.raises(SplitOverlapError, match=r"training data .* share 24 people"):
        run_sweep(place.settings(tmp_path, **plain), tmp_path / "out")


def test_a_folder_that_is_no_sweep_and_one_around_the_originals_are_refused(place, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    settings = place.settings(tmp_path)
    with pytest.raises(OutputError, match="no earlier sweep"):
        run_sweep(settings, tmp_path / "mine")
    with pytest.raises(OutputError, match="inside the output folder"):
        run_sweep(settings, place.root)


def test_threads_and_devices_are_shared_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [room._threads(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert room._slots(3, ["cuda:0", "cuda:1"]) == ["cuda:0", "cuda:1", "cuda:0"]
    assert room._slots(2, []) == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [room._visible(device) for device in ("cuda:1", "cpu")] == ["6", ""]


# the choice -------------------------------------------------------------------------------------------------


def point(name: str, leakage: float | None, tmr: float | None, before: float = 1.0) -> dict[str, Any]:
    values = {"leakage": leakage, "tmr": tmr, "tmr_before": before}
    return {"name": name, **{k: {"value": v, "low": v, "high": v} for k, v in values.items()}}


def test_choice_is_the_least_leakage_that_keeps_matching_and_ties_are_stated():
    points = [
        point("lost", 0.5, 0.2), point("a", 0.7, 0.91), point("b", 0.6, 0.90), point("c", 0.6, 0.95),
        point("d", 0.6, 0.95), point("unmeasured", None, 0.99),
    ]  # fmt: skip
    found = choose(points, max_tmr_loss=0.1)
    assert (found["winner"], found["tied"], found["eligible"], found["of"]) == ("c", ["d"], 4, 6)
    none = choose(points, max_tmr_loss=0.01)
    assert none["winner"] is None
    assert "the least loss is 0.050" in none["reason"]
    assert choose([points[-1]], max_tmr_loss=1.0)["reason"].endswith("none has both figures")


# documents --------------------------------------------------------------------------------------------------


def leaves(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        stack = [field.annotation]
        while stack:
            kind = stack.pop()
            stack += getattr(kind, "__args__", ())
            if isinstance(kind, type) and issubclass(kind, BaseModel) and "Sweep" in kind.__name__ + "Sweep":
                names |= leaves(kind) if kind.__module__.endswith("sweep_plan") else set()
    return names


def test_every_setting_is_explained_and_the_page_s_example_is_valid(tmp_path):
    page = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
    assert [name for name in sorted(leaves(SweepSettings)) if f"`{name}`" not in page] == []
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.yaml").write_text("data: {source: photos}\nmatchers: [mini:m]\n")
    (tmp_path / "sweep.yaml").write_text(example)
    assert len(plan(load_sweep(tmp_path / "sweep.yaml"))) > 10


def test_the_experiment_s_configuration_is_valid(monkeypatch):
    monkeypatch.setenv("PRIVFACE_DATA", "/data")
    monkeypatch.setenv("PRIVFACE_MODELS", "/models")
    folder = ROOT / "experiments" / "20_trade_off"
    settings = load_sweep(folder / "sweep.yaml")
    assert settings.base == load_settings(ROOT / "experiments" / "01_san_on_lfw" / "config.yaml")
    methods = [found.method for found in plan(settings)]
    assert set(methods) == {
        "originals",
        "blur",
        "pixelation",
        "noise",
        "jpeg",
        "down-up",
        "k-same",
        "trained",
    }
    assert settings.select != settings.report


def test_k_same_averages_training_people_in_memory(place, here, tmp_path):
    settings = place.settings(
        tmp_path,
        grid={"losses.matching": [1.0]},
        baselines=[{"method": "k-same", "k": 3}],
        protect={"store": "memory"},
    )
    made = plan(settings)[1]
    result = run_point(tmp_path / "out", made, settings, split="val")
    assert made.method == "k-same"
    assert result.figures["ssim"].value < 1
    assert not list((tmp_path / "out").rglob("*.png")), "no photo is kept"
