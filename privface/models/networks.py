"""Compact convolutional networks that matchers, gender classifiers and adversaries share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016), optionally halving the resolution.

    GroupNorm instead of BatchNorm, but for ``batch_norm``: an adversary sees batches of protected images whose statistics
    drift while the protector learns, and running averages would lag behind them. Separable convolutions filter each
    channel by itself and then mix the channels of each pixel (Chollet, CVPR 2017).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        separable: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        convolution = _separable if separable else _full
        norm = nn.BatchNorm2d if batch_norm else _group_norm
        self.conv1 = convolution(inputs, outputs, stride)
        self.norm1 = norm(outputs)
        self.conv2 = convolution(outputs, outputs, 1)
        self.norm2 = norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride, ceil_mode=not batch_norm, count_include_pad=False)
            self.shortcut = nn.Sequential(
                pool if stride > 1 else nn.Identity(), nn.Conv2d(inputs, outputs, 1, bias=False)
            )
            if batch_norm:
                self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        out = F.relu(self.norm1(self.conv1(x)))
        result: Tensor = F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))
        return result


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(max(1, channels // 8), channels)


def _full(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def _separable(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
    )


class CompactResNet(nn.Module):
    """A small residual network: strided stem, one block per stage, global average pooling, linear head.

    Args:
        outputs: Size of the output (1 for a logit, 128 for an embedding).
        width: Channels of the first stage; each further stage has half as many again.
        stages: Residual stages; each halves the resolution.
        channels: Input channels.
        stem: Side of the stem's kernel; it has stride 2.
        dropout: Dropout on the pooled features.
        separable: Whether the blocks' convolutions are depthwise separable: another architecture, which opponents of
            full convolutions do not stand for.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        width: int = 24,
        stages: int = 4,
        channels: int = 3,
        stem: int = 5,
        dropout: float = 0.0,
        separable: bool = False,
    ) -> None:
        super().__init__()
        shape = {"outputs": outputs, "width": width, "stages": stages, "channels": channels, "stem": stem}
        self.config: dict[str, Any] = {**shape, "dropout": dropout, "separable": separable}
        self.stem = nn.Conv2d(channels, width, stem, 2, stem // 2)
        blocks: list[nn.Module] = []
        size = width
        for _ in range(stages):
            grown = (size * 3 // 2 + 7) // 8 * 8
            blocks.append(ResidualBlock(size, grown, stride=2, separable=separable))
            size = grown
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, outputs)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features, shape ``(N, F)``."""
        out: Tensor = self.blocks(F.relu(self.stem(x))).mean((2, 3))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to ``(N, outputs)``."""
        out: Tensor = self.head(self.dropout(self.features(x)))
        return out


class Mlp(nn.Module):
    """Two hidden layers of ``hidden`` units on a vector of ``inputs`` values; the adversary that watches a matcher's embedding."""

    def __init__(self, *, inputs: int, hidden: int = 256) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"inputs": inputs, "hidden": hidden}
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, 1)

    def features(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer, shape ``(N, hidden)``."""
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs)`` to ``(N, 1)``."""
        out: Tensor = self.head(self.features(x))
        return out


class FaceEncoder(nn.Module):
    """Aligned faces of 112 x 112 to embeddings of ``outputs`` values, as a student of larger matchers (experiments/06_erased_code/student.py).

    The first layer sees blocks of 4 x 4 pixels as channels; grouped and depthwise convolutions, which have fewer
    operations, take three times as long on a CPU with bf16 units. Each stage after the first halves the resolution.
    ``kind`` is what the card beside its weights calls it.
    """

    kind: ClassVar[str] = "encoder"

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
