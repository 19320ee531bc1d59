"""The 2018 network layer by layer, the authors' file of weights and what pretends to be one, prototypes, the protector."""

from __future__ import annotations

import contextlib
import pickle
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from privface.errors import CheckpointError, ConfigError, DataError, InputRangeError, LabelError
from privface.models import Prototypes, San2018, San2018Protector, load_released, make_prototypes

RELEASED_SHAPES = {
    "autoencoder.0": (8, 4, 3, 3),
    "autoencoder.3": (12, 8, 3, 3),
    "autoencoder.6": (256, 12, 3, 3),
    "autoencoder.9": (128, 256, 3, 3),
    "protocombiner.0": (1, 131, 1, 1),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def released_weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dict in the authors' layout, with values that keep every layer alive."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in RELEASED_SHAPES.items():
        spread = float(np.prod(shape[1:])) ** -0.5
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * spread
        weights[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * 0.1
    return weights


def by_hand(weights: dict[str, Tensor], faces: Tensor, same: Tensor, chosen: Tensor) -> Tensor:
    """The paper's forward pass in functions, from weights under the authors' names."""

    def layer(x: Tensor, name: str) -> Tensor:
        return F.leaky_relu(
            F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1), negative_slope=0.01
        )

    x = torch.cat((faces, same), dim=1)
    x = F.avg_pool2d(layer(x, "autoencoder.0"), kernel_size=2, stride=2)
    x = F.avg_pool2d(layer(x, "autoencoder.3"), kernel_size=2, stride=2)
    x = F.interpolate(layer(x, "autoencoder.6"), scale_factor=2, mode="nearest")
    x = F.interpolate(layer(x, "autoencoder.9"), scale_factor=2, mode="nearest")
    x = torch.cat((x, chosen), dim=1)
    return torch.sigmoid(F.conv2d(x, weights["protocombiner.0.weight"], weights["protocombiner.0.bias"]))


def faces(count: int, *, side: int = 112, channels: int = 3, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, channels, side, side), dtype=np.float32)


def tensors(count: int, *, channels: int, seed: int) -> Tensor:
    return torch.from_numpy(faces(count, side=224, channels=channels, seed=seed))


def by_brightness(images: NDArray[np.float32]) -> NDArray[np.int64]:
    """A stand-in for a table of labels: decided by the image alone."""
    return (images[:, 0, 0, 0] > 0.5).astype(np.int64)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "conv-autoencoder-e20.pkl"
    torch.save(released_weights(), path, _use_new_zipfile_serialization=False)  # as in 2018
    return path


@pytest.fixture(scope="module")
def network(released: Path) -> San2018:
    return load_released(released)


@pytest.fixture(scope="module")
def prototypes() -> Prototypes:
    women, men = faces(3, seed=5) * 0.5, 0.5 + faces(2, seed=6) * 0.5
    return make_prototypes([(np.concatenate([women, men]), np.array([0, 0, 0, 1, 1]))])


def test_forward_equals_the_functions_written_by_hand_and_has_gradients(released):
    network = load_released(released)
    grey, same, other = (tensors(2, channels=c, seed=s) for c, s in ((1, 2), (3, 3), (3, 4)))
    with torch.no_grad():
        got = network(grey, same, other)
        assert torch.equal(got, by_hand(released_weights(), grey, same, other))
    assert got.shape == (2, 1, 224, 224)
    assert float(got.std()) > 0.01  # the weights do something
    network(grey.requires_grad_(), same, other).square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in [*network.parameters(), grey])


@pytest.mark.parametrize("zipped", [False, True])
def test_released_weights_arrive_in_their_layers(tmp_path, zipped):
    weights = released_weights(seed=7)
    torch.save(weights, tmp_path / "san.pkl", _use_new_zipfile_serialization=zipped)
    network = load_released(tmp_path / "san.pkl")
    assert not network.training
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 324_248
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for name, conv in zip(RELEASED_SHAPES, convolutions, strict=True):
        assert torch.equal(conv.weight, weights[f"{name}.weight"])
        assert torch.equal(conv.bias, weights[f"{name}.bias"])


