"""An autoencoder that takes noise out of speech: it sees a spectrogram and says how much of each value is voice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from privface.errors import CheckpointError
from privface.models.checkpoint import build, load_network
from privface.models.family import Autoencoder
from privface.speech import BANDS, Samples, loudness, sound, spectrogram

KIND = "speech-denoiser"


class SpeechDenoiser:
    """Multiplies a spectrogram by the network's mask and keeps the noisy phase.

    Args:
        network: Maps loudness ``(N, 1, BANDS, T)`` to masks of the same shape in [0, 1].
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
        if network.settings.shape[0] != 1 or not network.any_size:
            raise CheckpointError(
                f"{folder} holds no network for spectrograms.", hint="Train it with --speech."
            )
        return cls(network)

    def __call__(self, samples: Samples) -> Samples:
        """Denoised samples, same length; silence stays silence."""
        spectrum = spectrogram(samples)
        frames = spectrum.shape[1]
        missing = -frames % self._network.multiple
        seen = np.pad(loudness(spectrum), ((0, 0), (0, missing)), mode="edge")
        with torch.inference_mode():
            mask = self._network(torch.from_numpy(seen[None, None]))[0, 0, :, :frames].numpy()
        whole = np.concatenate([mask, mask[BANDS - 1 :]])  # the highest frequency follows its neighbour
        return sound((spectrum * whole).astype(np.complex64), length=len(samples))
