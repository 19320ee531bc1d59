from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ConfigError, InputRangeError, ModelError
from privface.models import Protector, SemiAdversarialAutoencoder, save_network
from tests.models.conftest import san


@pytest.mark.parametrize("output", ["residual", "direct"])
@pytest.mark.parametrize("stem", ["unshuffle", "full"])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shape_and_range_over_the_grid(depth, skips, stem, output, make_images):
    made = san(width=9, depth=depth, skips=skips, stem=stem, output=output)
    images = torch.from_numpy(make_images(2, size=16))
    with torch.no_grad():
        out = made(images)
    assert out.shape == images.shape
    assert float(out.min()) > 0
    assert float(out.max()) < 1
    assert float((out - images).abs().max()) > 1e-3


def test_strength_scales_the_change_and_a_fresh_network_changes_nothing_but_the_extremes(make_images):
    images, made = torch.from_numpy(make_images(2, size=16)), san()
    with torch.no_grad():
        fresh = SemiAdversarialAutoencoder(width=4, depth=2)(images)
        none, half, whole = (made(images, strength=s) for s in (0.0, 0.5, 1.0))
    for unchanged in (fresh, none):
        torch.testing.assert_close(unchanged, images.clamp(0.02, 0.98), atol=1e-6, rtol=0)
    assert 0 < float((half - none).abs().mean()) < float((whole - none).abs().mean())


@pytest.mark.parametrize("output", ["residual", "direct"])
def test_dropped_colour_leaves_grey_that_forgets_it(output, make_images):
    images = torch.from_numpy(make_images(2, size=16))
    with torch.no_grad():
        out = san(colour="dropped", output=output)(images)
    assert out.shape == images.shape
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=0)
    none = SemiAdversarialAutoencoder(width=4, depth=2, colour="dropped")(images)
    grey = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    torch.testing.assert_close(none, grey.clamp(0.02, 0.98).expand_as(none), atol=1e-6, rtol=0)


def test_kept_colour_moves_all_channels_by_one_logit(make_images):
    images = torch.from_numpy(make_images(2, size=16))
    with torch.no_grad():
        moved = torch.logit(san(colour="kept")(images)) - torch.logit(images.clamp(0.02, 0.98))
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-4, rtol=0)
    assert float(moved.abs().mean()) > 1e-3
    with pytest.raises(ModelError, match="no colour to keep"):
        SemiAdversarialAutoencoder(output="direct", colour="kept")


def test_gradient_reaches_every_weight(make_images):
    made = san(depth=3)
    made(torch.from_numpy(make_images(1, size=16))).mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.parameters())


def test_sides_that_do_not_halve_are_refused(make_images):
    with pytest.raises(ModelError, match=r"12 x 12 do not halve 3 times.*divisible by 8"):
        san(depth=3)(torch.from_numpy(make_images(1, size=12)))


def test_a_protector_takes_float64_in_any_batch_and_refuses_pixels(make_images):
    protector, images = Protector(san(), size=16), make_images(9, size=16)
    alone = np.concatenate([protector(images[i : i + 1]) for i in range(9)])
    assert np.abs(protector(images) - alone).max() < 1e-6
    np.testing.assert_array_equal(protector(images.astype(np.float64)), protector(images))
    with pytest.raises(InputRangeError, match="images to protect span"):
        protector(images * 255)


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_strength_outside_its_range_is_refused(strength):
    with pytest.raises(ConfigError, match=rf"strength={strength} is outside 0\.\.2"):
        Protector(san(), strength=strength)


def test_fingerprint_tells_weights_and_strength_apart():
    plain = Protector(san()).fingerprint
    assert plain == Protector(san()).fingerprint
    assert plain != Protector(san(), strength=0.5).fingerprint
    changed = san()
    with torch.no_grad():
        changed.head.weight[0, 0, 0, 0] += 1e-3
    assert plain != Protector(changed).fingerprint


@pytest.mark.parametrize("colour", ["free", "dropped"])
def test_run_folder_round_trip(tmp_path, make_images, colour):
    made, images = san(skips=False, output="direct", colour=colour), make_images(2, size=16)
    save_network(tmp_path, made, kind="semi-adversarial-autoencoder", meta={"size": 16})
    loaded = Protector.load(tmp_path)
    assert loaded.size == 16
    np.testing.assert_array_equal(loaded(images), Protector(made)(images))
    card = tmp_path / "model.yaml"
    assert ("colour" in card.read_text()) == (colour != "free"), "older cards stay as they are"
    card.write_text(card.read_text().replace("width: 4", "breadth: 4"))
    with pytest.raises(CheckpointError, match="cannot be built"):
        Protector.load(tmp_path)