@pytest.mark.parametrize(
    "spoilt",
    [
        dict(list(released_weights().items())[:-1]),
        released_weights() | {"surplus.weight": torch.zeros(1)},
        released_weights() | {7: torch.zeros(1)},
        released_weights() | {"autoencoder.0.weight": torch.zeros(8, 3, 3, 3)},
        released_weights() | {"protocombiner.0.bias": torch.full((1,), torch.nan)},
        released_weights() | {"protocombiner.0.bias": torch.zeros(1, dtype=torch.float64)},
        released_weights() | {"protocombiner.0.bias": torch.zeros(1, device="meta")},
        released_weights() | {"protocombiner.0.bias": [0.0]},
        list(released_weights().values()),
        {},
    ],
)
def test_other_state_dicts_are_refused(tmp_path, spoilt):
    torch.save(spoilt, tmp_path / "san.pkl")
    with pytest.raises(CheckpointError, match="fetched from them"):
        load_released(tmp_path / "san.pkl")


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_or_damaged_weights_give_one_kind_of_error(tmp_path, zipped):
    """Whatever torch's reader stumbles over, the caller meets a CheckpointError or a whole network."""
    path = tmp_path / "san.pkl"
    torch.save(released_weights(), path, _use_new_zipfile_serialization=zipped)
    data, generator = path.read_bytes(), np.random.default_rng(0)
    for share in (0.0, 1e-3, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CheckpointError):
            load_released(path)
    for _ in range(60):
        spoilt = bytearray(data)
        # the pickles, not the numbers
        spoilt[generator.integers(0, 1500)] ^= 1 << int(generator.integers(0, 8))
        path.write_bytes(spoilt)
        with contextlib.suppress(CheckpointError):
            assert isinstance(load_released(path), San2018)


