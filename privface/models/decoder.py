"""Draws a face from a code: the only thing that a protected face is made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.errors import ConfigError


class FaceDecoder(nn.Module):
    """A code to a face: a coarse map, then stages that double the resolution, each told the code again.

    The first convolution's channels of a stage are scaled and shifted by the code (feature-wise modulation, Perez et al., AAAI 2018). Maps
    are enlarged by bilinear interpolation and the last layer is smooth across blocks, as transposed convolutions and plain
    pixel shuffles leave a checkerboard (Odena et al., Distill 2016).

    Args:
        code: Size of the code.
        size: Side of the faces in pixels; divisible by 16.
        channels: Channels at sides ``size / 16``, ``/ 8``, ``/ 4``, ``/ 2`` and ``size``.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self, *, code: int, size: int = 112, channels: Sequence[int] = (256, 192, 112, 48, 16)
    ) -> None:
        super().__init__()
        if code < 1 or size < 32 or size % 16 or len(channels) != 5 or min(channels) < 1:
            raise ConfigError(
                f"A decoder with code={code}, size={size}, channels={list(channels)} cannot be built.",
                hint="code >= 1, size >= 32 and divisible by 16, five numbers of channels.",
            )
        self.config: dict[str, Any] = {"code": code, "size": size, "channels": list(channels)}
        self.side = size // 16
        self.first = nn.Linear(code, channels[0] * self.side**2)
        self.stages = nn.ModuleList(
            _Stage(inputs, outputs, code=code, small=k == 3)
            for k, (inputs, outputs) in enumerate(itertools.pairwise(channels))
        )
        self.last = nn.Conv2d(channels[-1], 3, 3, 1, 1)

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes ``(N, code)`` of unit length to faces ``(N, 3, size, size)`` in [0, 1]."""
        codes = codes * codes.shape[1] ** 0.5
        x = self.first(codes).view(len(codes), -1, self.side, self.side)
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x, codes)
        return torch.sigmoid(self.last(x).float())


class _Stage(nn.Module):
    """Twice the resolution: two convolutions with a shortcut, the first one told the code; at full size one, untold."""

    def __init__(self, inputs: int, outputs: int, *, code: int, small: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = None if small else nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.told = None if small else nn.Linear(code, 2 * outputs)
        if self.told is not None:
            nn.init.normal_(self.told.weight, std=0.3 / code**0.5)
            nn.init.zeros_(self.told.bias)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        out = self.conv1(x)
        if self.told is not None:
            scale, shift = self.told(codes)[:, :, None, None].chunk(2, 1)
            out = torch.addcmul(out + shift, out, scale)
        out = F.leaky_relu(out, 0.2)
        if self.conv2 is not None:
            out = F.leaky_relu(self.conv2(out), 0.2)
        result: Tensor = out + self.shortcut(x)
        return result
