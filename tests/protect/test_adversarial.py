"""The per-image attack: it does to its classifier what it claims, inside its ball, and to nobody else's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.errors import ConfigError, InputRangeError
from privface.protect.adversarial import ProjectedGradient


class Brightness:
    """Reads "male" from how bright the lower half is; curved, so that one step does not arrive."""

    fingerprint = "brightness"

    def logit(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sinh(8.0 * (images[:, :, images.shape[2] // 2 :].mean(dim=(1, 2, 3)) - 0.5))


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(0.5 + rng.normal(0, 0.04, (6, 1, 1, 1)) + rng.normal(0, 0.1, (6, 3, 16, 16)), 0, 1).astype(
        np.float32
    )


def test_the_classifier_cannot_tell_and_the_eye_hardly_sees(images):
    protector = ProjectedGradient(Brightness(), epsilon=0.1, steps=20, size=16)
    before = images.copy()
    after = protector(images)
    read = [Brightness().logit(torch.from_numpy(side)).abs().numpy() for side in (images, after)]
    assert np.median(read[0]) > 0.1
    assert np.all(read[1] < 0.4 * read[0] + 0.1)
    assert np.abs(after - images).max() <= 0.1 + 1e-6
    assert after.min() >= 0.0
    assert after.max() <= 1.0
    assert after.dtype == np.float32
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(after[:, :, :8], images[:, :, :8])  # nothing to gain in the upper half


def test_a_photo_s_output_depends_on_that_photo(images):
    protector = ProjectedGradient(Brightness(), size=16)
    np.testing.assert_allclose(protector(images)[2:3], protector(images[2:3]), atol=1e-6)


def test_fingerprint_names_settings_and_classifier():
    found = {
        ProjectedGradient(Brightness(), epsilon=epsilon, steps=steps).fingerprint
        for epsilon, steps in ((0.1, 5), (0.1, 6), (0.2, 5))
    }
    assert len(found) == 3
    assert all("classifier=brightness" in one for one in found)


@pytest.mark.parametrize(("epsilon", "steps"), [(0.0, 5), (1.5, 5), (0.1, 0), (float("nan"), 5)])
def test_settings_out_of_range_are_refused(epsilon, steps):
    with pytest.raises(ConfigError, match="epsilon is"):
        ProjectedGradient(Brightness(), epsilon=epsilon, steps=steps)


def test_wrong_images_are_refused(images):
    with pytest.raises(InputRangeError):
        ProjectedGradient(Brightness(), size=16)(images * 255)
