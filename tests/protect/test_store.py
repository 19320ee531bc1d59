"""Templates in LanceDB: what was written is found, former ones are gone from the disk, foreign folders stay."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, DataError, MissingExtraError, OutputError
from privface.protect.store import TemplateStore, store_path
from privface.protect.templates import pack

pytest.importorskip("lancedb", reason="the extra [store] is not installed")


@pytest.fixture
def vectors():
    return np.random.default_rng(5).normal(size=(5000, 16)).astype(np.float32)


def packed(vectors: NDArray[np.float32]):  # type: ignore[no-untyped-def]
    return ((f"{k:05d}.jpg", pack(v)) for k, v in enumerate(vectors))


def test_the_nearest_by_cosine_are_found(tmp_path, vectors):
    vectors[7] = np.nan  # the matcher gave nothing: no template, and none stored
    store = TemplateStore(tmp_path / "db")
    assert store.write(packed(vectors), fingerprint="abc") == len(store) == 4999
    assert store.fingerprint() == "abc"
    probe = vectors[11] * 3 + 0.05
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.nan_to_num(unit @ (probe / np.linalg.norm(probe)), nan=-2)
    best = np.argsort(-scores)[:4]
    found = store.nearest(probe, top=4)
    assert [key for key, _ in found] == [f"{k:05d}.jpg" for k in best]
    np.testing.assert_allclose([s for _, s in found], scores[best], atol=1e-5)
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


def test_what_is_replaced_leaves_the_disk(tmp_path, vectors):
    store = TemplateStore(tmp_path / "db")
    store.write(packed(vectors), fingerprint="raw")
    before = {p.name for p in (tmp_path / "db").rglob("*.lance") if p.is_file()}
    store.write(packed(-vectors[:3]), fingerprint="erased")
    after = {p.name for p in (tmp_path / "db").rglob("*.lance") if p.is_file()}
    assert before
    assert not before & after
    assert (len(store), store.fingerprint()) == (3, "erased")
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_foreign_folders_and_empty_jobs_are_refused(tmp_path, vectors):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"holds other things \(thesis.txt\)"):
        TemplateStore(tmp_path / "mine").write(packed(vectors), fingerprint="x")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]
    (tmp_path / "file").write_text("keep")
    with pytest.raises(OutputError, match="holds other things"):
        TemplateStore(tmp_path / "file").write(packed(vectors), fingerprint="x")
    with pytest.raises(DataError, match="no template to store"):
        TemplateStore(tmp_path / "db").write(iter([("a.jpg", "")]), fingerprint="x")
    with pytest.raises(DataError, match="holds no templates"):
        TemplateStore(tmp_path / "none").nearest(vectors[0], top=1)
    with pytest.raises(DataError, match="holds no templates"):
        TemplateStore(tmp_path / "mine").fingerprint()
    TemplateStore(tmp_path / "db").write(packed(vectors[:2]), fingerprint="x")
    with pytest.raises(DataError, match="have 16 values, the probe's 3"):
        TemplateStore(tmp_path / "db").nearest(vectors[0, :3], top=1)


def test_how_a_store_is_named(monkeypatch, tmp_path):
    assert store_path("lancedb:a/b") == Path("a/b")
    for text in ("faiss:x", "lancedb:", "x"):
        with pytest.raises(ConfigError, match="is not known"):
            store_path(text)
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match="needs lancedb"):
        TemplateStore(tmp_path)
