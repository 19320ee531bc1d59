"""Experiment 16: a denoising autoencoder on spectrograms, for voices and noises it has not heard.

Claim under test: trained on twelve synthetic voices (espeak-ng) with the noises that privface makes up (white, pink, brown, hum,
gusts, clatter, babble), it adds at least 3 dB SI-SDR at 0 and at 5 dB to other voices in kinds of noise that it was not trained
on (an engine, rain, a siren), and more than spectral subtraction (Boll, 1979) that is told the noise before the voice begins.
Babble of the other voices stands beside them; it is the hardest, and a kind that training knows.

    python experiments/16_denoising_speech/run.py        # needs Debian's espeak-ng
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.models.speech import SpeechDenoiser
from privface.pipeline.autoencoders import train_speech
from privface.speech import (
    HOP,
    RATE,
    loudness,
    mix,
    read_wav,
    si_sdr,
    sound,
    spectrogram,
)
from privface.training import FitSettings

TRAINING_VOICES = ("m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "klatt", "croak", "Andy", "Annie")
OTHER_VOICES = ("m6", "m7", "f4", "f5", "klatt3", "Denis", "Linda", "Mario")
LANGUAGES = ("en-us", "de", "fr")
LEAD = RATE // 4  # noise alone before the voice, for spectral subtraction
LEVELS = (0.0, 5.0)
SENTENCES = {
    "en-us": (
        "The quick brown fox jumps over the lazy dog while seven wizards watch.",
        "She had your dark suit in greasy wash water all year.",
        "A storm was rising over the harbour, and every boat came home.",
    ),
    "de": (
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
        "Morgen fahren wir mit dem Zug ans Meer und kommen spät zurück.",
    ),
    "fr": (
        "Portez ce vieux whisky au juge blond qui fume sur son île.",
        "La pluie tombait doucement sur les toits de la ville endormie.",
    ),
}


def work(folder: Path) -> dict[str, Any]:
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is missing: apt install espeak-ng.")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for voice in TRAINING_VOICES:
            speak(root / "clean" / voice, voice)
        trained = train_speech(
            root / "clean", root / "model", variant("denoising", code=48, width=16, depth=3, blocks=1),
            FitSettings(epochs=5, batch_size=16, learning_rate=4e-3, loss="bce"), pieces=2600,
        )  # fmt: skip
        denoiser = SpeechDenoiser.load(root / "model")
        for voice in OTHER_VOICES:
            speak(root / "other", voice)
        voices = [
            np.concatenate([np.zeros(LEAD, np.float32), read_wav(p)])
            for p in sorted((root / "other").glob("*.wav"))[::2]
        ]
        rows = {f"{level:g} dB": judge(denoiser, voices, level) for level in LEVELS}
        figure(folder / "spectrograms.png", denoiser, voices[0])
    return {
        "claim": "at least 3 dB SI-SDR for unseen voices in each unseen noise at 0 and 5 dB, and more than spectral subtraction",
        "training": {
            "voices": len(TRAINING_VOICES),
            "pieces": trained.images,
            "best_epoch": trained.best.number,
        },
        "judged": {"voices": len(OTHER_VOICES), "sentences": len(voices)},
        "si_sdr_gain_db": rows,
        "holds": all(
            found["autoencoder"] >= 3.0 and found["autoencoder"] > found["spectral subtraction"]
            for row in rows.values()
            for name, found in row.items()
            if name in NOISES
        ),
    }


def speak(folder: Path, voice: str) -> None:
    """Every sentence in one voice, as WAV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        for number, sentence in enumerate(SENTENCES[language]):
            path = folder / f"{voice}_{language}_{number}.wav"
            subprocess.run(
                ["espeak-ng", "-v", f"{language}+{voice}", "-w", str(path), sentence], check=True, capture_output=True
            )  # fmt: skip


