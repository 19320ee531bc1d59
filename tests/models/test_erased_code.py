from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from privface.erasers import RegionalTransport
from privface.errors import ConfigError
from privface.models import Protector
from privface.models.decoder import FaceDecoder, _enlarged
from privface.models.erased_code import CodeEraser, ErasedCode
from privface.models.face_model import network_sha256


@pytest.mark.parametrize(
    ("regions", "bits", "classes"), [(1, 0, 2), (3, 0, 2), (3, 32, 2), (1, 0, 3), (2, 0, 4)]
)
def test_the_eraser_in_torch_is_the_one_that_was_fitted(regions, bits, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 400)
    rows = rng.normal(size=(400, 8)) * (1 + 0.5 * labels[:, None]) + labels[:, None] * np.eye(8)[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    fitted = RegionalTransport(drop=2, regions=regions, bits=bits).fit(rows, labels)
    eraser = CodeEraser(size=8, keep=6, regions=regions, bits=bits, classes=classes)
    eraser.adopt(fitted.state())
    given = eraser(torch.from_numpy(rows).float()).numpy()
    wanted = fitted.transform(rows)
    same = np.isclose(given, wanted, atol=1e-4).all(1)
    assert same.mean() > 0.99, "single signs may turn on rounding"
    moved = eraser.move(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(moved, fitted.transported(rows), atol=1e-4)


@pytest.mark.parametrize("crop", [[0.0, 0.0, 112.0, 112.0], [10.0, 5.0, 100.0, 110.0]])
def test_the_fingerprint_covers_what_an_encoder_is_shown(crop):
    torch.manual_seed(0)
    spec = {"value_range": [-1.0, 1.0], "crop": crop}
    encoder = {"form": "compact", "spec": spec, "outputs": 8, "network": {"outputs": 8, "width": 8}}
    decoder = {"code": 4, "size": 32, "channels": (8, 8, 8, 8, 8)}
    network = ErasedCode(encoders=[encoder], sizes=[4], drop=0, regions=1, bits=0, decoder=decoder)
    rest = Protector(network, size=32).fingerprint.removeprefix(network_sha256(network))
    assert rest == "+code:4" if crop[0] == 0.0 else rest.startswith("+input:")
    encoder["spec"] = {**spec, "value_range": [0.0, 255.0]}
    other = ErasedCode(encoders=[encoder], sizes=[4], drop=0, regions=1, bits=0, decoder=decoder)
    other.load_state_dict(network.state_dict())
    assert Protector(other, size=32).fingerprint != Protector(network, size=32).fingerprint


@pytest.mark.parametrize("size", [32, 112, 160])
def test_a_decoder_draws_faces_of_its_size_in_range(size):
    decoder = FaceDecoder(code=5, size=size, channels=(8, 8, 8, 8, 8))
    faces = decoder(torch.randn(2, 5))
    assert faces.shape == (2, 3, size, size)
    assert 0 <= float(faces.detach().min()) <= float(faces.detach().max()) <= 1
    torch.testing.assert_close(faces, faces.flip(-1), msg="a face and its mirror image are one")
    again = FaceDecoder(**copy.deepcopy(decoder.config))
    again.load_state_dict(decoder.state_dict())


@pytest.mark.parametrize("wrong", [{"code": 0}, {"code": 5, "size": 100}, {"code": 5, "channels": (8, 8)}])
def test_a_decoder_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be built"):
        FaceDecoder(**wrong)


def test_enlarging_in_few_products_is_a_convolution_of_repeated_values():
    torch.manual_seed(0)
    conv, given = torch.nn.Conv2d(3, 5, 3, 1, 1), torch.randn(2, 3, 6, 4, requires_grad=True)
    wanted = conv(torch.nn.functional.interpolate(given, scale_factor=2.0, mode="nearest"))
    few, weights = _enlarged(given, conv), torch.randn_like(wanted)
    torch.testing.assert_close(few, wanted, atol=1e-5, rtol=1e-5)
    gradients, expected = (
        torch.autograd.grad((out * weights).sum(), [given, conv.weight, conv.bias]) for out in (few, wanted)
    )
    torch.testing.assert_close(gradients, expected, atol=1e-4, rtol=1e-5)


def test_a_decoder_that_begins_as_another_draws_what_that_draws_of_the_guessed_code():
    torch.manual_seed(0)
    own, other = (FaceDecoder(code=n, size=32, channels=(8, 8, 8, 8, 8)).eval() for n in (7, 5))
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    axes, shift, codes = torch.randn(7, 5), torch.randn(5), torch.randn(3, 7)
    own.begin_as(other, axes, shift)
    with torch.no_grad():
        torch.testing.assert_close(own(codes), other(codes @ axes + shift), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"cannot begin as one with .*'channels': \[16"):
        own.begin_as(FaceDecoder(code=5, size=32, channels=(16, 8, 8, 8, 8)), axes, shift)


def spectrum_of(faces: torch.Tensor) -> torch.Tensor:
    """Under a window, as an edge has all frequencies."""
    window = torch.hann_window(112) * torch.hann_window(112)[:, None]
    return torch.fft.rfft2(faces * window).abs().mean((0, 1))


def drawing(*, eager: bool) -> tuple[FaceDecoder, torch.Tensor]:
    """A decoder and codes; an ``eager`` one has done what training could do to please a matcher."""
    torch.manual_seed(0)
    decoder = FaceDecoder(code=16, size=112).eval()
    if eager:
        torch.nn.init.normal_(decoder.pixels.weight, std=0.02)
    return decoder, torch.nn.functional.normalize(torch.randn(4, 16))


@pytest.mark.parametrize("eager", [False, True])
def test_no_checkerboard_in_what_a_decoder_draws(eager):
    decoder, codes = drawing(eager=eager)
    faces = decoder(codes).detach()
    assert float(faces.std()) > 0.005
    spectrum = spectrum_of(torch.logit(faces) - torch.logit(faces).mean((2, 3), keepdim=True))
    for across, down in ((56, 56), (0, 56), (56, 0)):
        assert float(spectrum[across, down]) < 0.005 * float(spectrum.max()), "energy at one pixel's period"
    if not eager:
        spectrum = torch.fft.rfft2(faces - faces.mean((2, 3), keepdim=True)).abs().mean((0, 1))
        assert float(spectrum[28, 28]) < 0.02 * float(spectrum.max()), "energy at two pixels' period"


def test_finished_faces_are_softened_and_those_that_learn_are_not():
    decoder, codes = drawing(eager=True)
    sharp, soft = (decoder.train(mode)(codes).detach() for mode in (True, False))
    torch.testing.assert_close(soft.mean((2, 3)), sharp.mean((2, 3)), atol=2e-3, rtol=0)
    before, after = spectrum_of(sharp), spectrum_of(soft)
    assert float(after[28, 28]) < 0.35 * float(before[28, 28]), "a pattern of four pixels"
    assert float(after[4, 4]) > 0.9 * float(before[4, 4]), "what a face is made of"
