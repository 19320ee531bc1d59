"""Every variant keeps the contract: shapes, gradients, determinism, what its part promises, and its way to disk and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privface.errors import CheckpointError, ModelError
from privface.models import VARIANTS, Autoencoder, AutoencoderConfig, Protector, save_network, variant
from privface.models.checkpoint import build, load_network
from privface.models.parts import Corruption, GaussianCode, ImageNoise, SparseCode, gaussian_divergence


def small(name: str, **changes: object) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(variant(name, **{"shape": (3, 16, 16), "code": 6, "width": 4, **changes})).eval()


def images(count: int = 2, side: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_contract_holds_here_and_after_the_way_to_disk(name, tmp_path):
    network, x = small(name), images()
    code = network.encode(x)
    assert code.shape == (2, *network.code_shape)
    assert network.is_random == (name in ("variational", "denoising"))
    torch.testing.assert_close(network(x), network.decode(code))
    assert network(x).shape == x.shape
    torch.testing.assert_close(network(x, strength=0.0), x)
    torch.testing.assert_close(network(x), network(x))  # nothing is drawn in evaluation mode
    passed = network.learn(x)
    assert passed.penalty.ndim == 0
    assert passed.code.shape == code.shape
    save_network(tmp_path, network, kind="autoencoder", meta={"size": 16})
    loaded = build(Autoencoder, load_network(tmp_path, kind="autoencoder"), where=tmp_path).eval()
    assert loaded.settings == network.settings
    torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)
    if network.settings.output == "sigmoid":  # as a protector, by the same folder
        np.testing.assert_allclose(
            Protector.load(tmp_path)(x.numpy()), network(x).detach().numpy(), atol=1e-6
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_weight_and_are_right(name):
    network = small(name).double()
    x = images(1).double()
    passed = network.learn(x)
    (passed.output.square().mean() + passed.penalty).backward()
    assert all(p.grad is not None for p in network.parameters())
    silent = [n for n, p in network.named_parameters() if not bool(p.grad.abs().sum() > 0)]
    assert not silent
    weight = [p for p in network.decoder.parameters() if p.ndim > 1][-1]
    place = (0,) * weight.ndim

    def value(step: float) -> float:
        with torch.no_grad():
            weight[place] += step
            again = network.learn(x)
            weight[place] -= step
            return float(again.output.square().mean() + again.penalty)

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert float(weight.grad[place]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


@settings(max_examples=60)
@given(
    depth=st.integers(1, 3),
    blocks=st.integers(1, 2),
    units=st.integers(1, 9),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    upsampling=st.sampled_from(["transposed", "nearest", "bilinear"]),
    kind=st.sampled_from(["plain", "sparse", "variational"]),
    flat=st.booleans(),
    channels=st.integers(1, 4),
)
def test_shapes_of_convolutional_networks(depth, blocks, units, sides, upsampling, kind, flat, channels):
    height, width = (side * 2**depth for side in sides)
    network = Autoencoder(
        AutoencoderConfig(
            shape=(channels, height, width), code=units, width=2, depth=depth, blocks=blocks,
            upsampling=upsampling, kind=kind, flat=flat,
        )
    ).eval()  # fmt: skip
    x = torch.rand(2, channels, height, width)
    assert network.encode(x).shape == (2, *network.code_shape)
    assert network(x).shape == x.shape
    assert network.code_shape == ((units,) if flat else (units, *sides))


@pytest.mark.parametrize("name", ["denoising", "colourising"])
def test_networks_without_a_flat_code_take_any_size(name):
    network = small(name)
    x = torch.rand(1, 3, 24, 40)
    assert network(x).shape == x.shape
    with pytest.raises(ModelError, match="Use sides divisible by"):
        network(torch.rand(1, 3, 25, 40))


def test_a_colouriser_sees_luma_only():
    network, x = small("colourising"), images()
    grey = network.see(x)
    assert grey.shape == (2, 1, 16, 16)
    torch.testing.assert_close(network(grey), network(x))
    tinted = x.clone()
    tinted[:, 0] += 0.114
    tinted[:, 2] -= 0.299
    torch.testing.assert_close(network.encode(tinted), network.encode(x), atol=1e-5, rtol=1e-4)
    x = 0.3 + 0.4 * x
    painted = network.colour(x).detach()  # colours are added, and the luma stays
    torch.testing.assert_close(network.see(painted), network.see(x), atol=0.02, rtol=0)
    assert float((painted - network.see(x)).abs().max()) > 1e-3
    with pytest.raises(ModelError, match="not trained to add colour"):
        small("sparse").colour(x)


def test_a_sparse_code_is_thresholded_and_its_penalty_is_its_mean_magnitude():
    features = torch.tensor([[-2.0, -0.04, 0.0, 0.05, 0.75]])
    code, penalty = SparseCode()(features)
    torch.testing.assert_close(code, torch.tensor([[-1.95, 0.0, 0.0, 0.0, 0.7]]))
    assert float(penalty) == pytest.approx(0.53)


def test_a_variational_code_is_drawn_in_training_only_and_can_be_sampled():
    network, x = small("variational"), images()
    network.train()
    assert not torch.equal(network.learn(x).code, network.learn(x).code)
    network.eval()
    mean, log_variance = GaussianCode.moments(network.features(x))
    torch.testing.assert_close(network.encode(x), mean)
    torch.testing.assert_close(network.learn(x).penalty, gaussian_divergence(mean, log_variance).mean())
    drawn, again = (network.sample(3, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert drawn.shape == (3, 3, 16, 16)
    torch.testing.assert_close(drawn, again, rtol=0, atol=0)
    with pytest.raises(ModelError, match="cannot be sampled"):
        small("sparse").sample(1, generator=torch.Generator())


def test_the_divergence_is_that_of_a_monte_carlo_estimate():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(1, 6, generator=generator), torch.randn(1, 6, generator=generator)
    code = mean + (0.5 * log_variance).exp() * torch.randn(200_000, 6, generator=generator)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    ratio = posterior.log_prob(code) - torch.distributions.Normal(0.0, 1.0).log_prob(code)
    assert float(gaussian_divergence(mean, log_variance)) == pytest.approx(
        float(ratio.sum(1).mean()), rel=0.01
    )


@pytest.mark.parametrize("in_training", [True, False])
@pytest.mark.parametrize(("kind", "level"), [("gaussian", 0.2), ("dropout", 0.3), ("salt-and-pepper", 0.3)])
def test_corruptions_do_what_they_say_in_training_and_with_noise(kind, level, in_training):
    torch.manual_seed(0)
    part, x = Corruption(kind, level=level), torch.full((8, 3, 64, 64), 0.5)
    spoilt = part.train()(x) if in_training else part.eval()(x, ImageNoise(x, seed=1))
    changed = spoilt != x
    if kind == "gaussian":
        assert float((spoilt - x).std()) == pytest.approx(level, rel=0.02)
    else:
        assert float(changed.float().mean()) == pytest.approx(level, rel=0.05)
        values = set(spoilt[changed].unique().tolist())
        assert values == ({0.0} if kind == "dropout" else {0.0, 1.0})
    if kind == "salt-and-pepper":  # whole pixels, each as often
        assert bool((changed.all(dim=1) == changed.any(dim=1)).all())
        assert float(spoilt.mean()) == pytest.approx(0.5, abs=0.01)
    assert part.eval()(x) is x


def test_levels_vary_by_the_spread():
    torch.manual_seed(0)
    part = Corruption("gaussian", level=0.2, spread=0.5)
    found = (part(torch.zeros(400, 1, 32, 32))).std(dim=(1, 2, 3))
    assert float(found.min()) == pytest.approx(0.1, abs=0.01)
    assert float(found.max()) == pytest.approx(0.3, abs=0.02)


def test_dropout_acts_in_training_only():
    network, x = small("dropout", code_dropout=0.5).train(), images()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_a_mask_is_a_share_of_what_is_seen_and_a_bypass_carries_what_the_code_cannot(upsampling):
    network = small(
        "denoising", corruption="none", output="mask", bypass=True, depth=2, upsampling=upsampling
    )
    x = images()
    passed = network.learn(x)
    assert passed.output.shape == x.shape
    assert bool((passed.output <= x).all())
    assert bool((passed.output >= 0).all())
    torch.testing.assert_close(network(torch.zeros_like(x)), torch.zeros_like(x))
    # without what bypasses the code, the decoder gives a mask too, but another one
    mask = network.decode(network.encode(x))
    assert mask.shape == x.shape
    assert not torch.allclose(mask * x, passed.output, atol=1e-4)
    passed.output.square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"bypass": True}, {"output": "mask", "grey": True}, {"output": "share"},
        {"bypass": True, "architecture": "fully-connected"}, {"code": 0}, {"dropout": 1.0}, {"kind": "dense"}, {"upsampling": "magic"}, {"shape": (3, 10, 16), "depth": 2},
        {"grey": True, "shape": (1, 16, 16)}, {"hidden": (0,)}, {"corruption": "blur"}, {"level": -0.1},
        {"corruption": "dropout", "level": 0.99},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ModelError) as caught:
        Autoencoder(variant("convolutional", **wrong))
    assert any(word in caught.value.message for word in (*wrong, "10 x 16"))
    assert caught.value.hint


def test_unknown_variants_settings_and_shapes_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no autoencoder 'quantum'"):
        variant("quantum")
    for unknown in (lambda: variant("sparse", bredth=4), lambda: Autoencoder({"bredth": 4})):
        with pytest.raises(ModelError, match="bredth"):
            unknown()
    with pytest.raises(ModelError, match=r"Images of shape \(2, 1, 16, 16\)"):
        small("sparse")(images(channels=1))
    with pytest.raises(ModelError, match="Use 16 x 16"):
        small("sparse")(images(side=24))
    save_network(tmp_path, small("sparse"), kind="vase")
    with pytest.raises(CheckpointError, match="holds a 'vase'"):
        Protector.load(tmp_path)
