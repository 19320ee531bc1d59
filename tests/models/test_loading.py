from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from privface.errors import InputRangeError, MissingExtraError, ModelError, PrivfaceError
from privface.models import CompactResNet, GenderProbe, load_gender_probe, load_matcher, save_network
from privface.models.inventory import list_models, verify_model
from privface.models.specs import FACENET_FILES, ONNX_SPEC
from privface.records import InputSpec

onnx = pytest.importorskip("onnx")
SIDE = 16


def write_onnx(path: Path, *, outputs: int, softmax: bool = False, seed: int = 0) -> Path:
    """Convolution, ReLU, global average, linear layer; RGB in 0..255 scaled inside, N is free."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    values = {
        "scale": np.array(1 / 255, np.float32),
        "kernel": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.1, 8).astype(np.float32),
        "matrix": rng.normal(0, 0.5, (outputs, 8)).astype(np.float32),
        "offset": rng.normal(0, 0.1, outputs).astype(np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["rgb", "scale"], ["unit"]),
        helper.make_node("Conv", ["unit", "kernel", "bias"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "matrix", "offset"], ["g" if softmax else "out"], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["g"], ["out"], axis=1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
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


# --- ONNX ---------------------------------------------------------------------------------------------


def test_onnx_runtime_and_converted_network_agree(matcher_file, make_images):
    matcher, images = load_matcher(f"onnx:{matcher_file}"), make_images(3)
    scored = matcher.embed(images)
    assert matcher.network is None, "scoring must not convert"
    converted = matcher(torch.from_numpy(images)).detach().numpy()
    assert scored.shape == (3, 5)
    np.testing.assert_allclose(scored, converted, atol=1e-5)
    assert np.abs(scored - scored[0]).max() > 1e-3


def test_onnx_gradient_reaches_the_pixels(matcher_file, make_images):
    matcher = load_matcher(f"onnx:{matcher_file}")
    images = torch.from_numpy(make_images(2)).requires_grad_()
    matcher(images).sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in matcher.parameters())


def test_batch_of_one_equals_batch_of_many(matcher_file, make_images):
    matcher, images = load_matcher(f"onnx:{matcher_file}"), make_images(6)
    alone = np.concatenate([matcher.embed(images[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(matcher.embed(images), alone, atol=1e-6)


def test_onnx_gender_probe_gives_log_odds_of_its_probabilities(tmp_path, make_images):
    file, images = write_onnx(tmp_path / "g.onnx", outputs=2, softmax=True), make_images(4)
    probe = load_gender_probe(f"onnx:{file}")
    p = probe.outputs(images).astype(np.float64)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(probe.male_scores(images), np.log(p[:, 1] / p[:, 0]), atol=1e-5)
    (tmp_path / "swap.yaml").write_text(f"size: [{SIDE}, {SIDE}]\nmale: 0\n")
    swapped = load_gender_probe(f"onnx:{file}@{tmp_path / 'swap.yaml'}")
    np.testing.assert_allclose(swapped.male_scores(images), -probe.male_scores(images), atol=1e-6)
    logit = probe.logit(torch.from_numpy(images))
    np.testing.assert_allclose(logit.detach().numpy(), probe.male_scores(images), atol=1e-4)


def test_weights_go_by_the_files_hash_and_names_are_short(matcher_file):
    import hashlib

    matcher = load_matcher(f"onnx:{matcher_file}", seen=True)
    assert matcher.weights_sha256 == hashlib.sha256(matcher_file.read_bytes()).hexdigest()
    assert (matcher.name, matcher.seen) == ("onnx:tiny", True)


def test_a_fingerprint_covers_input_and_output_and_the_weights_hash_does_not(tmp_path):
    file = write_onnx(tmp_path / "m.onnx", outputs=2)
    side = file.with_suffix(".yaml")
    seen = {}
    for load in (load_matcher, load_gender_probe):
        for line in (
            "",
            "channels: BGR",
            "crop: [10, 10, 100, 100]",
            "value_range: [-1, 1]",
            "male: 0",
            "output: logits",
        ):
            side.write_text(f"size: [{SIDE}, {SIDE}]\n{line}\n")
            model = load(f"onnx:{file}")
            assert model.weights_sha256 == load_matcher(f"onnx:{file}").weights_sha256
            assert model.fingerprint == load(f"onnx:{file}").fingerprint
            seen[load.__name__, line] = model.fingerprint
    other = write_onnx(tmp_path / "other.onnx", outputs=2, seed=1)
    seen["other", ""] = load_matcher(f"onnx:{other}").fingerprint
    # a matcher has no column of the male class
    assert (
        seen["load_matcher", "male: 0"] == seen["load_matcher", "output: logits"] == seen["load_matcher", ""]
    )
    assert len(set(seen.values())) == len(seen) - 2


def test_onnx_without_sidecar_eats_0_to_255(tmp_path):
    file = write_onnx(tmp_path / "m.onnx", outputs=2)
    file.with_suffix(".yaml").unlink()
    assert load_matcher(f"onnx:{file}").spec == ONNX_SPEC == InputSpec(value_range=(0.0, 255.0))


def test_onnx_of_another_size_than_described_says_how_to_describe_it(tmp_path, make_images):
    file = write_onnx(tmp_path / "m.onnx", outputs=2)
    file.with_suffix(".yaml").write_text("size: [20, 20]\n")
    with pytest.raises(ModelError, match=r"refused a batch of shape \(1, 3, 20, 20\)") as caught:
        load_matcher(f"onnx:{file}").embed(make_images(1))
    assert "YAML file of the same name" in str(caught.value.hint)


def test_onnx_that_is_text_is_refused_when_used(tmp_path, make_images):
    (tmp_path / "m.onnx").write_text("not a model")
    matcher = load_matcher(f"onnx:{tmp_path / 'm.onnx'}")
    with pytest.raises(ModelError, match="cannot be opened as an ONNX model"):
        matcher.embed(make_images(1))
    with pytest.raises(ModelError, match="cannot be converted for training"):
        matcher(torch.from_numpy(make_images(1)))


def test_a_missing_onnx_runtime_is_named(matcher_file, make_images, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="need onnxruntime") as caught:
        load_matcher(f"onnx:{matcher_file}").embed(make_images(1))
    assert "pip install" in str(caught.value.hint)


def test_missing_extra_is_named(matcher_file, make_images, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    matcher = load_matcher(f"onnx:{matcher_file}")
    with pytest.raises(MissingExtraError, match="needs onnx2torch") as caught:
        matcher(torch.from_numpy(make_images(1)))
    assert "privface[onnx]" in str(caught.value.hint)


# --- sidecars -----------------------------------------------------------------------------------------


def test_sidecar_fields_become_the_spec(matcher_file, tmp_path):
    fields = {
        "size": [SIDE, SIDE],
        "value_range": [-1, 1],
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
        "channels": "BGR",
        "crop": [1, 2, 100, 101],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(fields))
    spec = load_matcher(f"onnx:{matcher_file}@{tmp_path / 's.yaml'}").spec
    assert spec == InputSpec(
        (SIDE, SIDE), (-1.0, 1.0), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "BGR", (1.0, 2.0, 100.0, 101.0)
    )


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("colour: 3\n", "colour"),
        ("- 1\n", "dictionary"),
        ("size: [\n", "no readable YAML"),
        ("size: 112\n", "size"),
        ("size: [112, 112, 3]\n", "size"),
        ("mean: [a, b, c]\n", "mean.0"),
        ("mean: [.nan, 0, 0]\n", "mean.0"),
        ("channels: HSV\n", "channels"),
        ("size: [0, 112]\n", "size.0"),
        ("std: [1, 0, 1]\n", "std must not be zero"),
        ("crop: [100, 0, 10, 112]\n", "x1 < x2"),
        ("output: sigmoid\n", "output"),
        ("male: 2\n", "male"),
    ],
)
def test_faulty_sidecar_is_named(matcher_file, tmp_path, text, fragment):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ModelError) as caught:
        load_gender_probe(f"onnx:{matcher_file}@{tmp_path / 's.yaml'}")
    assert fragment in caught.value.message
    assert caught.value.hint


# --- specifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ("", "is not a model specification"),
        ("onnx:", "is not a model specification"),
        ("vgg:m", "'vgg:m' is not a model specification"),
        ("model.onnx", "is not a model specification"),
        ("onnx:none.onnx", "onnx:none.onnx: there is no such file"),
        ("module:json", "module:json cannot be imported"),
        ("module:no.such.place", "module:no.such.place cannot be imported"),
        ("module:math.nothing", "cannot be imported"),
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


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".txt"])
def test_onnx_path_of_another_kind_is_refused(tmp_path, suffix):
    (tmp_path / f"m{suffix}").write_bytes(b"x")
    with pytest.raises(ModelError, match=f"m{suffix} is not an .onnx file") as caught:
        load_matcher(f"onnx:{tmp_path}/m{suffix}")
    assert "Pickled weights are never loaded" in str(caught.value.hint)


def test_missing_named_sidecar_is_an_error(matcher_file, tmp_path):
    with pytest.raises(ModelError, match=r"The sidecar .*s\.yaml does not exist"):
        load_matcher(f"onnx:{matcher_file}@{tmp_path}/s.yaml")


def test_facenet_is_never_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("PRIVFACE_DOWNLOAD", raising=False)
    for weights, file in FACENET_FILES.items():
        with pytest.raises(ModelError, match=file) as caught:
            load_matcher(f"facenet:{weights}")
        assert "PRIVFACE_DOWNLOAD=1" in str(caught.value.hint)
    with pytest.raises(ModelError, match=r"facenet:arcface does not exist"):
        load_matcher("facenet:arcface")
    assert list(tmp_path.iterdir()) == []


def test_damaged_facenet_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "checkpoints" / FACENET_FILES["vggface2"]
    place.parent.mkdir()
    place.write_bytes(b"half a download")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_matcher("facenet:vggface2")
    assert "Delete the file" in str(caught.value.hint)


# --- module: and mini: --------------------------------------------------------------------------------

MODULE = """
import torch
from privface.records import InputSpec
def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4)) if False else Mean()
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


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "toy_models_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "toy_models_of_a_user"
    sys.modules.pop("toy_models_of_a_user", None)


