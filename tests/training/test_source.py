from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privface.training import ArraySource, DecodingSource
from privface.training.source import Prefetcher, mixed, random_view, step_generator, views


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def test_decoding_source_equals_array_source(pixels):
    index = np.array([5, 0, 19, 5])
    held, decoded = ArraySource(pixels), DecodingSource(lambda i: pixels[i], count=20, workers=3)
    assert len(held) == len(decoded) == 20
    np.testing.assert_array_equal(held.batch(index), decoded.batch(index))
    np.testing.assert_allclose(held.batch(index)[0, :, 2, 3] * 255, pixels[5, 2, 3], atol=1e-4)


def test_prefetcher_keeps_order_and_starts_anywhere(pixels):
    batches = [np.array([k, k + 1]) for k in range(0, 20, 2)]
    found = list(Prefetcher(ArraySource(pixels), batches, start=4))
    assert [position for position, _, _ in found] == [4, 5, 6, 7, 8, 9]
    for position, index, images in found:
        np.testing.assert_array_equal(index, batches[position])
        np.testing.assert_array_equal(images.numpy(), ArraySource(pixels).batch(index))


def test_prefetcher_prepares_one_batch_ahead_in_another_thread(pixels):
    threads: list[str] = []
    ready = threading.Event()

    class Watched(ArraySource):
        def batch(self, index):
            threads.append(threading.current_thread().name)
            if len(threads) == 2:
                ready.set()
            return super().batch(index)

    feed = iter(Prefetcher(Watched(pixels), [np.array([0]), np.array([1]), np.array([2])]))
    next(feed)
    assert ready.wait(10), "the second batch is prepared while the first is in use"
    assert threading.current_thread().name not in threads
    assert len(list(feed)) == 2


def test_prefetcher_passes_an_error_on(pixels):
    class Broken(ArraySource):
        def batch(self, index):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(iter(Prefetcher(Broken(pixels), [np.array([0])])))


def test_step_generator_depends_on_its_arguments_alone():
    draw = [
        float(torch.rand(1, generator=step_generator(seed=s, epoch=e, step=k)))
        for s, e, k in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert draw[0] == draw[1]
    assert len(set(draw)) == 4


@pytest.mark.parametrize(
    "look",
    [
        lambda images, generator: random_view(images, generator=generator),
        views,
        lambda images, generator: views(images, generator, gentle=True),
    ],
    ids=["random_view", "views", "gentle views"],
)
def test_views_move_the_picture_stay_images_and_have_a_gradient(look):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = torch.stack([look(images, step_generator(seed=0, epoch=0, step=k)) for k in range(20)])
    seen[0].sum().backward()
    seen = seen.detach()
    assert seen.shape == (20, *images.shape)
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    assert len(seen[:, 0, 0, 8, 8].unique()) > 15
    assert torch.isfinite(images.grad).all()
    assert float(images.grad.abs().max()) > 0


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
