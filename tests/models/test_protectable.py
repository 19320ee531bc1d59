"""What a network gets that says nothing of itself, and what it must say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from privface.errors import ConfigError
from privface.models import Protectable, Protector


class Dim(Protectable):
    """As much as docs/extend/method.md asks for."""

    kind = "dim"

    def __init__(self) -> None:
        super().__init__()
        self.light = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor, strength: float = 1.0) -> Tensor:
        return images * (1 - strength * self.light)


def test_it_learns_with_the_usual_losses_and_has_no_code_and_no_choices():
    network, images = Dim(), torch.rand(3, 3, 8, 8)
    passed = network.learn(images)
    assert torch.equal(passed.output, images / 2)
    assert passed.output.requires_grad
    assert passed.code.shape == (3, 0)
    assert passed.penalty == 0
    for refused in (lambda: network.codes(images), lambda: network.choose(hide=["gender"])):
        with pytest.raises(ConfigError):
            refused()


class Dimmed(Dim):
    kind = "dimmed"

    def __init__(self, *, times: int) -> None:
        super().__init__()
        self.times = times


class Darker(Dim):
    kind = "darker"


class Said(Dimmed):
    @property
    def config(self) -> dict[str, int]:
        return {"times": self.times}


def test_what_could_be_trained_and_not_used_is_refused():
    with pytest.raises(TypeError, match="kind"):
        type("Nameless", (Protectable,), {"forward": Dim.forward})
    for without in ({}, {"forward": lambda self, images: images}):
        with pytest.raises(TypeError, match="strength"):
            type("Unscaled", (Protectable,), {"kind": "unscaled", **without})
    with pytest.raises(TypeError, match="Dimmed takes times"):
        Protector(Dimmed(times=2), size=8)


def test_equal_weights_with_another_setting_or_kind_have_another_fingerprint():
    networks = [Said(times=2), Said(times=2), Said(times=3), Dim(), Darker()]
    first, again, *others = (Protector(network, size=8).fingerprint for network in networks)
    assert first == again
    assert len({first, *others}) == 4
