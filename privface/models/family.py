"""The family of autoencoders: one contract, two architectures, and variants that differ by a few words.

``encode`` gives the code, ``decode`` turns a code back, ``forward`` does both. What a variant adds is a part:
a corruption of the input (denoising), a kind of code (sparse, variational), dropout, or grey input (colourising).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from privface.config import MadeSettings
from privface.errors import ConfigError, ModelError
from privface.models.inputs import luminance
from privface.models.parts import CODES, CodeKind, Corruption, CorruptionKind, GaussianCode, Noise, Pass
from privface.models.protectable import Protectable
from privface.records import InputSpec

Upsampling = Literal["transposed", "nearest", "bilinear"]


class AutoencoderConfig(MadeSettings):
    """Everything that decides an autoencoder's shape and what it does while it learns.

    Attributes:
        architecture: ``"fully-connected"`` or ``"convolutional"``.
        shape: Channels, height and width of what it reproduces.
        code: Units of the code (fully connected, or convolutional with ``flat``), else channels of the code.
        hidden: Units of the layers between input and code (fully connected); none makes it linear.
        width: Channels at full resolution (convolutional); doubled at each halving, to 8 times at most.
        depth: Halvings of the resolution.
        blocks: Convolutions at each resolution.
        upsampling: ``"transposed"`` convolutions ("deconvolutions"), or ``"nearest"`` or ``"bilinear"``
            enlargement followed by a convolution.
        flat: Whether the code is a vector; otherwise it is a map and images of any size are taken.
        dropout: Share of hidden activations dropped in training, whole channels of maps (2-D) or units (1-D).
        code_dropout: Share of the code's units dropped in training.
        kind: ``"plain"``, ``"sparse"`` or ``"variational"`` code.
        corruption: How the input is spoiled in training.
        level: How much, see :class:`~privface.models.parts.Corruption`.
        spread: How much the level varies.
        grey: Whether only the luma of the input is seen (colourising).
        output: ``"sigmoid"`` for values in [0, 1], ``"linear"`` for any, ``"mask"`` for a share in [0, 1] of each value seen.
        bypass: Whether what the encoder knew at each resolution is added to the decoder's (a U-Net; Ronneberger et al.,
            MICCAI 2015); for convolutional networks whose code is a map. Then the code alone does not hold the image.
    """

    architecture: Literal["fully-connected", "convolutional"] = "convolutional"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = (3, 64, 64)
    code: PositiveInt = 64
    hidden: tuple[PositiveInt, ...] = (256,)
    width: PositiveInt = 16
    depth: PositiveInt = 3
    blocks: PositiveInt = 1
    upsampling: Upsampling = "nearest"
    flat: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    code_dropout: float = Field(0.0, ge=0, lt=1)
    kind: CodeKind = "plain"
    corruption: CorruptionKind = "none"
    level: float = Field(0.0, ge=0, le=1)
    spread: float = Field(0.0, ge=0, le=1)
    grey: bool = False
    output: Literal["sigmoid", "linear", "mask"] = "sigmoid"
    bypass: bool = False

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ConfigError as error:
            hint = f"Settings: {', '.join(type(self).model_fields)}; docs/autoencoders.md lists the choices."
            raise ModelError(error.message, hint=hint) from error

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.grey and (self.shape[0] != 3 or self.output == "mask"):
            raise ValueError(
                f"grey with {self.shape[0]} channels, output {self.output}; it needs 3 channels, and no mask"
            )
        if self.bypass and (self.architecture != "convolutional" or self.flat):
            raise ValueError("bypass needs a code that is a map: convolutional, and flat=false")
        if self.level > 0.95 and self.corruption != "gaussian":
            raise ValueError(f"level is {self.level:g}; with corruption {self.corruption} at most 0.95")
        halved = self.architecture == "convolutional" and self.flat
        if halved and any(side % 2**self.depth for side in self.shape[1:]):
            sides = f"{self.shape[1]} x {self.shape[2]} pixels cannot be halved {self.depth} times"
            raise ValueError(f"{sides}; use sides divisible by {2**self.depth}, or fewer halvings")
        return self


VARIANTS: Final[Mapping[str, AutoencoderConfig]] = {
    "linear": AutoencoderConfig(architecture="fully-connected", hidden=(), output="linear"),
    "fully-connected": AutoencoderConfig(architecture="fully-connected"),
    "convolutional": AutoencoderConfig(flat=True),
    "deconvolutional": AutoencoderConfig(flat=True, upsampling="transposed"),
    "dropout": AutoencoderConfig(flat=True, dropout=0.1, code_dropout=0.3),
    "denoising": AutoencoderConfig(
        code=32, width=24, depth=1, blocks=2, corruption="gaussian", level=0.15, spread=0.7
    ),
    "sparse": AutoencoderConfig(flat=True, code=256, kind="sparse"),
    "variational": AutoencoderConfig(flat=True, code=32, kind="variational"),
    "colourising": AutoencoderConfig(code=64, width=24, depth=3, blocks=2, grey=True),
}
"""Where to start from, by name; every field can be changed."""


def variant(name: str, **changes: Any) -> AutoencoderConfig:
    """A variant's settings with some of them changed.

    Raises:
        ModelError: If there is no such variant or field, or a value is out of range.
    """
    if name not in VARIANTS:
        raise ModelError(f"There is no autoencoder {name!r}.", hint=f"Choose among {', '.join(VARIANTS)}.")
    return VARIANTS[name].changed(**changes)


class Autoencoder(Protectable):
    """An encoder, a code and a decoder.

    Args:
        config: Its settings, or the plain values of a card.

    Raises:
        ModelError: If a plain value is unknown or out of range.
    """

    kind: ClassVar[str] = "autoencoder"

    def __init__(self, config: AutoencoderConfig | Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(config, AutoencoderConfig):
            config = AutoencoderConfig(**config)
        self.settings = config
        self.corruption = Corruption(config.corruption, level=config.level, spread=config.spread)
        self.code = CODES[config.kind]()
        inside = (1 if config.grey else config.shape[0], *config.shape[1:])
        make = _dense if config.architecture == "fully-connected" else _convolutional
        self.encoder, self.decoder, self._map_shape = make(config, inside, config.code * self.code.factor)
        drop = nn.Dropout if self._map_shape is None else nn.Dropout2d
        self.code_dropout = drop(config.code_dropout)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        return {"config": self.settings.model_dump(mode="json")}

    @property
    def multiple(self) -> int:
        """Sides of images must be divisible by this; a fully connected network takes one size only."""
        return 2**self.settings.depth if self.settings.architecture == "convolutional" else 1

    @property
    def any_size(self) -> bool:
        """Whether images of other sizes than ``shape`` can be passed."""
        return self.settings.architecture == "convolutional" and not self.settings.flat

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the code of one image of the size in ``shape``."""
        if self._map_shape is None:
            return (self.settings.code,)
        return (self.settings.code, *self._map_shape)

    def see(self, images: Tensor) -> Tensor:
        """What the network gets to see of images ``(N, C, H, W)``: their luma if it colourises, else themselves.

        Raises:
            ModelError: If the shape is not one that this network takes.
        """
        channels, *sides = self.settings.shape
        if images.ndim != 4 or images.shape[1] not in ({1, 3} if self.settings.grey else {channels}):
            raise ModelError(
                f"Images of shape {tuple(images.shape)} are no (N, {channels}, H, W).",
                hint="Convert them to the channels the network was trained on.",
            )
        fits, cure = list(images.shape[2:]) == sides, f"Use {sides[0]} x {sides[1]}."
        if self.any_size:
            fits = not any(side % self.multiple for side in images.shape[2:])
            cure = f"Use sides divisible by {self.multiple}."
        if not fits:
            raise ModelError(
                f"Images of {images.shape[2]} x {images.shape[3]} pixels do not fit this autoencoder.",
                hint=cure,
            )
        return luminance(images) if self.settings.grey and images.shape[1] == 3 else images

    def features(self, images: Tensor) -> Tensor:
        """The encoder's output before it becomes a code; for a variational code, means and log variances."""
        features: Tensor = self.encoder(self.see(images))
        return features

    def encode(self, images: Tensor) -> Tensor:
        """Code ``(N, *code_shape)`` of clean images ``(N, C, H, W)``; for a variational code its mean."""
        features = self.features(images)
        if isinstance(self.code, GaussianCode):
            return self.code.moments(features)[0]
        code: Tensor = self.code(features)[0]
        return code

    def decode(self, code: Tensor, bypass: Sequence[Tensor] = ()) -> Tensor:
        """Images (masks, if it masks) ``(N, C, H, W)`` of codes ``(N, *code_shape)``, and of what bypasses the code, coarsest last."""
        x, left = code, list(bypass)
        for layer in self.decoder:
            x = layer(x)
            if left and isinstance(layer, _Enlarge):
                x = x + left.pop()
        return x if self.settings.output == "linear" else torch.sigmoid(x)

    @property
    def is_random(self) -> bool:
        """Whether there is something to draw outside training: the code, or the corruption of the input."""
        return self.settings.kind == "variational" or self.corruption.is_random

    def forward(self, images: Tensor, *, strength: float = 1.0, noise: Noise | None = None) -> Tensor:
        """Reproduce a batch; in training mode with corruption, dropout and a drawn code.

        Args:
            images: Shape ``(N, C, H, W)``.
            strength: How far to go from the images (0) to what the network makes of them (1).
            noise: In evaluation mode, where the corruption and the code are drawn from; without it neither is.

        Returns:
            Same shape; 3 channels where the network colourises.
        """
        output = self.learn(images, noise).output
        return output if strength == 1.0 else images + strength * (output - images)

    def learn(self, images: Tensor, noise: Noise | None = None) -> Pass:
        """As :meth:`forward` at full strength, with the code and what it costs."""
        seen = features = self.corruption(self.see(images), noise)
        bypass: list[Tensor] = []
        for layer in self.encoder:
            if self.settings.bypass and getattr(layer, "stride", None) == (2, 2):
                bypass.append(features)
            features = layer(features)
        code, penalty = self.code(features, noise)
        output = self.decode(self.code_dropout(code), bypass)
        return Pass(output * seen if self.settings.output == "mask" else output, code, penalty)

    def cost(self, passed: Pass) -> Tensor:
        """The code's penalty beside a loss that is a mean over values: a divergence in nats per value of the image."""
        values = passed.output[0].numel() if self.settings.kind == "variational" else 1
        return passed.penalty / values

    def colour(self, images: Tensor) -> Tensor:
        """Images with the network's colours and their own luma, ``(N, 3, H, W)`` in [0, 1].

        Raises:
            ModelError: If the network does not colourise.
        """
        if not self.settings.grey:
            raise ModelError("This network was not trained to add colour.", hint="Train one that sees grey.")
        painted: Tensor = self(images)
        return (painted + self.see(images) - self.see(painted)).clamp(0.0, 1.0)

    def sample(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Images of codes drawn from a standard normal, ``(count, C, H, W)``; meaningful for a variational code.

        Raises:
            ModelError: If the code is not variational.
        """
        if self.settings.kind != "variational":
            raise ModelError(
                f"A {self.settings.kind} code follows no known distribution, so it cannot be sampled.",
                hint="Train a variational autoencoder.",
            )
        return self.decode(torch.randn((count, *self.code_shape), generator=generator))


LONGEST = 4096
"""Values of a code that is read as an embedding, at most: components of a longer one would take minutes and gigabytes."""


class CodeReader(nn.Module):
    """The encoder of an autoencoder, read as a matcher is: its code, flattened, is the embedding; what decodes is left out.

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


def _dense(
    config: AutoencoderConfig, inside: Sequence[int], features: int
) -> tuple[nn.Sequential, nn.Sequential, tuple[int, int] | None]:
    def layers(sizes: Sequence[int]) -> list[nn.Module]:
        chain: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise(sizes)):
            if number:
                chain += [nn.ReLU(), nn.Dropout(config.dropout)]
            chain.append(nn.Linear(a, b))
        return chain

    first, last = inside[0] * inside[1] * inside[2], config.shape[0] * config.shape[1] * config.shape[2]
    encoder = nn.Sequential(nn.Flatten(), *layers([first, *config.hidden, features]))
    decoder = nn.Sequential(
        *layers([config.code, *reversed(config.hidden), last]), nn.Unflatten(1, config.shape)
    )
    return encoder, decoder, None


