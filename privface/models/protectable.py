"""What a network says of itself, so that a protector need not know which one it has."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from privface.device import Device
from privface.errors import ConfigError
from privface.models.parts import MAX_DRAW, Pass


class Protectable(nn.Module):
    """A network that turns aligned faces into protected ones.

    It is called as ``network(images, strength=1.0)`` with RGB ``(N, 3, H, W)`` in [0, 1] and gives the same shape; where
    :attr:`is_random`, also with ``noise`` (:class:`~privface.models.parts.Noise`). One that :attr:`needs_genders` is called
    as its own protector knows.

    Attributes:
        kind: What the card beside its weights calls it.
        needs_genders: Whether it must know the true gender of every photo.
        has_strength: Whether its change can be scaled.
        has_code: Whether faces are drawn from a code and from nothing else.
    """

    kind: ClassVar[str]
    needs_genders: ClassVar[bool] = False
    has_strength: ClassVar[bool] = True
    has_code: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a network that could be trained and not be used."""
        super().__init_subclass__(**options)
        if cls.__name__.startswith("_"):
            return
        if not hasattr(cls, "kind"):
            raise TypeError(f"{cls.__name__} has no `kind`: name what its card calls it, kind = '...'.")
        if not cls.needs_genders and "strength" not in inspect.signature(cls.forward).parameters:
            raise TypeError(
                f"{cls.__name__} takes no `strength`: define forward(self, images, strength=1.0)."
            )

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights; a network that takes some must say them."""
        asked = inspect.signature(type(self)).parameters.values()
        if taken := [one.name for one in asked if one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}]:
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(taken)}: define `config`, or they are lost on saving."
            )
        return {}

    @property
    def is_random(self) -> bool:
        """Whether it has something to draw outside training."""
        return False

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """Every choice of attributes to hide, where there is one."""
        return []

    @property
    def mark(self) -> str:
        """What a fingerprint says beside the weights: every setting that changes the output and is no weight.

        By default a hash of :attr:`kind` and :attr:`config`.
        """
        text = json.dumps([self.kind, self.config], sort_keys=True)
        return f"+config:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def choose(self, **choices: Any) -> None:
        """Settle what is left open until a photo is protected; ``None`` leaves the usual choice.

        Raises:
            ConfigError: If there is no such choice, or it is out of range.
        """
        for name, value in choices.items():
            if value is not None:
                raise ConfigError(
                    f"{name}={value}: the network {self.kind} has no such choice.",
                    hint="Leave it out, or train with a method that has it (docs/methods.md).",
                )

    @staticmethod
    def among(hide: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
        """Which of the attributes ``names`` are to be hidden, in their order."""
        if not hide or set(hide) - set(names):
            raise ConfigError(
                f"hide {', '.join(hide) or 'nothing'}: this model hides {', '.join(names)}, one or several of them.",
                hint="Choose among them, or train with method_options.attributes.",
            )
        return tuple(name for name in names if name in hide)

    def check(self, *, strength: float = 1.0, draw: int | None = None, number: int = 0) -> None:
        """Refuse a strength or a draw that it cannot have.

        Raises:
            ConfigError: If one of them is out of range, or means nothing here.
        """
        if not 0.0 <= strength <= 2.0:
            raise ConfigError(
                f"strength={strength} is outside 0..2.", hint="1 is the strength the model was trained with."
            )
        if strength != 1.0 and not self.has_strength:
            raise ConfigError(
                f"strength={strength:g}: the network {self.kind} has one strength, 1.", hint="Leave it out."
            )
        if draw is None:
            return
        if not 0 <= draw <= MAX_DRAW or not 0 <= number <= MAX_DRAW:
            raise ConfigError(
                f"draw={draw}, number {number}: both must lie in 0..{MAX_DRAW}.",
                hint="Any whole number of 64 bits will do; a secret one cannot be guessed.",
            )
        if not self.is_random:
            raise ConfigError(
                f"draw={draw}: this network ({self.kind}) has nothing random, so every draw would be the same.",
                hint="Leave the draw out, or train a variational or denoising backbone (docs/methods.md).",
            )

    def learn(self, images: Tensor) -> Pass:
        """One pass in training; a network without a code has nothing to add."""
        return Pass(self(images), images.new_zeros(len(images), 0), images.new_zeros(()))

    def place(self, device: Device) -> None:
        """Move to a device, ready for calls from several threads."""
        self.to(device.name)

    def codes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code of images ``(N, 3, H, W)`` in [0, 1] and the erased code, unit rows ``(N, K)``.

        Raises:
            ConfigError: If it has none.
        """
        raise ConfigError(f"The network {self.kind} has no code.", hint="Train with the method erased-code.")

    def exportable(self) -> Self:
        """A copy that torch's exporter can follow."""
        return copy.deepcopy(self)
