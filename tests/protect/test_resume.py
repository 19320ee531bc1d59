"""Interruption: whatever stops a job, running it again gives the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from privface.errors import OutputError
from privface.images import encode_image
from privface.protect import (
    GaussianNoise,
    Pixelate,
    ProtectOptions,
    protect_folder,
    read_manifest,
)
from privface.protect.journal import JOURNAL_NAME
from privface.protect.output import locked

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

SIZE = 32
NOISE = GaussianNoise(sigma=0.2, size=SIZE)


class Watched:
    """A protector that counts its calls and does something before one of them."""

    def __init__(self, act: Callable[[], None] | None = None, *, before_call: int = -1) -> None:
        self.calls = 0
        self.act = act
        self.before_call = before_call
        self.size = SIZE
        self.fingerprint = NOISE.fingerprint

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.act is not None and self.calls == self.before_call:
            self.act()
        self.calls += 1
        return NOISE(images)


def out_of_memory() -> None:
    raise MemoryError("out of device memory")


@pytest.fixture
def uninterrupted(faces, tmp_path, snapshot):
    protect_folder(faces, tmp_path / "reference", NOISE, aligned(batch_size=2))
    return snapshot(tmp_path / "reference")


@pytest.mark.parametrize("call", [0, 1, 3, 5])
def test_a_crash_and_a_rerun_equal_one_run(faces, tmp_path, snapshot, uninterrupted, call):
    out = tmp_path / "out"
    with pytest.raises(MemoryError, match=r"device memory"):
        protect_folder(faces, out, Watched(out_of_memory, before_call=call), aligned(batch_size=2))
    partial = pq.read_metadata(out / "manifest.parquet").metadata
    assert partial[b"privface.complete"] == b"false"
    assert len(read_manifest(out)) == 2 * call
    summary = protect_folder(faces, out, NOISE, aligned(batch_size=2))
    assert summary.reused == 2 * call
    assert snapshot(out) == uninterrupted


def test_a_finished_job_is_not_computed_again(faces, tmp_path, snapshot):
    out = tmp_path / "out"
    first, second = Watched(), Watched()
    protect_folder(faces, out, first, aligned(batch_size=4))
    before = snapshot(out)
    summary = protect_folder(faces, out, second, aligned(batch_size=4))
    assert (first.calls, second.calls) == (3, 0)
    assert (summary.reused, summary.counts["ok"]) == (11, 11)
    assert snapshot(out) == before


def test_changed_inputs_and_damaged_outputs_are_done_again(faces, tmp_path, make_patch, snapshot):
    out = tmp_path / "out"
    protect_folder(faces, out, NOISE, aligned())
    (faces / "person0" / "face00.png").write_bytes(encode_image(make_patch(99), ".png"))
    (out / "person1" / "face01.jpg").write_bytes(b"damaged")
    (out / "person0" / "face02.jpg").unlink()
    summary = protect_folder(faces, out, NOISE, aligned())
    assert summary.reused == 8
    protect_folder(faces, tmp_path / "fresh", NOISE, aligned())
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_photos_of_several_faces_are_taken_over_whole_or_done_again(groups, crowd, tmp_path, snapshot):
    out, options = tmp_path / "out", ProtectOptions(faces="detect", batch_size=2)
    protect = partial(protect_folder, groups, options=options, detector=crowd)
    stop = Watched(out_of_memory, before_call=5)
    with pytest.raises(MemoryError):
        protect(out, protector=stop)
    protect(tmp_path / "one", protector=NOISE)
    assert 0 < protect(out, protector=NOISE).reused < 9
    assert len(read_manifest(out)) == 3 * (1 + 2 + 3)
    assert snapshot(out) == snapshot(tmp_path / "one")
    (out / "day0" / "photo2.face3.png").write_bytes(b"damaged")
    (out / "day0" / "photo8.face2.png").unlink()
    (out / "day1" / "photo1.png").unlink()
    assert protect(out, protector=NOISE).reused == 6
    assert snapshot(out) == snapshot(tmp_path / "one")
    assert protect(out, protector=NOISE).reused == 9


@pytest.mark.parametrize("layout", ["tree", "parquet"])
def test_no_face_outlives_its_photo(groups, crowd, tmp_path, snapshot, layout):
    out, options = tmp_path / "out", ProtectOptions(faces="detect", layout=layout, shard_size=4)
    protect = partial(protect_folder, groups, protector=NOISE, detector=crowd)
    protect(out, options=options)
    one_face = (groups / "day0" / "photo0.png").read_bytes()
    (groups / "day0" / "photo2.png").write_bytes(one_face)  # of three faces before
    (groups / "day1" / "photo5.png").write_bytes(b"no image")
    (groups / "day0" / "photo6.png").write_bytes((groups / "day0" / "photo8.png").read_bytes())
    assert protect(out, options=options).reused == 6
    protect(tmp_path / "fresh", options=options)
    assert snapshot(out) == snapshot(tmp_path / "fresh")
    protect(out, options=replace(options, paste=True, overwrite=True))
    protect(tmp_path / "pasted", options=replace(options, paste=True))
    assert snapshot(out) == snapshot(tmp_path / "pasted")


def test_a_link_put_in_place_of_an_output_is_replaced(faces, tmp_path):
    out = tmp_path / "out"
    protect_folder(faces, out, NOISE, aligned())
    target = out / "person0" / "face00.png"
    written = target.read_bytes()
    (tmp_path / "copy.png").write_bytes(written)
    target.unlink()
    target.symlink_to(tmp_path / "copy.png")
    protect_folder(faces, out, NOISE, aligned())
    assert not target.is_symlink()
    assert target.read_bytes() == written


@pytest.mark.parametrize(
    "change",
    [
        ("model", GaussianNoise(sigma=0.3, size=SIZE), 95),
        ("size", Pixelate(cells=4, size=24), 95),
        ("quality", NOISE, 80),
    ],
    ids=lambda change: change[0],
)
def test_other_settings_in_the_same_output_are_refused(faces, tmp_path, snapshot, change):
    word, protector, quality = change
    out = tmp_path / "out"
    protect_folder(faces, out, NOISE, aligned())
    before = snapshot(out)
    with pytest.raises(OutputError, match=rf"other settings: .*{word}"):
        protect_folder(faces, out, protector, aligned(quality=quality))
    assert snapshot(out) == before
    protect_folder(faces, out, protector, aligned(quality=quality, overwrite=True))
    protect_folder(faces, tmp_path / "fresh", protector, aligned(quality=quality))
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_an_option_that_came_after_a_job_had_its_default_then(faces, tmp_path):
    out = tmp_path / "out"
    protect_folder(faces, out, NOISE, aligned())
    journal = out / JOURNAL_NAME
    header, rest = journal.read_bytes().split(b"\n", 1)
    content = json.loads(header)
    del content["settings"]["quality"]
    journal.write_bytes(json.dumps(content).encode() + b"\n" + rest)
    assert protect_folder(faces, out, NOISE, aligned()).reused
    with pytest.raises(OutputError, match="quality 95, now 80"):
        protect_folder(faces, out, NOISE, aligned(quality=80))


def test_two_jobs_on_one_output_are_refused(faces, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(OutputError, match=r"Another job is writing"):
        protect_folder(faces, tmp_path / "out", NOISE, aligned())
    assert protect_folder(faces, tmp_path / "out", NOISE, aligned()).counts["ok"] == 11


def test_a_lock_left_behind_blocks_nobody(faces, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".privface-lock").write_bytes(b"")
    assert protect_folder(faces, tmp_path / "out", NOISE, aligned()).counts["ok"] == 11


def test_interrupt_finishes_the_batch_and_writes_the_manifest(faces, tmp_path, snapshot, uninterrupted):
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGINT)
    press = Watched(lambda: os.kill(os.getpid(), signal.SIGINT), before_call=1)
    with pytest.raises(KeyboardInterrupt):
        protect_folder(faces, out, press, aligned(batch_size=2))
    assert press.calls == 2
    assert signal.getsignal(signal.SIGINT) is handler
    rows = read_manifest(out)
    assert len(rows) == 4
    assert all((out / str(row.output)).is_file() for row in rows)
    protect_folder(faces, out, NOISE, aligned(batch_size=2))
    assert snapshot(out) == uninterrupted


JOB = """
import sys, time
from pathlib import Path
from privface.protect import GaussianNoise, ProtectOptions, protect_folder

noise = GaussianNoise(sigma=0.2, size=32)

class Slow:
    size, fingerprint = noise.size, noise.fingerprint
    def __call__(self, images):
        time.sleep(0.3)
        return noise(images)

protect_folder(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), ProtectOptions(faces="aligned", batch_size=2))
"""


def test_a_killed_process_and_a_rerun_equal_one_run(faces, tmp_path, snapshot, uninterrupted):
    out = tmp_path / "out"
    journal = out / JOURNAL_NAME
    process = subprocess.Popen([sys.executable, "-c", JOB, str(faces), str(out)])
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
    summary = protect_folder(faces, out, NOISE, aligned(batch_size=2))
    assert 2 <= summary.reused < 11
    assert snapshot(out) == uninterrupted
