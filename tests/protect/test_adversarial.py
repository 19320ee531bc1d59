"""The per-image attacks: each does to its classifier what it claims, inside its ball, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.errors import ConfigError, InputRangeError
from privface.protect.adversarial import FastGradientSign, ProjectedGradient


class Brightness:
    """Reads "male" from how bright the lower half is; curved, so that one step does not arrive."""

    fingerprint = "brightness"

    def logit(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sinh(8.0 * (images[:, :, images.shape[2] // 2 :].mean(dim=(1, 2, 3)) - 0.5))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return np.clip(0.5 + rng.normal(0, 0.04, (6, 1, 1, 1)) + rng.normal(0, 0.1, (6, 3, 16, 16)), 0, 1).astype(
        np.float32
    )


def test_the_classifier_cannot_tell_and_the_eye_hardly_sees(images):
    after = ProjectedGradient(Brightness(), epsilon=0.1, steps=20, size=16)(images)
    before, now = (Brightness().logit(torch.from_numpy(side)).abs().numpy() for side in (images, after))
    assert np.median(before) > 0.1
    assert np.all(now < 0.4 * before + 0.1)
    np.testing.assert_array_equal(after[:, :, :8], images[:, :, :8])  # nothing to gain in the upper half


class Linear:
    """Log-odds as a weighted sum: the one classifier of which a signed step is known in closed form."""

    fingerprint = "linear"

    def __init__(self, bias: float) -> None:
        weights = np.random.default_rng(1).normal(0, 0.01, (3, 16, 16))
        self.weights, self.bias = torch.from_numpy(weights), bias

    def logit(self, images: torch.Tensor) -> torch.Tensor:
        return (images.double() * self.weights).sum(dim=(1, 2, 3)) + self.bias


@pytest.mark.parametrize("answer", [1.0, -1.0])
def test_one_step_moves_a_linear_classifier_as_the_closed_form_says(images, answer):
    inner = 0.3 + 0.4 * images  # far enough from black and white that nothing is clipped
    raw = Linear(0.0).logit(torch.from_numpy(inner)).numpy()
    classifier = Linear(float(answer * 0.5 - (raw.min() + raw.max()) / 2))
    before = classifier.logit(torch.from_numpy(inner)).numpy()
    assert np.all(np.sign(before) == answer)
    epsilon = 0.1
    after = classifier.logit(torch.from_numpy(FastGradientSign(classifier, epsilon=epsilon, size=16)(inner)))
    slope = float(classifier.weights.abs().sum())
    np.testing.assert_allclose(after.numpy(), before - answer * epsilon * slope, atol=1e-5)
    flips = np.abs(before) < epsilon * slope
    assert np.all(flips)  # 0.1 times a sum of about 6.1, against log-odds of about 0.5
    assert np.all(np.sign(after.numpy()) == -answer)


def test_an_undecided_answer_counts_as_male(images):
    grey = np.full_like(images[:1], 0.5)
    classifier = Linear(0.0)
    classifier.bias = -float(classifier.logit(torch.from_numpy(grey)))
    assert float(classifier.logit(torch.from_numpy(grey))) == 0.0
    after = FastGradientSign(classifier, epsilon=0.1, size=16)(grey)
    assert float(classifier.logit(torch.from_numpy(after))) < -0.1


@pytest.mark.parametrize("kind", [ProjectedGradient, FastGradientSign])
def test_a_photo_stays_in_its_ball_and_its_output_depends_on_it_alone(kind, images):
    before = images.copy()
    protector = kind(Brightness(), epsilon=0.1, size=16)
    after = protector(images)
    assert np.abs(after - images).max() <= 0.1 + 1e-6
    assert after.min() >= 0.0
    assert after.max() <= 1.0
    assert after.dtype == np.float32
    np.testing.assert_array_equal(images, before)
    np.testing.assert_allclose(after[2:3], protector(images[2:3]), atol=1e-6)
    with pytest.raises(InputRangeError):
        protector(images * 255)


@pytest.mark.parametrize("kind", [ProjectedGradient, FastGradientSign])
def test_fingerprints_name_settings_and_classifier_and_settings_out_of_range_are_refused(kind):
    found = {kind(Linear(0.0), epsilon=e, size=s).fingerprint for e, s in ((0.1, 16), (0.2, 16), (0.1, 8))}
    assert len(found) == 3
    assert all("classifier=linear" in one for one in found)
    for epsilon in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="epsilon is"):
            kind(Linear(0.0), epsilon=epsilon)
    with pytest.raises(ConfigError, match="steps 0"):
        ProjectedGradient(Linear(0.0), steps=0)
