"""Interruption: whatever stops a job, running it again gives the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from privface.errors import OutputError
from privface.images import encode_image
from privface.protect import GaussianBlur, GaussianNoise, ManifestRow, Pixelate, read_manifest
from privface.protect.folder import StoppedError
from privface.protect.inputs import InputFile
from privface.protect.journal import JOURNAL_NAME
from privface.protect.local import _batches
from privface.protect.output import locked
from privface.protect.work import Loaded
from tests.protect.conftest import BLUR, Watched, images, patch, snapshot

LAYOUTS = ("tree", "webdataset", "parquet")


def out_of_memory() -> None:
    raise MemoryError("out of device memory")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("call", "protector"), [(0, BLUR), (1, BLUR), (3, GaussianNoise(sigma=0.2, size=32)), (5, BLUR)]
)
def test_a_crash_and_a_rerun_equal_one_run(faces, tmp_path, protect, layout, call, protector):
    out, protect = tmp_path / "out", partial(protect, faces, layout=layout, shard_size=4, batch_size=2)
    with pytest.raises(MemoryError, match=r"device memory"):
        protect("out", Watched(out_of_memory, before_call=call, protector=protector))
    assert pq.read_metadata(out / "manifest.parquet").metadata[b"privface.complete"] == b"false"
    listed = [str(row.output) for row in read_manifest(out)]
    assert {name[name.find("person") :] for name in listed} == images(out).keys()
    assert len(listed) == protect("out", protector).reused == 2 * call
    protect("one", protector, batch_size=3)  # another place in the batch
    assert snapshot(out) == snapshot(tmp_path / "one")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_batch_and_writes_the_manifest(faces, tmp_path, protect, number):
    out, handlers = tmp_path / "out", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    press = Watched(lambda: os.kill(os.getpid(), number), before_call=1)
    with pytest.raises(StoppedError) as stop:
        protect(faces, "out", press, batch_size=2)
    assert stop.value.signal == number
    assert isinstance(stop.value, KeyboardInterrupt)
    assert press.calls == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    rows = read_manifest(out)
    assert len(rows) == 4
    assert all((out / str(row.output)).is_file() for row in rows)
    for name in ("out", "one"):
        protect(faces, name, batch_size=2)
    assert snapshot(out) == snapshot(tmp_path / "one")


JOB = """
import resource, signal, sys, time
from pathlib import Path
from privface.errors import OutputError
from privface.protect import GaussianBlur, ProtectOptions, protect_folder

blur, largest, pause = GaussianBlur(sigma=2.0, size=32), int(sys.argv[3]), float(sys.argv[4])
if largest:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

class Slow:
    size, fingerprint = blur.size, blur.fingerprint
    def __call__(self, images):
        time.sleep(pause)
        return blur(images)

try:
    protect_folder(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), ProtectOptions(faces="aligned", batch_size=2))
except OutputError as error:
    print(error.message, error.hint)
"""


def test_a_disk_that_takes_no_more_is_reported_with_what_is_finished(faces, tmp_path, protect):
    """A limit on file sizes stops the journal after some files, as a full disk would."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", JOB, str(faces), str(out), "3000", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"Cannot write .*: File too large\. \d+ of 11 files are finished\.", done.stdout), done
    assert "it goes on from there" in done.stdout
    assert not list(out.rglob("*.privface-tmp"))
    assert protect(faces, batch_size=2).reused > 0
    protect(faces, "one", batch_size=2)
    assert snapshot(out) == snapshot(tmp_path / "one")


def test_a_killed_process_and_a_rerun_equal_one_run(faces, tmp_path, protect):
    out = tmp_path / "out"
    journal = out / JOURNAL_NAME
    process = subprocess.Popen([sys.executable, "-c", JOB, str(faces), str(out), "0", "0.3"])
    try:
        deadline = time.monotonic() + 120
        while not journal.is_file() or journal.read_bytes().count(b'"path"') < 2:
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, "the job wrote no journal"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.parquet").exists()
    assert 2 <= protect(faces, batch_size=2).reused < 11
    protect(faces, "one", batch_size=2)
    assert snapshot(out) == snapshot(tmp_path / "one")


def test_a_write_error_stops_the_job_and_names_the_cure(faces, protect, monkeypatch):
    def full_disk(path, data):
        raise OutputError(f"Cannot write {path}: No space left on device.", hint="Check free space.")

    with monkeypatch.context() as patched:
        patched.setattr("privface.protect.output.write_atomic", full_disk)
        with pytest.raises(OutputError, match=r"No space left"):
            protect(faces, batch_size=2)
    assert protect(faces, batch_size=2).counts["ok"] == 11