@pytest.mark.parametrize("form", ["torch, 2018", "torch, zip", "pickle", "pickle in a state dict"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, form):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "san.pkl"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        value = {**released_weights(), "surplus": Bomb()} if form == "pickle in a state dict" else Bomb()
        torch.save(value, path, _use_new_zipfile_serialization=form != "torch, 2018")
    with pytest.raises(CheckpointError) as caught:
        load_released(path)
    assert "would run code" in str(caught.value.hint)
    assert not (tmp_path / "exploded").exists()


def test_missing_and_huge_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load_released(tmp_path / "nothing.pkl")
    with pytest.raises(CheckpointError, match="Is a directory"):
        load_released(tmp_path)
    with (tmp_path / "huge.pkl").open("wb") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(CheckpointError, match="larger than 16,777,216 bytes"):
        load_released(tmp_path / "huge.pkl")


def test_prototypes_are_means_of_the_genders_in_any_batches_and_go_to_disk_and_back(tmp_path):
    images, genders = faces(5, side=224), np.array([0, 1, 0, 0, 1])
    made = make_prototypes([(images, genders)])
    np.testing.assert_allclose(made.female, images[[0, 2, 3]].mean(0), atol=1e-6)
    np.testing.assert_allclose(made.male, images[[1, 4]].mean(0), atol=1e-6)
    np.testing.assert_allclose(made.neutral, (made.male + made.female) / 2, atol=1e-6)
    assert made.male.dtype == made.female.dtype == made.neutral.dtype == np.float32
    split = make_prototypes((images[i : i + 1], genders[i : i + 1]) for i in range(5))
    np.testing.assert_allclose(split.male, made.male, atol=1e-6)
    np.testing.assert_allclose(split.female, made.female, atol=1e-6)
    made.save(tmp_path / "made" / "prototypes.safetensors")
    again = Prototypes.load(tmp_path / "made" / "prototypes.safetensors")
    for name in ("male", "female", "neutral"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert again.fingerprint == made.fingerprint


def test_prototypes_of_112_pixels_are_enlarged_about_the_same_points():
    ramp = np.broadcast_to((np.arange(112, dtype=np.float32) + 0.5) / 112, (2, 3, 112, 112)).copy()
    made = make_prototypes([(ramp, np.array([0, 1]))])
    expected = (np.arange(224) + 0.5) / 224
    np.testing.assert_allclose(made.neutral[0, 100, 1:-1], expected[1:-1], atol=1e-6)
    white = make_prototypes([(np.ones((2, 3, 112, 112), np.float32), np.array([0, 1]))])
    assert float(white.neutral.max()) == 1.0


PAIR = faces(2, side=8)


@pytest.mark.parametrize(
    ("batches", "error", "told"),
    [
        ([], DataError, "0 female and 0 male"),
        ([(PAIR, [0, 0])], DataError, "2 female and 0 male"),
        ([(PAIR, [0, 2])], LabelError, "the first is 2"),
        ([(PAIR, [0, 1, 1])], LabelError, r"expected integers \(2,\)"),
        ([(PAIR, [0.0, 1.0])], LabelError, "float64"),
        ([(PAIR * 255, [0, 1])], InputRangeError, "0..255"),
        ([(PAIR[:, :1], [0, 1])], InputRangeError, r"\(2, 1, 8, 8\)"),
        (
            [(faces(2, side=16), [0, 1]), (PAIR, [0, 1])],
            InputRangeError,
            "8 x 8 pixels after faces of 16 x 16",
        ),
    ],
)
def test_wrong_faces_for_prototypes_are_refused(batches, error, told):
    with pytest.raises(error, match=told) as caught:
        make_prototypes((images, np.array(genders)) for images, genders in batches)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"male": torch.zeros(3, 112, 112)}, r"male prototype is float32 \(3, 112, 112\)"),
        ({"female": torch.full((3, 224, 224), 2.0)}, "female prototype span 2 to 2"),
        ({"neutral": torch.full((3, 224, 224), torch.nan)}, "neutral prototype span nan"),
        ({"neutral": torch.zeros(3, 224, 224, dtype=torch.float16)}, "neutral prototype is float16"),
        ({"neutral": torch.zeros(3, 224, 224, dtype=torch.bfloat16)}, "BF16"),
        ({"other": torch.zeros(1)}, "'other'"),
    ],
)
def test_files_that_hold_no_prototypes_are_refused(tmp_path, change, told):
    path = tmp_path / "prototypes.safetensors"
    save_file({name: torch.zeros(3, 224, 224) for name in ("male", "female", "neutral")} | change, path)
    with pytest.raises(CheckpointError, match=told) as caught:
        Prototypes.load(path)
    assert caught.value.hint


def test_missing_damaged_pickled_and_foreign_prototypes_are_refused(prototypes, tmp_path):
    path = tmp_path / "prototypes.safetensors"
    with pytest.raises(CheckpointError, match="No such file"):
        Prototypes.load(path)
    prototypes.save(path)
    torch.save({"male": torch.zeros(3, 224, 224)}, tmp_path / "pickle")
    # a number type that torch lacks
    header = b'{"male": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}'
    foreign = len(header).to_bytes(8, "little") + header + bytes(1)
    for content in (path.read_bytes()[:-1], (tmp_path / "pickle").read_bytes(), foreign):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            Prototypes.load(path)


def test_same_image_same_bytes_in_any_batch(network, prototypes):
    protector = San2018Protector(network, prototypes, target="opposite")
    images = faces(5)
    genders = by_brightness(images)
    assert len(set(genders)) == 2
    whole = protector(images, genders)
    assert whole.shape == images.shape
    assert whole.dtype == np.float32
    assert 0.0 <= float(whole.min()) <= float(whole.max()) <= 1.0
    one_by_one = np.concatenate([protector(images[i : i + 1], genders[i : i + 1]) for i in range(5)])
    assert whole.tobytes() == one_by_one.tobytes()
    assert protector(images[::-1], genders[::-1]).tobytes() == whole[::-1].tobytes()
    assert (whole[:, 0] == whole[:, 1]).all()
    assert (whole[:, 0] == whole[:, 2]).all()
    assert protector(images[:0], genders[:0]).shape == (0, 3, 112, 112)


