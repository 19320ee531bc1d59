"""What a network gets that says nothing of itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from privface.errors import ConfigError
from privface.models import Protectable


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