def test_only_changed_inputs_and_damaged_outputs_are_done_again(faces, tmp_path, protect):
    out, first, second = tmp_path / "out", Watched(), Watched()
    protect(faces, "out", first, batch_size=4)
    before = snapshot(out)
    summary = protect(faces, "out", second, batch_size=4)
    assert (first.calls, second.calls) == (3, 0)
    assert (summary.reused, summary.counts["ok"]) == (11, 11)
    assert snapshot(out) == before
    (faces / "person0" / "face00.png").write_bytes(encode_image(patch(99), ".png"))
    (out / "person1" / "face01.jpg").write_bytes(b"damaged")
    (out / "person0" / "face02.jpg").unlink()
    linked = out / "person1" / "face03.png"
    linked.rename(tmp_path / "copy.png")
    linked.symlink_to(tmp_path / "copy.png")
    assert protect(faces).reused == 7
    assert not linked.is_symlink()
    protect(faces, "fresh")
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_photos_of_several_faces_are_taken_over_whole_or_done_again(groups, crowd, tmp_path, protect):
    out, protect = tmp_path / "out", partial(protect, groups, detector=crowd, batch_size=2)
    with pytest.raises(MemoryError):
        protect("out", Watched(out_of_memory, before_call=5))
    protect("one")
    assert 0 < protect("out").reused < 9
    assert len(read_manifest(out)) == 3 * (1 + 2 + 3)
    assert snapshot(out) == snapshot(tmp_path / "one")
    (out / "day0" / "photo2.face3.png").write_bytes(b"damaged")
    (out / "day0" / "photo8.face2.png").unlink()
    (out / "day1" / "photo1.png").unlink()
    assert protect("out").reused == 6
    assert snapshot(out) == snapshot(tmp_path / "one")
    assert protect("out").reused == 9


@pytest.mark.parametrize("layout", ["tree", "parquet"])
def test_no_face_outlives_its_photo(groups, crowd, tmp_path, protect, layout):
    out, protect = tmp_path / "out", partial(protect, groups, detector=crowd, layout=layout, shard_size=4)
    protect("out")
    one_face = (groups / "day0" / "photo0.png").read_bytes()
    (groups / "day0" / "photo2.png").write_bytes(one_face)  # of three faces before
    (groups / "day1" / "photo5.png").write_bytes(b"no image")
    (groups / "day0" / "photo6.png").write_bytes((groups / "day0" / "photo8.png").read_bytes())
    assert protect("out").reused == 6
    protect("fresh")
    assert snapshot(out) == snapshot(tmp_path / "fresh")
    with pytest.raises(OutputError, match="paste False, now True"):
        protect("out", paste=True)
    protect("out", paste=True, overwrite=True)
    protect("pasted", paste=True)
    assert snapshot(out) == snapshot(tmp_path / "pasted")


@pytest.mark.parametrize(
    ("word", "protector", "quality"),
    [
        ("model", GaussianBlur(sigma=3.0, size=32), 95),
        ("size", Pixelate(cells=4, size=24), 95),
        ("quality", GaussianBlur(sigma=2.0, size=32), 80),
    ],
)
def test_other_settings_in_the_same_output_are_refused(faces, tmp_path, protect, word, protector, quality):
    out = tmp_path / "out"
    protect(faces)
    before = snapshot(out)
    with pytest.raises(OutputError, match=rf"other settings: .*{word}"):
        protect(faces, "out", protector, quality=quality)
    assert snapshot(out) == before
    protect(faces, "out", protector, quality=quality, overwrite=True)
    protect(faces, "fresh", protector, quality=quality)
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_an_option_that_came_after_a_job_had_its_default_then(faces, tmp_path, protect):
    protect(faces)
    journal = tmp_path / "out" / JOURNAL_NAME
    header, rest = journal.read_bytes().split(b"\n", 1)
    content = json.loads(header)
    del content["settings"]["quality"]
    journal.write_bytes(json.dumps(content).encode() + b"\n" + rest)
    assert protect(faces).reused
    with pytest.raises(OutputError, match="quality 95, now 80"):
        protect(faces, quality=80)


def test_a_job_holds_its_output_alone_and_a_lock_left_behind_blocks_nobody(faces, tmp_path, protect):
    with locked(tmp_path / "out"), pytest.raises(OutputError, match=r"Another job is writing"):
        protect(faces)
    (tmp_path / "out" / ".privface-lock").write_bytes(b"")
    assert protect(faces).counts["ok"] == 11


def test_overwriting_with_the_same_settings_goes_on(faces, tmp_path, protect):
    protect(faces, tmp_path / "out")
    assert protect(faces, tmp_path / "out", overwrite=True).reused == 11
    (tmp_path / "out" / JOURNAL_NAME).write_text("no journal\n")
    with pytest.raises(OutputError, match="is not a"):
        protect(faces, tmp_path / "out")
    assert protect(faces, tmp_path / "out", overwrite=True).counts["ok"] == 11


def test_the_journal_is_for_its_owner_alone(faces, tmp_path, protect):
    protect(faces, tmp_path / "out")
    assert (tmp_path / "out" / JOURNAL_NAME).stat().st_mode & 0o777 == 0o600


def test_finished_files_do_not_wait_for_one_that_is_not():
    def load(item, known):
        row = ManifestRow(input=item.key, status="failed", model="m")
        return Loaded(item, row, patch(0)) if item.key == "0" else Loaded(item, row)

    options = SimpleNamespace(batch_size=2, workers=1)
    items = [InputFile(str(number), f"{number}.png") for number in range(200)]
    with ThreadPoolExecutor(1) as pool:
        worker = SimpleNamespace(options=options, detector=None, load=load)
        batches = list(_batches(worker, items, lambda _: None, pool))
    assert max(map(len, batches)) <= 33
    assert sorted(int(one.item.key) for batch in batches for one in batch) == list(range(200))
