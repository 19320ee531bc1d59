"""Frozen networks: same outputs and input gradients as autograd's, in fp32 closely and in bf16 nearly."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from privface.device import Device
from privface.errors import ModelError
from privface.models import CompactResNet, load_matcher
from privface.models.frozen import frozen

pytestmark = pytest.mark.usefixtures("one_thread")


def randomised(network: nn.Module) -> nn.Module:
    """Weights, slopes and statistics that are not the defaults, which would hide mistakes."""
    dice = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(generator=dice)
            layer.running_var.uniform_(0.5, 2.0, generator=dice)
            layer.weight.data.uniform_(-2.0, 2.0, generator=dice)
            layer.bias.data.normal_(generator=dice)
        elif isinstance(layer, nn.PReLU):
            layer.weight.data.uniform_(-0.5, 1.5, generator=dice)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.normal_(generator=dice)
    return network.eval()


def both_ways(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient of a fixed weighting of it with respect to the input."""
    x = x.clone().requires_grad_()
    out = network(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((out.float() * weights).sum(), x)
    return out.detach(), gradient


def assert_same(network: nn.Module, x: Tensor, *, precision: str = "fp32", limit: float = 1e-5) -> nn.Module:
    expected = both_ways(network, x)
    fast = frozen(network, Device("cpu", precision))
    found = both_ways(fast, x)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        assert got.shape == wanted.shape
        assert float((got - wanted).norm() / wanted.norm()) < limit
    with torch.no_grad():
        torch.testing.assert_close(fast(x), found[0])
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), found[0])
    assert not any(p.requires_grad for p in fast.parameters())
    return fast


def classes(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.modules()]


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    torch.manual_seed(0)


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


CONVOLUTIONS = {
    "pointwise": {"kernel_size": 1},
    "plain": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "unpadded": {"kernel_size": 3},
    "half padded": {"kernel_size": 5, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "strided, unpadded": {"kernel_size": 3, "stride": 2},
    "strided pointwise": {"kernel_size": 1, "stride": 2},
    "uneven": {"kernel_size": (3, 5), "padding": (1, 0), "stride": (2, 1)},
    "stride 3": {"kernel_size": 2, "stride": 3},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "strided groups": {"kernel_size": 3, "padding": 1, "groups": 2, "stride": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
    "strided depthwise": {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
}


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_convolutions(name, size, precision, limit):
    network = randomised(nn.Sequential(nn.Conv2d(4, 8, **CONVOLUTIONS[name])))
    fast = assert_same(network, pixels(2, 4, *size), precision=precision, limit=limit)
    assert "_Convolution" in classes(fast)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same"},
        {"padding": 3},
    ],
)
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_other_convolutions_are_left_to_autograd(options, precision, limit):
    network = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, **options)))
    fast = assert_same(network, pixels(2, 3, 9, 9), precision=precision, limit=limit)
    assert {"_Convolution", "Conv2d"} <= set(classes(fast))


@pytest.mark.parametrize("slopes", [1, 6])
@pytest.mark.parametrize("shape", [(4, 6, 8, 8), (3, 6), (3, 6, 5)])
def test_prelu(slopes, shape):
    fast = assert_same(randomised(nn.Sequential(nn.PReLU(slopes))), pixels(*shape))
    assert "PReLU" not in classes(fast)


