"""Photos at URLs: the outputs of a folder, hostile names refused, and no copy of an original on this disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from privface.errors import ConfigError, DataError
from privface.protect import GaussianBlur, ProtectOptions, protect_folder, read_manifest
from privface.protect.places import expand, is_url, suffix_of

aligned = partial(ProtectOptions, faces="aligned")  # the patches are, at any size

BLUR = GaussianBlur(sigma=2.0, size=32)


@pytest.fixture
def memory():
    """The file system behind ``memory://``, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def fill(system: fsspec.AbstractFileSystem, faces: Path, root: str) -> None:
    for path in sorted(faces.rglob("*.*")):
        system.pipe_file(f"{root}/{path.relative_to(faces).as_posix()}", path.read_bytes())


def test_a_bucket_gives_the_folder_s_output(faces, tmp_path, snapshot, memory):
    fill(memory, faces, "/bucket/photos")
    memory.pipe_file("/bucket/photos/.hidden/x.png", b"")
    memory.pipe_file("/bucket/photos/notes.txt", b"")
    protect_folder(faces, tmp_path / "folder", BLUR, aligned())
    assert protect_folder("memory://bucket/photos", tmp_path / "out", BLUR, aligned()).counts["ok"] == 11
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "folder")
    assert protect_folder("memory://bucket/photos/", tmp_path / "out", BLUR, aligned()).reused == 11


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".parquet"])
def test_archives_at_a_url(faces, tmp_path, snapshot, memory, suffix):
    import shutil

    local = tmp_path / f"photos{suffix}"
    if suffix == ".parquet":
        names = [(p.relative_to(faces).as_posix(), p.read_bytes()) for p in sorted(faces.rglob("*.*"))]
        pd.DataFrame(names, columns=["file", "image"]).to_parquet(local)
    else:
        shutil.make_archive(str(local.with_suffix("")), suffix[1:], faces)
        if suffix == ".tar":  # make_archive begins names with ./, which leads nowhere but is no plain name
            import tarfile

            with tarfile.open(local, "w") as tar:
                for path in sorted(faces.rglob("*.*")):
                    tar.add(path, path.relative_to(faces).as_posix())
    memory.pipe_file(f"/data/photos{suffix}", local.read_bytes())
    protect_folder(faces, tmp_path / "folder", BLUR, aligned())
    assert (
        protect_folder(f"memory://data/photos{suffix}", tmp_path / "out", BLUR, aligned()).counts["ok"] == 11
    )
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "folder")


def test_object_names_that_are_no_paths_are_refused(faces, tmp_path, memory):
    data = next(faces.rglob("*.png")).read_bytes()
    for name in ("a//b.png", "a/../../b.png", "good.png"):
        memory.store[f"/b/{name}"] = fsspec.implementations.memory.MemoryFile(memory, f"/b/{name}", data)
    rows = {
        row.input: row
        for row in read_manifest(protect_folder("memory://b", tmp_path / "o", BLUR, aligned()).manifest)
    }
    assert rows["good.png"].status == "ok"
    refused = {row.status for name, row in rows.items() if name != "good.png"}
    assert refused <= {"unreadable"}
    assert sorted(p.name for p in tmp_path.rglob("*.png") if "in" not in p.parts) == ["good.png"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("memory://none/here", "does not exist"),
        ("nosuch://bucket/photos", "cannot be opened"),
        ("simplecache::memory://bucket", "chains file systems"),
        ("memory://a.docx", "does not exist"),
        ("memory://none/*.tar", "does not exist"),
    ],
)
def test_urls_that_cannot_be_read_are_refused(tmp_path, memory, place, message):
    with pytest.raises(DataError, match=message):
        protect_folder(place, tmp_path / "out", BLUR, aligned())
    assert not (tmp_path / "out").exists()


def test_an_output_at_a_url_is_refused(faces, tmp_path):
    with pytest.raises(ConfigError, match="is a URL; outputs are local folders"):
        protect_folder(faces, "s3://bucket/out", BLUR, aligned())


def test_a_file_that_vanishes_costs_only_itself(faces, tmp_path, memory, monkeypatch):
    fill(memory, faces, "/bucket")
    cat = type(memory).cat_file

    def cat_file(self: object, path: str, **more: object) -> bytes:
        if path.endswith("face03.png"):
            raise ConnectionResetError("the network is gone")
        return cat(self, path, **more)  # type: ignore[arg-type,no-any-return]

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    summary = protect_folder("memory://bucket", tmp_path / "out", BLUR, aligned())
    assert (summary.counts["ok"], summary.counts["unreadable"]) == (10, 1)
    row = next(r for r in read_manifest(summary.manifest) if r.status == "unreadable")
    assert "ConnectionResetError: the network is gone" in str(row.reason)


def test_names_of_places():
    assert is_url("s3://b/x")
    assert not is_url("/a/b")
    assert not is_url(Path("C/x"))
    assert suffix_of("https://h/a/b.ZIP?sig=a.b") == ".zip"
    assert suffix_of(Path("a/b.tar")) == ".tar"
    assert expand("/nowhere/*.tar") == []
