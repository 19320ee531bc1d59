"""Protected images in shards: the bytes of the tree, cut alike whatever stops the job, and readable again."""

from __future__ import annotations

import hashlib
import os
import signal
import tarfile

import pytest

from privface.errors import OutputError
from privface.images import encode_image
from privface.protect import read_manifest
from tests.protect.conftest import Watched, images, patch, snapshot

LAYOUTS = {"webdataset": ".tar", "parquet": ".parquet"}


@pytest.fixture
def shard(protect):
    def run(source, out="out", *more, layout, **options):
        return protect(source, out, *more, layout=layout, **{"shard_size": 4, "batch_size": 2, **options})

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("several", [False, True])
def test_shards_hold_the_bytes_of_the_tree_and_the_manifest_says_where(
    request, tmp_path, protect, shard, layout, several
):
    source = request.getfixturevalue("groups" if several else "faces")
    detector = request.getfixturevalue("crowd") if several else None
    (source / "broken.png").write_bytes(b"no image")
    protect(source, "tree", batch_size=2, detector=detector)
    rows = read_manifest(shard(source, layout=layout, detector=detector).manifest)
    found, out = images(tmp_path / "out"), tmp_path / "out"
    assert found == images(tmp_path / "tree")
    assert [p.name for p in sorted(out.glob("protected-*"))] == [
        f"protected-0000{k}{LAYOUTS[layout]}" for k in range(3)
    ]
    assert len(rows) == len(found) + 1 == (19 if several else 12)
    for row in rows:
        if row.status == "ok":
            part, _, name = str(row.output).partition("/")
            assert row.output_sha256 == hashlib.sha256(found[name]).hexdigest()
            assert row.output_bytes == len(found[name])
            assert (out / part).is_file()
        else:
            assert (row.input, row.output) == ("broken.png", None)
    if several:
        assert list(found)[:4] == [
            "day0/photo0.png", *(f"day0/photo2{k}.png" for k in ("", ".face2", ".face3"))
        ]  # fmt: skip
    again = protect(out / f"protected-*{LAYOUTS[layout]}", "again")
    assert again.counts["ok"] == len(found)
    if layout == "webdataset":  # it says nothing of this machine
        with tarfile.open(out / "protected-00000.tar") as tar:
            for member in tar:
                owner = (member.uid, member.gid, member.uname, member.gname)
                assert (member.mtime, *owner) == (0, 0, 0, "", "")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stop_in_a_rerun_keeps_what_a_shard_held(faces, tmp_path, shard, layout):
    shard(faces, layout=layout)
    (faces / "person0" / "face00.png").write_bytes(encode_image(patch(99), ".png"))
    with pytest.raises(KeyboardInterrupt):
        shard(faces, "out", Watched(lambda: os.kill(os.getpid(), signal.SIGTERM)), layout=layout)
    assert len(images(tmp_path / "out")) == 11
    assert shard(faces, layout=layout).reused == 11
    shard(faces, "fresh", layout=layout)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_lost_and_damaged_parts_are_done_again(faces, tmp_path, shard, layout):
    out = tmp_path / "out"
    shard(faces, layout=layout)
    shards = sorted(out.glob("protected-*"))
    shards[0].write_bytes(shards[0].read_bytes()[:700])
    shards[2].unlink()
    (faces / "person1" / "face01.jpg").write_bytes(b"no image any more")
    assert shard(faces, layout=layout).counts["unreadable"] == 1
    assert len(images(out)) == 10
    shard(faces, "fresh", layout=layout)
    assert snapshot(out) == snapshot(tmp_path / "fresh")
    for path in faces.rglob("face*"):
        path.write_bytes(b"")
    shard(faces, layout=layout)
    assert not list(out.glob("protected-*"))


def test_layouts_do_not_mix_and_overwriting_removes_the_former(faces, tmp_path, protect, shard):
    out = tmp_path / "out"
    shard(faces, layout="parquet")
    with pytest.raises(OutputError, match=r"layout 'parquet', now 'tree'; shard_size 4, now None"):
        protect(faces)
    protect(faces, overwrite=True)
    assert not list(out.glob("protected-*"))
    shard(faces, layout="webdataset", overwrite=True)
    assert not list(out.rglob("face*"))
