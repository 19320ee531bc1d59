"""A compact network that reads a face into a code: dense convolutions on 4 x 4 pixel blocks, which CPUs compute fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

KIND = "encoder"
"""What :func:`~privface.models.checkpoint.save_network` writes on the card."""


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        result: Tensor = F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return result


class FaceEncoder(nn.Module):
    """Aligned faces of 112 x 112 to embeddings of ``outputs`` values, as a student of larger matchers (experiments/06_erased_code/student.py).

    The first layer sees blocks of 4 x 4 pixels as channels; grouped and depthwise convolutions, which have fewer
    operations, take three times as long on a CPU with bf16 units. Each stage after the first halves the resolution.
    """

    def __init__(
        self,
        *,
        outputs: int = 256,
        channels: Sequence[int] = (64, 128, 192),
        blocks: Sequence[int] = (3, 3, 2),
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"outputs": outputs, "channels": list(channels), "blocks": list(blocks)}
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, channels[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        size = channels[0]
        for stage, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            for number in range(count):
                layers.append(_Block(size, width, stride=2 if stage and not number else 1))
                size = width
        self.blocks = nn.Sequential(*layers)
        side = 28 // 2 ** (len(channels) - 1)
        self.pool = nn.Sequential(nn.Conv2d(size, size, side, groups=size, bias=False), nn.BatchNorm2d(size))
        self.head = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 3, 112, 112)`` in [-1, 1] to ``(N, outputs)``."""
        out: Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return out
