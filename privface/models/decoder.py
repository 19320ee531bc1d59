"""Draws a face from a code: the only thing that a protected face is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.errors import ConfigError

_FILTER = (-1 / 16, 4 / 16, 10 / 16, 4 / 16, -1 / 16)
"""Taps of a half-band filter: 1 at frequency zero and flat there, 0 at the highest."""

_SOFT = 1 / 140
"""Width of the Gaussian that a finished face is seen through, as a share of its side: 0.8 of 112 pixels. The finest detail is drawn
for the matchers of the training; without it an unseen matcher recognises more people, and the grid of some four pixels goes."""

_TINTED = 2
"""Stage that colours are drawn from; its side is a quarter of the face's."""


class FaceDecoder(nn.Module):
    """A code to a face: a coarse map, then stages that double the resolution, each told the code again.

    Channels of a stage are scaled and shifted by the code (feature-wise modulation, Perez et al., AAAI 2018). The last
    doubling turns channels into pixels (Shi et al., CVPR 2016) and is followed by a convolution across the blocks; it begins
    with equal weights for all pixels of a block, as it would else leave a checkerboard (Aitken et al., arXiv 1707.02937).
    Colours and coarse lightness are drawn at a quarter of the side, fine lightness at the whole. A fixed filter that lets
    no pattern of two pixels through comes last: matchers reward such patterns. In evaluation mode another one softens the face a
    little. Faces are symmetric: without this rule one half is drawn well and the other one is not.

    Args:
        code: Size of the code.
        size: Side of the faces in pixels; divisible by 16.
        channels: Channels at sides ``size / 16``, ``/ 8``, ``/ 4``, ``/ 2`` and ``size``.
        blocks: Residual blocks at each side but the last.

    Raises:
        ConfigError: If a number is out of range.
    """

    soft: Tensor

    def __init__(
        self,
        *,
        code: int,
        size: int = 112,
        channels: Sequence[int] = (256, 192, 112, 48, 16),
        blocks: Sequence[int] = (2, 2, 1, 1),
    ) -> None:
        super().__init__()
        lengths, least = (len(channels), len(blocks)), min(code, *channels, *blocks)
        if least < 1 or size < 32 or size % 16 or lengths != (5, 4):
            raise ConfigError(
                f"A decoder with code={code}, size={size}, channels={list(channels)}, blocks={list(blocks)} cannot be built.",
                hint="code >= 1, size >= 32 and divisible by 16, five numbers of channels, four of blocks.",
            )
        self.config: dict[str, Any] = {"code": code, "size": size}
        self.config |= {"channels": list(channels), "blocks": list(blocks)}
        self.side = size // 16
        self.first = nn.Linear(code, channels[0] * self.side**2)
        self.stages = nn.ModuleList()
        for width, count in zip(channels, blocks, strict=False):
            self.stages.append(nn.ModuleList(_Block(width, code=code) for _ in range(count)))
        self.enlarge = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in itertools.pairwise(channels[:-1]))
        self.norm = _norm(channels[-2])
        self.pixels = nn.Conv2d(channels[-2], 4 * channels[-1], 3, 1, 1)
        with torch.no_grad():
            for parameter in self.pixels.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, 0))
        self.last = nn.Conv2d(channels[-1], 1, 3, 1, 1)
        self.tint = nn.Sequential(_norm(channels[2]), nn.LeakyReLU(0.2), nn.Conv2d(channels[2], 3, 3, 1, 1))

        # with the weights: a model keeps the filter that it was judged with
        self.register_buffer("soft", _gaussian(_SOFT * size))

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes ``(N, code)`` of unit length to faces ``(N, 3, size, size)`` in [0, 1]."""
        codes = codes * codes.shape[1] ** 0.5
        x = self.first(codes).unflatten(1, (-1, self.side, self.side))
        x = x.contiguous(memory_format=torch.channels_last)
        for number, stage in enumerate(self.stages):
            if number:
                x = _enlarged(x, self.enlarge[number - 1])  # type: ignore[arg-type]
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, codes)
            if number == _TINTED:
                tint = F.interpolate(self.tint(x).float(), scale_factor=4.0, mode="bilinear")
        x = F.leaky_relu(F.pixel_shuffle(self.pixels(F.leaky_relu(self.norm(x), 0.2)), 2), 0.2)
        drawn = self.last(x).float() + tint
        faces = torch.sigmoid(_filtered((drawn + drawn.flip(-1)) / 2, drawn.new_tensor(_FILTER)))
        return faces if self.training else _filtered(faces, self.soft)

    def begin_as(self, other: FaceDecoder, axes: Tensor, shift: Tensor) -> None:
        """Take over another decoder's weights: draw of codes ``c`` what it draws of ``c @ axes + shift``, ``(K, L)`` and ``(L,)``.

        Raises:
            ConfigError: If its size, channels or blocks are others.
        """
        own, theirs = ({k: v for k, v in d.config.items() if k != "code"} for d in (self, other))
        if own != theirs:
            raise ConfigError(
                f"A decoder with {own} cannot begin as one with {theirs}.",
                hint="Train with the same size, and leave method_options.channels out.",
            )
        state = other.state_dict()
        scale = other.config["code"] ** 0.5  # of codes inside
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):  # these, and no others, are told the code
                weight = state[f"{name}.weight"]
                state[f"{name}.bias"] = state[f"{name}.bias"] + scale * weight @ shift
                state[f"{name}.weight"] = weight @ axes.T * (scale / self.config["code"] ** 0.5)
        self.load_state_dict(state)


def _enlarged(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of ``x`` at twice its side, each value repeated: as 2x2 convolutions of ``x``, in 4/9 of the products.

    Of a row's three taps two fall on the same value, so that the kernel of each of the four places is summed to 2x2
    (sub-pixel convolution; Shi et al., arXiv 1609.07009).
    """
    kernel = _folded(_folded(conv.weight, 2, 1), 4, 2).flatten(0, 2)
    bias = None if conv.bias is None else conv.bias.repeat_interleave(4)
    made = F.conv2d(x, kernel.contiguous(memory_format=torch.channels_last), bias, padding=1)
    height, width = x.shape[2:]
    made = made.permute(0, 2, 3, 1).unflatten(3, (-1, 2, 2))  # type: ignore[no-untyped-call]
    rows = [torch.stack([made[:, p : p + height, q : q + width, :, p, q] for q in (0, 1)], 3) for p in (0, 1)]
    return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _folded(kernel: Tensor, taps: int, place: int) -> Tensor:
    """Three taps, the axis ``taps``, as two for each of two places, a new axis; sums alone, so the bits are always the same."""
    a, b, c = kernel.unbind(taps)
    return torch.stack([torch.stack([a, b + c], taps), torch.stack([a + b, c], taps)], place)


