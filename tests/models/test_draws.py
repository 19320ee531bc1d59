"""Randomised protection: the same bytes for seed, number and photo, other bytes for another seed, refusals in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from privface.cli.main import app
from privface.data import generate_faces, write_faces
from privface.errors import ConfigError
from privface.models import Autoencoder, EnsembleSan, FlowSan, PrivacyNet, Protector, save_network, variant
from privface.models.export import export_protector
from privface.models.parts import MAX_DRAW, GaussianCode, ImageNoise
from privface.models.protectors import load_protector
from privface.protect import read_manifest
from tests.models.conftest import san

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 16


def images(count: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, SIZE, SIZE), np.float32)


def network(name: str, **changes: Any) -> Autoencoder:
    torch.manual_seed(5)
    small = {"shape": (3, SIZE, SIZE), "code": 6, "width": 4, "depth": 1} | changes
    made = Autoencoder(variant(name, **small))
    with torch.no_grad():  # fresh weights hardly react to their input, trained ones do
        for weight in made.parameters():
            weight.mul_(1.8)
    return made


RANDOM: dict[str, Any] = {
    "variational": lambda: network("variational"),
    "gaussian": lambda: network("denoising"),
    "input dropout": lambda: network("denoising", corruption="dropout", level=0.2),
    "salt and pepper": lambda: network("denoising", corruption="salt-and-pepper", level=0.2),
    "sparse, spoilt input": lambda: network("sparse", corruption="gaussian", level=0.1),
    "flow": lambda: FlowSan([san(), network("variational")]),
    "random ensemble": lambda: EnsembleSan([network("variational"), network("denoising")], rule="random"),
    "average ensemble": lambda: EnsembleSan([san(), network("denoising")], rule="average"),
}


@pytest.fixture(params=RANDOM)
def made(request: pytest.FixtureRequest) -> Any:
    return RANDOM[request.param]()


def test_same_bytes_whatever_the_batch_the_order_and_the_threads(made):
    protector, x = Protector(made, size=SIZE, draw=7), images(21)
    found = protector(x)
    np.testing.assert_array_equal(protector(x[::-1])[::-1], found)
    np.testing.assert_array_equal(np.concatenate([protector(x[k : k + 1]) for k in range(21)]), found)
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(protector(x), found)
    finally:
        torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # torch's global generator has no say, and is not asked
        state = torch.get_rng_state()
        np.testing.assert_array_equal(protector(x), found)
        assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == x.shape
    assert found.dtype == np.float32


def test_another_seed_another_number_and_another_photo_differ(made):
    x = images(3)
    first = Protector(made, size=SIZE, draw=7)
    plain = Protector(made, size=SIZE)
    found = {
        "plain": plain(x),
        "7": first(x),
        "8": Protector(made, size=SIZE, draw=8)(x),
        "7.1": first.redrawn(1)(x),
        "8.1": Protector(made, size=SIZE, draw=8, number=1)(x),
    }
    for one, a in found.items():
        for other, b in found.items():
            apart = float(np.abs(a - b).max(axis=(1, 2, 3)).min())
            assert (apart > 1e-5) == (one != other), f"{one} and {other} differ by {apart:g}"
    np.testing.assert_array_equal(first.redrawn(0)(x), found["7"])
    np.testing.assert_array_equal(first.redrawn(1).redrawn(0)(x), found["7"])
    np.testing.assert_array_equal(plain(x), found["plain"])  # drawing leaves no trace in the network
    assert first.fingerprint == f"{plain.fingerprint}+draw:7"
    assert first.redrawn(3).fingerprint == f"{plain.fingerprint}+draw:7.3"
    weak = Protector(made, size=SIZE, draw=0, strength=0.5)
    assert weak.fingerprint == f"{plain.fingerprint}+draw:0@0.5"


def test_strength_0_gives_the_original_and_1_the_draw(made):
    if isinstance(made, FlowSan | EnsembleSan):
        pytest.skip("its `san` gives originals clipped at 0.02 and 0.98")
    x = images(2)
    whole = Protector(made, size=SIZE, draw=7)(x)
    np.testing.assert_array_equal(Protector(made, size=SIZE, draw=7, strength=0.0)(x), x)
    half = Protector(made, size=SIZE, draw=7, strength=0.5)(x)
    np.testing.assert_allclose(half, (x + whole) / 2, atol=1e-6)


def test_a_code_is_drawn_from_its_own_gaussian():
    """Mean and spread of many draws are those that the encoder gives."""
    code, features = GaussianCode().eval(), torch.tensor([[0.5, -1.0, np.log(0.25), np.log(4.0)]])
    noise = ImageNoise(torch.zeros(3), seed=1)
    drawn = torch.cat([code(features, noise)[0] for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), [0.5, -1.0], atol=0.12)
    np.testing.assert_allclose(drawn.std(0), [0.5, 2.0], rtol=0.05)
    assert torch.equal(code(features)[0], features[:, :2])  # without a source of noise, the mean


def test_numbers_are_a_function_of_image_seed_and_number_alone():
    one = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    like = torch.empty(50)
    first = ImageNoise(one, seed=1, number=2).normal(like)
    again = one.contiguous().clone()[None].contiguous(memory_format=torch.channels_last)[0]
    assert torch.equal(ImageNoise(again, seed=1, number=2).normal(like), first)
    changed = one.clone()
    changed[0, 0, 0] += 1e-6
    for image, seed, number in ((one, 2, 1), (one, 1, 0), (changed, 1, 2)):
        other = ImageNoise(image, seed=seed, number=number).normal(like)
        assert abs(np.corrcoef(other, first)[0, 1]) < 0.5


@pytest.mark.parametrize(
    "made",
    [
        san(),
        network("sparse"),
        network("dropout"),
        network("denoising", level=0.0),
        EnsembleSan([san(), san()], rule="random"),
        FlowSan([san()]),
        PrivacyNet(attributes=["gender"], body=san().config, hide=["gender"]),
    ],
    ids=lambda made: made.kind,
)
def test_a_network_with_nothing_random_is_refused(made):
    with pytest.raises(ConfigError, match=rf"draw=7: .* \({made.kind}\) has nothing random"):
        Protector(made, size=SIZE, draw=7)


def test_seeds_have_64_bits():
    made = network("variational")
    assert Protector(made, size=SIZE, draw=MAX_DRAW)(images(1)).shape == (1, 3, SIZE, SIZE)
    for wrong in (-1, MAX_DRAW + 1):
        with pytest.raises(ConfigError, match=rf"draw={wrong}, .* must lie in 0\.\."):
            Protector(made, size=SIZE, draw=wrong)
    with pytest.raises(ConfigError, match="draws nothing"):
        Protector(made, size=SIZE).redrawn(1)
    assert Protector(made, size=SIZE, draw=1)(images(0)).shape == (0, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "variational"
    made = network("variational", shape=(3, 32, 32), output="sigmoid")
    save_network(folder, made, kind="autoencoder", meta={"size": 32})
    return folder


def test_loading_and_refusals(run, tmp_path, one_registry):
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(load_protector(run, draw=3)(x), Protector.load(run, draw=3)(x))
    export_protector(run, tmp_path / "m.onnx")  # the graph holds the code's mean
    np.testing.assert_allclose(load_protector(tmp_path / "m.onnx")(x), Protector.load(run)(x), atol=1e-4)
    for attempt in (
        lambda: load_protector(tmp_path / "m.onnx", draw=3),
        lambda: load_protector(run, runtime="onnx", draw=3),
        lambda: load_protector(run, genders={}, draw=3),
    ):
        with pytest.raises(ConfigError, match=r"draw=3: .* has nothing random"):
            attempt()


def test_the_command_draws_resumes_and_keeps_draws_apart(run, tmp_path):
    write_faces(generate_faces(people=2, photos_per_person=2, seed=1), tmp_path / "in")

    def protect(out: str, *more: object) -> bool:
        arguments = ["protect", tmp_path / "in", tmp_path / out, "--model", run, "--faces", "aligned"]
        return CliRunner().invoke(app, [str(a) for a in (*arguments, *more)]).exit_code == 0

    def photos(out: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / out).rglob("*.png")}

    assert protect("plain")
    assert protect("a", "--draw", 1)
    assert protect("b", "--draw", 2)
    assert protect("c", "--draw", 1, "--batch-size", 1, "--workers", 1)
    assert len(photos("a")) == 4
    assert photos("a") == photos("c")
    for one, other in (("plain", "a"), ("a", "b"), ("plain", "b")):
        assert not set(photos(one).values()) & set(photos(other).values())
    (model,) = {row.model for row in read_manifest(tmp_path / "a")}
    assert model == f"{Protector.load(run).fingerprint}+draw:1"
    assert protect("a", "--draw", 1), "nothing to do"
    assert not protect("a", "--draw", 2), "one folder holds one draw"
    assert protect("a", "--draw", 2, "--overwrite")
    assert photos("a") == photos("b")
