"""A protected gallery is usable the day it is made: probes find their people, and other models are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from privface.cli.main import app
from privface.data import generate_faces, write_faces
from privface.erasers import GaussianTransport, save_eraser
from privface.errors import ConfigError, DataError
from privface.images import decode_image, to_unit
from privface.models import CompactResNet, load_matcher, save_network
from privface.pipeline.search import search
from privface.protect import GaussianBlur, protect_folder
from privface.protect.templates import template_maker

BLUR = GaussianBlur(sigma=1.0, size=112)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("search")
    write_faces(generate_faces(people=6, photos_per_person=1, seed=3), place / "faces")
    crop = {"input_size": 32, "crop": [0.0, 0.0, 112.0, 112.0]}
    save_network(place / "matcher", CompactResNet(outputs=16, width=8, stages=2), kind="matcher", meta=crop)
    matcher = load_matcher(f"mini:{place / 'matcher'}")
    photos = sorted((place / "faces").rglob("*.png"))
    rows = matcher.embed(to_unit(np.stack([decode_image(photo) for photo in photos])))
    spread = np.random.default_rng(0).normal(size=(300, 16)) * rows.std(axis=0) + rows.mean(axis=0)
    eraser = GaussianTransport().fit(spread, np.arange(300) % 2)
    save_eraser(place / "transport", eraser, meta={"matcher": matcher.name})
    return place


@pytest.fixture
def spec(place):
    return f"mini:{place / 'matcher'}"


def enrolled(place, spec, out):
    """The gallery of a protected folder."""
    protect_folder(place / "faces", out, BLUR, templates=template_maker(spec))
    return out / "embeddings.parquet"


@pytest.fixture
def gallery(place, spec, tmp_path):
    return enrolled(place, spec, tmp_path / "out")


@pytest.mark.parametrize("eraser", [None, "transport"])
def test_everybody_finds_the_own_template_and_crops_need_no_detector(place, tmp_path, eraser):
    spec = f"mini:{place / 'matcher'}" + (f":{place / eraser}" if eraser else "")
    gallery = enrolled(place, spec, tmp_path / "out")
    found = search(place / "faces", gallery, templates=spec, top=3)
    assert found.searched == 6
    assert not found.failed
    assert len(found.candidates) == 18
    best = [c for c in found.candidates if c.rank == 1]
    assert sum(c.probe == c.file for c in best) >= (5 if eraser is None else 6)
    for one, two in zip(found.candidates, found.candidates[1:], strict=False):
        assert one.probe != two.probe or one.similarity >= two.similarity
    none = search(place / "faces", gallery, templates=spec, threshold=1.1)
    assert none.candidates == ()


def test_the_command_line_and_a_single_photo(place, spec, gallery, tmp_path):
    photo = sorted((place / "faces").rglob("*.png"))[2]
    command = ["match", str(photo), "--gallery", str(gallery), "--templates", spec, "--top", "2"]
    command += ["--out", str(tmp_path / "c.csv")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "6 templates searched" in done.output
    table = pd.read_csv(tmp_path / "c.csv")
    assert table["rank"].tolist() == [1, 2]
    assert set(table["probe"]) == {photo.name}
    done = CliRunner().invoke(app, [*command, "--device", "cpu", "--precision", "bf16"])
    assert done.exit_code == 0, done.output
    rounded = pd.read_csv(tmp_path / "c.csv")["similarity"]
    assert not rounded.equals(table["similarity"])
    np.testing.assert_allclose(rounded, table["similarity"], atol=0.01)


def test_other_models_and_bad_galleries_are_refused(place, spec, gallery, tmp_path):
    with pytest.raises(ConfigError, match="made with other models"):
        search(place / "faces", gallery, templates=f"{spec}:{place / 'transport'}")
    with pytest.raises(ConfigError, match="top=0"):
        search(place / "faces", gallery, templates=spec, top=0)
    with pytest.raises(DataError, match="does not exist"):
        search(place / "faces", tmp_path / "none.parquet", templates=spec)
    table = tmp_path / "short.parquet"
    pd.DataFrame({"file": ["a.png"], "embedding": [[1.0] * 5]}).to_parquet(table)
    with pytest.raises(DataError, match="have 5 values, the probe's 16"):
        search(place / "faces", table, templates=spec)
    pd.DataFrame({"file": ["a.png"], "embedding": [[0.0] * 16]}).to_parquet(table)
    with pytest.raises(DataError, match="holds no template"):
        search(place / "faces", table, templates=spec)
