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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from privface.audit import PixelProbe
from privface.cli.main import app
from privface.config import load_settings
from privface.data import generate_faces, write_faces
from privface.errors import ConfigError, OutputError, PrivfaceError, SplitOverlapError
from privface.models import CompactResNet, load_matcher, save_network
from privface.pipeline import battery
from privface.pipeline import sweep as room
from privface.pipeline.provenance import person_digest
from privface.pipeline.sweep import choose, failed_points, run_sweep, sentences
from privface.pipeline.sweep_job import run_job
from privface.pipeline.sweep_plan import (
    ChooseSettings,
    Point,
    PointSettings,
    SweepAudit,
    SweepProtect,
    SweepSettings,
    load_sweep,
    plan,
)
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
        "baselines": ["baseline:blur,sigma=2", "baseline:pixelation,cells=6"],
        "select": "val",
        "report": "test",
        "choose": {"max_tmr_loss": 1.0},
    }  # fmt: skip
    return Place(root, content)


def work_here(points: list[Point], split: str | None, jobs: int, progress: Any) -> None:
    """The work of a sweep without processes, which take seconds each to start."""
    for point in points:
        run_job(point, split)


def cheaply(patch: pytest.MonkeyPatch) -> None:
    """In this process, and of the attackers on pictures the quickest alone: a sweep compares audits, whatever they send."""
    patch.setattr(room, "_work", work_here)
    patch.setattr(battery, "image_probes", lambda *_, **__: [PixelProbe()])


@pytest.fixture(scope="module")
def done(place, one_thread, tmp_path_factory) -> Path:
    """A finished sweep; nobody writes into it."""
    out = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        cheaply(patch)
        run_sweep(place.settings(tmp_path_factory.mktemp("c")), out)
    return out


@pytest.fixture
def again(place, done, tmp_path, monkeypatch) -> Callable[..., dict[str, Any]]:
    """Goes on with a copy of the finished sweep, some settings changed; gives the document."""
    cheaply(monkeypatch)
    shutil.copytree(done, tmp_path / "out")
    return lambda **changes: run_sweep(place.settings(tmp_path, **changes), tmp_path / "out")


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text())


# end to end -------------------------------------------------------------------------------------------------


NAMES = ["originals", "blur,sigma=2", "pixelation,cells=6", "matching=1.0", "matching=4.0"]


def test_points_and_baselines_stand_in_one_document_picture_and_page(done):
    document = read(done)
    assert document["schema"] == "privface.sweep/1"
    assert [row["name"] for row in document["points"]] == NAMES
    for row in document["points"]:
        assert row["status"] == "done"
        assert 0.5 <= row["leakage"]["low"] <= row["leakage"]["value"] <= row["leakage"]["high"] <= 1
        assert 0 <= row["tmr"]["value"] <= 1
        assert row["matcher"] == "mini:fresh", "the one that no point has met, for baselines too"
        assert {"worst_frozen", "psnr", "tmr_p_p_0.01"} <= row["figures"].keys()
        photos = list((done / row["folder"]).glob("protected-val-*/**/*.png"))
        assert len(photos) == (0 if row["name"] == "originals" else 128)
    originals = document["points"][0]
    assert originals["tmr"] == originals["tmr_before"]
    assert originals["figures"]["ssim"]["value"] == pytest.approx(1.0)
    assert set(document["front"]) == {r["name"] for r in document["points"] if r["dominated_by"] is None}
    assert [row["method"] for row in document["against"]] == ["originals", "blur", "pixelation"]
    for file in ("sweep.html", "tradeoff.svg"):
        assert all(name in (done / file).read_text() for name in NAMES)
    with Image.open(done / "tradeoff.png") as drawn:
        assert drawn.size[0] > 1000
    assert (done / "report-split.html").is_file()


def test_winner_is_chosen_on_one_split_and_reported_on_the_other(done):
    document = read(done)
    selection, report = document["selection"], document["report"]
    trained = [row for row in document["points"] if row["method"] == "trained"]
    assert selection["winner"] == min(trained, key=lambda row: row["leakage"]["value"])["name"]
    assert [row["name"] for row in report["points"]] == [*NAMES[:3], selection["winner"]]
    assert report["split"] == "test"
    assert report["earlier_looks"] == []
    loser = next(row for row in trained if row["name"] != selection["winner"])
    assert not list((done / loser["folder"]).glob("*test*")), "others are not shown to the report people"
    winner = report["points"][-1]
    assert winner["leakage"] != next(r for r in trained if r["name"] == selection["winner"])["leakage"]


