"""Manifest and journal: round trips, determinism, damage."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial

import pandas as pd
import pyarrow.parquet as pq
import pytest

from privface.errors import DataError, OutputError
from privface.protect import ManifestRow, ProtectOptions, read_manifest, write_manifest
from privface.protect.inputs import InputFile
from privface.protect.job import Ledger
from privface.protect.journal import Entry, Journal
from privface.protect.output import OutputTree
from privface.protect.work import Loaded

row = partial(ManifestRow, status="ok", model="m")
ROWS = (
    row(input="a,\"é\n\\xff.png", status="unreadable", reason="damaged, \"really\"", input_sha256="2" * 64),
    row(
        input="b/1.jpg", output="b/1.jpg", faces=2, face=1, box_x1=-1.5, box_y1=2.0, box_x2=30.25, box_y2=40.0,
        input_sha256="0" * 64, output_sha256="1" * 64, width=64, height=48, input_bytes=2**40,
    ),
    row(input="c\r\nd.png", status="no_face", reason="a name may hold a line's end"),
)  # fmt: skip


def test_parquet_round_trip_gives_the_same_bytes_and_an_unfinished_one_says_so(tmp_path):
    path = write_manifest(tmp_path, ROWS)
    assert read_manifest(path) == read_manifest(tmp_path) == ROWS
    assert not list(tmp_path.glob("*.csv"))
    whole = path.read_bytes()
    assert write_manifest(tmp_path, iter(ROWS)).read_bytes() == whole
    metadata = pq.read_metadata(path).metadata
    assert (metadata[b"privface.format"], metadata[b"privface.complete"]) == (b"privface.manifest/3", b"true")
    assert read_manifest(write_manifest(tmp_path, [], complete=False)) == ()
    assert pq.read_metadata(path).metadata[b"privface.complete"] == b"false"


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


@pytest.mark.parametrize("name", ["manifest.parquet", "manifest.csv"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"file,identity\na,b\n", "foreign"])
def test_a_damaged_or_foreign_manifest_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content == "foreign":
        pd.DataFrame({"input": ["a"]}).to_parquet(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a privface manifest"):
        read_manifest(path)


def entry(name: str, status: str = "ok") -> Entry:
    return Entry(name, row(input=name.encode("utf-8", "backslashreplace").decode(), status=status))


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    assert not made.exists()
    made.start({"model": "m", "size": 32})
    yield made
    made.close()


def test_journal_keeps_names_that_are_not_utf8_further_faces_and_the_last_word(journal):
    journal.append([entry("a.jpg", "failed"), entry("d/\udcff.jpg")])
    journal.append([])
    several = replace(entry("a.jpg"), further=(row(input="a.jpg", face=2), row(input="a.jpg", face=3)))
    (place,) = journal.append([several])
    assert journal.read(place) == several
    assert journal.settings() == {"model": "m", "size": 32}
    entries = {key: journal.read(place) for key, place in journal.index().items()}
    assert entries["a.jpg"].row.status == "ok"
    assert entries["d/\\udcff.jpg"].path == "d/\udcff.jpg"
    assert len(entries) == 2


def test_journal_drops_a_torn_line_and_keeps_what_is_appended_after_it(journal):
    journal.append([entry("a.jpg"), entry("b.jpg")])
    journal.path.write_bytes(journal.path.read_bytes()[:-20])
    assert set(journal.index()) == {"a.jpg"}
    journal.append([entry("c.jpg")])
    assert set(journal.index()) == {"a.jpg", "c.jpg"}


@pytest.mark.parametrize(
    "odd",
    [
        *({"path": path} for path in ("../a.jpg", "/etc/a.jpg", "d/../../a.jpg", 7)),
        *({"further": value} for value in (7, [7], [{}])),
    ],
)
def test_journal_ignores_lines_that_are_damaged_or_lead_out_of_the_output(journal, odd):
    journal.append([entry("a.jpg")])
    record = json.loads(journal.path.read_text().splitlines()[-1])
    with journal.path.open("a") as file:
        file.write(json.dumps({**record, "input": "odd", **odd}) + "\n")
    assert set(journal.index()) == {"a.jpg"}


def test_a_foreign_or_changed_journal_is_refused(journal):
    with pytest.raises(OutputError, match="has been changed by another program"):
        journal.read(5)
    journal.path.write_text("hello\n")
    with pytest.raises(OutputError, match=r"is not a privface.journal/2 journal"):
        journal.settings()


def test_a_finished_file_costs_little_memory(journal, tmp_path):
    """Rows wait in the journal; ten thousand more of them must not cost what they would as objects (about 1 kB)."""
    ledger = Ledger(journal, OutputTree(tmp_path), options=ProtectOptions(), total=15_000, progress=None)

    def note(first: int, last: int) -> None:
        for start in range(first, last, 100):
            items = [InputFile(f"p/{k:08d}.jpg", f"p/{k:08d}.jpg") for k in range(start, start + 100)]
            ledger.commit(
                Loaded(i, ManifestRow(input=i.key, status="ok", model="m" * 64, output=i.key)) for i in items
            )

    note(0, 5_000)
    tracemalloc.start()
    note(5_000, 15_000)
    used = tracemalloc.get_traced_memory()[0] / 10_000
    tracemalloc.stop()
    assert used < 300
    table = pq.read_table(ledger.write_results(None))
    assert table["input"].to_pylist() == [f"p/{k:08d}.jpg" for k in range(15_000)]
