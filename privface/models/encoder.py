"""A compact network that reads a face into a code: dense convolutions on 4 x 4 pixel blocks, which CPUs compute fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from privface.models.networks import ResidualBlock

KIND = "encoder"
"""What :func:`~privface.models.checkpoint.save_network` writes on the card."""


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
                stride = 2 if stage and not number else 1
                layers.append(ResidualBlock(size, width, stride=stride, batch_norm=True))
                size = width
        self.blocks = nn.Sequential(*layers)
        side = 28 // 2 ** (len(channels) - 1)
        self.pool = nn.Sequential(nn.Conv2d(size, size, side, groups=size, bias=False), nn.BatchNorm2d(size))
        self.head = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 3, 112, 112)`` in [-1, 1] to ``(N, outputs)``."""
        out: Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return out
