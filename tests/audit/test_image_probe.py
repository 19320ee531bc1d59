"""Attackers that start from pretrained networks: they learn what is there, and say where they started."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privface.audit import image_probe as room
from privface.audit.curves import auc, by_label
from privface.audit.image_probe import CNNProbe, FineTunedProbe


def pretrained(width: int) -> nn.Module:
    """A network that somebody trained for something else: a few fixed features."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(features, nn.Linear(128, width))


@pytest.fixture(scope="module")
def pictures(toy):
    images, people, genders = toy.people(60, 4)
    part = np.repeat(np.arange(60) % 3, 4)
    return [(images[part == k], genders[part == k], people[part == k]) for k in range(3)]


def reads(probe, pictures):
    (train, g, p), (val, val_g, _), (test, test_g, _) = pictures
    fitted = probe.fit(train, g, p, val, val_g, seed=1)
    return fitted, auc(*by_label(fitted.scores(test), test_g))


@pytest.mark.parametrize("width", [1, 6], ids=["classifier", "matcher"])
def test_a_pretrained_network_is_taught_anew(width, pictures, toy):
    probe = FineTunedProbe(
        "mine", lambda: pretrained(width), fingerprint="f", epochs=6, batch_size=8, learning_rate=5e-3
    )
    assert probe.name == "fine-tuned:mine"
    fitted, value = reads(probe, pictures)
    assert value > 0.85
    assert "epoch=" in fitted.setting
    hidden = [(toy.remove_cue(images), g, p) for images, g, p in pictures]
    assert reads(probe, hidden)[1] < 0.75


def test_every_fit_starts_from_the_same_weights(pictures):
    probe = FineTunedProbe("mine", lambda: pretrained(6), epochs=1, learning_rate=1e-3)
    first, second = (reads(probe, pictures)[0].scores(pictures[2][0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Viewing(nn.Module):
    """A network that cannot have channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.last = nn.Conv2d(3, 8, 5, 4, 2), nn.Linear(8 * 8 * 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x).view(len(x), -1))


def test_networks_learn_channels_last_where_they_can(pictures):
    for probe, layout in (
        (CNNProbe(epochs=1), torch.channels_last),
        (CNNProbe(epochs=1, width=4), torch.contiguous_format),  # torch would write past its memory
        (FineTunedProbe("mine", Viewing, epochs=1), torch.contiguous_format),
    ):
        fitted, _ = reads(probe, pictures)
        assert fitted.layout == layout, probe
        x = fitted.standardise(pictures[0][0][:2])
        assert x.is_contiguous(memory_format=layout)
        assert not np.isnan(fitted.scores(pictures[2][0])).any()


def test_scores_depend_on_nothing_but_the_image(pictures):
    fitted, _ = reads(CNNProbe(epochs=1), pictures)
    images = pictures[2][0].copy()
    images.flags.writeable = False
    whole = fitted.scores(images, batch_size=len(images))
    np.testing.assert_allclose(fitted.scores(images, batch_size=3), whole, atol=1e-5)
    turned = np.ascontiguousarray(images[..., ::-1])[..., ::-1]  # negative strides
    np.testing.assert_array_equal(fitted.scores(turned, batch_size=len(images)), whole)


def test_the_input_is_standardised_by_the_photos_of_the_training(pictures):
    images = pictures[0][0]
    mean, std = room._channel_statistics(images)
    flat = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, flat.std(axis=0), rtol=1e-6)
    assert room._channel_statistics(np.full((2, 4, 4, 3), 7, np.uint8))[1].tolist() == [1, 1, 1]
