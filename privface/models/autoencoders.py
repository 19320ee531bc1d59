"""The semi-adversarial autoencoder: an image-to-image network that needs no label."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.errors import ModelError
from privface.models.inputs import luminance
from privface.models.parts import Noise, Pass
from privface.models.protectable import Protectable

_LOGIT_EDGE = 0.02


class _Stage(nn.Module):
    """``blocks`` 3x3 convolutions with LeakyReLU; the first one may change resolution and channels."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, blocks: int = 1) -> None:
        super().__init__()
        sizes = [inputs] + [outputs] * blocks
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride if i == 0 else 1, 1) for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        return x


class SemiAdversarialAutoencoder(Protectable):
    """Convolutional encoder-decoder for aligned faces, after SAN (Mirjalili et al., ICB 2018) but label-free.

    The original network is handed a same-gender prototype and so must know the gender; this one sees the
    photo alone. Up-sampling is bilinear followed by a convolution, which leaves no checkerboard.

    Args:
        width: Channels of the first stage; stage k has ``width * (k + 2) / 2``.
        depth: Number of resolutions; each halves the one before.
        blocks: Convolutions per stage.
        skips: Add each encoder stage to the decoder stage of the same resolution.
        stem: How the first halving is done: ``"unshuffle"`` (2 x 2 pixels become channels; everything wide
            runs at half resolution) or ``"full"`` (the first stage runs at full resolution).
        colour: ``"free"`` changes each channel by itself; ``"kept"`` adds one change to all three, so that only light and shade
            move; ``"dropped"`` does so to the grey photo, so that no colour is left to be read and none to fool with.
        output: ``"residual"`` adds the decoder's output to the photo in logit space, so that zero means
            no change; ``"direct"`` paints the image from the code alone.

    Attributes:
        widths: Channels of each of the encoder's maps, from fine to coarse.
    """

    kind: ClassVar[str] = "semi-adversarial-autoencoder"

    def __init__(
        self,
        *,
        width: int = 32,
        depth: int = 3,
        blocks: int = 2,
        skips: bool = True,
        stem: Literal["unshuffle", "full"] = "unshuffle",
        output: Literal["residual", "direct"] = "residual",
        colour: Literal["free", "kept", "dropped"] = "free",
    ) -> None:
        super().__init__()
        if output == "direct" and colour == "kept":
            raise ModelError(
                "A network that paints the image anew has no colour to keep.",
                hint='Use output "residual", or colour "free" or "dropped".',
            )
        self._config: dict[str, Any] = {"width": width, "depth": depth, "blocks": blocks}
        self._config |= {"skips": skips, "stem": stem, "output": output}
        if colour != "free":  # cards written before there was a choice stay as they are
            self._config["colour"] = colour
        self.skips, self.stem, self.output, self.colour = skips, stem, output, colour
        self.widths = sizes = [width * (k + 2) // 2 for k in range(depth)]
        first = 12 if stem == "unshuffle" else 3
        self.encoder = nn.ModuleList(
            _Stage(first if k == 0 else sizes[k - 1], sizes[k], stride=1 if k == 0 else 2, blocks=blocks)
            for k in range(depth)
        )
        self.decoder = nn.ModuleList(
            _Stage(sizes[k], sizes[k - 1], blocks=blocks) for k in range(depth - 1, 0, -1)
        )
        last = 16 if stem == "unshuffle" else width
        self.merge = _Stage(width + 3, last) if stem == "unshuffle" and skips else _Stage(width, last)
        self.head = nn.Conv2d(last, 3 if colour == "free" else 1, 3, 1, 1)
        if output == "residual":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, for the card beside the weights."""
        return self._config

    @property
    def multiple(self) -> int:
        """Image sides must be divisible by this."""
        return int(2 ** (len(self.encoder) - 1 + (self.stem == "unshuffle")))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps from fine to coarse; the last one is the code.

        Raises:
            ModelError: If height or width is not divisible by :attr:`multiple`.
        """
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ModelError(
                f"Images of {height} x {width} do not halve {self.multiple.bit_length() - 1} times.",
                hint=f"Use sides divisible by {self.multiple}.",
            )
        x = F.pixel_unshuffle(images, 2) if self.stem == "unshuffle" else images
        maps: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        return maps

    def decode(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """Logits of change (``residual``) or of the image (``direct``), ``(N, 3, H, W)``, or ``(N, 1, H, W)`` without a colour of their own."""
        x = maps[-1]
        for k, stage in enumerate(self.decoder):
            skip = maps[-2 - k]
            x = stage(F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False))
            if self.skips:
                x = x + skip
        if self.stem == "unshuffle":
            x = F.interpolate(x, size=images.shape[-2:], mode="bilinear", align_corners=False)
            if self.skips:
                x = torch.cat([x, images], 1)
        out: Tensor = self.head(self.merge(x))
        return out

    def forward(self, images: Tensor, *, strength: float = 1.0, noise: Noise | None = None) -> Tensor:
        """Protect a batch.

        Args:
            images: RGB in [0, 1], shape ``(N, 3, H, W)``.
            strength: Scales the change of a ``residual`` network; 0 gives the photo (without its colour, where that is
                dropped) back up to clipping at 0.02 and 0.98, 1 is what was trained.
            noise: Not used: nothing is drawn.

        Returns:
            Protected images in (0, 1), same shape.
        """
        return self.render(self.decode(self.encode(images), images), images, strength=strength)

    def learn(self, images: Tensor) -> Pass:
        """As :meth:`forward`, with the code and its mean absolute value."""
        maps = self.encode(images)
        return Pass(self.render(self.decode(maps, images), images), maps[-1], maps[-1].abs().mean())

    def render(self, logits: Tensor, images: Tensor, *, strength: float = 1.0) -> Tensor:
        """Turn :meth:`decode`'s logits into the protected image in (0, 1)."""
        if self.output == "direct":
            return torch.sigmoid(logits).expand_as(images)
        base = luminance(images) if self.colour == "dropped" else images
        return torch.sigmoid(torch.logit(base, eps=_LOGIT_EDGE) + strength * logits).expand_as(images)
