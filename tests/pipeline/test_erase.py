"""Fitting and applying erasers to tables on disk."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from privface.attributes import parse_attributes
from privface.cli.main import app
from privface.data import read_embeddings, stream_embeddings
from privface.erasers import LEACE, METHODS, load_eraser
from privface.errors import DataError, SplitOverlapError
from privface.pipeline import AuditOptions, audit_tables
from privface.pipeline import erase as room
from privface.pipeline.erase import EraserSource, apply_eraser, fit_eraser
from privface.pipeline.tables import pair_tables


def frame(people: int = 60, *, photos: int = 3, size: int = 8, seed: int = 0, lean: float = 2.0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    own = rng.normal(size=(people, size))
    own[:, 0] += np.where(np.arange(people) % 2, lean, -lean)
    return pd.DataFrame(
        {
            "file": [f"{k}.png" for k in range(person.size)],
            "identity": [f"s{seed}p{k}" for k in person],
            "gender": ["female" if k % 2 else "male" for k in person],
            "embedding": list((own[person] + 0.3 * rng.normal(size=(person.size, size))).astype(np.float32)),
        }
    )


def vectors(path) -> np.ndarray:
    return read_embeddings(path).vectors


def test_fit_and_apply_are_the_library_s_own(tmp_path):
    table = frame()
    table.to_parquet(tmp_path / "e.parquet")
    summary = fit_eraser(
        EraserSource(tmp_path / "e.parquet"), tmp_path / "out", method="leace", max_per_person=0
    )
    assert (summary.rows, summary.people, summary.skipped, summary.unlabelled) == (180, 60, 0, 0)
    x = np.stack(table["embedding"])
    y = (table["gender"] == "male").to_numpy(int)
    expected = LEACE().fit(x, y).transform(x)
    apply_eraser(tmp_path / "out", tmp_path / "e.parquet", tmp_path / "o.parquet")
    np.testing.assert_allclose(vectors(tmp_path / "o.parquet"), expected, atol=1e-5)
    written = pd.read_parquet(tmp_path / "o.parquet")
    assert list(written.columns) == ["file", "identity", "embedding"]  # the label would tell what was erased
    assert written["file"].tolist() == table["file"].tolist()
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "o.parquet").stat().st_mode & 0o777 == 0o600
    apply_eraser(tmp_path / "out", tmp_path / "e.parquet", tmp_path / "l.parquet", keep_labels=True)
    assert pd.read_parquet(tmp_path / "l.parquet")["gender"].tolist() == table["gender"].tolist()


@pytest.mark.parametrize("method", ["leace", "transport"])
def test_parts_of_a_table_give_the_eraser_of_the_whole(tmp_path, monkeypatch, method):
    frame().to_parquet(tmp_path / "e.parquet")
    source = EraserSource(tmp_path / "e.parquet")
    fit_eraser(source, tmp_path / "whole", method=method)
    monkeypatch.setattr(room, "FIT_PART", 7)
    monkeypatch.setattr(room, "PART", 11)
    fit_eraser(source, tmp_path / "parts", method=method)
    for name in ("whole", "parts"):
        apply_eraser(tmp_path / name, tmp_path / "e.parquet", tmp_path / f"{name}.parquet")
    np.testing.assert_allclose(
        vectors(tmp_path / "whole.parquet"), vectors(tmp_path / "parts.parquet"), atol=1e-6
    )


def test_rows_without_an_embedding_stay_empty_and_keep_their_place(tmp_path):
    table = frame()
    rows = table["embedding"].tolist()
    rows[3], rows[5], rows[9] = None, np.zeros(8, np.float32), np.array([np.nan] + [1.0] * 7, np.float32)
    table["embedding"] = rows
    table.to_parquet(tmp_path / "e.parquet")
    summary = fit_eraser(EraserSource(tmp_path / "e.parquet"), tmp_path / "out", method="leace")
    assert summary.skipped == 3
    done = apply_eraser(tmp_path / "out", tmp_path / "e.parquet", tmp_path / "o.parquet")
    assert (done.erased, done.skipped) == (177, 3)
    empty = pd.read_parquet(tmp_path / "o.parquet")["embedding"].isna()
    assert np.flatnonzero(empty).tolist() == [3, 5, 9]


def test_people_with_many_photos_do_not_decide_the_fit(tmp_path):
    table = frame(photos=9)
    table.to_parquet(tmp_path / "e.parquet")
    summary = fit_eraser(
        EraserSource(tmp_path / "e.parquet"), tmp_path / "out", method="leace", max_per_person=2
    )
    assert (summary.rows, summary.capped) == (120, 420)


def test_a_long_table_is_sampled_for_methods_that_need_memory(tmp_path, monkeypatch):
    frame(200).to_parquet(tmp_path / "e.parquet")
    monkeypatch.setattr(room, "FIT_PART", 50)
    seen = []
    monkeypatch.setattr(METHODS["mean-projection"], "fit", lambda _, x, y: seen.append((x, y)))
    monkeypatch.setattr(room, "save_eraser", lambda *_, **__: None)
    fit_eraser(EraserSource(tmp_path / "e.parquet"), tmp_path / "out", method="mean-projection", max_rows=120)
    rows, labels = seen[0]
    assert rows.shape == (120, 8)
    whole = vectors(tmp_path / "e.parquet")
    place = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in rows]
    assert place == sorted(set(place))  # no row twice, in order
    assert 250 < np.mean(place) < 350  # from everywhere
    assert set(labels) == {0, 1}


def test_labels_split_and_matcher_choose_rows(tmp_path):
    both = pd.concat([frame(seed=0).assign(matcher="a"), frame(seed=1).assign(matcher="b")])
    both.drop(columns=["gender", "identity"]).to_parquet(tmp_path / "e.parquet")
    labels = frame().drop(columns="embedding").assign(split=["train"] * 90 + ["val"] * 90)
    labels.to_csv(tmp_path / "l.csv", index=False)
    source = EraserSource(tmp_path / "e.parquet", tmp_path / "l.csv", "train", "b")
    assert fit_eraser(source, tmp_path / "out", method="leace").rows == 90
    assert load_eraser(tmp_path / "out").meta["matcher"] == "b"
    with pytest.raises(DataError, match="choose it with --matcher"):
        fit_eraser(EraserSource(tmp_path / "e.parquet", tmp_path / "l.csv"), tmp_path / "x", method="leace")


def test_more_sets_reach_the_network(tmp_path):
    frame().to_parquet(tmp_path / "e.parquet")
    frame(seed=3).to_parquet(tmp_path / "m.parquet")
    quick = {"steps": 5, "batch_size": 32, "width": 8}
    for name, more in (("one", ()), ("two", (EraserSource(tmp_path / "m.parquet"),))):
        fit_eraser(
            EraserSource(tmp_path / "e.parquet"),
            tmp_path / name,
            method="adversarial",
            settings=quick,
            more=more,
        )
        apply_eraser(tmp_path / name, tmp_path / "e.parquet", tmp_path / f"{name}.parquet")
    assert not np.array_equal(vectors(tmp_path / "one.parquet"), vectors(tmp_path / "two.parquet"))


def test_an_audit_refuses_the_eraser_s_people_and_marks_its_matcher_as_seen(tmp_path):
    frame(80, size=12).to_parquet(tmp_path / "fit.parquet")
    frame(80, size=12, seed=1).to_parquet(tmp_path / "e.parquet")
    fit_eraser(EraserSource(tmp_path / "fit.parquet"), tmp_path / "p", method="leace")
    options = AuditOptions(effort="quick", resamples=20)
    for name in ("fit", "e"):
        apply_eraser(tmp_path / "p", tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet")
    with pytest.raises(SplitOverlapError, match="80 audited people"):
        audit_tables(
            tmp_path / "fit.parquet", tmp_path / "fit-out.parquet",
            out=tmp_path / "x", options=options, eraser=tmp_path / "p",
        )  # fmt: skip
    for eraser, seen in ((None, None), (tmp_path / "p", True)):
        audit_tables(
            tmp_path / "e.parquet", tmp_path / "e-out.parquet",
            out=tmp_path / "audit", options=options, eraser=eraser,
        )  # fmt: skip
        document = json.loads((tmp_path / "audit" / "audit.json").read_text())
        assert {row["seen"] for row in document["matching"]} == {seen}


def test_an_audit_reads_the_labelled_rows_of_its_split(tmp_path):
    table = frame(6).assign(split=["train", "val"] * 9)
    table.loc[1, "gender"] = ""
    table.to_parquet(tmp_path / "e.parquet")
    whole = read_embeddings(tmp_path / "e.parquet")
    data = pair_tables(whole, whole, split="val")
    assert data.files == tuple(f"{k}.png" for k in range(3, 18, 2))
    assert data.genders.tolist() == [int(word == "male") for word in table["gender"][3::2]]


def test_several_attributes_are_erased_at_once(tmp_path):
    table = frame(900, photos=1)
    rng = np.random.default_rng(1)
    age = rng.integers(10, 70, len(table))
    # told by both together
    side = np.where(table["gender"] == "male", 1.5, -1.5) * np.where(age >= 40, 1, -1)
    x = np.stack(table["embedding"])
    x[:, 1] += np.where(age >= 40, 2.0, -2.0)
    x[:, 2] += side
    table = table.assign(embedding=list(x), age=[str(years) if years > 12 else "" for years in age])
    table.to_parquet(tmp_path / "e.parquet")
    wanted = parse_attributes(["gender", "age=16,40"])
    source = EraserSource(tmp_path / "e.parquet")
    summary = fit_eraser(source, tmp_path / "out", method="transport", attributes=wanted)
    assert summary.rows == (age >= 16).sum()
    assert summary.unlabelled == (age < 16).sum()
    apply_eraser(tmp_path / "out", tmp_path / "e.parquet", tmp_path / "erased.parquet")
    erased = read_embeddings(tmp_path / "erased.parquet")
    assert not {"gender", "age"} & set(erased.labels)
    old, cells = age >= 40, 2 * (table["gender"] == "male").to_numpy(int) + (age >= 40)
    for labels, before in ((table["gender"] == "male", 0.9), (old, 0.9), (cells, 0.8)):
        read = [
            QuadraticDiscriminantAnalysis(reg_param=0.01).fit(rows[:450], labels[:450]).predict(rows[450:])
            for rows in (x, erased.vectors)
        ]
        told = [balanced_accuracy_score(labels[450:], guess) for guess in read]
        assert told[0] > before
        assert told[1] < 1 / len(set(labels)) + 0.08


@pytest.mark.parametrize("suffix", ["parquet", "csv", "npz"])
def test_every_format_can_be_read_in_parts(tmp_path, suffix):
    table = frame(10)
    path = tmp_path / f"t.{suffix}"
    x = np.stack(table["embedding"])
    if suffix == "parquet":
        table.to_parquet(path)
    elif suffix == "csv":
        pd.DataFrame(x, columns=[f"e{k}" for k in range(8)]).assign(gender=table["gender"]).to_csv(
            path, index=False
        )
    else:
        np.savez(path, embeddings=x, genders=table["gender"].to_numpy(str))
    parts = list(stream_embeddings(path, rows=12))
    assert [len(part) for part in parts] == [12, 12, 6]
    np.testing.assert_allclose(np.concatenate([p.vectors for p in parts]), x, atol=1e-6)
    assert pd.concat([p.labels for p in parts])["gender"].tolist() == table["gender"].tolist()
    files = pd.concat([p.labels for p in parts])["file"]
    assert files.is_unique


def test_a_damaged_part_says_so_and_leaves_nothing_behind(tmp_path):
    frame().to_parquet(tmp_path / "e.parquet")
    fit_eraser(EraserSource(tmp_path / "e.parquet"), tmp_path / "out", method="leace")
    good = bytearray((tmp_path / "e.parquet").read_bytes())
    start = pq.read_metadata(tmp_path / "e.parquet").row_group(0).column(3).data_page_offset
    good[start : start + 400] = b"\xff" * 400
    (tmp_path / "bad.parquet").write_bytes(good)
    with pytest.raises(DataError, match="damaged"):
        apply_eraser(tmp_path / "out", tmp_path / "bad.parquet", tmp_path / "o.parquet")
    assert not (tmp_path / "o.parquet").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_command_line(tmp_path):
    frame().to_parquet(tmp_path / "e.parquet")

    def run(*parts: object):
        return CliRunner().invoke(app, [str(part) for part in parts])

    listed = run("erase", "methods")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in METHODS)
    assert "Osorio-Roig" in listed.output
    fit = ("erase", "fit", tmp_path / "e.parquet", "--method", "leace", "--out", tmp_path / "l")
    fitted = run(*fit, "--set", "normalize=true")
    assert fitted.exit_code == 0, fitted.output
    assert "breaks its certificate" in fitted.output
    again = run(*fit)
    assert again.exit_code == 1
    assert "holds an eraser" in str(again.exception)
    applied = run("erase", "apply", tmp_path / "l", tmp_path / "e.parquet", tmp_path / "o.parquet")
    assert applied.exit_code == 0, applied.output
    assert "180 embeddings erased" in applied.output
