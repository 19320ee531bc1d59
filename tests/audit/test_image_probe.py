"""Attackers that start from finished networks: they learn what is there, and say where they started."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privface.audit.curves import auc, by_label
from privface.audit.image_probe import BackboneProbe, FineTunedProbe
from privface.errors import ConfigError


def finished(width: int) -> nn.Module:
    """A network that somebody trained for something else: a few fixed features."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(features, nn.Linear(128, width))


@pytest.fixture(scope="module")
def pictures(toy):
    images, people, genders = toy.people(60, 4)
    part = np.repeat(np.arange(60) % 3, 4)
    return [(images[part == k], genders[part == k], people[part == k]) for k in range(3)]


def reads(probe, pictures, **more):
    (train, g, p), (val, val_g, _), (test, test_g, _) = pictures
    fitted = probe.fit(train, g, p, val, val_g, seed=1, **more)
    return fitted, auc(*by_label(fitted.scores(test), test_g))


@pytest.mark.parametrize("width", [1, 6], ids=["classifier", "matcher"])
def test_a_finished_network_is_taught_anew(width, pictures, toy):
    probe = FineTunedProbe(
        "mine", lambda: finished(width), fingerprint="f", epochs=6, batch_size=8, learning_rate=5e-3
    )
    assert probe.name == "fine-tuned:mine"
    fitted, value = reads(probe, pictures)
    assert value > 0.85
    assert "epoch=" in fitted.setting
    hidden = [(toy.remove_cue(images), g, p) for images, g, p in pictures]
    assert reads(probe, hidden)[1] < 0.75


def test_every_fit_starts_from_the_same_weights(pictures):
    probe = FineTunedProbe("mine", lambda: finished(6), epochs=1, learning_rate=1e-3)
    first, second = (reads(probe, pictures)[0].scores(pictures[2][0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_backbone_without_weights_learns_from_originals_first(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    probe = BackboneProbe(epochs=1, batch_size=16)
    with_start, _ = reads(probe, pictures, originals=pictures[0][0])
    assert with_start.setting.startswith("mobilenet_v3_small from originals")
    without, _ = reads(probe, pictures)
    assert without.setting.startswith("mobilenet_v3_small from scratch")
    assert np.isfinite(without.scores(pictures[2][0])).all()


def test_a_backbone_starts_from_the_weights_in_the_cache_of_torch(pictures, tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small-0.pth"
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.get_model("mobilenet_v3_small", weights=None).state_dict(), path)
    fitted, _ = reads(BackboneProbe(epochs=1), pictures)
    assert f"from {path.name}" in fitted.setting
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="does not hold the weights"):
        reads(BackboneProbe(epochs=1), pictures)