class _Block(nn.Module):
    """Two convolutions with a shortcut; the first one is told the code."""

    def __init__(self, width: int, *, code: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.told = nn.Linear(code, 2 * width)
        nn.init.normal_(self.told.weight, std=0.3 / code**0.5)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        scale, shift = self.told(codes)[:, :, None, None].chunk(2, 1)
        inner = self.norm1(x)
        inner = self.conv1(F.leaky_relu(torch.addcmul(inner + shift, inner, scale), 0.2))
        result: Tensor = x + self.conv2(F.leaky_relu(self.norm2(inner), 0.2))
        return result


def _gaussian(width: float) -> Tensor:
    """Taps of a Gaussian of that standard deviation in pixels; they sum to 1."""
    reach = math.ceil(2.5 * width)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    return taps / taps.sum()


def _filtered(x: Tensor, taps: Tensor) -> Tensor:
    """Filtered across and down; what does not change passes as it is."""
    channels, reach = x.shape[1], len(taps) // 2
    kernel = taps.expand(channels, 1, 1, -1)
    with torch.autocast(x.device.type, enabled=False):
        x = F.conv2d(F.pad(x, [reach] * 4, mode="replicate"), kernel, groups=channels)
        return F.conv2d(x, kernel.transpose(2, 3), groups=channels)


def _norm(width: int) -> nn.GroupNorm:
    """Groups of eight channels or more."""
    groups = next(n for n in (16, 8, 4, 2, 1) if width % n == 0 and (width // n >= 8 or n == 1))
    return nn.GroupNorm(groups, width)