def test_own_module_is_used_with_its_input_spec(module, make_images):
    matcher, images = load_matcher(f"module:{module}.plain"), make_images(2)
    assert matcher.spec.size == (8, 8)
    np.testing.assert_allclose(matcher.embed(images), images.mean((2, 3)), atol=1e-6)


def test_own_module_with_a_wrong_shape_or_spec_is_named(module, make_images):
    with pytest.raises(ModelError, match=r"gave shape \(2, 3, 8, 8\) for 2 images"):
        load_matcher(f"module:{module}.Flat").embed(make_images(2))
    with pytest.raises(ModelError, match="input_spec of type dict"):
        load_matcher(f"module:{module}.Odd")


def test_own_module_as_probe_must_have_one_column(module, make_images):
    with pytest.raises(ModelError, match="has 3 output columns"):
        load_gender_probe(f"module:{module}.plain").male_scores(make_images(1))


def test_mini_models_keep_their_crop_and_their_kind(tmp_path, make_images):
    matcher = load_matcher(f"mini:{save_mini(tmp_path / 'm', kind='matcher', outputs=6)}")
    assert matcher.embed(make_images(2)).shape == (2, 6)
    assert matcher.spec.crop == (10.0, 10.0, 100.0, 100.0)
    assert not matcher.network.training
    probe = load_gender_probe(f"mini:{save_mini(tmp_path / 'g', kind='gender-classifier', outputs=1)}")
    assert probe.male_scores(make_images(2)).shape == (2,)
    with pytest.raises(ModelError, match="holds a 'gender-classifier'; a 'matcher' is needed"):
        load_matcher(f"mini:{tmp_path / 'g'}")
    with pytest.raises(ModelError, match="holds a 'matcher'; a 'gender-classifier' is needed"):
        load_gender_probe(f"mini:{tmp_path / 'm'}")


