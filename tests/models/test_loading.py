from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.device import Device
from privface.errors import InputRangeError, MissingExtraError, ModelError, PrivfaceError
from privface.models import CompactResNet, load_gender_probe, load_matcher, save_network
from privface.models.inventory import list_models, verify_model
from privface.models.specs import FACENET_FILES, ONNX_SPEC
from privface.records import InputSpec

SIDE = 16


def write_onnx(
    path: Path, *, outputs: int, softmax: bool = False, prelu: bool = False, seed: int = 0
) -> Path:
    """Convolution, ReLU or PReLU, global average, linear layer; RGB in 0..255 scaled inside, N is free."""
    rng = np.random.default_rng(seed)
    values = {
        "scale": np.array(1 / 255),
        "kernel": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "bias": rng.normal(0, 0.1, 8),
        "matrix": rng.normal(0, 0.5, (outputs, 8)),
        "offset": rng.normal(0, 0.1, outputs),
    } | ({"slope": np.full((8, 1, 1), 0.25)} if prelu else {})
    text = f"""
        <ir_version: 9, opset_import: ["": 17]>
        tiny (float[N, 3, {SIDE}, {SIDE}] rgb) => (float[N, {outputs}] out) {{
            unit = Mul(rgb, scale)
            c = Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (unit, kernel, bias)
            r = {"PRelu (c, slope)" if prelu else "Relu (c)"}
            p = GlobalAveragePool(r)
            f = Flatten(p)
            g = Gemm <transB=1> (f, matrix, offset)
            out = {"Softmax <axis=1>" if softmax else "Identity"} (g)
        }}"""
    model = onnx.parser.parse_model(text)
    weights = (onnx.numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items())
    model.graph.initializer.extend(weights)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    path.with_suffix(".yaml").write_text(f"size: [{SIDE}, {SIDE}]\n")
    return path


@pytest.fixture(scope="module")
def matcher_file(tmp_path_factory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "tiny.onnx", outputs=5)


def save_mini(folder: Path, *, kind: str, outputs: int) -> Path:
    torch.manual_seed(0)
    network = CompactResNet(outputs=outputs, width=8, stages=1).eval()
    save_network(folder, network, kind=kind, meta={"input_size": 16, "crop": [10.0, 10.0, 100.0, 100.0]})
    return folder


def test_a_graph_with_prelu_runs_in_torch_and_gives_the_same(tmp_path, matcher_file, make_images):
    slow = load_matcher(f"onnx:{write_onnx(tmp_path / 'p.onnx', outputs=5, prelu=True)}")
    fast, images = slow.on(Device()), make_images(40)
    assert fast is not slow
    assert fast.fingerprint == slow.fingerprint
    np.testing.assert_allclose(fast.embed(images), slow.embed(images), atol=1e-5)
    usual = load_matcher(f"onnx:{matcher_file}")
    assert usual.on(Device()) is usual


