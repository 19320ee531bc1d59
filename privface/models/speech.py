"""An autoencoder that takes noise out of speech: it sees a spectrogram and says how much of each value is voice.

A U-Net whose output is a bounded mask on the magnitudes, as Jansson et al. (ISMIR 2017) take voices out of music.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from privface.errors import CheckpointError
from privface.models.checkpoint import build, load_network
from privface.models.family import Autoencoder
from privface.speech import BANDS, POWER, Samples, magnitudes, sound, spectrogram

KIND = "speech-denoiser"
SETTINGS: Final[Mapping[str, Any]] = {
    "code": 64, "width": 16, "depth": 5, "blocks": 1, "upsampling": "transposed", "bypass": True,
}  # fmt: skip
"""What a denoising network for speech has by default; with five halvings it looks 1.3 s to each side."""


class SpeechDenoiser:
    """Multiplies a spectrogram by the network's mask and keeps the noisy phase.

    Args:
        network: Maps magnitudes and floor ``(N, 2, BANDS, T)`` of noisy speech to those of the voice, none of which is larger.
    """

    def __init__(self, network: Autoencoder) -> None:
        self._network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> SpeechDenoiser:
        """Load a model folder.

        Raises:
            CheckpointError: If it is incomplete, damaged, or of another kind.
        """
        network = build(Autoencoder, load_network(folder, kind=KIND), where=folder)
        if network.settings.shape[0] != 2 or not network.any_size or network.settings.output != "mask":
            raise CheckpointError(
                f"{folder} holds no network that masks spectrograms.", hint="Train it with --speech."
            )
        return cls(network)

    def __call__(self, samples: Samples) -> Samples:
        """Denoised samples, same length; silence stays silence."""
        spectrum = spectrogram(samples)
        frames = spectrum.shape[1]
        missing = -frames % self._network.multiple
        seen = np.pad(magnitudes(spectrum), ((0, 0), (0, 0), (0, missing)), mode="edge")
        with torch.inference_mode():
            made = self._network(torch.from_numpy(seen[None]))[0].numpy()
        mask = ((made[0] / np.maximum(seen[0], 1e-9)) ** (1.0 / POWER))[:, :frames]
        whole = np.concatenate([mask, mask[BANDS - 1 :]])  # the highest frequency follows its neighbour
        return sound((spectrum * whole).astype(np.complex64), length=len(samples))
