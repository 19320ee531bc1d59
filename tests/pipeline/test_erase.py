"""Fitting and applying erasers to tables on disk."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from privface.errors import AuditError, DataError, LabelError, SplitOverlapError
from privface.pipeline import AuditOptions, audit_tables
from privface.pipeline import erase as room
from privface.pipeline.erase import EraserSource, apply_eraser, fit_eraser
from privface.pipeline.inspect import AttackerSet
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


@pytest.fixture
def table(tmp_path):
    """The usual table, which lies at ``source``."""
    table = frame()
    table.to_parquet(tmp_path / "e.parquet")
    return table


@pytest.fixture
def source(tmp_path):
    return EraserSource(tmp_path / "e.parquet")


def test_fit_and_apply_are_the_library_s_own(table, source, tmp_path):
    summary = fit_eraser(source, tmp_path / "out", method="leace", max_per_person=0)
    assert (summary.rows, summary.people, summary.skipped, summary.unlabelled) == (180, 60, 0, 0)
    x = np.stack(table["embedding"])
    y = (table["gender"] == "male").to_numpy(int)
    expected = LEACE().fit(x, y).transform(x)
    apply_eraser(tmp_path / "out", source.table, tmp_path / "o.parquet")
    np.testing.assert_allclose(vectors(tmp_path / "o.parquet"), expected, atol=1e-5)
    written = pd.read_parquet(tmp_path / "o.parquet")
    assert list(written.columns) == ["file", "identity", "embedding"]  # the label would tell what was erased
    assert written["file"].tolist() == table["file"].tolist()
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "o.parquet").stat().st_mode & 0o777 == 0o600
    apply_eraser(tmp_path / "out", source.table, tmp_path / "l.parquet", keep_labels=True)
    assert pd.read_parquet(tmp_path / "l.parquet")["gender"].tolist() == table["gender"].tolist()


@pytest.mark.parametrize("method", ["leace", "transport"])
def test_parts_of_a_table_give_the_eraser_of_the_whole(table, source, tmp_path, monkeypatch, method):
    fit_eraser(source, tmp_path / "whole", method=method)
    monkeypatch.setattr(room, "FIT_PART", 7)
    monkeypatch.setattr(room, "PART", 11)
    fit_eraser(source, tmp_path / "parts", method=method)
    erased = []
    for name in ("whole", "parts"):
        apply_eraser(tmp_path / name, source.table, tmp_path / f"{name}.parquet")
        erased.append(vectors(tmp_path / f"{name}.parquet"))
    np.testing.assert_allclose(*erased, atol=1e-6)


def test_rows_without_an_embedding_stay_empty_and_keep_their_place(table, source, tmp_path):
    rows = table["embedding"].tolist()
    rows[3], rows[5], rows[9] = None, np.zeros(8, np.float32), np.array([np.nan] + [1.0] * 7, np.float32)
    table.assign(embedding=rows).to_parquet(source.table)
    assert fit_eraser(source, tmp_path / "out", method="leace").skipped == 3
    done = apply_eraser(tmp_path / "out", source.table, tmp_path / "o.parquet")
    assert (done.erased, done.skipped) == (177, 3)
    empty = pd.read_parquet(tmp_path / "o.parquet")["embedding"].isna()
    assert np.flatnonzero(empty).tolist() == [3, 5, 9]


def test_people_with_many_photos_do_not_decide_the_fit(source, tmp_path):
    frame(photos=9).to_parquet(source.table)
    summary = fit_eraser(source, tmp_path / "out", method="leace", max_per_person=2)
    assert (summary.rows, summary.capped) == (120, 420)


def test_a_long_table_is_sampled_for_methods_that_need_memory(source, tmp_path, monkeypatch):
    frame(200).to_parquet(source.table)
    monkeypatch.setattr(room, "FIT_PART", 50)
    seen = []
    monkeypatch.setattr(METHODS["mean-projection"], "fit", lambda _, x, y: seen.append((x, y)))
    monkeypatch.setattr(room, "save_eraser", lambda *_, **__: None)
    monkeypatch.setattr(room, "NEEDS_MEMORY_ROWS", 120)
    fit_eraser(source, tmp_path / "out", method="mean-projection")
    ((rows, labels),) = seen
    assert rows.shape == (120, 8)
    whole = vectors(source.table)
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
    frame(seed=2).assign(matcher="a").to_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="2 matchers: a, b"):
        fit_eraser(source, tmp_path / "x", method="adversarial", more=[EraserSource(tmp_path / "m.parquet")])


def test_a_matcher_outside_the_split_does_not_count(tmp_path):
    table = pd.concat(
        [frame(seed=s).assign(matcher=m, split=w) for s, m, w in ((0, "a", "train"), (1, "b", "val"))]
    )
    table.to_parquet(tmp_path / "e.parquet")
    fit_eraser(EraserSource(tmp_path / "e.parquet", split="train"), tmp_path / "out", method="leace")
    assert load_eraser(tmp_path / "out").meta["matcher"] == "a"


def test_more_sets_reach_the_network(table, source, tmp_path):
    frame(seed=3).to_parquet(tmp_path / "m.parquet")
    fit = partial(
        fit_eraser, source, method="adversarial", settings={"steps": 5, "batch_size": 32, "width": 8}
    )
    one = fit(tmp_path / "one").eraser
    two = fit(tmp_path / "two", more=[EraserSource(tmp_path / "m.parquet")]).eraser
    x = vectors(source.table)
    assert not np.array_equal(one.transform(x), two.transform(x))


def test_an_audit_refuses_the_eraser_s_people_and_marks_its_matcher_as_seen(tmp_path):
    for name, seed in (("fit", 0), ("e", 1)):
        frame(80, size=12, seed=seed).to_parquet(tmp_path / f"{name}.parquet")
    fit_eraser(EraserSource(tmp_path / "fit.parquet"), tmp_path / "p", method="leace")

    def audited(name: str, eraser: Path | None) -> set[bool | None]:
        before, after = tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet"
        apply_eraser(tmp_path / "p", before, after, overwrite=True)
        options = AuditOptions(effort="quick", resamples=20)
        result = audit_tables(before, after, out=tmp_path / "audit", options=options, eraser=eraser)
        return {row["seen"] for row in result.to_dict()["matching"]}

    with pytest.raises(SplitOverlapError, match="80 audited people"):
        audited("fit", tmp_path / "p")
    assert audited("e", None) == {None}
    assert audited("e", tmp_path / "p") == {True}


def test_attackers_of_templates_learn_from_other_people(tmp_path):
    for seed, name in ((0, "fit"), (2, "others")):
        frame(80, size=12, seed=seed).to_parquet(tmp_path / f"{name}.parquet")
    frame(80, size=12, seed=1).assign(plan=["gold", "tin"] * 120).to_parquet(tmp_path / "e.parquet")
    fit_eraser(EraserSource(tmp_path / "fit.parquet"), tmp_path / "p", method="leace")
    for name in ("e", "others"):
        apply_eraser(tmp_path / "p", tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet")

    def audited(given: AttackerSet, eraser: Path | None = None, *attributes: str) -> dict[str, Any]:
        return audit_tables(
            tmp_path / "e.parquet",
            tmp_path / "e-out.parquet",
            attackers=given,
            eraser=eraser,
            out=tmp_path / "audit",
            options=AuditOptions(effort="quick", resamples=20, attributes=attributes),
        ).to_dict()

    erased = audited(AttackerSet(tmp_path / "others.parquet"), tmp_path / "p")
    people = erased["data"]["attacker_people"]
    assert (people["train"] + people["val"], people["test"]) == (80, 80)
    assert erased["provenance"]["settings"]["attackers"] == {"name": "others", "images": 240}
    given = audited(AttackerSet(tmp_path / "others.parquet", tmp_path / "others-out.parquet"))
    assert [row["leakage"] for row in given["leakage"]] == [row["leakage"] for row in erased["leakage"]]
    assert [row["tmr"] for row in given["matching"]] == [row["tmr"] for row in erased["matching"]]

    frame(20, size=9, seed=5).to_parquet(tmp_path / "short.parquet")
    others = frame(80, size=12, seed=2)
    others.assign(matcher="m").to_parquet(tmp_path / "named.parquet")
    others.drop(columns="identity").to_parquet(tmp_path / "nobody.parquet")
    others.drop(columns="gender").to_parquet(tmp_path / "plain.parquet")
    others.assign(embedding=[np.full(12, np.nan)] * 240).to_parquet(tmp_path / "none.parquet")
    for name, error, words in (
        ("fit", SplitOverlapError, "80 audited people trained"),
        ("short", DataError, "9 values, the eraser was fitted on 12"),
        ("named", AuditError, r"named.parquet \['m'\]"),
        ("nobody", AuditError, "nobody can say whether they share people"),
        ("plain", AuditError, "The attackers' people: .* no 'gender' column"),
        ("none", AuditError, "no original row holds an embedding"),
    ):
        with pytest.raises(error, match=words):
            audited(AttackerSet(tmp_path / f"{name}.parquet"), tmp_path / "p")
    short = AttackerSet(tmp_path / "short.parquet", tmp_path / "short.parquet")
    for eraser in (None, tmp_path / "p"):
        with pytest.raises(AuditError, match=r"by matcher: .*\(9, 9\).* audited ones: .*\(12, 12\)"):
            audited(short, eraser)
    with pytest.raises(AuditError, match=r"attackers' people: .*no column 'plan'"):
        audited(AttackerSet(tmp_path / "others.parquet"), tmp_path / "p", "plan")


def test_an_audit_reads_the_labelled_rows_of_its_split(tmp_path):
    table = frame(6).assign(split=["train", "val"] * 9)
    table.loc[1, "gender"] = ""
    table.to_parquet(tmp_path / "e.parquet")
    whole = read_embeddings(tmp_path / "e.parquet")
    data = pair_tables(whole, whole, split="val")
    assert data.files == tuple(f"{k}.png" for k in range(3, 18, 2))
    assert data.genders.tolist() == [int(word == "male") for word in table["gender"][3::2]]
    without = replace(whole, labels=whole.labels.drop(columns="split"))
    with pytest.raises(LabelError, match="no column 'split'; it has file"):
        pair_tables(without, without, split="val")


def test_a_column_of_the_user_s_own_goes_with_what_it_told(source, tmp_path):
    plans = np.where(np.arange(180) // 3 % 2, "gold", "tin")  # each person has one
    plans[7] = ""
    frame().assign(plan=plans).to_parquet(source.table)
    summary = fit_eraser(source, tmp_path / "out", method="leace", attributes=parse_attributes(["plan"]))
    assert (summary.rows + summary.capped, summary.unlabelled) == (179, 1)
    apply_eraser(tmp_path / "out", source.table, tmp_path / "o.parquet")
    assert list(pd.read_parquet(tmp_path / "o.parquet").columns) == [
        "file",
        "identity",
        "gender",
        "embedding",
    ]


def test_several_attributes_are_erased_at_once(source, tmp_path):
    table = frame(900, photos=1)
    age = np.random.default_rng(1).integers(10, 70, len(table))
    male, old = (table["gender"] == "male").to_numpy(), age >= 40
    x = np.stack(table["embedding"])
    x[:, 1] += np.where(old, 2.0, -2.0)
    x[:, 2] += np.where(male == old, 1.5, -1.5)  # told by both together
    years = [str(number) if number > 12 else "" for number in age]
    table.assign(embedding=list(x), age=years).to_parquet(source.table)
    wanted = parse_attributes(["gender", "age=16,40"])
    summary = fit_eraser(source, tmp_path / "out", method="transport", attributes=wanted)
    assert summary.rows == (age >= 16).sum()
    assert summary.unlabelled == (age < 16).sum()
    apply_eraser(tmp_path / "out", source.table, tmp_path / "erased.parquet")
    erased = read_embeddings(tmp_path / "erased.parquet")
    assert not {"gender", "age"} & set(erased.labels)
    for labels, before in ((male, 0.9), (old, 0.9), (2 * male + old, 0.8)):
        read = [
            QuadraticDiscriminantAnalysis(reg_param=0.01).fit(rows[:450], labels[:450]).predict(rows[450:])
            for rows in (x, erased.vectors)
        ]
        told = [balanced_accuracy_score(labels[450:], guess) for guess in read]
        assert told[0] > before
        assert told[1] < 1 / len(set(labels)) + 0.08


@pytest.mark.parametrize("suffix", ["parquet", "csv", "npz"])
def test_every_format_can_be_read_in_parts(tmp_path, suffix):
    table, path = frame(10), tmp_path / f"t.{suffix}"
    x = np.stack(table["embedding"])
    if suffix == "parquet":
        table.to_parquet(path)
    elif suffix == "csv":
        columns = pd.DataFrame(x, columns=[f"e{k}" for k in range(8)])
        columns.assign(gender=table["gender"]).to_csv(path, index=False)
    else:
        np.savez(path, embeddings=x, genders=table["gender"].to_numpy(str))
    parts = list(stream_embeddings(path, rows=12))
    assert [len(part) for part in parts] == [12, 12, 6]
    np.testing.assert_allclose(np.concatenate([p.vectors for p in parts]), x, atol=1e-6)
    labels = pd.concat([p.labels for p in parts])
    assert labels["gender"].tolist() == table["gender"].tolist()
    assert labels["file"].is_unique


def test_a_damaged_part_says_so_and_leaves_nothing_behind(table, source, tmp_path):
    fit_eraser(source, tmp_path / "out", method="leace")
    content = bytearray(source.table.read_bytes())
    start = pq.read_metadata(source.table).row_group(0).column(3).data_page_offset
    content[start : start + 400] = b"\xff" * 400
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        apply_eraser(tmp_path / "out", tmp_path / "bad.parquet", tmp_path / "o.parquet")
    assert not (tmp_path / "o.parquet").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_command_line_lists_the_methods_and_states_the_promise(table, source, tmp_path):
    listed = CliRunner().invoke(app, ["erase", "methods"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in METHODS)
    fit = ["erase", "fit", str(source.table), "--method", "leace", "--set", "normalize=true"]
    fitted = CliRunner().invoke(app, [*fit, "--out", str(tmp_path / "l")])
    assert fitted.exit_code == 0, fitted.output
    assert "breaks its certificate" in fitted.output
