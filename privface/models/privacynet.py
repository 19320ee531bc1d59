"""PrivacyNet: one network that hides the attributes it is told to and keeps the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from privface.errors import ModelError
from privface.models.autoencoders import SemiAdversarialAutoencoder
from privface.models.parts import Pass
from privface.models.protectable import Protectable


class PrivacyNet(Protectable):
    """A conditioned generator (Mirjalili, Raschka, Ross: PrivacyNet, IEEE TIP 2020, arXiv 2001.00561).

    The authors tell their generator the value that each attribute shall have, and so must know the values of those to
    be kept. This one is told which attributes to hide, and asks for no label: a mask of zeros and ones is mapped to
    one number for each channel of each resolution of the encoder and added there.

    Args:
        attributes: Names of what it can hide, one or more.
        body: Keyword arguments of :class:`~privface.models.SemiAdversarialAutoencoder`.
        hide: Which of the attributes :meth:`forward` hides; :meth:`choose` changes it.

    Attributes:
        attributes: The names, in the order of a mask's columns.
        hide: See above.

    Raises:
        ModelError: If names are missing or repeated.
        ConfigError: If ``hide`` has an unknown name or none.
    """

    kind: ClassVar[str] = "privacynet"

    def __init__(self, *, attributes: Sequence[str], body: Mapping[str, Any], hide: Sequence[str]) -> None:
        super().__init__()
        if not attributes or len(set(attributes)) != len(attributes):
            raise ModelError(f"attributes={list(attributes)}: give at least one name, and each once.")
        self.attributes = tuple(attributes)
        self.body = SemiAdversarialAutoencoder(**body)
        self.conditions = nn.ModuleList(
            nn.Linear(len(attributes), width, bias=False) for width in self.body.widths
        )
        self.hide: tuple[str, ...] = ()
        self.choose(hide=hide)

    def choose(self, *, hide: Sequence[str] | None = None, **choices: Any) -> None:
        """Hide these attributes from now on.

        Raises:
            ConfigError: If there is none, or one that the network was not trained to hide.
        """
        super().choose(**choices)
        if hide is not None:
            self.hide = self.among(hide, self.attributes)

    @property
    def mark(self) -> str:
        """By default a hash of the settings; and which attributes it hides."""
        return f"{super().mark}+hide:{','.join(self.hide)}"

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        return {"attributes": list(self.attributes), "body": self.body.config, "hide": list(self.hide)}

    def forward(self, images: Tensor, *, strength: float = 1.0) -> Tensor:
        """Protect a batch: hide :attr:`hide`, with the strength of the autoencoder."""
        mask = images.new_tensor([[float(name in self.hide) for name in self.attributes]])
        return self._run(images, mask, strength)[0]

    def learn_to_hide(self, images: Tensor, mask: Tensor) -> Pass:
        """One pass in training.

        Args:
            images: RGB in [0, 1], ``(N, 3, H, W)``.
            mask: 1 for each attribute to hide, else 0, ``(N, A)``.
        """
        output, code = self._run(images, mask)
        return Pass(output, code, code.abs().mean())

    def _run(self, images: Tensor, mask: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        maps = [
            features + condition(mask)[:, :, None, None]
            for features, condition in zip(self.body.encode(images), self.conditions, strict=True)
        ]
        return self.body.render(self.body.decode(maps, images), images, strength=strength), maps[-1]
