"""Random numbers of a protection that draws: a function of a seed, a number and the image, and of nothing else."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from torch import Tensor

from privface.models.parts import Noise

MAX_DRAW: Final = 2**64 - 1
"""Largest seed and largest number of a draw."""


class ImageNoise(Noise):
    """The numbers that one image is protected with.

    NumPy's PCG64, seeded by BLAKE2b of the image's values with seed and number as its key: the same image gets the same numbers
    whatever batch it stands in, and who does not know the seed cannot compute them.

    Args:
        image: One aligned image, float32, any shape.
        seed: Of the protection, 0 to :data:`MAX_DRAW`.
        number: Which of the draws with this seed, 0 to :data:`MAX_DRAW`.
    """

    def __init__(self, image: Tensor, *, seed: int, number: int = 0) -> None:
        content = image.detach().float().cpu().numpy().tobytes()
        key = seed.to_bytes(8, "big") + number.to_bytes(8, "big")
        digest = hashlib.blake2b(content, key=key, digest_size=32, person=b"privface draw").digest()
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))

    def normal(self, like: Tensor) -> Tensor:
        """As of :class:`~privface.models.parts.Noise`."""
        drawn = self._generator.standard_normal(tuple(like.shape), dtype=np.float32)
        return torch.from_numpy(drawn).to(like)

    def uniform(self, like: Tensor) -> Tensor:
        """As of :class:`~privface.models.parts.Noise`."""
        return torch.from_numpy(self._generator.random(tuple(like.shape), dtype=np.float32)).to(like)
