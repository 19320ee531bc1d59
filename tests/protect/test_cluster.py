"""The cluster's engine: the bytes of the local one, whatever becomes of an actor."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, MissingExtraError, OutputError
from privface.images import encode_image
from privface.protect import GaussianBlur, read_manifest
from tests.protect.conftest import BLUR, SIZE, patch, snapshot

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.timeout(900)]


class Dying:
    """BLUR whose first process to see a second face is killed; the others live on."""

    size, fingerprint = BLUR.size, BLUR.fingerprint

    def __init__(self, killed: Path) -> None:
        self.killed, self.calls = killed, 0

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        if self.calls == 2 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return BLUR(images)


@dataclass(frozen=True)
class Moody(GaussianBlur):
    """May not bear white faces, in one of two ways."""

    mood: str = "angry"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if (images.mean(axis=(1, 2, 3)) > 0.99).any():
            if self.mood == "angry":
                raise MemoryError("no room for white")
            return super().__call__(images)[:1]
        return super().__call__(images)


@pytest.fixture(scope="module")
def cluster():
    """One small cluster for all tests: two CPUs, whatever the machine has."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def engine(cluster):
    from privface.protect.cluster import RayEngine

    return RayEngine(chunk=3)


@pytest.mark.parametrize("layout", ["tree", pytest.param("webdataset", marks=pytest.mark.long)])
def test_same_bytes_as_the_local_engine_though_an_actor_is_killed(engine, faces, tmp_path, protect, layout):
    options = {"layout": layout, "shard_size": 4, "batch_size": 1}
    for out in ("local", "ray"):
        protect(faces, out, **options)
    (tmp_path / "ray" / "protected-00001.tar").unlink(missing_ok=True)
    for number in (0, 3, 4, 7, 8):
        changed = next(faces.rglob(f"face{number:02d}.*"))
        changed.write_bytes(encode_image(patch(90 + number), changed.suffix))
    (faces / "broken.png").write_bytes(b"no image")
    (faces / "link").symlink_to(tmp_path)
    summary = protect(faces, "ray", Dying(tmp_path / "killed"), engine=engine, **options)
    protect(faces, "local", **options)
    assert (tmp_path / "killed").exists()
    assert (summary.counts["ok"], summary.counts["unreadable"]) == (11, 2)
    assert 0 < summary.reused < 7
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    assert not list((tmp_path / "ray").rglob("*.privface-tmp"))


@pytest.mark.long
@pytest.mark.parametrize("layout", ["tree", "webdataset"])
def test_photos_of_several_faces(engine, groups, crowd, tmp_path, protect, layout):
    ray.cloudpickle.register_pickle_by_value(sys.modules[type(crowd).__module__])
    options = {"detector": crowd, "layout": layout, "shard_size": 4, "batch_size": 2}
    protect(groups, "ray", engine=engine, **options)
    protect(groups, "local", **options)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    (groups / "day0" / "photo2.png").write_bytes((groups / "day0" / "photo0.png").read_bytes())
    assert protect(groups, "ray", engine=engine, **options).reused == 8
    protect(groups, "local", **options)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")


def test_an_unforeseen_fault_costs_a_chunk_and_one_that_every_file_would_meet_the_job(engine, faces, protect):
    (faces / "person0" / "white.png").write_bytes(encode_image(np.full((48, 48, 3), 255, np.uint8), ".png"))
    angry = Moody(sigma=2.0, size=SIZE)
    summary = protect(faces, "out", angry, engine=engine, batch_size=1)
    assert summary.counts["failed"] >= 1
    assert summary.counts["ok"] + summary.counts["failed"] == 12
    reasons = {row.reason for row in read_manifest(summary.manifest) if row.status == "failed"}
    assert reasons == {"unexpected MemoryError: no room for white"}
    wrong = Moody(sigma=2.0, size=SIZE, mood="wrong")
    with pytest.raises(OutputError, match=r"The protector gave float32 .* files are finished"):
        protect(faces, "stopped", wrong, engine=engine, batch_size=2)


def test_bad_numbers_and_a_missing_extra(monkeypatch):
    from privface.protect.cluster import RayEngine

    for wrong in ({"actors": 0}, {"cpus": 0}, {"gpus": -1}, {"chunk": 0}):
        with pytest.raises(ConfigError, match="must be at least"):
            RayEngine(**wrong)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="--engine ray needs ray"):
        RayEngine()
