"""The job around the work: signals, full disks, sizes and times, too many faces, large sets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, OutputError
from privface.faces.detect import Detection
from privface.protect import GaussianBlur, ProtectOptions, protect_folder, read_manifest
from privface.protect.folder import StoppedError
from privface.protect.inputs import InputFile
from privface.protect.job import Ledger
from privface.protect.journal import Journal
from privface.protect.manifest import ManifestRow
from privface.protect.output import OutputTree
from privface.protect.work import Loaded

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

BLUR = GaussianBlur(sigma=2.0, size=32)
POINTS = ((12.0, 20.0), (28.0, 20.0), (20.0, 29.0), (13.0, 37.0), (27.0, 37.0))


class Crowd:
    """As many faces as the photo's place in the list."""

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        found = []
        for _ in images:
            found.append([Detection((4.0, 8.0, 36.0, 48.0), 0.9, POINTS)] * self.seen)
            self.seen += 1
        return found


def test_sigterm_finishes_the_batch_like_sigint(faces, tmp_path, snapshot):
    protect_folder(faces, tmp_path / "one", BLUR, aligned(batch_size=2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out = tmp_path / "out"

    class Stopping(GaussianBlur):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(images)

    with pytest.raises(StoppedError) as stop:
        protect_folder(faces, out, Stopping(sigma=2.0, size=32), aligned(batch_size=2))
    assert stop.value.signal == signal.SIGTERM
    assert isinstance(stop.value, KeyboardInterrupt)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert len(read_manifest(out)) == 2
    protect_folder(faces, out, BLUR, aligned(batch_size=2))
    assert snapshot(out) == snapshot(tmp_path / "one")


FILL = """
import resource, signal, sys
from pathlib import Path
from privface.errors import OutputError
from privface.protect import GaussianBlur, ProtectOptions, protect_folder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    options = ProtectOptions(faces="aligned", batch_size=2)
    protect_folder(Path(sys.argv[1]), Path(sys.argv[2]), GaussianBlur(sigma=2.0, size=32), options)
except OutputError as error:
    print(error.message, error.hint)
"""


def test_a_disk_that_takes_no_more_is_reported_with_what_is_finished(faces, tmp_path, snapshot):
    """A limit on file sizes stops the journal after some files, as a full disk would."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(faces), str(out), "3000"], capture_output=True, text=True, check=True
    )
    assert re.search(r"Cannot write .*: File too large\. \d+ of 11 files are finished\.", done.stdout), done
    assert "it goes on from there" in done.stdout
    assert not list(out.rglob("*.privface-tmp"))
    assert protect_folder(faces, out, BLUR, aligned(batch_size=2)).reused > 0
    protect_folder(faces, tmp_path / "one", BLUR, aligned(batch_size=2))
    assert snapshot(out) == snapshot(tmp_path / "one")


def test_photos_with_too_many_faces_are_refused(faces, tmp_path):
    options, crowd = ProtectOptions(faces="detect", max_faces=2), Crowd()
    summary = protect_folder(faces, tmp_path / "out", BLUR, options, detector=crowd)
    assert (summary.counts["no_face"], summary.counts["ok"], summary.counts["many_faces"]) == (1, 2, 8)
    for row in read_manifest(summary.manifest):
        if row.status == "many_faces":
            assert row.reason == f"{row.faces} faces, the limit is 2"
            assert not (tmp_path / "out" / row.input).exists()
    assert protect_folder(faces, tmp_path / "out", BLUR, options, detector=crowd).reused == 11
    with pytest.raises(OutputError, match="max_faces 2, now None"):
        protect_folder(faces, tmp_path / "out", BLUR, ProtectOptions(faces="detect"), detector=Crowd())
    with pytest.raises(ConfigError, match="a limit of faces need a detector"):
        protect_folder(faces, tmp_path / "x", BLUR, aligned(max_faces=2))
    with pytest.raises(ConfigError, match="max_faces is 0"):
        protect_folder(faces, tmp_path / "x", BLUR, ProtectOptions(faces="detect", max_faces=0))


def test_sizes_are_those_of_the_files_and_times_come_on_request(faces, tmp_path):
    out = tmp_path / "out"
    for row in read_manifest(protect_folder(faces, out, BLUR, aligned()).manifest):
        assert row.input_bytes == (faces / row.input).stat().st_size
        assert row.output_bytes == (out / str(row.output)).stat().st_size
        assert row.finished is None
    start = datetime.now(UTC)
    protect_folder(faces, out, BLUR, aligned(times=True, as_csv=True))
    for row in read_manifest(out):
        assert datetime.fromisoformat(str(row.finished)) <= start  # taken over, not made up anew
    assert "+00:00" in (out / "manifest.csv").read_text()


def test_a_finished_file_costs_little_memory(tmp_path):
    """Rows wait in the journal; twenty thousand more of them must not cost what they would as objects (about 1 kB)."""
    journal = Journal(tmp_path)
    journal.start({})
    ledger = Ledger(journal, OutputTree(tmp_path), options=ProtectOptions(), total=30_000, progress=None)

    def note(first: int, last: int) -> None:
        for start in range(first, last, 100):
            items = [InputFile(f"p/{k:08d}.jpg", f"p/{k:08d}.jpg", "x") for k in range(start, start + 100)]
            ledger.commit(
                Loaded(i, ManifestRow(input=i.key, status="ok", model="m" * 64, output=i.key)) for i in items
            )

    note(0, 10_000)
    tracemalloc.start()
    note(10_000, 30_000)
    used = tracemalloc.get_traced_memory()[0] / 20_000
    tracemalloc.stop()
    assert used < 300
    manifest = ledger.write_results(None)
    journal.close()
    table = pq.read_table(manifest)
    assert table.num_rows == 30_000
    assert table["input"].to_pylist() == [f"p/{k:08d}.jpg" for k in range(30_000)]


def test_a_journal_changed_by_others_is_named(tmp_path):
    journal = Journal(tmp_path)
    journal.start({})
    with pytest.raises(OutputError, match="has been changed by another program"):
        journal.read(5)
    journal.close()