@pytest.mark.parametrize("target", ["same", "neutral", "opposite"])
@pytest.mark.parametrize("gender", [0, 1])
def test_the_prototypes_of_a_target_and_any_size(network, prototypes, target, gender):
    images = faces(1, side=224)
    own, other = prototypes.female, prototypes.male
    if gender == 1:
        own, other = other, own
    chosen = {"same": own, "neutral": prototypes.neutral, "opposite": other}[target]
    luma = torch.from_numpy(images * np.float32([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.no_grad():
        expected = by_hand(released_weights(), luma, torch.tensor(own)[None], torch.tensor(chosen)[None])
    protector = San2018Protector(network, prototypes, target=target, size=224)
    np.testing.assert_allclose(protector(images, np.array([gender]))[:, :1], expected.numpy(), atol=1e-6)
    wide = San2018Protector(network, prototypes, target=target, size=300)
    assert wide(faces(1, side=300), np.array([gender])).shape == (1, 3, 300, 300)


def test_the_fingerprint_covers_weights_prototypes_target_and_size(network, prototypes):
    def fingerprint(
        net: San2018 = network, means: Prototypes = prototypes, *, target: str = "same", size: int = 112
    ) -> str:
        return San2018Protector(net, means, target=target, size=size).fingerprint

    torch.manual_seed(3)
    swapped = Prototypes(prototypes.female, prototypes.male, prototypes.neutral)
    others = [
        fingerprint(San2018()), fingerprint(means=swapped), fingerprint(target="neutral"), fingerprint(size=224),
    ]  # fmt: skip
    assert len({fingerprint(), *others}) == 5
    assert fingerprint() == fingerprint()


def test_wrong_images_labels_and_settings_are_refused(network, prototypes):
    protector = San2018Protector(network, prototypes, target="same")
    for images, told in (
        (faces(1) * 255, r"0\.\.255"),
        (faces(1, side=64), "64 x 64 pixels; expected 112 x 112"),
    ):
        with pytest.raises(InputRangeError, match=told):
            protector(images, np.array([0]))
    for answer, told in (([0, 1], r"int64 \(2,\)"), ([-1], "the first is -1"), ([0.5], "float64")):
        with pytest.raises(LabelError, match=told):
            protector(faces(1), np.array(answer))
    with pytest.raises(ConfigError, match="target='female' does not exist"):
        San2018Protector(network, prototypes, target="female")


def test_the_python_of_the_page_on_methods_runs(released, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    (tmp_path / "conv-autoencoder-e20.pkl").write_bytes(released.read_bytes())
    monkeypatch.chdir(tmp_path)
    images = faces(2)
    given = {"images": images, "genders": np.array([0, 1])}
    left = runpy.run_path("block.py", init_globals=given)
    assert left["protected"].shape == images.shape
    assert Prototypes.load(tmp_path / "prototypes.safetensors").fingerprint == left["prototypes"].fingerprint


@pytest.mark.realdata
def test_the_authors_weights_load_and_use_the_prototype(real_models, prototypes):
    path = real_models / "san_2018_conv_autoencoder_e20.pkl"
    if not path.is_file():
        pytest.skip(f"PRIVFACE_MODELS has no {path.name}")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = load_released(path)
    grey, same, other = (tensors(1, channels=c, seed=s) for c, s in ((1, 2), (3, 3), (3, 4)))
    with torch.no_grad():
        assert torch.equal(network(grey, same, other), by_hand(weights, grey, same, other))
    image = np.broadcast_to((prototypes.male + 0.2 * faces(1, side=224)[0]) / 1.2, (1, 3, 224, 224)).copy()
    outputs = {
        target: San2018Protector(network, prototypes, target=target, size=224)(image, np.array([1]))
        for target in ("same", "neutral", "opposite")
    }
    for protected in outputs.values():
        assert np.isfinite(protected).all()
        assert float(protected.std()) > 0.01
    assert float(np.abs(outputs["same"] - outputs["opposite"]).mean()) > 1e-3
