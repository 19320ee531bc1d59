from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privface.errors import CheckpointError, TrainingError
from privface.models.encoder import FaceEncoder
from privface.training import ArraySource
from privface.training.encoder import CHECKPOINT, mixed, train_encoder, views


def tiny(outputs: int = 4) -> FaceEncoder:
    torch.manual_seed(0)
    return FaceEncoder(outputs=outputs, channels=(8, 8), blocks=(1, 1))


def world(count: int = 48) -> tuple[ArraySource, np.ndarray]:
    """Plain images whose colour is the target."""
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 236, (count, 1, 1, 3), np.uint8)
    pixels = np.broadcast_to(colours, (count, 112, 112, 3)).copy()
    return ArraySource(pixels), (colours.reshape(count, 3).astype(np.float32) / 255 - 0.5)


def test_a_student_learns_its_teachers_directions():
    source, targets = world()
    before, after = [], []
    for images, kept in ((16, before), (1600, after)):
        network = train_encoder(
            source, targets, images=images, batch_size=16, network=tiny(3), learning_rate=5e-3
        )
        with torch.inference_mode():
            given = network(torch.from_numpy(source.batch(np.arange(48))) * 2 - 1)
        kept.append(float(F.cosine_similarity(given, torch.from_numpy(targets)).mean()))
        assert not network.training
    assert after[0] > 0.5
    assert after[0] > before[0] + 0.3


def test_resumed_equals_unbroken(tmp_path, monkeypatch):
    monkeypatch.setattr("privface.training.encoder._EVERY", 2)
    source, targets = world(12)
    settings = {"images": 40, "batch_size": 8}
    unbroken = train_encoder(source, targets, network=tiny(3), **settings)

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(source, targets, network=tiny(3), folder=tmp_path, progress=stop, **settings)
    resumed = train_encoder(source, targets, network=tiny(3), folder=tmp_path, **settings)
    for a, b in zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="other settings"):
        train_encoder(source, targets, network=tiny(3), folder=tmp_path, images=40, batch_size=4)
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        train_encoder(source, targets, network=tiny(3), folder=tmp_path, **settings)


def test_targets_that_do_not_fit_are_refused():
    source, targets = world(12)
    for wrong in (targets[:5], targets * np.nan):
        with pytest.raises(TrainingError, match="12 faces"):
            train_encoder(source, wrong, images=16, batch_size=8)


def test_views_stay_images_and_have_a_gradient():
    photos = torch.rand(6, 3, 32, 32, requires_grad=True)
    seen = views(photos, torch.Generator().manual_seed(0), gentle=True)
    assert seen.shape == photos.shape
    assert float(seen.detach().min()) >= 0
    assert float(seen.detach().max()) <= 1
    seen.sum().backward()
    assert torch.isfinite(photos.grad).all()
    assert float(photos.grad.abs().max()) > 0


def test_half_of_a_batch_is_mixed_and_aims_with_it():
    photos, aims = torch.rand(6, 3, 8, 8), F.normalize(torch.randn(6, 5))
    images, wanted = mixed(photos, aims, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images[:3], photos[:3])
    torch.testing.assert_close(wanted[:3], aims[:3])
    torch.testing.assert_close(wanted.norm(dim=1), torch.ones(6))
    share = ((images[3] - photos[0]) / (photos[3] - photos[0])).mean()
    assert 0.3 <= float(share) <= 0.7
    torch.testing.assert_close(
        wanted[3], F.normalize(torch.lerp(aims[0], aims[3], share), dim=0), atol=1e-3, rtol=1e-3
    )
