"""Photos from lists, archives and tables: the same outputs as from a folder, and hostile names and members refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from privface.errors import ConfigError, DataError, OutputError
from privface.images import decode_image
from privface.protect import GaussianBlur, ProtectOptions, protect_folder, read_manifest

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

SIZE = 32
BLUR = GaussianBlur(sigma=2.0, size=SIZE)


def files(root: Path) -> list[tuple[str, bytes]]:
    return [(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob("*.*"))]


def as_list(faces: Path, place: Path) -> Path:
    lines = ["# photos", "", *(str(Path("..") / faces.name / name) for name, _ in files(faces))]
    (place / "lists").mkdir()
    (place / "lists" / "photos.txt").write_text("\n".join(lines), encoding="utf-8")
    return place / "lists" / "photos.txt"


def as_zip(faces: Path, place: Path) -> Path:
    with zipfile.ZipFile(place / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files(faces):
            archive.writestr(name, data)
        archive.writestr("readme.md", "no photo")
    return place / "photos.zip"


def as_tar(faces: Path, place: Path) -> Path:
    with tarfile.open(place / "photos.tar", "w") as archive:
        for name, data in files(faces):
            add(archive, name, data)
        add(archive, "person0/face00.json", b"{}")
    return place / "photos.tar"


def as_table(faces: Path, place: Path) -> Path:
    names, data = zip(*files(faces), strict=True)
    table = pd.DataFrame({"file": names, "image": [{"bytes": d, "path": None} for d in data]})
    table.to_parquet(place / "photos.parquet", row_group_size=3)
    return place / "photos.parquet"


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("pack", [as_list, as_zip, as_tar, as_table])
def test_every_source_gives_the_folder_s_output(faces, tmp_path, snapshot, pack):
    protect_folder(faces, tmp_path / "folder", BLUR, aligned(batch_size=4))
    source = pack(faces, tmp_path)
    before = source.read_bytes()
    summary = protect_folder(source, tmp_path / "out", BLUR, aligned(batch_size=4, workers=3))
    assert summary.counts["ok"] == 11
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "folder")
    assert source.read_bytes() == before
    assert protect_folder(source, tmp_path / "out", BLUR, aligned(batch_size=4)).reused == 11


def test_shards_are_named_apart(faces, tmp_path):
    (tmp_path / "one").mkdir()
    as_tar(faces, tmp_path / "one").rename(tmp_path / "train-000.tar")
    as_tar(faces, tmp_path / "one").rename(tmp_path / "train-001.tar")
    as_zip(faces, tmp_path).rename(tmp_path / "photos[1].zip")
    assert protect_folder(tmp_path / "photos[1].zip", tmp_path / "zip", BLUR, aligned()).counts["ok"] == 11
    summary = protect_folder(tmp_path / "train-*.tar", tmp_path / "out", BLUR, aligned())
    assert summary.counts["ok"] == 22
    assert {row.input.split("/")[0] for row in read_manifest(summary.manifest)} == {"train-000", "train-001"}


def test_one_format_for_all(faces, tmp_path):
    Image.open(faces / "person0" / "face00.png").save(faces / "person0" / "face02.png")  # beside face02.jpg
    Image.open(faces / "person0" / "face00.png").save(faces / "person0" / "still.gif")
    summary = protect_folder(faces, tmp_path / "out", BLUR, aligned(image_format="webp"))
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert summary.counts["ok"] == 12
    assert rows["person0/still.gif"].output == "person0/still.webp"
    assert "another photo would be written to the same .webp" in str(rows["person0/face02.png"].reason)
    for row in rows.values():
        if row.output is not None:
            data = (tmp_path / "out" / row.output).read_bytes()
            assert data[8:12] == b"WEBP"
            assert decode_image(data).shape == (SIZE, SIZE, 3)
    with pytest.raises(ConfigError, match="'heic' is not written"):
        protect_folder(faces, tmp_path / "x", BLUR, aligned(image_format="heic"))
    with pytest.raises(OutputError, match="format 'webp', now None"):
        protect_folder(faces, tmp_path / "out", BLUR, aligned())


NAMES = {
    "../up.png": "leads out",
    "/etc/abs.png": "absolute path",
    "a/../../b.png": "leads out",
    "a\\b.png": "backslash",
    "C:/c.png": "colon",
    "a//b.png": "empty part",
}


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(faces, tmp_path, kind):
    good = (faces / "person0" / "face00.png").read_bytes()
    source = tmp_path / f"bad.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name in (*NAMES, "good.png"):
                archive.writestr(name, good)
    elif kind == "tar":
        with tarfile.open(source, "w") as archive:
            for name in (*NAMES, "good.png"):
                add(archive, name, good)
    else:
        names = [*NAMES, "good.png"]
        pd.DataFrame({"key": names, "bytes": [good] * len(names)}).to_parquet(source)
    summary = protect_folder(source, tmp_path / "deep" / "out", BLUR, aligned())
    rows = {row.input: row for row in read_manifest(summary.manifest)}
    assert rows["good.png"].status == "ok"
    assert len(rows) == len(NAMES) + 1
    for name, why in NAMES.items():
        assert rows[name].status == "unreadable", name
        assert why in str(rows[name].reason)
    written = [p for p in tmp_path.rglob("*.png") if faces not in p.parents]
    assert written == [tmp_path / "deep" / "out" / "good.png"]
    assert not Path("/etc/abs.png").exists()


def test_members_that_are_no_plain_photos_are_refused(faces, tmp_path):
    good = (faces / "person0" / "face00.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("twice.png", good)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.png", good)
        archive.writestr("bomb.png", b"\0" * 40_000_000, zipfile.ZIP_DEFLATED)
    found = {}
    for row in read_manifest(
        protect_folder(tmp_path / "z.zip", tmp_path / "z", BLUR, aligned(max_pixels=10_000)).manifest
    ):
        found.setdefault(row.input, []).append((row.status, row.reason))
    assert found["link.png"] == [("unreadable", "symbolic link; links are not followed")]
    assert [status for status, _ in found["twice.png"]] == ["ok", "unreadable"]
    assert found["bomb.png"][0][0] == "too_large"
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
        add(archive, "ok.png", good)
    rows = read_manifest(protect_folder(tmp_path / "t.tar", tmp_path / "t", BLUR, aligned()).manifest)
    assert [row.status for row in rows] == ["unreadable", "ok"]
    pd.DataFrame({"image": [good, b"", None]}).to_parquet(tmp_path / "p.parquet")
    rows = read_manifest(protect_folder(tmp_path / "p.parquet", tmp_path / "p", BLUR, aligned()).manifest)
    assert [(row.input, row.status) for row in rows] == [
        ("row-000000000.png", "ok"), ("row-000000001.png", "unreadable"), ("row-000000002.png", "unreadable"),
    ]  # fmt: skip


def test_damage_costs_one_member_or_names_the_archive(faces, tmp_path):
    source = as_zip(faces, tmp_path)
    data = bytearray(source.read_bytes())
    data[120:400] = os.urandom(280)
    source.write_bytes(data)
    counts = protect_folder(source, tmp_path / "out", BLUR, aligned()).counts
    assert counts["ok"] >= 9
    assert counts["ok"] + counts["unreadable"] == 11
    tar = as_tar(faces, tmp_path)
    (tmp_path / "cut.tar").write_bytes(tar.read_bytes()[:3000])
    for name, content in (("broken.zip", b"PK"), ("broken.tar", b"x" * 600), ("broken.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="is not a readable"):
            protect_folder(tmp_path / name, tmp_path / "never", BLUR, aligned())


def test_a_list_names_what_is_missing(faces, tmp_path):
    (tmp_path / "l.txt").write_text("in/person0/face00.png\nin/person0/none.png\nin/person0/face00.png\n")
    found = [
        (row.input, row.status, row.reason)
        for row in read_manifest(protect_folder(tmp_path / "l.txt", tmp_path / "o", BLUR, aligned()).manifest)
    ]
    assert sorted(status for _, status, _ in found) == ["ok", "unreadable", "unreadable"]
    assert any("No such file" in str(reason) for _, _, reason in found)
    assert any("more than once" in str(reason) for _, _, reason in found)


@pytest.mark.parametrize(("name", "message"), [("none.zip", "does not exist"), ("l.docx", "is not a folder")])
def test_other_inputs_are_refused(tmp_path, name, message):
    if name.endswith("docx"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=message):
        protect_folder(tmp_path / name, tmp_path / "o", BLUR, aligned())
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has no image column; it has a"):
        protect_folder(tmp_path / "t.parquet", tmp_path / "o", BLUR, aligned())


def test_an_output_around_the_archive_is_refused(faces, tmp_path):
    with pytest.raises(OutputError, match="overlaps"):
        protect_folder(as_zip(faces, tmp_path), tmp_path, BLUR, aligned())