def test_done_points_are_not_done_again_and_the_bytes_are_the_same(done, place, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(done, out)

    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (out / "points").rglob("*") if p.is_file()}

    before = times()
    monkeypatch.setattr(room, "_start", lambda *_, **__: pytest.fail("nothing is left to do"))
    command = ["sweep", str(place.config(tmp_path)), "--out", str(out), "--jobs", "2", "--json"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    printed, document = json.loads(said.stdout), read(done)
    for key in ("points", "front", "report"):
        assert printed[key] == document[key]
    assert times() == before
    for name in ("sweep.json", "tradeoff.svg", "tradeoff.png", "sweep.html"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_selection_never_looks_at_the_report_split(done, place, again, tmp_path):
    """Other photos of the report people: the same choice, and not a readable file of theirs was needed."""
    shutil.copytree(place.root / "audited", tmp_path / "audited")
    labels = pd.read_csv(tmp_path / "audited" / "labels.csv")
    for file in labels["file"][labels["split"] == "test"]:
        (tmp_path / "audited" / file).write_bytes(b"no photo")
    for audit in (tmp_path / "out").glob("points/*/audit-*"):
        shutil.rmtree(audit)
    document, first = again(audit__original=str(tmp_path / "audited")), read(done)
    assert document["selection"] == first["selection"]
    for row in (*document["points"], *first["points"]):
        del row["figures"]  # file sizes among them
    assert document["points"] == first["points"]
    assert [row["status"] for row in document["report"]["points"]] == ["failed"] * 4


def test_without_a_report_split_there_is_no_winner(done, again):
    """The audits of `val` serve again: they do not depend on what they are for."""
    document = again(select=None, report=None, audit__split="val")
    assert document["selection"] is None
    assert document["report"] is None
    assert document["points"] == read(done)["points"]


def test_audits_of_a_split_of_a_longer_name_are_no_looks_at_the_report_split(place, tmp_path):
    settings = place.settings(tmp_path, select="test-dev")
    one, other = (point for point in plan(settings, tmp_path) if point.training is not None)
    for point, split in ((other, "test-dev"), (one, "test-dev")):
        report = point.place("audit", split) / "report.html"
        report.parent.mkdir(parents=True)
        report.touch()
    assert room._earlier_looks(one, "test") == []
    (other.place("audit", "test")).mkdir()
    (other.place("audit", "test") / "report.html").touch()
    assert room._earlier_looks(one, "test") == [other.path.name]


def test_a_later_winner_is_told_that_the_report_people_were_looked_at_before(done, again):
    winner = read(done)["selection"]["winner"]
    document = again(grid={"losses.matching": [4.0 if winner == "matching=1.0" else 1.0]})
    assert document["report"]["winner"] != winner
    assert len(document["report"]["earlier_looks"]) == 1


def test_a_point_that_fails_is_recorded_and_stops_no_other(again):
    document = again(points=[{"name": "torn", "settings": {"classifiers.0.spec": "mini:none"}}])
    (row,) = failed_points(document)
    assert (row["name"], row["stage"]) == ("torn", "train")
    assert row["reason"]
    assert sum(r["status"] == "done" for r in document["points"]) == 5
    assert document["selection"]["winner"] != "torn", "what failed cannot win"
    assert f"torn failed (train): {row['reason']}" in sentences(document)


# processes --------------------------------------------------------------------------------------------------


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "privface", "sweep", str(config), "--out", str(out), *more]


@pytest.mark.long  # test_fit.py kills one training and takes it up again
def test_killed_and_resumed_equals_uninterrupted(place, one_thread, tmp_path, monkeypatch):
    """SIGKILL of the sweep in the middle of a training; its jobs die with it, and what they had is taken up."""
    base = copy.deepcopy(place.content["base"])
    base["loop"]["epochs"] = 20
    config = place.config(tmp_path, base=base, grid={"losses.matching": [1.0]}, baselines=None)
    out = tmp_path / "killed"
    words = command(config, out, "--jobs", "2")
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 400
    while not list(out.glob("points/trained-*/run/resume.ckpt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (out / "sweep.json").exists()
    (point,) = out.glob("points/trained-*")
    with locked(point, patience=60):  # else a job outlived its sweep
        assert not (point / "run" / "provenance.json").exists(), "it was killed while it trained"
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "matching=1.0" in done.stdout
    monkeypatch.setattr(room, "_work", work_here)
    run_sweep(load_sweep(config), tmp_path / "unbroken")
    for name in ("sweep.json", "tradeoff.svg", "sweep.html"):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name


@pytest.mark.slow
def test_a_job_that_is_killed_is_a_failed_point_and_the_exit_code_is_1(done, place, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    points = [{"name": "long", "settings": {"loop.epochs": 5000}}]
    config = place.config(tmp_path, points=points)
    process = subprocess.Popen(
        command(config, out), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    new = next(p.path for p in plan(load_sweep(config), out) if p.name == "long")
    deadline = time.monotonic() + 300
    while not (new / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(OutputError, match="Another job is writing"):
        run_sweep(load_sweep(config), out)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(listed[0]), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "ended with signal SIGKILL" in re.sub(r"\s+", " ", said)
    (row,) = failed_points(read(out))
    assert (row["name"], row["stage"]) == ("long", "process")


# plans ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_is_done_and_writes_nothing(done, place, tmp_path):
    config = place.config(tmp_path, points=[{"settings": {"loop.epochs": 3}}])

    def states(out: Path) -> list[str]:
        before = sorted(out.rglob("*"))
        said = CliRunner().invoke(app, ["sweep", str(config), "--out", str(out), "--dry-run", "--json"])
        assert sorted(out.rglob("*")) == before
        printed = json.loads(said.stdout)
        assert (printed["schema"], printed["command"]) == ("privface.command/1", "sweep")
        assert [row["name"] for row in printed["plan"]] == [*NAMES, "epochs=3"]
        return [row["state"] for row in printed["plan"]]

    assert states(done) == ["done"] * 5 + ["new"]
    new = plan(load_sweep(config), tmp_path / "out")[-1].path
    assert states(tmp_path / "out") == ["new"] * 6
    new.mkdir(parents=True)
    assert states(tmp_path / "out") == ["new"] * 5 + ["begun"]


def test_folders_follow_from_what_a_point_is_not_from_its_name_or_device(place, tmp_path):
    plain = plan(place.settings(tmp_path), tmp_path)
    base = copy.deepcopy(place.content["base"])
    base["loop"] |= {"device": "auto", "checkpoint_minutes": 1.0}
    named = [{"name": "strong", "settings": {"losses.matching": 4.0}}]
    other = plan(place.settings(tmp_path, base=base, grid=None, points=named), tmp_path)
    assert other[-1].name == "strong"
    assert other[-1].path == plain[-1].path
    assert len({point.path for point in plain}) == 5


def test_grid_is_the_product_and_points_come_after_it(place, tmp_path):
    grid = {"losses.matching": [2, 3], "autoencoder.width": [4, 8]}
    points = [{"settings": {}}, {"name": "own", "settings": {"classifiers.0.width": 16, "seed": 9}}]
    found = plan(place.settings(tmp_path, grid=grid, points=points, baselines=None), tmp_path)
    assert [point.name for point in found] == [
        "originals", "matching=2, width=4", "matching=2, width=8", "matching=3, width=4", "matching=3, width=8",
        "base", "own",
    ]  # fmt: skip
    assert found[-1].training.classifiers[0].width == 16
    assert found[3].training.losses.matching == 3.0
    grid = {"losses.matching": [1], "loop.epochs": [2], "classifiers.0.epochs": [1]}
    found = plan(place.settings(tmp_path, grid=grid), tmp_path)
    assert found[-1].name == "losses.matching=1, loop.epochs=2, classifiers.0.epochs=1"


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"grid": None}, "grid and points make 0 points; it must be 1 to 1,000"),
        ({"grid": {"losses.matchin": [1]}}, "losses.matchin: there is no such setting (got '1')"),
        ({"grid": {"losses.matching": [1, 1.0]}}, "Two points are the same in all settings that count"),
        ({"grid": {"seed.deep": [1]}}, "'seed' holds no further settings"),
        ({"grid": {"seed": list(range(1001))}}, "make 1,001 points"),
        ({"points": [{"name": "blur,sigma=2", "settings": {}}]}, "Two points are called 'blur,sigma=2'"),
        ({"baselines": ["baseline:blurr,sigma=1"]}, "There is no baseline 'blurr'"),
        ({"baselines": ["baseline:pixelation,cells=32"]}, "cells is 32; it must be from 1 to 31"),
        ({"baselines": ["baseline:k-same,k=1"]}, "k-same has one setting, k, which is 2 or more"),
        ({"report": None}, "select and report go together"),
        ({"report": "val"}, "select and report are both 'val'"),
        ({"audit__split": "val"}, "audit.split and select exclude each other"),
        ({"audit__colour": 1}, "audit.colour: Unexpected keyword argument (got '1')"),
        ({"protect": {"store": "memory", "faces": "detect"}}, "leave protect.faces out"),
        ({"protect": {"quality": 101}}, "protect: quality is 101; it must be from 1 to 100"),
        ({"protect": {"store": "memory"}, "audit__size": 64}, "audit.size is 64, base.size 32"),
        (
            {"protect": {"store": "memory"}, "grid": {"size": [32, 64]}},
            "point 'size=64': size is 64, audit.size 32",
        ),
        ({"base": "none.yaml"}, "none.yaml: No such file"),
        ({"audit__original": "${NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE, which is not set"),
    ],
)
def test_faulty_configurations_are_named_with_a_cure(place, tmp_path, monkeypatch, changes, fragment):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(ConfigError) as caught:
        place.settings(tmp_path, **changes)
    assert fragment in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "options", "error", "fragment"),
    [
        ({}, {"jobs": 0}, ConfigError, "jobs is 0"),
        ({"audit__resamples": 1}, {}, ConfigError, "resamples is 1"),
        ({"report": "none"}, {}, PrivfaceError, "in the split 'none'"),
        ({"audit__probes": ["mini:none"]}, {}, PrivfaceError, "none"),
        ({"audit__seed": 0}, {}, PrivfaceError, "part has"),  # too few people in one part
        ({"grid": {"method": ["nonsense"]}}, {}, ConfigError, "There is no method 'nonsense'"),
        ({"grid": {"method": ["san-2018"]}}, {}, ConfigError, "with the true gender of each photo"),
        ({"base__method_options": {"colour": 1}}, {}, ConfigError, "colour"),
    ],
)
def test_what_does_not_fit_shows_before_the_work(place, tmp_path, changes, options, error, fragment):
    with pytest.raises(error) as caught:
        run_sweep(place.settings(tmp_path, **changes), tmp_path / "out", **options)
    assert fragment in caught.value.message
    assert not (tmp_path / "out").exists()


def test_matchers_that_are_all_trained_against_are_refused(place, world, tmp_path):
    settings = place.settings(tmp_path, audit__matchers=[f"mini:{world.matcher}"])
    with pytest.raises(ConfigError, match="trained against every one of"):
        run_sweep(settings, tmp_path / "out")


def test_a_method_s_own_data_and_models_count_as_met(place, world, tmp_path):
    base = copy.deepcopy(place.content["base"])
    base |= {"method": "erased-code", "method_options": {"encoders": [f"mini:{place.root / 'fresh'}"]}}
    settings = place.settings(tmp_path, base=base)
    with pytest.raises(ConfigError, match="trained against every one of"):
        run_sweep(settings, tmp_path / "out")
    base["method_options"] = {"more_data": [{"source": str(place.root / "audited"), "split": "val"}]}
    with pytest.raises(SplitOverlapError, match="share 64 people"):
        run_sweep(place.settings(tmp_path, base=base), tmp_path / "out")


def test_people_and_matchers_of_a_model_to_start_from_count_as_met(place, world, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(world.run, start)
    said = json.loads((start / "provenance.json").read_text())
    base = place.content["base"] | {"start": str(start)}
    audited = pd.read_csv(place.root / "audited" / "labels.csv")["identity"]
    (start / "provenance.json").write_text(json.dumps(said | {"people": [person_digest(audited[0])]}))
    with pytest.raises(ConfigError, match=r"1 people of .* trained the model that points start from"):
        run_sweep(place.settings(tmp_path, base=base), tmp_path / "out")
    fresh = load_matcher(f"mini:{place.root / 'fresh'}")
    met = [*said["matchers"], {"name": "fresh", "sha256": fresh.weights_sha256}]
    (start / "provenance.json").write_text(json.dumps(said | {"matchers": met}))
    with pytest.raises(ConfigError, match="trained against every one of"):
        run_sweep(place.settings(tmp_path, base=base), tmp_path / "out")


def test_a_set_without_genders_and_people_on_two_sides_are_refused(place, world, tmp_path):
    labels = pd.read_csv(place.root / "audited" / "labels.csv")

    def relabelled(table: pd.DataFrame, **changes: Any) -> SweepSettings:
        table.to_csv(tmp_path / "l.csv", index=False)
        source = f"table:{place.root / 'audited'}"
        changes |= {"audit__original": source, "audit__labels": str(tmp_path / "l.csv")}
        return place.settings(tmp_path, **changes)

    species = relabelled(labels.rename(columns={"gender": "species"}), audit__attributes=["species"])
    with pytest.raises(ConfigError, match="has a gender label, and a sweep ranks points"):
        run_sweep(species, tmp_path / "out")
    labels.loc[labels.index[:1], "split"] = "test"
    with pytest.raises(SplitOverlapError, match="select: val and report: test share 1 people"):
        run_sweep(relabelled(labels), tmp_path / "out")
    learners = place.settings(tmp_path, select=None, report=None, audit__original=str(world.learners))
    with pytest.raises(SplitOverlapError, match=r"training data .* share 24 people"):
        run_sweep(learners, tmp_path / "out")


def test_a_folder_that_holds_something_else_is_refused(place, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for folder in (tmp_path / "mine", place.root):
        with pytest.raises(OutputError, match="no earlier sweep"):
            run_sweep(place.settings(tmp_path), folder)


def test_threads_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def seen(jobs: int) -> list[str]:
        return [share["CUDA_VISIBLE_DEVICES"] for share in room._shares(jobs)]

    assert [seen(jobs) for jobs in (1, 2, 3)] == [["0,1"], ["0", "1"], ["0", "1", "0"]]
    assert [share["OMP_NUM_THREADS"] for share in room._shares(3)] == ["2", "2", "2"]
    assert len(room._shares(16)) == 16
    assert room._shares(16)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert seen(2) == ["4,7", "6"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert seen(2) == ["", ""]


# the choice -------------------------------------------------------------------------------------------------


def point(name: str, leakage: float | None, tmr: float | None, before: float = 1.0) -> dict[str, Any]:
    values = {"leakage": leakage, "tmr": tmr, "tmr_before": before}
    row = {"name": name, "method": "trained", "status": "done"}
    return {**row, **{key: {"value": value} for key, value in values.items()}}


def test_choice_is_the_least_leakage_that_keeps_matching_and_ties_are_stated():
    points = [
        point("lost", 0.5, 0.2), point("a", 0.7, 0.91), point("b", 0.6, 0.90), point("c", 0.6, 0.95),
        point("d", 0.6, 0.95), point("unmeasured", None, 0.99),
    ]  # fmt: skip
    found = choose(points, max_tmr_loss=0.1)
    assert (found["winner"], found["tied"]) == ("c", ["d"])
    none = choose(points, max_tmr_loss=0.01)
    assert none["winner"] is None
    assert "the least loss is 0.050" in none["reason"]
    assert choose([points[-1]], max_tmr_loss=1.0)["reason"].endswith("none has both figures")


# documents --------------------------------------------------------------------------------------------------


def test_every_setting_is_explained_and_the_page_s_example_is_valid(tmp_path):
    page = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
    names = {field.name for field in dataclasses.fields(SweepAudit)}
    for kind in (SweepSettings, PointSettings, SweepProtect, ChooseSettings):
        names |= kind.model_fields.keys()
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.yaml").write_text("data: {source: photos}\nmatchers: [mini:m]\n")
    (tmp_path / "sweep.yaml").write_text(example)
    assert len(plan(load_sweep(tmp_path / "sweep.yaml"), tmp_path)) > 10


def test_the_experiment_s_configuration_is_valid(monkeypatch):
    monkeypatch.setenv("PRIVFACE_DATA", "/data")
    monkeypatch.setenv("PRIVFACE_MODELS", "/models")
    folder = ROOT / "experiments" / "20_trade_off"
    settings = load_sweep(folder / "sweep.yaml")
    assert settings.base == load_settings(ROOT / "experiments" / "01_san_on_lfw" / "config.yaml")
    methods = {found.method for found in plan(settings, folder)}
    assert methods == {"originals", "trained", "blur", "pixelation", "noise", "jpeg", "down-up", "k-same"}
    assert settings.select != settings.report


def test_k_same_averages_training_people_in_memory(place, one_thread, tmp_path):
    settings = place.settings(tmp_path, baselines=["baseline:k-same,k=3"], protect={"store": "memory"})
    made = plan(settings, tmp_path / "out")[1]
    assert made.method == "k-same"
    assert run_job(made, "val")
    assert made.result("val").figures["ssim"].value < 1
    assert not list((tmp_path / "out").rglob("*.png")), "no photo is kept"
