"""Who is sent: every autoencoder of the family can be the attacker that turns photos back, by its name alone."""

from __future__ import annotations

import numpy as np
import pytest

from privface.errors import ModelError
from privface.models import VARIANTS
from privface.pipeline import AuditOptions
from privface.pipeline.battery import image_recoverers


@pytest.mark.parametrize("name", VARIANTS)
def test_every_autoencoder_turns_photos_back(name, make_images):
    (recoverer,) = image_recoverers(AuditOptions(effort="full", recoverer=name))
    assert recoverer.name == f"{name} autoencoder"
    original = np.round(np.moveaxis(make_images(40, size=20), 1, -1) * 255).astype(np.uint8)
    protected = (255 - original) // 2
    people = np.array([f"p{k // 2}" for k in range(40)])
    parts = (protected[:32], original[:32], people[:32], protected[32:], original[32:])
    fitted, again = (recoverer.fit(*parts, seed=1) for _ in range(2))
    found = fitted.recover(protected[32:])
    assert found.shape == original[32:].shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, again.recover(protected[32:]))


def test_recovery_takes_full_effort_and_a_known_name():
    assert image_recoverers(AuditOptions(effort="standard", recoverer="sparse")) == []
    assert image_recoverers(AuditOptions(effort="full"))[0].name == "denoiser"
    with pytest.raises(ModelError, match="no autoencoder 'x'"):
        image_recoverers(AuditOptions(effort="full", recoverer="x"))
