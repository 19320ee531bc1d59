"""Where networks compute: the choice of a device, bf16 beside fp32, and a GPU that is only pretended."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from privface import device as module
from privface.audit import AuditData, CNNProbe
from privface.audit.context import Context
from privface.audit.image_recovery import ImageRecoverer
from privface.cli.main import app
from privface.device import Device
from privface.errors import ConfigError, OutputError
from privface.models import Protector, load_matcher
from privface.options import AuditOptions
from privface.pipeline import build_auditor
from privface.protect.manifest import read_manifest
from tests.conftest import World, unit_faces

BF16 = Device("cpu", "bf16")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent to a GPU is noted and stays where it is."""
    sent: list[str] = []
    for kind, name in ((Tensor, "tensor"), (nn.Module, "network")):

        def to(self: Any, *args: Any, true: Any = kind.to, name: str = name, **options: Any) -> Any:
            if args and str(args[0]).startswith("cuda"):
                sent.append(name)
                return self
            return true(self, *args, **options)

        monkeypatch.setattr(kind, "to", to)
    return sent


@pytest.mark.parametrize("units", [True, False])
def test_a_cpu_computes_in_bf16_where_it_has_units_for_it(units: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "has_bf16", lambda: units)
    assert Device.choose() == Device("cpu", "bf16" if units else "fp32")
    assert Device.choose("auto", "fp32").is_plain


def test_a_gpu_is_taken_where_there_is_one_and_what_there_is_not_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert Device.choose() == Device("cuda", "fp32"), "older GPUs emulate bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert Device.choose() == Device("cuda", "bf16")
    assert str(Device.choose("cuda:0", "fp16")) == "cuda:0-fp16"
    for name, precision, told in (
        ("gpu", "auto", "device is 'gpu'"),
        ("cpu:1", "auto", "device is 'cpu:1'"),
        ("cuda:x", "auto", "device is 'cuda:x'"),
        ("cuda:1", "auto", "torch sees 1 GPUs"),
        ("cpu", "fp16", "CPUs compute slowly"),
        ("cpu", "int8", "precision is 'int8'"),
    ):
        with pytest.raises(ConfigError, match=told) as caught:
            Device.choose(name, precision)
        assert caught.value.hint


def test_a_protector_in_bf16_gives_nearly_the_same_faces_and_says_what_it_is(world: World) -> None:
    faces = unit_faces(20)
    plain, fast = Protector.load(world.run), Protector.load(world.run, device=BF16)
    assert fast.fingerprint == f"{plain.fingerprint}@cpu-bf16"
    change = np.abs(plain(faces) - fast(faces))
    assert 0 < change.mean() < 1 / 255
    np.testing.assert_array_equal(fast(faces), copied(fast)(faces))


def test_a_matcher_in_bf16_gives_nearly_the_same_embeddings(world: World) -> None:
    faces, plain = unit_faces(20), load_matcher(f"mini:{world.matcher}")
    assert plain.on(Device()) is plain
    fast = plain.on(BF16)
    assert fast.fingerprint == plain.fingerprint, "a gallery stays usable"
    a, b = plain.embed(faces), fast.embed(faces)
    assert ((a * b).sum(1) > 0.999 * np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).all()
    assert np.abs(a - b).max() > 0
    np.testing.assert_array_equal(b, copied(fast).embed(faces))


def test_an_audit_keeps_answers_of_each_precision_apart(world: World, tmp_path: Path) -> None:
    matcher, kept = load_matcher(f"mini:{world.matcher}"), []
    images, ok = (unit_faces(80).transpose(0, 2, 3, 1) * 255).astype(np.uint8), np.ones(80, bool)
    person = np.arange(80) // 2
    data = AuditData(
        original=images,
        protected=images,
        enrolled_original=ok,
        enrolled_protected=ok,
        files=tuple(map(str, range(80))),
        identities=person.astype(str),
        genders=person % 2,
    )
    for precision in ("fp32", "bf16"):
        options = AuditOptions(cache=tmp_path, device="cpu", precision=precision)
        context = Context(build_auditor(options, matchers=[matcher]), data)
        kept.append(context.templates[matcher.name][0])
    assert len(list(tmp_path.iterdir())) == 2, "originals and protected photos are the same here"
    assert not np.array_equal(*kept)


def test_networks_and_their_images_go_to_the_gpu(world: World, gpu: list[str]) -> None:
    faces = unit_faces(20)
    expected = Protector.load(world.run)(faces)
    gpu.clear()
    protector = Protector.load(world.run, device=Device("cuda"))
    assert gpu == ["network"]
    np.testing.assert_allclose(protector(faces), expected, atol=1e-5)
    assert gpu == ["network", "tensor"]
    gpu.clear()
    load_matcher(f"mini:{world.matcher}").on(Device("cuda")).embed(faces)
    assert gpu == ["network", "tensor"]


def test_attackers_learn_on_the_gpu(gpu: list[str]) -> None:
    rng = np.random.default_rng(0)
    images, genders = rng.integers(0, 256, (16, 16, 16, 3), np.uint8), np.arange(16) % 2
    people = genders.astype(str)
    CNNProbe(epochs=1, place="cuda").fit(images, genders, people, images, genders, seed=0)
    assert gpu == ["network"], "images follow it"
    gpu.clear()
    recoverer = ImageRecoverer(epochs=1, device=Device("cuda"))
    recoverer.fit(images, images, people, images, images, seed=0)
    assert gpu == ["network", *["tensor"] * 4], "two batches of pairs"


def test_the_command_line_protects_in_bf16(world: World, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    first = next(world.audited.rglob("*.png"))
    (photos / "a.png").write_bytes(first.read_bytes())
    given = ["protect", str(photos), str(tmp_path / "out"), "--model", str(world.run), "--faces", "aligned"]
    done = CliRunner().invoke(app, [*given, "--precision", "bf16", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    (row,) = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert row.model.endswith("@cpu-bf16")
    refused = CliRunner().invoke(app, [*given, "--precision", "fp32", "--device", "cpu"])
    assert isinstance(refused.exception, OutputError), "what was written in bf16 is not gone on with"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_what_the_cpu_gives(world: World, precision: Any) -> None:
    faces, here = unit_faces(20), Device("cuda", precision)
    large = unit_faces(20, size=112)
    given, wanted = (Protector.load("bundled:erased", device=d)(large) for d in (here, Device()))
    assert np.abs(given - wanted).mean() < 1 / 255
    matcher = load_matcher(f"mini:{world.matcher}")
    a, b = matcher.embed(faces), matcher.on(here).embed(faces)
    assert ((a * b).sum(1) > 0.999 * np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).all()


def copied(model: Any) -> Any:
    """As another process gets it."""
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - its own bytes
