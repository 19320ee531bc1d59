"""An autoencoder read as a matcher is: its code, flattened, is the embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from privface.errors import ModelError
from privface.models.family import Autoencoder, AutoencoderConfig
from privface.records import InputSpec

LONGEST = 4096
"""Values of a code, at most: components of a longer one would take minutes and gigabytes."""


class CodeReader(nn.Module):
    """The encoder of an autoencoder; what decodes is left out.

    In evaluation mode nothing is drawn: a variational code is its mean, the input is not corrupted.

    Args:
        config: The autoencoder's settings, or the plain values of a card.

    Raises:
        ModelError: If it does not read faces, or its code is too long.
    """

    def __init__(self, config: AutoencoderConfig | Mapping[str, Any]) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(config)
        self.autoencoder.decoder = nn.Sequential()
        channels = self.autoencoder.settings.shape[0]
        if channels not in {1, 3}:
            raise ModelError(
                f"This autoencoder reads {channels} channels; a face has 3, or 1 where it is grey.",
                hint="Give one that was trained on photos.",
            )
        if self.values > LONGEST:
            shape = " x ".join(map(str, self.autoencoder.code_shape))
            raise ModelError(
                f"The code of this autoencoder has {self.values} values ({shape}); at most {LONGEST} can be read.",
                hint="Train one with a flat code: --set flat=true --set code=256.",
            )

    @classmethod
    def of(cls, trained: Autoencoder) -> Self:
        """Take over the encoder of a trained autoencoder."""
        reader = cls(trained.settings)
        reader.autoencoder.encoder.load_state_dict(trained.encoder.state_dict())
        return reader.eval().requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values."""
        return self.autoencoder.config

    @property
    def values(self) -> int:
        """Values of the code."""
        return math.prod(self.autoencoder.code_shape)

    @property
    def spec(self) -> InputSpec:
        """What it is shown: the whole face at the size that it was trained on."""
        channels, height, width = self.autoencoder.settings.shape
        return InputSpec(size=(height, width), channels="GRAY" if channels == 1 else "RGB")

    def forward(self, images: Tensor) -> Tensor:
        """Codes ``(N, values)`` of images ``(N, C, H, W)`` in [0, 1]."""
        return self.autoencoder.encode(images).flatten(1)
