from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from privface.errors import InputRangeError
from privface.models import require_unit_images, to_input
from privface.models.inputs import array_input
from privface.records import InputSpec


def test_same_size_passes_untouched_and_a_whole_frame_is_resized_with_a_filter(make_images):
    images = torch.from_numpy(make_images(2, size=48))
    assert to_input(images, InputSpec(size=(48, 48))) is images
    expected = F.interpolate(images, size=(20, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(to_input(images, InputSpec(size=(20, 24))), expected)


@pytest.mark.parametrize("size", [56, 112, 160])
def test_crop_equals_opencv(size):
    """A crop in whole frame units, resampled by OpenCV with the same pixel-edge convention."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((112, 112, 3)).astype(np.float32), (0, 0), 3)
    x1, y1, x2, y2 = 16, 8, 96, 88
    spec = InputSpec(size=(size, size), crop=(x1, y1, x2, y2))
    found = to_input(torch.from_numpy(smooth).permute(2, 0, 1)[None], spec)[0].permute(1, 2, 0).numpy()
    expected = cv2.resize(smooth[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_LINEAR)
    inner = slice(3, -3)  # at the edge OpenCV repeats the crop's border, we still see the pixels beside it
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=2e-4)


def test_crop_is_in_frame_units_at_any_resolution(make_images):
    """The same crop of the same face at twice the resolution shows the same thing."""
    small = torch.from_numpy(make_images(1, size=112))
    large = F.interpolate(small, size=224, mode="bilinear")
    spec = InputSpec(size=(64, 64), crop=(10.0, 20.0, 90.0, 100.0))
    assert float((to_input(small, spec) - to_input(large, spec)).abs().mean()) < 0.01


def test_crop_outside_the_frame_repeats_the_border():
    images = torch.full((1, 3, 112, 112), 0.2)
    images[..., :, 0] = 0.9  # the left column
    images[..., 111, :] = 0.4
    wide = to_input(images, InputSpec(size=(112, 112), crop=(-40.0, 0.0, 72.0, 112.0)))
    assert torch.allclose(wide[..., :100, :39], torch.tensor(0.9))
    deep = to_input(images, InputSpec(size=(112, 112), crop=(0.0, 40.0, 112.0, 152.0)))
    assert torch.allclose(deep[..., 80:, 10:], torch.tensor(0.4))


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(size=(5, 5)),
        InputSpec(size=(6, 6), crop=(10.0, -20.0, 100.0, 90.0)),
        InputSpec(size=(3, 3), crop=(0.0, 0.0, 100.0, 100.0)),
        InputSpec(size=(8, 8), channels="GRAY", value_range=(-1.0, 1.0), std=(0.5, 0.5, 0.5)),
    ],
)
def test_conversion_is_differentiable(spec):
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: to_input(x, spec), images.requires_grad_())


def test_range_mean_std_and_order_of_channels(make_images):
    images = torch.from_numpy(make_images(2, size=32))
    found = to_input(images, InputSpec((32, 32), (0.0, 255.0), (1.0, 2.0, 3.0), (2.0, 4.0, 8.0), "BGR"))
    for plane, (source, mean, std) in enumerate(((2, 1.0, 2.0), (1, 2.0, 4.0), (0, 3.0, 8.0))):
        torch.testing.assert_close(found[:, plane], (images[:, source] * 255 - mean) / std)


def test_grey_is_bt601_luma_in_one_plane_even_when_normalised(make_images):
    images = torch.from_numpy(make_images(2, size=32))
    luma = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    torch.testing.assert_close(to_input(images, InputSpec(size=(32, 32), channels="GRAY")), luma)
    spec = InputSpec(size=(32, 32), channels="GRAY", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    torch.testing.assert_close(to_input(images, spec), (luma - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("images", "fragment"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8; expected floating point"),
        (torch.full((1, 3, 8, 8), 200.0), "look like 0..255 pixels"),
        (torch.full((1, 3, 8, 8), -0.9), r"look normalised to \[-1, 1\]"),
        (torch.zeros(1, 8, 8, 3), r"shape \(1, 8, 8, 3\); expected \(N, 3, H, W\)"),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), float("nan")), "not finite"),
        (torch.full((1, 3, 8, 8), 1.5), "out of range"),
    ],
)
def test_usual_mistakes_are_named(images, fragment):
    with pytest.raises(InputRangeError, match=f"^faces .*{fragment}") as caught:
        require_unit_images(images, what="faces")
    assert caught.value.hint


def test_rounding_error_and_empty_batches_are_no_mistake():
    require_unit_images(torch.full((1, 3, 8, 8), 1.0005))
    require_unit_images(torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(),
        InputSpec(size=(160, 128), value_range=(-1.0, 1.0)),
        InputSpec(size=(48, 64), channels="BGR", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
        InputSpec(size=(96, 80), channels="GRAY", value_range=(0.0, 255.0), crop=(16.4, 11.2, 93.0, 116.9)),
        InputSpec(size=(30, 40), crop=(-8.0, 5.0, 120.0, 90.0)),
    ],
)
@pytest.mark.parametrize("side", [112, 64])
def test_numpy_and_torch_make_the_same_input(spec, side):
    images = np.random.default_rng(0).random((3, 3, side, side), np.float32)
    expected = to_input(torch.from_numpy(images), spec).numpy()
    np.testing.assert_allclose(
        array_input(images, spec), expected, atol=1e-5 * max(map(abs, spec.value_range))
    )