def test_two_logits_are_a_difference(make_images):
    class Two(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), 2 * x.amax((1, 2, 3))], 1)

    probe = GenderProbe(
        Two(), output="logits", male=1, spec=InputSpec(size=(8, 8)), name="two", weights_sha256="f"
    )
    raw = probe.outputs(make_images(3))
    np.testing.assert_allclose(probe.male_scores(make_images(3)), raw[:, 1] - raw[:, 0], atol=1e-6)


def test_images_of_the_wrong_range_are_refused_by_every_model(matcher_file, make_images):
    with pytest.raises(InputRangeError, match="images for onnx:tiny span"):
        load_matcher(f"onnx:{matcher_file}").embed(make_images(1) * 255)


# --- inventory ----------------------------------------------------------------------------------------


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


# --- real models --------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # onnx2torch 1.5.15 slices by a list
@pytest.mark.parametrize(
    "name", ["matcher_mobilefacenet_a", pytest.param("matcher_mobilefacenet_b", marks=pytest.mark.long)]
)
def test_real_matchers_agree_after_conversion_and_match_lfw(name, real_models, real_data):
    """200 validation photos of LFW: converted = scored, and photos of a person look alike."""
    from privface.audit import tmr_at_fmr
    from privface.audit.matching import choose_pairs, cosine_scores
    from privface.config import DataSettings
    from privface.images import to_unit
    from privface.pipeline import load_aligned, open_data

    settings = DataSettings(source=f"table:{real_data}", labels=str(real_data / "lfw.csv"), split="val")
    table = open_data(settings)
    people, counts = np.unique(table.identities, return_counts=True)
    chosen = set(people[(counts >= 2) & (counts <= 4)][:80])
    table = table.take(np.flatnonzero([i in chosen for i in table.identities])[:200])
    faces = load_aligned(table, size=112)
    matcher = load_matcher(f"onnx:{real_models / name}.onnx")
    images = to_unit(faces.pixels)
    with torch.no_grad():
        converted = matcher(torch.from_numpy(images[:16])).numpy()
    np.testing.assert_allclose(matcher.embed(images[:16]), converted, atol=1e-4)
    embeddings = np.concatenate([matcher.embed(part) for part in np.array_split(images, 8)])
    pairs = choose_pairs(faces.table.identities, seed=0)
    genuine, impostor = (
        cosine_scores(embeddings, embeddings, rows) for rows in (pairs.genuine, pairs.impostor)
    )
    assert tmr_at_fmr(genuine, impostor, fmr=0.01).tmr > 0.95
