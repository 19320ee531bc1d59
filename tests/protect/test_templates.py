"""Templates beside protected photos: whose they are, that they survive a stop, that no plain original is among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from privface.data import read_embeddings
from privface.erasers import LEACE, SavedEraser, save_eraser
from privface.errors import ConfigError, ModelError, OutputError
from privface.faces.align import as_aligned
from privface.images import decode_image, to_pixels, to_unit
from privface.models import CompactResNet, load_matcher, save_network
from privface.protect.templates import MatcherTemplates, pack, template_maker, unpack
from tests.protect.conftest import BLUR, SIZE, snapshot


@dataclass(frozen=True)
class Means:
    """The mean of each channel, weighted."""

    of_original: bool = False
    fingerprint: str = "means"
    kept: int | None = None

    def __call__(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(faces.mean(axis=(2, 3)) * [1, 2, 4], np.float32)[: self.kept]


@pytest.mark.parametrize("of_original", [False, True])
def test_each_output_has_its_template_under_the_manifest_s_key(faces, tmp_path, protect, of_original):
    (faces / "broken.png").write_bytes(b"no image")
    protect(faces, batch_size=4, templates=Means(of_original))
    written = tmp_path / "out" / "embeddings.parquet"
    table = read_embeddings(written)
    files = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("face*"))
    assert table.labels["file"].tolist() == files  # the broken one has none
    seen = to_unit(np.stack([as_aligned(decode_image(faces / file), size=SIZE) for file in files]))
    if not of_original:
        seen = to_unit(to_pixels(BLUR(seen)))
    np.testing.assert_allclose(table.vectors, Means()(seen), atol=1e-6)
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_rerun_takes_templates_over_and_other_templates_do_not_mix(faces, tmp_path, protect):
    out = tmp_path / "out"
    protect(faces, batch_size=4, templates=Means())
    before = snapshot(out)
    next(out.rglob("face03*")).unlink()
    assert protect(faces, batch_size=4, templates=Means()).reused == 10
    assert snapshot(out) == before
    with pytest.raises(OutputError, match="templates 'means', now 'others'"):
        protect(faces, templates=Means(fingerprint="others"))
    with pytest.raises(OutputError, match="templates 'means', now None"):
        protect(faces)


def test_a_photo_of_several_faces_has_the_template_of_its_central_one(groups, crowd, tmp_path, protect):
    out = tmp_path / "out"
    protect(groups, detector=crowd, templates=Means())
    table = read_embeddings(out / "embeddings.parquet")
    files = table.labels["file"].tolist()
    assert files == sorted(p.relative_to(groups).as_posix() for p in groups.rglob("*.png"))
    shown = to_unit(np.stack([decode_image(out / file) for file in files]))
    np.testing.assert_allclose(table.vectors, Means()(shown), atol=1e-6)


def test_an_answer_that_is_not_finite_is_an_empty_row_and_one_of_another_shape_stops_the_job(
    faces, tmp_path, protect
):
    class Silent(Means):
        def __call__(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
            rows = super().__call__(faces)
            rows[0] = np.nan
            return rows

    protect(faces, templates=Silent())
    assert pd.read_parquet(tmp_path / "out" / "embeddings.parquet")["embedding"].isna().sum() == 1
    with pytest.raises(ModelError, match="for 11 faces"):
        protect(faces, "short", templates=Means(kept=2))


def test_packing_is_exact():
    row = np.random.default_rng(0).normal(size=64).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(row)), row)


@pytest.fixture
def matcher(tmp_path):
    crop = {"input_size": 16, "crop": [0.0, 0.0, 112.0, 112.0]}
    folder = tmp_path / "matcher"
    save_network(folder, CompactResNet(outputs=4, width=8, stages=1), kind="matcher", meta=crop)
    return f"mini:{folder}"


def fitted(size: int = 4) -> LEACE:
    rng = np.random.default_rng(0)
    return LEACE().fit(rng.normal(size=(50, size)), np.arange(50) % 2)


def test_an_eraser_is_given_originals_and_its_answer_is_stored(faces, tmp_path, protect, matcher):
    name = load_matcher(matcher).name
    save_eraser(tmp_path / "eraser", fitted(), meta={"matcher": name})
    maker = template_maker(f"{matcher}:{tmp_path / 'eraser'}")
    assert maker.of_original
    assert not template_maker(matcher).of_original
    protect(faces, batch_size=11, templates=maker)
    table = read_embeddings(tmp_path / "out" / "embeddings.parquet")
    batch = np.stack([as_aligned(decode_image(faces / f), size=SIZE) for f in table.labels["file"]])
    plain = load_matcher(matcher).embed(to_unit(batch))
    np.testing.assert_allclose(table.vectors, fitted().transform(plain), atol=1e-5)
    assert not np.isclose(table.vectors, plain, atol=1e-4).all(axis=1).any()


def test_an_eraser_of_another_matcher_is_refused(tmp_path, matcher):
    save_eraser(tmp_path / "eraser", fitted(), meta={"matcher": "other"})
    with pytest.raises(ConfigError, match="was fitted on 'other'"):
        template_maker(f"{matcher}:{tmp_path / 'eraser'}")
    maker = MatcherTemplates(load_matcher(matcher), SavedEraser(fitted(6)))
    with pytest.raises(ConfigError, match="6 values"):
        maker(np.zeros((2, 3, SIZE, SIZE), np.float32))
    assert maker.fingerprint != MatcherTemplates(load_matcher(matcher), SavedEraser(fitted(5))).fingerprint
