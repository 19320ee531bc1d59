"""Photos from lists, archives, tables and URLs: the outputs of a folder, hostile names and members refused."""

from __future__ import annotations

import copy
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from privface.errors import ConfigError, DataError, OutputError
from privface.images import decode_image
from privface.protect import GaussianBlur, protect_folder, read_manifest
from privface.protect.places import is_url, suffix_of
from privface.protect.sources import open_photos
from tests.protect.conftest import rows, snapshot


def files(root: Path) -> list[tuple[str, bytes]]:
    return [(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob("*.*"))]


def pack(kind: str, members: Sequence[tuple[str, bytes]], place: Path) -> Path:
    """Photos as a list of those in ``in``, an archive or a table."""
    path = place / f"photos.{kind}"
    if kind == "txt":
        path = place / "lists" / path.name
        path.parent.mkdir()
        lines = ["# photos", "", *(f"../in/{name}" for name, _ in members)]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (*members, ("readme.md", b"no photo")):
                archive.writestr(name, data)
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in (*members, ("person0/face00.json", b"{}")):
                add(archive, name, data)
    else:
        table = pd.DataFrame(members, columns=["file", "bytes"])
        table["image"] = [{"bytes": data, "path": None} for data in table.pop("bytes")]
        table.to_parquet(path, row_group_size=3)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def memory():
    """The file system behind ``memory://``, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def bucket(memory, faces):
    """The faces in a bucket, with files that are no photos to show."""
    for name, data in [*files(faces), (".hidden/x.png", b""), ("notes.txt", b"")]:
        memory.pipe_file(f"/bucket/photos/{name}", data)
    return "memory://bucket/photos"


@pytest.mark.parametrize(
    ("kind", "remote"), [("txt", False), *product(("zip", "tar", "parquet"), (False, True))]
)
def test_every_source_gives_the_folder_s_output(faces, tmp_path, protect, memory, kind, remote):
    protect(faces, "folder", batch_size=4)
    source = local = pack(kind, files(faces), tmp_path)
    before = local.read_bytes()
    if remote:
        memory.pipe_file(f"/data/{local.name}", before)
        source = f"memory://data/{local.name}"
    assert protect(source, batch_size=4, workers=3).counts["ok"] == 11
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "folder")
    assert local.read_bytes() == before
    assert protect(source, batch_size=4).reused == 11


def test_a_bucket_gives_the_folder_s_output_and_a_file_that_vanishes_costs_only_itself(
    faces, tmp_path, protect, memory, bucket, monkeypatch
):
    protect(faces, "folder")
    assert protect(bucket).counts["ok"] == 11
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "folder")
    assert protect(f"{bucket}/").reused == 11
    cat = type(memory).cat_file

    def cat_file(self, path, **more):
        if path.endswith("face03.png"):
            raise ConnectionResetError("the network is gone")
        return cat(self, path, **more)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    summary = protect(bucket, "again")
    assert (summary.counts["ok"], summary.counts["unreadable"]) == (10, 1)
    row = rows(summary)["person1/face03.png"]
    assert "ConnectionResetError: the network is gone" in str(row.reason)


def test_shards_are_named_apart(faces, tmp_path, protect):
    for name in ("train-000.tar", "train-001.tar"):
        pack("tar", files(faces), tmp_path).rename(tmp_path / name)
    pack("zip", files(faces), tmp_path).rename(tmp_path / "photos[1].zip")
    assert protect(tmp_path / "photos[1].zip", "zip").counts["ok"] == 11
    summary = protect(tmp_path / "train-*.tar")
    assert summary.counts["ok"] == 22
    assert {row.input.split("/")[0] for row in read_manifest(summary.manifest)} == {"train-000", "train-001"}


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_archives_open_again_in_another_process(faces, tmp_path, kind):
    source = open_photos(pack(kind, files(faces), tmp_path))
    again = copy.copy(source)  # what Ray does, without the bytes between
    for item in source.items():
        assert again.read(item, limit=10**6) == source.read(item, limit=10**6)
    source.close()
    again.close()


def test_one_format_for_all(faces, tmp_path, protect):
    Image.open(faces / "person0" / "face00.png").save(faces / "person0" / "face02.png")  # beside face02.jpg
    Image.open(faces / "person0" / "face00.png").save(faces / "person0" / "still.gif")
    summary = protect(faces, image_format="webp")
    found = rows(summary)
    assert summary.counts["ok"] == 12
    assert found["person0/still.gif"].output == "person0/still.webp"
    assert "another photo would be written to the same .webp" in str(found["person0/face02.png"].reason)
    for row in found.values():
        if row.output is not None:
            data = (tmp_path / "out" / row.output).read_bytes()
            assert data[8:12] == b"WEBP"
            assert decode_image(data).shape == (32, 32, 3)
    with pytest.raises(ConfigError, match="'heic' is not written"):
        protect(faces, "x", image_format="heic")
    with pytest.raises(OutputError, match="format 'webp', now None"):
        protect(faces)


NAMES = {
    "../up.png": "leads out",
    "/etc/abs.png": "absolute path",
    "a/../../b.png": "leads out",
    "a\\b.png": "backslash",
    "C:/c.png": "colon",
    "a//b.png": "empty part",
}


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet", "bucket"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(faces, tmp_path, protect, memory, kind):
    good, names = (faces / "person0" / "face00.png").read_bytes(), dict(NAMES)
    members = [(name, good) for name in (*names, "good.png")]
    if kind == "parquet":
        source = tmp_path / "bad.parquet"
        pd.DataFrame(members, columns=["key", "bytes"]).to_parquet(source)
    elif kind != "bucket":
        source = pack(kind, members, tmp_path)
    else:
        source, names = "memory://b", dict.fromkeys(("a//b.png", "a/../../b.png"), "leads out")
        for name in (*names, "good.png"):
            memory.store[f"/b/{name}"] = fsspec.implementations.memory.MemoryFile(memory, f"/b/{name}", good)
    found = rows(protect(source, "deep/out"))
    assert found["good.png"].status == "ok"
    assert len(found) == len(names) + 1
    for name, why in names.items():
        assert found[name].status == "unreadable", name
        assert why in str(found[name].reason)
    written = [p for p in tmp_path.rglob("*.png") if faces not in p.parents]
    assert written == [tmp_path / "deep" / "out" / "good.png"]
    assert not Path("/etc/abs.png").exists()


def test_members_that_are_no_plain_photos_are_refused(faces, tmp_path, protect):
    good = (faces / "person0" / "face00.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("twice.png", good)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.png", good)
        archive.writestr("bomb.png", b"\0" * 40_000_000, zipfile.ZIP_DEFLATED)
    found = read_manifest(protect(tmp_path / "z.zip", "z", max_pixels=10_000).manifest)
    assert [(row.input, row.status) for row in found] == [
        ("bomb.png", "too_large"), ("link.png", "unreadable"), ("twice.png", "ok"), ("twice.png", "unreadable"),
    ]  # fmt: skip
    assert found[1].reason == "symbolic link; links are not followed"
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
        add(archive, "ok.png", good)
    found = read_manifest(protect(tmp_path / "t.tar", "t").manifest)
    assert [row.status for row in found] == ["unreadable", "ok"]
    pd.DataFrame({"image": [good, b"", None]}).to_parquet(tmp_path / "p.parquet")
    found = read_manifest(protect(tmp_path / "p.parquet", "p").manifest)
    assert [(row.input, row.status) for row in found] == [
        ("row-000000000.png", "ok"), ("row-000000001.png", "unreadable"), ("row-000000002.png", "unreadable"),
    ]  # fmt: skip


def test_damage_costs_one_member_or_names_the_archive(faces, tmp_path, protect):
    source = pack("zip", files(faces), tmp_path)
    data = bytearray(source.read_bytes())
    data[120:400] = os.urandom(280)
    source.write_bytes(data)
    counts = protect(source).counts
    assert counts["ok"] >= 9
    assert counts["ok"] + counts["unreadable"] == 11
    for name, content in (("broken.zip", b"PK"), ("broken.tar", b"x" * 600), ("broken.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="is not a readable"):
            protect(tmp_path / name, "never")


def test_a_list_names_what_is_missing(faces, tmp_path, protect):
    (tmp_path / "l.txt").write_text("in/person0/face00.png\nin/person0/none.png\nin/person0/face00.png\n")
    found = read_manifest(protect(tmp_path / "l.txt").manifest)
    assert sorted(row.status for row in found) == ["ok", "unreadable", "unreadable"]
    assert any("No such file" in str(row.reason) for row in found)
    assert any("more than once" in str(row.reason) for row in found)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.zip", "does not exist"),
        ("l.docx", "is not a folder"),
        ("t.parquet", "has no image column; it has a"),
        ("memory://none/here", "does not exist"),
        ("memory://none/*.tar", "does not exist"),
        ("nosuch://bucket/photos", "cannot be opened"),
        ("simplecache::memory://bucket", "chains file systems"),
    ],
)
def test_other_inputs_are_refused(tmp_path, protect, memory, place, message):
    (tmp_path / "l.docx").write_text("x")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        protect(place if is_url(place) else tmp_path / place)
    assert not (tmp_path / "out").exists()


def test_an_output_around_the_archive_or_at_a_url_is_refused(faces, tmp_path, protect):
    with pytest.raises(OutputError, match="overlaps"):
        protect(pack("zip", files(faces), tmp_path), ".")
    with pytest.raises(ConfigError, match="is a URL; outputs are local folders"):
        protect_folder(faces, "s3://bucket/out", GaussianBlur(sigma=2.0))


def test_the_suffix_of_a_url_is_that_before_its_query():
    assert suffix_of("https://h/a/b.ZIP?sig=a.b") == ".zip"


def test_an_output_that_holds_a_listed_original_is_refused(faces, tmp_path, protect):
    photos = pack("txt", files(faces)[:2], tmp_path)
    before = snapshot(faces)
    for output in (faces, faces / "person0"):
        with pytest.raises(OutputError, match="holds the input"):
            protect(photos, output, overwrite=True)
    assert snapshot(faces) == before
    link = tmp_path / "elsewhere" / "link.png"
    link.parent.mkdir()
    link.symlink_to(next(faces.rglob("*.png")))
    (tmp_path / "l.txt").write_text(str(link))
    with pytest.raises(OutputError, match="holds the input"):
        protect(tmp_path / "l.txt", faces, overwrite=True)
    assert protect(photos, tmp_path / "out").counts["ok"] == 2


def test_a_url_of_this_machine_is_its_path(faces, tmp_path, protect):
    with pytest.raises(OutputError, match="overlaps the input"):
        protect(f"file://{faces}", faces / "out")
    protect(f"local://{faces}", tmp_path / "a")
    protect(faces, tmp_path / "b")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_tar_of_the_folder_itself_is_read(faces, tmp_path, protect):
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(faces, arcname=".")
    protect(tmp_path / "photos.tar", tmp_path / "a")
    protect(faces, tmp_path / "b")
    one, two = (read_manifest(tmp_path / name) for name in "ab")
    assert [row.output for row in one] == [row.output for row in two]
    assert all(row.status == "ok" for row in one)


def test_a_damaged_page_of_a_table_costs_its_photos_alone(faces, tmp_path, protect):
    path = tmp_path / "photos.parquet"
    table = pd.DataFrame([(name, data) for name, data in files(faces)], columns=["file", "image"])
    table.to_parquet(path, row_group_size=3, compression=None)
    where = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = where.dictionary_page_offset or where.data_page_offset
    data[start : start + 16] = b"\xff" * 16
    path.write_bytes(data)
    counts = protect(path, tmp_path / "out").counts
    assert (counts["ok"], counts["unreadable"]) == (8, 3)


def test_names_that_no_folder_can_hold_cost_their_photos_alone(faces, tmp_path, protect):
    (_, data), *_ = files(faces)
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("1.jpg", "1.jpg/thumb.jpg", "x" * 300 + ".jpg"):
            archive.writestr(name, data)
    protect(path, tmp_path / "out")
    told = {row.input: (row.status, row.reason) for row in read_manifest(tmp_path / "out")}
    assert told["1.jpg"][0] == "ok"
    assert "name of another photo" in told["1.jpg/thumb.jpg"][1]
    assert "more than 255 bytes" in told["x" * 300 + ".jpg"][1]


def test_an_empty_part_of_a_name_in_a_bucket_is_refused(faces, tmp_path, protect, memory):
    (_, data), *_ = files(faces)
    system = fsspec.filesystem("memory")
    for name in ("/set/a.jpg", "/set//a.jpg"):
        system.pipe_file(name, data)
    protect("memory://set", tmp_path / "out")
    assert sorted(row.status for row in read_manifest(tmp_path / "out")) == ["ok", "unreadable"]


def test_a_folder_that_cannot_be_listed_is_no_silence(faces, tmp_path, protect, monkeypatch):
    def walk(top, onerror=None):
        onerror(PermissionError(13, "Permission denied", f"{top}/locked"))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(DataError, match="locked cannot be listed"):
        protect(faces, tmp_path / "out")
