"""The demo on a scale that says nothing about faces and everything about the plumbing."""

from __future__ import annotations

import numpy as np
import pytest

from privface.audit import AuditResult
from privface.errors import DataError, OutputError
from privface.images import decode_image
from privface.pipeline.demo import MARKER, DemoSize, run_demo
from privface.pipeline.provenance import read_provenance
from privface.protect import read_manifest

TINY = DemoSize(
    model_people=12,
    model_photos=3,
    matcher_epochs=1,
    classifier_epochs=1,
    train_people=40,
    train_photos=2,
    train_epochs=4,
    code=32,
    drop=16,
    audit_people=64,
    audit_photos=2,
    cnn_epochs=1,
    resamples=20,
    side=32,
)


@pytest.fixture(scope="module")
def stages():
    return []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def outcome(place, one_thread, stages):
    return run_demo(place, seed=1, size=TINY, progress=lambda *what: stages.append(what))


def test_no_person_is_in_two_groups(place, outcome):
    trained = {folder.name for folder in (place / "training-faces").iterdir() if folder.is_dir()}
    audited = {folder.name for folder in (place / "faces").iterdir() if folder.is_dir()}
    assert len(trained) == TINY.train_people
    assert len(audited) == TINY.audit_people
    first = {f"p{number:05d}" for number in range(TINY.model_people)}
    assert not trained & audited
    assert not first & (trained | audited)


def test_one_matcher_and_the_classifier_are_unseen(place, outcome):
    document = outcome.to_dict()
    assert {row["matcher"]: row["seen"] for row in document["matching"]} == {
        "mini:matcher": True,
        "mini:matcher-second": True,
        "mini:matcher-unseen": False,
        "white-box:code": True,
    }
    frozen = {row["probe"]: row["seen"] for row in document["leakage"] if row["kind"] == "frozen"}
    assert frozen == {"mini:classifier": False}
    provenance = read_provenance(place / "run")
    assert [m["name"] for m in provenance["matchers"]] == ["mini:matcher", "mini:matcher-second"]
    assert provenance["classifiers"] == []


def test_every_photo_is_drawn_anew_and_the_figures_are_those_of_the_file(place, outcome):
    assert AuditResult.load(place / "audit.json").to_bytes() == outcome.to_bytes()
    assert "<html" in (place / "report.html").read_text(encoding="utf-8")
    rows = read_manifest(place / "protected")
    assert len(rows) == TINY.audit_people * TINY.audit_photos
    assert {row.status for row in rows} == {"ok"}
    document = outcome.to_dict()
    assert document["quality"]["identical_images"] == 0
    assert document["data"]["enrolled_protected"] == len(rows)


def test_the_sheet_shows_originals_above_protected_photos(place, outcome):
    sheet = decode_image(place / "contact_sheet.png")
    row = next(r for r in read_manifest(place / "protected") if r.output is not None)
    protected = decode_image(place / "protected" / str(row.output))
    side = TINY.side
    first = sheet[4 : 4 + side, 4 : 4 + side], sheet[5 + side : 5 + 2 * side, 4 : 4 + side]
    np.testing.assert_array_equal(first[1], protected)
    assert not np.array_equal(first[0], first[1])


def test_progress_names_the_stages_in_order(outcome, stages):
    names = list(dict.fromkeys(name for name, _, _ in stages))
    wanted = [
        "train matchers and a gender classifier",
        "train",
        "protect",
        "train attackers",
    ]
    assert [name for name in names if name in wanted] == wanted
    last = {name: (done, total) for name, done, total in stages}
    assert all(last[name][0] == last[name][1] for name in wanted)


def test_a_folder_that_is_no_demo_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="no earlier demo"):
        run_demo(tmp_path, size=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="Cannot write"):
        run_demo(tmp_path / "thesis.txt", size=TINY)
    with pytest.raises(DataError, match="seed"):
        run_demo(tmp_path / "demo", seed=-1, size=TINY)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_an_earlier_demo_starts_afresh_with_equal_figures_and_keeps_other_files(place, outcome, tmp_path):
    out = tmp_path / "demo"
    (out / "run").mkdir(parents=True)
    (out / "run" / "half-written").write_text("")
    (out / MARKER).write_text("")
    (out / "audit.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    again = run_demo(out, seed=1, size=TINY)
    assert again.to_bytes() == outcome.to_bytes()
    assert (out / "audit.json").read_bytes() == outcome.to_bytes()
    assert (out / "contact_sheet.png").read_bytes() == (place / "contact_sheet.png").read_bytes()
    assert not (out / "run" / "half-written").exists()
    assert (out / "notes.txt").read_text() == "mine"