def test_onnx_runtime_and_the_converted_network_agree_in_any_batch(matcher_file, make_images):
    matcher, images = load_matcher(f"onnx:{matcher_file}", seen=True), make_images(6)
    assert (matcher.name, matcher.seen) == ("onnx:tiny", True)
    assert matcher.weights_sha256 == hashlib.sha256(matcher_file.read_bytes()).hexdigest()
    scored = matcher.embed(images)
    assert matcher.network is None, "scoring must not convert"
    assert scored.shape == (6, 5)
    assert np.abs(scored - scored[0]).max() > 1e-3
    alone = np.concatenate([matcher.embed(images[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(scored, alone, atol=1e-6)
    tracked = torch.from_numpy(images).requires_grad_()
    converted = matcher(tracked)
    np.testing.assert_allclose(scored, converted.detach().numpy(), atol=1e-5)
    converted.sum().backward()
    assert float(tracked.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in matcher.parameters())
    with pytest.raises(InputRangeError, match="images for onnx:tiny span"):
        matcher.embed(images * 255)


def test_an_onnx_gender_probe_gives_the_log_odds_of_probabilities_or_logits(tmp_path, make_images):
    file, images = write_onnx(tmp_path / "g.onnx", outputs=2, softmax=True), make_images(4)
    probe = load_gender_probe(f"onnx:{file}")
    p = probe.outputs(images).astype(np.float64)
    scores = probe.male_scores(images)
    np.testing.assert_allclose(scores, np.log(p[:, 1] / p[:, 0]), atol=1e-5)
    np.testing.assert_allclose(probe.logit(torch.from_numpy(images)).detach().numpy(), scores, atol=1e-4)
    sidecar = tmp_path / "other.yaml"
    sidecar.write_text(f"size: [{SIDE}, {SIDE}]\nmale: 0\n")
    swapped = load_gender_probe(f"onnx:{file}@{sidecar}")
    np.testing.assert_allclose(swapped.male_scores(images), -scores, atol=1e-6)
    sidecar.write_text(f"size: [{SIDE}, {SIDE}]\noutput: logits\n")
    before = load_gender_probe(f"onnx:{write_onnx(tmp_path / 'l.onnx', outputs=2)}@{sidecar}")
    np.testing.assert_allclose(before.male_scores(images), scores, atol=1e-5)


def test_a_fingerprint_covers_input_and_output_and_the_weights_hash_does_not(tmp_path):
    file = write_onnx(tmp_path / "m.onnx", outputs=2)
    lines = [
        "",
        "channels: BGR",
        "crop: [10, 10, 100, 100]",
        "value_range: [-1, 1]",
        "male: 0",
        "output: logits",
    ]
    seen = {}
    for load in (load_matcher, load_gender_probe):
        for line in lines:
            file.with_suffix(".yaml").write_text(f"size: [{SIDE}, {SIDE}]\n{line}\n")
            model = load(f"onnx:{file}")
            assert model.weights_sha256 == load_matcher(f"onnx:{file}").weights_sha256
            assert model.fingerprint == load(f"onnx:{file}").fingerprint
            seen[load, line] = model.fingerprint
    other = write_onnx(tmp_path / "other.onnx", outputs=2, seed=1)
    seen["other"] = load_matcher(f"onnx:{other}").fingerprint
    # a matcher has no column of the male class
    assert seen[load_matcher, "male: 0"] == seen[load_matcher, "output: logits"] == seen[load_matcher, ""]
    assert len(set(seen.values())) == len(seen) - 2


@pytest.mark.parametrize("place", ["weights of m.bin", f"{'long' * 40}.bin"])
def test_weights_beside_an_onnx_file_are_part_of_its_hash(tmp_path, make_images, place):
    model = onnx.load(write_onnx(tmp_path / "m.onnx", outputs=2))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location=place, size_threshold=0)
    first = load_matcher(f"onnx:{tmp_path / 'm.onnx'}")
    before, scored = first.weights_sha256, first.embed(make_images(2))
    content = bytearray((tmp_path / place).read_bytes())
    content[3::4] = bytes(byte ^ 0x80 for byte in content[3::4])  # every sign
    (tmp_path / place).write_bytes(content)
    second = load_matcher(f"onnx:{tmp_path / 'm.onnx'}")
    assert not np.allclose(second.embed(make_images(2)), scored)
    assert second.weights_sha256 != before


def test_onnx_that_is_text_is_not_converted(tmp_path, make_images):
    (tmp_path / "m.onnx").write_text("not a model")
    with pytest.raises(ModelError, match="cannot be converted for training"):
        load_matcher(f"onnx:{tmp_path / 'm.onnx'}")(torch.from_numpy(make_images(1)))


class Usual(nn.Module):
    """What matchers are made of and converters trip over: a clipped activation, a flattened map, unit length at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4), nn.ReLU6())
        self.head = nn.Linear(4 * (SIDE // 4) ** 2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.map(x).flatten(1)))


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_either_exporter_of_torch_writes_can_be_trained_against(tmp_path, make_images, dynamo):
    network, example, file = Usual().eval(), torch.rand(2, 3, SIDE, SIDE), tmp_path / "m.onnx"
    how = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1)},)} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is the older one
        torch.onnx.export(network, (example,), str(file), dynamo=dynamo, verbose=False, **how)
    assert (onnx.load(file).opset_import[0].version > 17) == dynamo
    file.with_suffix(".yaml").write_text(f"{{size: [{SIDE}, {SIDE}], value_range: [0, 1]}}\n")
    matcher, images = load_matcher(f"onnx:{file}"), make_images(2)
    moved = torch.from_numpy(images).requires_grad_()
    out = matcher(moved)
    np.testing.assert_allclose(out.detach().numpy(), matcher.embed(images), atol=1e-5)
    (gradient,) = torch.autograd.grad(out[:, 0].sum(), moved)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("package", ["onnxruntime", "onnx2torch"])
def test_a_missing_package_is_named(matcher_file, make_images, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    matcher = load_matcher(f"onnx:{matcher_file}")
    with pytest.raises(MissingExtraError, match=package) as caught:
        matcher.embed(make_images(1)) if package == "onnxruntime" else matcher.frozen(Device())
    assert "pip install" in str(caught.value.hint)


def test_sidecar_fields_become_the_spec_and_without_one_it_eats_0_to_255(matcher_file, tmp_path):
    (tmp_path / "s.yaml").write_text(
        "{size: [16, 16], value_range: [-1, 1], mean: [0.1, 0.2, 0.3], std: [1, 2, 3], channels: BGR, crop: [1, 2, 100, 101]}"
    )
    spec = load_matcher(f"onnx:{matcher_file}@{tmp_path / 's.yaml'}").spec
    assert spec == InputSpec(
        (16, 16), (-1.0, 1.0), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "BGR", (1.0, 2.0, 100.0, 101.0)
    )
    alone = write_onnx(tmp_path / "m.onnx", outputs=2)
    alone.with_suffix(".yaml").unlink()
    assert load_matcher(f"onnx:{alone}").spec == ONNX_SPEC == InputSpec(value_range=(0.0, 255.0))
    with pytest.raises(ModelError, match=r"The sidecar .*none\.yaml does not exist"):
        load_matcher(f"onnx:{matcher_file}@{tmp_path}/none.yaml")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("colour: 3\n", "colour"),
        ("- 1\n", "dictionary"),
        ("size: [\n", "no readable YAML"),
        ("mean: [.nan, 0, 0]\n", "mean.0"),
        ("size: [0, 112]\n", "size.0"),
        ("std: [1, 0, 1]\n", "std must not be zero"),
        ("crop: [100, 0, 10, 112]\n", "x1 < x2"),
        ("male: 2\n", "male"),
    ],
)
def test_faulty_sidecar_is_named(matcher_file, tmp_path, text, fragment):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ModelError, match=fragment) as caught:
        load_gender_probe(f"onnx:{matcher_file}@{tmp_path / 's.yaml'}")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ("", "is not a model specification"),
        ("onnx:", "is not a model specification"),
        ("vgg:m", "'vgg:m' is not a model specification"),
        ("autoencoder:", "is not a model specification"),
        ("onnx:none.onnx", "onnx:none.onnx: there is no such file"),
        ("module:json", "module:json cannot be imported"),
        ("module:no.such.place", "module:no.such.place cannot be imported"),
        ("module:builtins.dict", "returned a dict; expected an nn.Module"),
        ("module:math.sqrt", "failed when it was called (TypeError"),
        ("mini:nowhere", "nowhere has no model.safetensors"),
    ],
)
@pytest.mark.parametrize("load", [load_matcher, load_gender_probe])
def test_faulty_specification_is_named(load, spec, fragment):
    with pytest.raises(PrivfaceError) as caught:
        load(spec)
    assert fragment in caught.value.message
    assert caught.value.hint


def test_facenet_is_never_fetched_unasked_and_a_damaged_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("PRIVFACE_DOWNLOAD", raising=False)
    for weights, file in FACENET_FILES.items():
        with pytest.raises(ModelError, match=file) as caught:
            load_matcher(f"facenet:{weights}")
        assert "PRIVFACE_DOWNLOAD=1" in str(caught.value.hint)
    with pytest.raises(ModelError, match=r"facenet:arcface does not exist"):
        load_matcher("facenet:arcface")
    assert list(tmp_path.iterdir()) == []
    place = tmp_path / "checkpoints" / FACENET_FILES["vggface2"]
    place.parent.mkdir()
    place.write_bytes(b"half a download")
    with pytest.raises(ModelError, match=r"cannot be loaded.*Delete the file"):
        load_matcher("facenet:vggface2")


# --- module: and mini: --------------------------------------------------------------------------------

MODULE = """
import torch
from privface.records import InputSpec
class Mean(torch.nn.Module):
    input_spec = InputSpec(size=(8, 8))
    def forward(self, x):
        return x.mean((2, 3))
class Flat(Mean):
    def forward(self, x):
        return x
class Odd(Mean):
    input_spec = {"size": (8, 8)}
"""


def test_own_module_is_used_with_its_input_spec_or_what_is_wrong_is_named(tmp_path, monkeypatch, make_images):
    (tmp_path / "toy_models_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    matcher, images = load_matcher("module:toy_models_of_a_user.Mean"), make_images(2)
    assert matcher.spec.size == (8, 8)
    np.testing.assert_allclose(matcher.embed(images), images.mean((2, 3)), atol=1e-6)
    with pytest.raises(ModelError, match=r"gave shape \(2, 3, 8, 8\) for 2 images"):
        load_matcher("module:toy_models_of_a_user.Flat").embed(images)
    with pytest.raises(ModelError, match="input_spec of type dict"):
        load_matcher("module:toy_models_of_a_user.Odd")
    with pytest.raises(ModelError, match="has 3 output columns"):
        load_gender_probe("module:toy_models_of_a_user.Mean").male_scores(images)


def test_mini_models_keep_their_crop_and_their_kind(tmp_path, make_images):
    matcher = load_matcher(f"mini:{save_mini(tmp_path / 'm', kind='matcher', outputs=6)}")
    assert matcher.embed(make_images(2)).shape == (2, 6)
    assert matcher.spec.crop == (10.0, 10.0, 100.0, 100.0)
    assert not matcher.network.training
    probe = load_gender_probe(f"mini:{save_mini(tmp_path / 'g', kind='gender-classifier', outputs=1)}")
    assert probe.male_scores(make_images(2)).shape == (2,)
    for load, folder, wanted in (
        (load_matcher, "g", "matcher"),
        (load_gender_probe, "m", "gender-classifier"),
    ):
        with pytest.raises(ModelError, match=f"a '{wanted}' is needed"):
            load(f"mini:{tmp_path / folder}")


def test_inventory_lists_forms_and_verifies(matcher_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    rows = {entry.name: entry for entry in list_models()}
    assert not rows["facenet:vggface2"].present
    assert rows["facenet:vggface2"].where.startswith(str(tmp_path))
    name, sha, size, out = verify_model(f"onnx:{matcher_file}")
    assert (name, size, out) == ("onnx:tiny", "RGB 16 x 16", "embedding of 5")
    assert len(sha) == 64
    probe = write_onnx(tmp_path / "g.onnx", outputs=2, softmax=True)
    assert verify_model(f"onnx:{probe}", probe=True)[3] == "gender score"


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # onnx2torch 1.5.15 slices by a list
@pytest.mark.parametrize("name", ["mobilefacenet_a", pytest.param("mobilefacenet_b", marks=pytest.mark.long)])
def test_real_matchers_agree_after_conversion_and_match_lfw(name, real_models, lfw):
    from privface.audit import tmr_at_fmr
    from privface.audit.matching import choose_pairs, cosine_scores

    images, people = lfw
    matcher = load_matcher(f"onnx:{real_models / f'matcher_{name}.onnx'}")
    with torch.no_grad():
        converted = matcher(torch.from_numpy(images[:16])).numpy()
    np.testing.assert_allclose(matcher.embed(images[:16]), converted, atol=1e-4)
    embeddings = np.concatenate([matcher.embed(part) for part in np.array_split(images, 8)])
    pairs = choose_pairs(people, seed=0)
    genuine, impostor = (cosine_scores(embeddings, embeddings, p) for p in (pairs.genuine, pairs.impostor))
    assert tmr_at_fmr(genuine, impostor, fmr=0.01).tmr > 0.95