def judge(denoiser: SpeechDenoiser, voices: list[np.ndarray], level: float) -> dict[str, dict[str, float]]:
    """Mean gain in dB by kind of noise."""
    rows: dict[str, dict[str, float]] = {}
    for name in (*NOISES, "babble"):
        gains: dict[str, list[float]] = {"autoencoder": [], "spectral subtraction": []}
        for number, voice in enumerate(voices):
            noise = disturb(name, voices, number, len(voice))
            noisy, _ = mix(voice, noise, snr=level)
            before = si_sdr(noisy, voice)
            gains["autoencoder"].append(si_sdr(denoiser(noisy), voice) - before)
            gains["spectral subtraction"].append(si_sdr(subtract(noisy), voice) - before)
        rows[name] = {tool: float(np.mean(found)) for tool, found in gains.items()}
    return rows


def disturb(name: str, voices: list[np.ndarray], number: int, length: int) -> np.ndarray:
    rng = np.random.default_rng([7, number])
    if name in NOISES:
        return NOISES[name](length, rng)
    others = [voices[k] for k in rng.choice([k for k in range(len(voices)) if k != number], 5, replace=False)]
    return np.sum([np.resize(np.roll(other, int(rng.integers(RATE))), length) for other in others], axis=0)


def engine(length: int, rng: np.random.Generator) -> np.ndarray:
    """A wandering pitch with its harmonics, and hiss that beats with it."""
    speed = 60.0 + 25.0 * np.interp(np.arange(length), np.linspace(0, length, 9), rng.random(9))
    phase = 2 * np.pi * np.cumsum(speed) / RATE
    tones = sum(np.sin(k * phase + rng.uniform(0, 6.3)) / k**0.7 for k in range(1, 25))
    return (tones + 0.8 * (1.0 + np.sin(phase)) * rng.standard_normal(length)).astype(np.float32)


def rain(length: int, rng: np.random.Generator) -> np.ndarray:
    """Hundreds of drops a second, each a short high-pitched burst."""
    drops = (rng.random(length) < 400 / RATE) * rng.exponential(1.0, length) * rng.choice([-1, 1], length)
    burst = np.exp(-np.arange(200) / 30.0) * np.sin(2 * np.pi * 3500 * np.arange(200) / RATE)
    return np.convolve(drops, burst)[:length].astype(np.float32)


def siren(length: int, rng: np.random.Generator) -> np.ndarray:
    """A tone that sweeps up and down, with two overtones, over faint hiss."""
    time = np.arange(length) / RATE
    pitch = 900.0 + 400.0 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6.3))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tones = np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.3 * np.sin(3 * phase)
    return (tones + 0.1 * rng.standard_normal(length)).astype(np.float32)


NOISES = {"engine": engine, "rain": rain, "siren": siren}


def subtract(noisy: np.ndarray) -> np.ndarray:
    """Spectral subtraction: the mean magnitude of the lead is taken off, a tenth is always left."""
    spectrum = spectrogram(noisy)
    magnitude = np.abs(spectrum)
    noise = magnitude[:, 1 : LEAD // HOP - 2].mean(axis=1, keepdims=True)
    kept = np.maximum(magnitude - noise, 0.1 * magnitude)
    return sound((spectrum * kept / np.maximum(magnitude, 1e-12)).astype(np.complex64), length=len(noisy))


def figure(path: Path, denoiser: SpeechDenoiser, voice: np.ndarray) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    noisy, _ = mix(voice, engine(len(voice), np.random.default_rng(3)), snr=0.0)
    pictures, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    titles = ("voice not heard in training", "with an engine at 0 dB", "after the autoencoder")
    for axis, samples, title in zip(axes, (voice, noisy, denoiser(noisy)), titles, strict=True):
        axis.imshow(
            loudness(spectrogram(samples)), origin="lower", aspect="auto", cmap="magma",
            extent=(0, len(samples) / RATE, 0, RATE / 2000),
        )  # fmt: skip
        axis.set(title=title, ylabel="kHz")
    axes[-1].set_xlabel("seconds")
    pictures.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
