"""Manifest and journal: round trips, determinism, damage."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pandas as pd
import pyarrow.parquet as pq
import pytest

from privface.errors import DataError, OutputError
from privface.protect import ManifestRow, read_manifest, write_manifest
from privface.protect.journal import JOURNAL_NAME, Entry, Journal

row = partial(ManifestRow, status="ok", model="m")
ROWS = (
    row(input="a,\"é\n\\xff.png", status="unreadable", reason="damaged, \"really\"", input_sha256="2" * 64),
    row(
        input="b/1.jpg", output="b/1.jpg", faces=2, face=1, box_x1=-1.5, box_y1=2.0, box_x2=30.25, box_y2=40.0,
        input_sha256="0" * 64, output_sha256="1" * 64, width=64, height=48, input_bytes=2**40,
    ),
    row(input="c\r\nd.png", status="no_face", reason="a name may hold a line's end"),
)  # fmt: skip


def test_parquet_round_trip(tmp_path):
    path = write_manifest(tmp_path, ROWS)
    assert read_manifest(path) == read_manifest(tmp_path) == ROWS
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_reading_starts_no_thread_that_could_outlive_the_process(tmp_path):
    """A process that ended just after reading aborted now and then: a thread of Arrow's still held our bytes."""
    path = write_manifest(tmp_path, ROWS)
    code = (
        "import os, sys; from pathlib import Path; import pyarrow.parquet; from privface.protect import read_manifest\n"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count()\n"
        "rows = read_manifest(Path(sys.argv[1])); print(len(rows), count() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(len(ROWS)), "0"]


def test_csv_and_parquet_say_the_same(tmp_path):
    write_manifest(tmp_path, ROWS, as_csv=True)
    text = pd.read_csv(tmp_path / "manifest.csv", dtype=str, keep_default_na=False)
    assert list(text["input"]) == [one.input for one in ROWS]
    assert list(text["reason"]) == [one.reason or "" for one in ROWS]
    assert list(text["box_x2"]) == ["", "30.25", ""]
    assert list(text.columns) == list(pd.read_parquet(tmp_path / "manifest.parquet").columns)


def test_without_pyarrow_the_csv_file_says_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr("privface.protect.manifest.has_parquet", lambda: False)
    path = write_manifest(tmp_path, ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.csv"] == [path.name]
    assert read_manifest(path) == read_manifest(tmp_path) == ROWS


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"file,identity\na,b\n"])
def test_a_foreign_csv_file_is_refused(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a privface manifest"):
        read_manifest(tmp_path)


def test_same_rows_same_bytes_and_an_unfinished_manifest_says_so(tmp_path):
    whole = write_manifest(tmp_path, iter(ROWS)).read_bytes()
    assert write_manifest(tmp_path, ROWS).read_bytes() == whole
    metadata = pq.read_metadata(tmp_path / "manifest.parquet").metadata
    assert (metadata[b"privface.format"], metadata[b"privface.complete"]) == (b"privface.manifest/3", b"true")
    assert read_manifest(write_manifest(tmp_path, [], complete=False)) == ()
    assert pq.read_metadata(tmp_path / "manifest.parquet").metadata[b"privface.complete"] == b"false"


@pytest.mark.parametrize("content", [None, b"", b"not parquet", "foreign"])
def test_a_damaged_or_foreign_manifest_is_refused(tmp_path, content):
    path = tmp_path / "manifest.parquet"
    if content == "foreign":
        pd.DataFrame({"input": ["a"]}).to_parquet(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a privface manifest"):
        read_manifest(path)


def entry(name: str, status: str = "ok") -> Entry:
    return Entry(name, row(input=name.encode("utf-8", "backslashreplace").decode(), status=status))


def test_journal_keeps_names_that_are_not_utf8_and_the_last_word(tmp_path):
    journal = Journal(tmp_path)
    assert not journal.exists()
    journal.start({"model": "m", "size": 32})
    journal.append([entry("a.jpg", "failed"), entry("d/\udcff.jpg")])
    journal.append([])
    journal.append([entry("a.jpg")])
    assert journal.settings() == {"model": "m", "size": 32}
    entries = {key: journal.read(place) for key, place in journal.index().items()}
    journal.close()
    assert entries["a.jpg"].row.status == "ok"
    assert entries["d/\\udcff.jpg"].path == "d/\udcff.jpg"
    assert len(entries) == 2


def test_journal_drops_a_torn_line_and_keeps_what_is_appended_after_it(tmp_path):
    journal = Journal(tmp_path)
    journal.start({})
    journal.append([entry("a.jpg"), entry("b.jpg")])
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20])
    assert set(journal.index()) == {"a.jpg"}
    journal.append([entry("c.jpg")])
    assert set(journal.index()) == {"a.jpg", "c.jpg"}


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg", "d/../../a.jpg", 7])
def test_journal_ignores_paths_that_leave_the_output(tmp_path, path):
    journal = Journal(tmp_path)
    journal.start({})
    journal.append([entry("a.jpg")])
    record = json.loads(journal.path.read_text().splitlines()[-1])
    with journal.path.open("a") as file:
        file.write(json.dumps({**record, "input": "evil", "path": path}) + "\n")
    assert set(journal.index()) == {"a.jpg"}


def test_journal_keeps_the_rows_of_further_faces(tmp_path):
    journal = Journal(tmp_path)
    journal.start({})
    one = entry("a.jpg")
    further = tuple(row(input="a.jpg", face=number) for number in (2, 3))
    (place,) = journal.append([Entry("a.jpg", one.row, None, further)])
    assert journal.read(place).rows == (one.row, *further)
    journal.close()
    record = json.loads(journal.path.read_text().splitlines()[-1])
    for odd in ({"further": 7}, {"further": [7]}, {"further": [{}]}):
        with journal.path.open("a") as file:
            file.write(json.dumps({**record, "input": "odd", **odd}) + "\n")
    assert journal.index().keys() == {"a.jpg"}


def test_a_foreign_journal_is_refused(tmp_path):
    (tmp_path / JOURNAL_NAME).write_text("hello\n")
    with pytest.raises(OutputError, match=r"is not a privface.journal/2 journal"):
        Journal(tmp_path).settings()
