from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

from privface.errors import TrainingError
from privface.training import ArraySource, LossWeights
from privface.training.source import step_generator

ONLY = {"reconstruction": 0.0, "matching": 0.0, "frozen": 0.0, "adversary": 0.0}


def run(toy, step, *, seed=0):
    pixels, genders = toy.people(8)
    images = torch.from_numpy(ArraySource(pixels).batch(torch.arange(8).numpy()))
    embeddings = [matcher(images) for matcher in step.matchers]
    return step(
        images, torch.from_numpy(genders), embeddings, generator=step_generator(seed=seed, epoch=0, step=0)
    )


def test_total_is_the_weighted_sum_of_the_terms(toy):
    weights = LossWeights(
        reconstruction=0.5, matching=2.0, frozen=3.0, adversary=0.25, embedding=0.125, code=4.0
    )
    losses = run(toy, toy.step(watch=True, weights=weights))
    figures = {name: float(value) for name, value in losses.figures.items()}
    names = ("reconstruction", "matching", "frozen", "adversary", "embedding", "code")
    assert figures["total"] == pytest.approx(sum(getattr(weights, n) * figures[n] for n in names), rel=1e-5)
    assert float(losses.protector.detach()) == pytest.approx(figures["total"])
    own = figures["adversary_cross_entropy"] + figures["embedding_cross_entropy"]
    assert float(losses.adversaries.detach()) == pytest.approx(own, rel=1e-5)


def test_alignment_needs_the_matchers_alone(toy):
    """Its moments, the matcher's embeddings of what was looked at and their genders go in; no other term is needed."""
    step = toy.step(align=True, weights=LossWeights(**{**ONLY, "alignment": 2.0}, matching_share=0.5))
    torch.nn.init.normal_(step.autoencoder.head.weight, std=0.1)
    seen = []
    step.alignments[0].register_forward_hook(lambda _m, inputs, _out: seen.append(inputs))
    losses = run(toy, step)
    assert [tuple(part.shape) for part in seen[0]] == [(4, 96), (4,)]
    assert float(losses.figures["total"]) == pytest.approx(2.0 * float(losses.figures["alignment"]))
    gradient = torch.autograd.grad(losses.protector, [step.autoencoder.head.weight])[0]
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("name", ["reconstruction", "matching", "frozen", "adversary", "embedding", "code"])
def test_weight_of_zero_leaves_a_term_out(toy, name):
    weights = LossWeights(**{**dict.fromkeys(ONLY, 1.0), "embedding": 1.0, "code": 1.0, name: 0.0})
    figures = run(toy, toy.step(watch=True, weights=weights)).figures
    assert name not in figures
    assert len([n for n in figures if not n.endswith("cross_entropy") and n != "total"]) == 5


def test_each_side_gets_its_own_gradient_only(toy):
    step = toy.step(watch=True, weights=LossWeights(embedding=1.0))
    trainer = toy.trainer(step)
    torch.nn.init.normal_(step.autoencoder.head.weight, std=0.1)
    learned, chasing = list(step.autoencoder.parameters()), trainer._chasing

    losses = run(toy, step)
    alone = torch.autograd.grad(losses.protector, learned, retain_graph=True)
    own = torch.autograd.grad(losses.adversaries, chasing, retain_graph=True)
    trainer._fabric.clip_gradients = MagicMock()  # gradients only, no step
    trainer._optimizers = [MagicMock()]
    trainer._update(losses)
    for parameter, expected in zip([*learned, *chasing], [*alone, *own], strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    assert any(bool(g.abs().sum() > 0) for g in own)


def test_protector_and_adversary_pull_in_opposite_directions(toy):
    step = toy.step(weights=LossWeights(**{**ONLY, "adversary": 1.0}), objective="flip")
    torch.nn.init.normal_(step.autoencoder.head.weight, std=0.1)
    losses = run(toy, step)
    weights = [step.autoencoder.head.weight]
    attack = torch.autograd.grad(losses.adversaries, weights, retain_graph=True)[0]
    defence = torch.autograd.grad(losses.protector, weights)[0]
    assert float((attack * defence).sum()) < 0


def test_matchers_look_at_the_share_asked_for(toy):
    step, seen = toy.step(weights=LossWeights(matching_share=0.5)), []
    step.matchers[0].register_forward_hook(lambda _m, inputs, _out: seen.append(len(inputs[0])))
    run(toy, step)
    assert seen == [8, 4], "all originals, and half of the outputs"


def test_matchers_see_views_where_asked_for(toy):
    """Another draw changes what the matchers see, and nothing but a flip and a shift changes it."""

    def seen(views: bool, seed: int) -> torch.Tensor:
        step, found = toy.step(weights=LossWeights(**{**ONLY, "matching": 1.0}, matching_views=views)), []
        step.matchers[0].register_forward_hook(lambda _m, inputs, _out: found.append(inputs[0].detach()))
        run(toy, step, seed=seed)
        return found[-1]

    plain = seen(False, 0)
    torch.testing.assert_close(seen(False, 1), plain)
    views = [seen(True, seed) for seed in range(6)]
    assert any(not torch.equal(views[0], view) for view in views[1:])
    assert {float(v.max()) <= float(plain.max()) for v in views} == {True}, "no colour is changed"


def test_no_active_term_is_an_error(toy):
    with pytest.raises(TrainingError, match="No loss term is active"):
        run(toy, toy.step(adversaries=0, weights=LossWeights(**{**ONLY, "adversary": 1.0})))