class _Enlarge(nn.Module):
    """Twice the height and width."""

    def __init__(self, inside: int, outside: int, how: Upsampling) -> None:
        super().__init__()
        self.how = how
        # a kernel of 4 with stride 2 covers every output pixel equally often, one of 3 does not
        transposed = how == "transposed"
        kind, kernel, stride = (nn.ConvTranspose2d, 4, 2) if transposed else (nn.Conv2d, 3, 1)
        self.layer = kind(inside, outside, kernel, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how != "transposed":
            x = F.interpolate(x, scale_factor=2, mode=self.how)
        enlarged: Tensor = self.layer(x)
        return enlarged


def _convolutional(
    config: AutoencoderConfig, inside: Sequence[int], features: int
) -> tuple[nn.Sequential, nn.Sequential, tuple[int, int] | None]:
    widths = [config.width * 2 ** min(k, 3) for k in range(config.depth + 1)]

    def act() -> list[nn.Module]:
        return [nn.LeakyReLU(0.1), *([nn.Dropout2d(config.dropout)] if config.dropout else [])]

    def block(count: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(config.blocks - 1):
            layers += [nn.Conv2d(count, count, 3, 1, 1), *act()]
        return layers

    down: list[nn.Module] = [nn.Conv2d(inside[0], widths[0], 3, 1, 1), *act(), *block(widths[0])]
    for a, b in pairwise(widths):
        down += [nn.Conv2d(a, b, 4, 2, 1), *act(), *block(b)]
    up: list[nn.Module] = []
    for a, b in pairwise(reversed(widths)):
        up += [*act(), *block(a), _Enlarge(a, b, config.upsampling)]
    up += [*act(), *block(widths[0]), nn.Conv2d(widths[0], config.shape[0], 3, 1, 1)]
    sides = (config.shape[1] >> config.depth, config.shape[2] >> config.depth)
    if not config.flat:
        encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], features, 1))
        return encoder, nn.Sequential(nn.Conv2d(config.code, widths[-1], 1), *up), sides
    size = widths[-1] * sides[0] * sides[1]
    return (
        nn.Sequential(*down, nn.Flatten(), nn.Linear(size, features)),
        nn.Sequential(nn.Linear(config.code, size), nn.Unflatten(1, (widths[-1], *sides)), *up),
        None,
    )
