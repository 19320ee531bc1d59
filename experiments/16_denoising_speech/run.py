"""Experiment 16: a denoising autoencoder on spectrograms, for voices, sentences and noises it has not heard.

Claim under test: trained on 36 synthetic voices (espeak-ng) with the noises that privface makes up (hiss, gusts, pulses, hum,
tones, sweeps, clatter, babble), it adds at least 3 dB SI-SDR at 0 and at 5 dB to other voices in kinds of noise that it was not
trained on (an engine, rain, a siren), and more than spectral subtraction (Boll, 1979) that is told the noise before the voice
begins. Babble of the other voices stands beside them; it is the hardest, and a kind that training knows. The design was chosen by
designs.py, on voices and noises that are neither in training nor here.

    python experiments/16_denoising_speech/run.py        # needs Debian's espeak-ng; with pystoi installed, STOI too
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import family

from privface.models import variant
from privface.models.speech import SETTINGS as DESIGN
from privface.models.speech import SpeechDenoiser
from privface.pipeline.autoencoders import train_speech
from privface.speech import (
    HOP,
    POWER,
    RATE,
    magnitudes,
    mix,
    read_wav,
    sound,
    spectrogram,
)
from privface.training import FitSettings

try:  # pip install pystoi; without it STOI is left out
    from pystoi import stoi
except ImportError:
    stoi = None

Maker = Callable[[int, np.random.Generator], np.ndarray]
Sentences = Mapping[str, Sequence[str]]
PIECES, EPOCHS = 1200, 2
TRAINING_VOICES = (
    "m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "klatt", "croak", "Andy", "Annie", "adam", "anika", "antonio", "aunty",
    "belinda", "benjamin", "boris", "caleb", "david", "edward", "iven", "john", "michel", "norbert", "paul", "pedro", "quincy",
    "rob", "sandro", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
CHOOSING_VOICES = ("m8", "Alicia", "Michael", "marcelo")
OTHER_VOICES = ("m6", "m7", "f4", "f5", "klatt3", "Denis", "linda", "Mario")
LEAD = RATE // 4  # noise alone before the voice, for spectral subtraction
LEVELS = (0.0, 5.0)
TRAINING_SENTENCES = {
    "en-us": (
        "Please call Stella and ask her to bring these things with her from the store.",
        "Five or six small children were playing near the old stone bridge yesterday.",
        "Nobody knew how much the judge had paid for his enormous yellow house.",
    ),
    "de": (
        "Der Nordwind und die Sonne stritten sich, wer von ihnen der Stärkere wäre.",
        "Fünf frische Brötchen liegen schon seit heute früh auf dem Küchentisch.",
    ),
    "fr": (
        "Le petit chat gris dormait au soleil devant la grande fenêtre ouverte.",
        "Nous avons cherché un bon restaurant près de la gare pendant une heure.",
    ),
    "es": ("El perro de mi vecino ladra cada noche cuando pasa el último tren.",),
    "it": ("Gli amici di Giulia arrivano domani sera con una torta di cioccolato.",),
}
CHOOSING_SENTENCES = {
    "en-us": ("We were away a year ago, but the garden still looks just the same.",),
    "de": ("Im Sommer sitzen viele Leute abends draußen und trinken kalten Apfelsaft.",),
    "fr": ("Chaque matin, la boulangère ouvre sa boutique avant le lever du jour.",),
}
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


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., ICASSP 2019); higher is better."""
    a, b = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    target = (a @ b) / (b @ b) * b
    return float(10.0 * np.log10((target @ target) / max(float((a - target) @ (a - target)), 1e-20)))


SETTINGS = FitSettings(epochs=EPOCHS, batch_size=4, learning_rate=2e-3, loss="mse")


