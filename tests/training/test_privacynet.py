"""PrivacyNet's step: hidden attributes are pushed one way, kept ones the other; the critic learns by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from privface.losses import AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import GenderProbe, PrivacyNet
from privface.training import ArraySource, LossWeights, PixelAdversary
from privface.training.privacynet import PrivacyNetStep
from privface.training.source import step_generator


@pytest.fixture
def step(toy):
    torch.manual_seed(0)
    body = {"width": 8, "depth": 2, "blocks": 1}
    network = PrivacyNet(attributes=["gender", "hat"], body=body, hide=["gender"])
    torch.nn.init.normal_(network.body.head.weight, std=0.1)
    return PrivacyNetStep(
        network,
        readers=[0, 1],
        critic=PixelAdversary(spec=toy.spec, network={"width": 8, "stages": 1}),
        realism=0.5,
        matchers=[],
        classifiers=[GenderProbe(toy.lower(), spec=toy.spec, name=n, weights_sha256=n) for n in "ab"],
        weights=LossWeights(matching=0.0, frozen=1.0),
        reconstruction=ReconstructionLoss(),
        matching=MatchingLoss(),
        attribute=AttributeLoss("flip"),
    )


def run(toy, step):
    pixels, genders = toy.people(8)
    images = torch.from_numpy(ArraySource(pixels).batch(torch.arange(8).numpy()))
    labels = torch.stack([torch.from_numpy(genders), torch.tensor([-1, 0, 1, 0, 1, 0, 1, -1])], 1)
    return step(images, labels, [], generator=step_generator(seed=0, epoch=0, step=0))


def test_total_is_the_weighted_sum(toy, step):
    losses = run(toy, step)
    found = {name: float(value) for name, value in losses.figures.items()}
    assert set(found) == {"realism", "reconstruction", "frozen", "critic", "total"}
    assert found["total"] == pytest.approx(
        0.5 * found["realism"] + found["reconstruction"] + found["frozen"], rel=1e-5
    )
    assert float(losses.adversaries.detach()) == pytest.approx(found["critic"])


def test_the_attribute_term_against_a_slow_loop(step):
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0])
    labels, hidden = torch.tensor([1, 0, -1, 0]), torch.tensor([True, False, True, True])
    asked = [(2.0, 0.0), (-1.0, 0.0), (3.0, 1.0)]  # turned round, kept, no label, turned round
    expected = sum(
        float(F.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(y))) for x, y in asked
    )
    assert float(step._attribute(logits, labels, hidden)) == pytest.approx(expected / 3, rel=1e-5)


def test_generator_and_critic_pull_in_opposite_directions(toy, step):
    step.weights = LossWeights(reconstruction=0.0, matching=0.0, frozen=0.0)
    losses, weight = run(toy, step), [step.autoencoder.body.head.weight]
    defence = torch.autograd.grad(losses.protector, weight, retain_graph=True)[0]
    attack = torch.autograd.grad(losses.adversaries, weight)[0]
    assert float((defence * attack).sum()) < 0
