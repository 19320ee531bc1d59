"""Ensembles and flows against slow loops, on cards and in ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privface.errors import CheckpointError, ModelError
from privface.models import EnsembleSan, FlowSan, Protector, Reader, save_network, variant
from privface.models.export import export_protector
from privface.models.family import Autoencoder
from tests.models.conftest import san

pytestmark = pytest.mark.usefixtures("one_thread")


def reader(seed: int) -> Reader:
    torch.manual_seed(seed)
    config = {"outputs": 1, "width": 8, "stages": 1, "channels": 3, "stem": 5, "dropout": 0.0}
    return Reader(config=config, size=16, crop=(8.0, 8.0, 104.0, 104.0))


MEMBERS = [san(k) for k in range(3)]
UNDECIDED = EnsembleSan(MEMBERS, rule="undecided", readers=[reader(7), reader(8)])


def outputs(images: np.ndarray) -> np.ndarray:
    return np.stack([Protector(m, size=32)(images) for m in MEMBERS])


def test_average_is_the_mean_of_the_members(make_images):
    images = make_images(5)
    found = Protector(EnsembleSan(MEMBERS, rule="average"), size=32)(images)
    np.testing.assert_allclose(found, outputs(images).mean(0), atol=1e-6)


def test_random_takes_one_member_by_the_photo_alone(make_images):
    images = make_images(24)
    protector = Protector(EnsembleSan(MEMBERS, rule="random"), size=32)
    found, possible = protector(images), outputs(images)
    chosen = [[bool(np.allclose(found[i], possible[k, i], atol=1e-6)) for k in range(3)] for i in range(24)]
    assert all(sum(row) == 1 for row in chosen)
    assert {row.index(True) for row in chosen} == {0, 1, 2}
    for i in (0, 7, 23):
        np.testing.assert_array_equal(protector(images[i : i + 1])[0], found[i])
    np.testing.assert_array_equal(protector(images[::-1]), found[::-1])


def test_undecided_takes_the_output_that_readers_know_least_of(make_images):
    images = make_images(6)
    found, possible = Protector(UNDECIDED, size=32)(images), outputs(images)
    with torch.no_grad():
        odds = [[r(torch.from_numpy(out)).abs().numpy() for r in UNDECIDED.readers] for out in possible]
    least = np.mean(odds, axis=1).argmin(0)
    for i in range(6):
        np.testing.assert_allclose(found[i], possible[least[i], i], atol=1e-6)


def test_a_flow_is_one_network_behind_the_other(make_images):
    images = make_images(3)
    x = torch.from_numpy(images)
    with torch.no_grad():
        for network in MEMBERS:
            x = network(x, strength=0.5)
    found = Protector(FlowSan(MEMBERS), size=32, strength=0.5)(images)
    np.testing.assert_allclose(found, x.numpy(), atol=1e-6)


def test_only_the_last_network_of_a_flow_learns(make_images):
    flow = FlowSan([san(0), san(1)])
    passed = flow.learn(torch.from_numpy(make_images(2)))
    passed.output.mean().backward()
    early, late = (list(m.parameters()) for m in flow.members)
    assert all(p.grad is None and not p.requires_grad for p in early)
    assert all(p.grad is not None for p in late)
    assert torch.allclose(passed.output, flow(torch.from_numpy(make_images(2))), atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        UNDECIDED,
        EnsembleSan([MEMBERS[0], Autoencoder(variant("denoising", width=4, code=4))]),
        FlowSan(MEMBERS[:2]),
    ],
    ids=["undecided", "mixed", "flow"],
)
def test_a_card_brings_everything_back(tmp_path, make_images, network):
    save_network(tmp_path, network, kind=network.kind, meta={"size": 32})
    again, images = Protector.load(tmp_path), make_images(3)
    np.testing.assert_array_equal(again(images), Protector(network, size=32)(images))
    assert again.network.config == network.config
    assert again.fingerprint == Protector(network, size=32).fingerprint


def test_the_fingerprint_covers_the_rule_and_bad_parts_are_refused(tmp_path):
    found = {Protector(EnsembleSan(MEMBERS, rule=rule)).fingerprint for rule in ("random", "average")}
    assert len(found) == 2
    with pytest.raises(ModelError, match="no network"):
        FlowSan([])
    for rule, readers in (("best", []), ("undecided", []), ("average", [reader(0)])):
        with pytest.raises(ModelError, match=f"rule='{rule}' with {len(readers)} readers"):
            EnsembleSan(MEMBERS, rule=rule, readers=readers)
    network = FlowSan(MEMBERS[:1])
    save_network(tmp_path, network, kind="flow-san")
    card = (tmp_path / "model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(card.replace("semi-adversarial-autoencoder", "eval"))
    with pytest.raises(CheckpointError, match="a member of kind 'eval'"):
        Protector.load(tmp_path)


def test_a_flow_goes_to_onnx_and_a_random_choice_does_not(tmp_path, one_registry):
    for name, network in (("flow", FlowSan(MEMBERS[:2])), ("random", EnsembleSan(MEMBERS[:2]))):
        save_network(tmp_path / name, network, kind=network.kind, meta={"size": 32})
    assert export_protector(tmp_path / "flow", tmp_path / "flow.onnx").difference < 1e-4
    with pytest.raises(ModelError, match="cannot be exported"):
        export_protector(tmp_path / "random", tmp_path / "random.onnx")
