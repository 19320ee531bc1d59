"""The cluster's engine: the bytes of the local one, whatever becomes of an actor."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, MissingExtraError, OutputError
from privface.images import encode_image
from privface.protect import GaussianBlur, ProtectOptions, protect_folder, read_manifest

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.timeout(900)]

SIZE = 32
BLUR = GaussianBlur(sigma=2.0, size=SIZE)


@dataclass(frozen=True)
class Moody(GaussianBlur):
    """May not bear white faces, in one of two ways; slow enough to be killed in time."""

    mood: str = "calm"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.2)
        if (images.mean(axis=(1, 2, 3)) > 0.99).any():
            if self.mood == "angry":
                raise MemoryError("no room for white")
            if self.mood == "wrong":
                return super().__call__(images)[:1]
        return super().__call__(images)


@pytest.fixture(scope="module")
def cluster():
    """One small cluster for all tests: two CPUs, whatever the machine has."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def engine():  # type: ignore[no-untyped-def]
    from privface.protect.cluster import RayEngine

    return RayEngine(chunk=3)


class Killing:
    """Kills an actor of this process's own cluster as soon as something is finished."""

    killed = 0

    def __call__(self, done: int, total: int) -> None:
        found = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True, check=False)
        ours = [number for number in map(int, found.stdout.split()) if os.getpid() in ancestors(number)]
        if not self.killed and ours:  # refused files are noted before there is an actor
            self.killed = ours[0]
            os.kill(self.killed, signal.SIGKILL)


def ancestors(number: int) -> list[int]:
    """The processes above one, nearest first."""
    found = []
    while number > 1:
        try:
            status = Path(f"/proc/{number}/status").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            break
        number = int(next(line.split()[1] for line in status.splitlines() if "PPid" in line))
        found.append(number)
    return found


LAYOUTS = ["tree", pytest.param("webdataset", marks=pytest.mark.long)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bytes_as_the_local_engine_though_an_actor_is_killed(
    cluster, faces, tmp_path, snapshot, make_patch, layout
):
    calm = Moody(sigma=2.0, size=SIZE)
    options = aligned(layout=layout, shard_size=4, batch_size=1)
    for out in ("local", "ray"):
        protect_folder(faces, tmp_path / out, calm, options)
    (tmp_path / "ray" / "protected-00001.tar").unlink(missing_ok=True)
    for number in (0, 3, 4, 7, 8):
        changed = next(faces.rglob(f"face{number:02d}.*"))
        changed.write_bytes(encode_image(make_patch(90 + number), changed.suffix))
    (faces / "broken.png").write_bytes(b"no image")
    (faces / "link").symlink_to(tmp_path)
    kill = Killing()
    summary = protect_folder(faces, tmp_path / "ray", calm, options, engine=engine(), progress=kill)
    protect_folder(faces, tmp_path / "local", calm, options)
    assert kill.killed
    assert (summary.counts["ok"], summary.counts["unreadable"]) == (11, 2)
    assert 0 < summary.reused < 7
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    assert not list((tmp_path / "ray").rglob("*.privface-tmp"))


@pytest.mark.long
@pytest.mark.parametrize("layout", ["tree", "webdataset"])
def test_photos_of_several_faces(cluster, groups, crowd, tmp_path, snapshot, layout):
    ray.cloudpickle.register_pickle_by_value(sys.modules[type(crowd).__module__])
    protect = partial(
        protect_folder,
        protector=BLUR,
        options=ProtectOptions(faces="detect", layout=layout, shard_size=4, batch_size=2),
        detector=crowd,
    )
    protect(groups, tmp_path / "ray", engine=engine())
    protect(groups, tmp_path / "local")
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    (groups / "day0" / "photo2.png").write_bytes((groups / "day0" / "photo0.png").read_bytes())
    again = protect(groups, tmp_path / "ray", engine=engine())
    protect(groups, tmp_path / "local")
    assert again.reused == 8
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")


def test_an_unforeseen_fault_costs_a_chunk_not_the_job(cluster, faces, tmp_path):
    protector = Moody(sigma=2.0, size=SIZE, mood="angry")
    (faces / "person0" / "white.png").write_bytes(encode_image(np.full((48, 48, 3), 255, np.uint8), ".png"))
    summary = protect_folder(faces, tmp_path / "out", protector, aligned(batch_size=1), engine=engine())
    assert summary.counts["failed"] >= 1
    assert summary.counts["ok"] + summary.counts["failed"] == 12
    reasons = [row.reason for row in read_manifest(summary.manifest) if row.status == "failed"]
    assert set(reasons) == {"unexpected MemoryError: no room for white"}


def test_a_fault_that_every_file_would_meet_stops_the_job(cluster, faces, tmp_path):
    (faces / "person0" / "white.png").write_bytes(encode_image(np.full((48, 48, 3), 255, np.uint8), ".png"))
    with pytest.raises(OutputError, match=r"The protector gave float32 .* files are finished"):
        protect_folder(
            faces,
            tmp_path / "out",
            Moody(sigma=2.0, size=SIZE, mood="wrong"),
            aligned(batch_size=2),
            engine=engine(),
        )


def test_bad_numbers_and_a_missing_extra(monkeypatch):
    from privface.protect.cluster import RayEngine

    for wrong in ({"actors": 0}, {"cpus": 0}, {"gpus": -1}, {"chunk": 0}):
        with pytest.raises(ConfigError, match="must be at least"):
            RayEngine(**wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="--engine ray needs ray"):
        RayEngine()


def test_archives_open_again_in_another_process(faces, tmp_path):
    import shutil

    from privface.protect.sources import open_photos

    source = open_photos(shutil.make_archive(str(tmp_path / "photos"), "zip", faces))
    again = copy.copy(source)  # what Ray does, without the bytes between
    for item in source.items():
        assert again.read(item, limit=10**6) == source.read(item, limit=10**6)
    source.close()
    again.close()