def work(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        speak_for_training(root / "clean")
        start = time.perf_counter()
        trained = train_speech(
            root / "clean", root / "model", variant("denoising", **DESIGN), SETTINGS, pieces=PIECES
        )
        seconds = time.perf_counter() - start
        denoiser = SpeechDenoiser.load(root / "model")
        voices = recordings(root / "other", OTHER_VOICES, SENTENCES)[::2]
    rows = {f"{level:g} dB": judge(denoiser, voices, level, NOISES) for level in LEVELS}
    print(rows, file=sys.stderr)
    figure(folder / "spectrograms.png", denoiser, voices[0])
    return {
        "claim": "at least 3 dB SI-SDR for unseen voices in each unseen noise at 0 and 5 dB, and more than spectral subtraction",
        "training": {
            "voices": len(TRAINING_VOICES),
            "pieces": trained.images,
            "best_epoch": trained.best.number,
            "seconds": seconds,
        },
        "judged": {"voices": len(OTHER_VOICES), "sentences": len(voices)},
        "si_sdr_gain_db": {level: row["si_sdr_gain_db"] for level, row in rows.items()},
        "stoi": {level: row["stoi"] for level, row in rows.items()},
        "holds": all(
            found["autoencoder"] >= 3.0 and found["autoencoder"] > found["spectral subtraction"]
            for row in rows.values()
            for name, found in row["si_sdr_gain_db"].items()
            if name in NOISES
        ),
    }


def speak_for_training(folder: Path) -> None:
    """All training voices, a folder each, every one with its own pitch and speed."""
    for number, voice in enumerate(TRAINING_VOICES):
        rng = np.random.default_rng([16, number])
        how = ("-p", str(rng.integers(25, 75)), "-s", str(rng.integers(140, 200)))
        speak(folder / voice, voice, TRAINING_SENTENCES, *how)


def recordings(folder: Path, names: Sequence[str], sentences: Sentences) -> list[np.ndarray]:
    """Sentences of other voices, each after a quarter of a second of silence."""
    for voice in names:
        speak(folder, voice, sentences)
    return [np.concatenate([np.zeros(LEAD, np.float32), read_wav(p)]) for p in sorted(folder.glob("*.wav"))]


def speak(folder: Path, voice: str, sentences: Sentences, *how: str) -> None:
    """Every sentence in one voice, as WAV files."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is missing: apt install espeak-ng.")
    folder.mkdir(parents=True, exist_ok=True)
    for language, texts in sentences.items():
        for number, text in enumerate(texts):
            path = folder / f"{voice}_{language}_{number}.wav"
            subprocess.run(
                ["espeak-ng", "-v", f"{language}+{voice}", *how, "-w", str(path), text], check=True, capture_output=True
            )  # fmt: skip


def judge(
    denoiser: SpeechDenoiser, voices: list[np.ndarray], level: float, noises: Mapping[str, Maker]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean gain of SI-SDR in dB, and mean STOI (0 to 1, Taal et al., IEEE TASLP 2011), by kind of noise."""
    gains: dict[str, dict[str, float]] = {}
    heard: dict[str, dict[str, float]] = {}
    for name in (*noises, "babble"):
        found: dict[str, list[tuple[float, float]]] = {}
        for number, voice in enumerate(voices):
            noise = disturb(noises.get(name), voices, number, len(voice))
            noisy, _ = mix(voice, noise, snr=level)
            for tool, made in (
                ("noisy", noisy),
                ("autoencoder", denoiser(noisy)),
                ("spectral subtraction", subtract(noisy)),
            ):
                understood = float("nan") if stoi is None else float(stoi(voice, made, RATE))
                found.setdefault(tool, []).append((si_sdr(made, voice), understood))
        means = {tool: np.mean(rows, axis=0) for tool, rows in found.items()}
        gains[name] = {
            tool: float(row[0] - means["noisy"][0]) for tool, row in means.items() if tool != "noisy"
        }
        heard[name] = {} if stoi is None else {tool: float(row[1]) for tool, row in means.items()}
    return {"si_sdr_gain_db": gains, "stoi": heard}


def disturb(make: Maker | None, voices: list[np.ndarray], number: int, length: int) -> np.ndarray:
    """Noise of a kind, or babble of five other recordings."""
    rng = np.random.default_rng([7, number])
    if make is not None:
        return make(length, rng)
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


NOISES: Mapping[str, Maker] = {"engine": engine, "rain": rain, "siren": siren}


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
            20 * np.log10(np.maximum(magnitudes(spectrogram(samples))[0] ** (1 / POWER), 1e-4)), origin="lower", aspect="auto", cmap="magma",
            extent=(0, len(samples) / RATE, 0, RATE / 2000),
        )  # fmt: skip
        axis.set(title=title, ylabel="kHz")
    axes[-1].set_xlabel("seconds")
    pictures.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    family.run(__file__, __doc__, work)
