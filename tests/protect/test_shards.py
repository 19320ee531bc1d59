"""Protected images in shards: the bytes of the tree, cut alike whatever stops the job, and readable again."""

from __future__ import annotations

import hashlib
import os
import signal
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, OutputError
from privface.faces.detect import FaceDetector
from privface.images import encode_image
from privface.protect import (
    GaussianBlur,
    ImageProtector,
    ProtectOptions,
    ProtectSummary,
    protect_folder,
    read_manifest,
)

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

SIZE = 32
BLUR = GaussianBlur(sigma=2.0, size=SIZE)
LAYOUTS = {"webdataset": ".tar", "parquet": ".parquet"}


class Halting:
    """BLUR that does something before one of its calls."""

    size, fingerprint = BLUR.size, BLUR.fingerprint

    def __init__(self, act: Callable[[], None], *, before_call: int) -> None:
        self.calls, self.act, self.before_call = 0, act, before_call

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.calls == self.before_call:
            self.act()
        self.calls += 1
        return BLUR(images)


def images(root: Path, layout: str) -> dict[str, bytes]:
    """What is in the shards, by name; a name that comes twice fails."""
    found: dict[str, bytes] = {}
    for shard in sorted(root.glob(f"protected-*{LAYOUTS[layout]}")):
        if layout == "webdataset":
            with tarfile.open(shard) as tar:
                part = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        else:
            table = pq.read_table(shard)
            part = dict(zip(table["file"].to_pylist(), table["image"].to_pylist(), strict=True))
        assert not part.keys() & found.keys()
        found |= part
    return found


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run_out() -> None:
    raise MemoryError("out of device memory")


def protect(
    source: Path,
    out: Path,
    layout: str,
    *,
    protector: ImageProtector = BLUR,
    detector: FaceDetector | None = None,
    **more: object,
) -> ProtectSummary:
    options = aligned(**{"layout": layout, "shard_size": 4, "batch_size": 2, **more})
    return protect_folder(source, out, protector, options, detector=detector)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_hold_the_bytes_of_the_tree_and_the_manifest_says_where(faces, tmp_path, layout):
    (faces / "broken.png").write_bytes(b"no image")
    protect_folder(faces, tmp_path / "tree", BLUR, aligned(batch_size=2))
    summary = protect(faces, tmp_path / "out", layout)
    found = images(tmp_path / "out", layout)
    assert len(found) == summary.counts["ok"] == 11
    for name, data in found.items():
        assert data == (tmp_path / "tree" / name).read_bytes()
    assert [p.name for p in sorted((tmp_path / "out").glob("protected-*"))] == [
        f"protected-0000{k}{LAYOUTS[layout]}" for k in range(3)
    ]
    for row in read_manifest(summary.manifest):
        if row.status == "ok":
            shard, _, name = str(row.output).partition("/")
            assert row.output_sha256 == hashlib.sha256(found[name]).hexdigest()
            assert row.output_bytes == len(found[name])
            assert (tmp_path / "out" / shard).is_file()
        else:
            assert (row.input, row.output) == ("broken.png", None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_face_of_a_photo_is_in_its_shard(groups, crowd, tmp_path, layout):
    protect(groups, tmp_path / "out", layout, faces="detect", detector=crowd)
    protect_folder(
        groups, tmp_path / "tree", BLUR, ProtectOptions(batch_size=2, faces="detect"), detector=crowd
    )
    found = images(tmp_path / "out", layout)
    rows = read_manifest(tmp_path / "out")
    assert len(found) == len(rows) == 18
    for row in rows:
        shard, _, name = str(row.output).partition("/")
        assert found[name] == (tmp_path / "tree" / name).read_bytes()
        assert (tmp_path / "out" / shard).is_file()
        assert row.output_sha256 == hashlib.sha256(found[name]).hexdigest()
    assert list(found)[:4] == ["day0/photo0.png", *(f"day0/photo2{k}.png" for k in ("", ".face2", ".face3"))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_are_inputs_of_the_next_job(faces, tmp_path, layout):
    protect(faces, tmp_path / "out", layout)
    again = protect_folder(
        tmp_path / "out" / f"protected-*{LAYOUTS[layout]}", tmp_path / "again", BLUR, aligned()
    )
    assert again.counts["ok"] == 11


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", [0, 1, 3, 5])
def test_a_crash_and_a_rerun_equal_one_run(faces, tmp_path, snapshot, layout, call):
    protect(faces, tmp_path / "one", layout)
    with pytest.raises(MemoryError):
        protect(faces, tmp_path / "out", layout, protector=Halting(run_out, before_call=call))
    listed = [row.output for row in read_manifest(tmp_path / "out") if row.output]
    assert {name.partition("/")[2] for name in listed} == images(tmp_path / "out", layout).keys()
    summary = protect(faces, tmp_path / "out", layout)
    assert summary.reused == 2 * call
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "one")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stop_in_a_rerun_keeps_what_a_shard_held(faces, tmp_path, snapshot, make_patch, layout):
    protect(faces, tmp_path / "out", layout)
    (faces / "person0" / "face00.png").write_bytes(encode_image(make_patch(99), ".png"))
    with pytest.raises(KeyboardInterrupt):
        protect(faces, tmp_path / "out", layout, protector=Halting(stop, before_call=0))
    assert len(images(tmp_path / "out", layout)) == 11
    summary = protect(faces, tmp_path / "out", layout)
    assert summary.reused == 11
    protect(faces, tmp_path / "fresh", layout)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_lost_and_damaged_parts_are_done_again(faces, tmp_path, snapshot, layout):
    out = tmp_path / "out"
    protect(faces, out, layout)
    shards = sorted(out.glob("protected-*"))
    shards[0].write_bytes(shards[0].read_bytes()[:700])
    shards[2].unlink()
    (faces / "person1" / "face01.jpg").write_bytes(b"no image any more")
    summary = protect(faces, out, layout)
    assert summary.counts["unreadable"] == 1
    assert len(images(out, layout)) == 10
    protect(faces, tmp_path / "fresh", layout)
    assert snapshot(out) == snapshot(tmp_path / "fresh")
    for path in faces.rglob("face*"):
        path.write_bytes(b"")
    protect(faces, out, layout)
    assert not list(out.glob("protected-*"))


def test_layouts_do_not_mix_and_overwriting_removes_the_former(faces, tmp_path):
    out = tmp_path / "out"
    protect(faces, out, "parquet")
    with pytest.raises(OutputError, match=r"layout 'parquet', now 'tree'; shard_size 4, now None"):
        protect_folder(faces, out, BLUR, aligned())
    protect_folder(faces, out, BLUR, aligned(overwrite=True))
    assert not list(out.glob("protected-*"))
    protect(faces, out, "webdataset", overwrite=True)
    assert not list(out.rglob("face*"))
    with pytest.raises(ConfigError, match="layout is 'zip'"):
        protect(faces, out, "zip")
    with pytest.raises(ConfigError, match="shard_size is 0"):
        protect_folder(faces, out, BLUR, aligned(layout="parquet", shard_size=0))


def test_a_tar_shard_says_nothing_of_this_machine(faces, tmp_path):
    protect(faces, tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out" / "protected-00000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