class Residual(nn.Module):
    """Reads its input twice, calls one convolution twice and works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.norm, self.act = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = self.act(self.norm(self.twice(x)))
        y = self.twice(y)
        y += x
        return self.head(F.adaptive_avg_pool2d(torch.cat([y, x], 1)[:, 3:9], 1).flatten(1))


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_residual_network(precision, limit):
    network = randomised(Residual())
    before = copy.deepcopy(network.state_dict())
    fast = assert_same(network, pixels(2, 3, 11, 11), precision=precision, limit=limit)
    assert "BatchNorm2d" not in classes(fast)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(p.requires_grad for p in network.parameters()), "the given network stays as it was"


NORMS = {
    "after": ([nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)], False),
    "after groups": ([nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)], False),
    "before": ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False)], False),
    "before groups": ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], False),
    "before padding": ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)], True),
    "both sides": ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU()], False),
    "vectors": ([nn.Flatten(), nn.BatchNorm1d(192)], True),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm(name):
    layers, remains = NORMS[name]
    network = randomised(nn.Sequential(*copy.deepcopy(layers)))
    channels = 4 if name == "before groups" else 3
    fast = assert_same(network, pixels(2, channels, 8, 8))
    assert ("_Affine" in classes(fast)) is remains
    assert not {"BatchNorm1d", "BatchNorm2d"} & set(classes(fast))


class Untraceable(nn.Module):
    """Decides on values, which torch.fx cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.GroupNorm(2, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if y.mean() > 1e9:
            y = y - 1
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 5e-2)])
def test_network_without_a_graph(precision, limit):
    fast = assert_same(randomised(Untraceable()), pixels(2, 3, 8, 8), precision=precision, limit=limit)
    assert {"_Convolution", "_Prelu", "_Affine"} <= set(classes(fast))


@pytest.mark.parametrize("separable", [False, True])
def test_compact_resnet(separable):
    torch.manual_seed(0)
    network = CompactResNet(outputs=8, width=8, stages=2, separable=separable).eval()
    assert_same(network, torch.rand(2, 3, 33, 33))


def test_model_of_a_folder(world):
    matcher = load_matcher(f"mini:{world.matcher}")
    fast = matcher.frozen(Device())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast(images), matcher(images), rtol=1e-4, atol=1e-5)
    assert "_Frozen" not in classes(matcher)
    assert (fast.name, fast.fingerprint) == (matcher.name, matcher.fingerprint)


def test_given_graph_and_copies():
    graph = fx.symbolic_trace(randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4))))
    fast = assert_same(graph.eval(), pixels(2, 3, 8, 8))
    x = pixels(2, 3, 8, 8)
    torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x))
    fast.train()
    assert not any(layer.training for layer in fast.modules())


def test_weights_may_be_made_under_inference_mode_and_autocast_changes_nothing():
    network = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.PReLU(4)))
    x = pixels(2, 3, 8, 8)
    with torch.inference_mode():
        fast = frozen(network, Device())
    expected = both_ways(network, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = both_ways(fast, x)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_precision():
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    for device in (Device(), Device("cpu", "bf16")):
        made = frozen(network, device)
        assert {b.dtype for b in made.buffers()} == {device.dtype}
        assert not made.state_dict()
    with pytest.raises(ModelError, match="training mode"):
        frozen(network.train(), Device())


LONG = [pytest.param(n, marks=pytest.mark.long) for n in ("facefeature", "dlib_resnet", "mobilefacenet_b")]


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilefacenet_a", *LONG])  # read-only oracles: nothing is trained here
def test_real_matchers(name, real_models, lfw):
    """The gradient is that of the cosine to the photo, at the photo with some noise added."""
    matcher = load_matcher(f"onnx:{real_models / f'matcher_{name}.onnx'}")
    images, people = lfw
    _, firsts = np.unique(people, return_index=True)
    real_faces = torch.from_numpy(images[firsts[:16]])
    noise = torch.randn(16, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    changed = (real_faces + 0.05 * F.interpolate(noise, scale_factor=4)).clamp(0, 1)
    with torch.no_grad():
        target = matcher(real_faces)

    def measure(model):
        images = changed.clone().requires_grad_()
        out = model(images)
        (gradient,) = torch.autograd.grad(F.cosine_similarity(out, target).sum(), images)
        return out.detach(), gradient.flatten(1)

    out, gradient = measure(matcher)
    for precision, least_out, least_gradient in (("fp32", 0.999999, 0.999), ("bf16", 0.999, 0.95)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fast_out, fast_gradient = measure(matcher.frozen(Device("cpu", precision)))
        assert float(F.cosine_similarity(fast_out, out).min()) > least_out
        assert float(F.cosine_similarity(fast_gradient, gradient).mean()) > least_gradient
