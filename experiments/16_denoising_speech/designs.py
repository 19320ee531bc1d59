"""Designs of experiment 16, compared on voices and noises that are neither learnt from nor judged in the end.

    python experiments/16_denoising_speech/designs.py NAME...        # without names: all, ten minutes on a free core

All see as many pieces, fewer than in run.py; the noises are a whistle, a drill, bells and a stream.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import run

from privface import models, pipeline, speech
from privface.models import variant
from privface.models.speech import SETTINGS as DESIGN
from privface.models.speech import SpeechDenoiser
from privface.pipeline.autoencoders import train_speech
from privface.speech import POWER, RATE
from privface.speech import magnitudes as MAGNITUDES

PIECES, EPOCHS = 700, 2
DESIGNS: dict[str, dict[str, Any]] = {
    "no bypass, depth 3": {"network": {"bypass": False, "depth": 3}, "floor": False},
    "bypass, depth 5": {"floor": False},
    "bypass, depth 5, floor": {},
    "bypass, depth 4, floor, batches of 4, power 0.3": {"network": {"depth": 4}, "batch": 4, "power": 0.3},
    "bypass, depth 5, floor, batches of 4": {"batch": 4},
    "bypass, depth 5, floor, batches of 4, power 0.7": {"batch": 4, "power": 0.7},
}
"""By name: settings of the network that differ, pieces a step, to which power magnitudes are seen, and whether their floor is."""


def whistle(length: int, rng: np.random.Generator) -> np.ndarray:
    """A tone whose pitch wanders at random, and trembles."""
    walk = np.cumsum(rng.standard_normal(length // 160 + 2)) * 0.02
    pitch = 1100.0 * np.exp(np.interp(np.arange(length), 160 * np.arange(walk.size), walk - walk.mean()))
    pitch *= 1.0 + 0.03 * np.sin(2 * np.pi * 5.0 * np.arange(length) / RATE)
    return np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.05 * rng.standard_normal(length)


def drill(length: int, rng: np.random.Generator) -> np.ndarray:
    """Uneven clicks, some hundred a second, through a hard body."""
    gaps = np.cumsum(np.maximum(8, rng.normal(RATE / rng.uniform(80, 130), 6.0, length // 100)).astype(int))
    clicks = np.zeros(length)
    clicks[gaps[gaps < length]] = 1.0
    body = np.exp(-np.arange(300) / 40.0) * np.sin(2 * np.pi * 1800 * np.arange(300) / RATE)
    return np.convolve(clicks, body)[:length] + 0.1 * rng.standard_normal(length)


def bells(length: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes of partials that are no multiples of each other and fade one by one."""
    found, ring = 0.01 * rng.standard_normal(length + 2 * RATE), np.arange(2 * RATE) / RATE
    for start in rng.integers(0, length, 1 + 2 * length // RATE):
        base = rng.uniform(300.0, 900.0)
        for ratio in (0.5, 1.0, 1.2, 1.5, 2.0, 2.7, 4.1):
            found[start : start + ring.size] += np.sin(2 * np.pi * base * ratio * ring) * np.exp(
                -3.0 * ratio * ring
            )
    return found[:length]


def stream(length: int, rng: np.random.Generator) -> np.ndarray:
    """Bubbles that rise in pitch, over rushing water."""
    found = np.cumsum(rng.standard_normal(length + 1000))
    found = np.diff(found, prepend=0.0) + 0.1 * (found - np.convolve(found, np.ones(201) / 201, "same"))
    time = np.arange(1000) / RATE
    for start in rng.integers(0, length, length // 200):
        turns = 2 * np.pi * rng.uniform(400.0, 1500.0) * (time + 3.0 * time**2)
        found[start : start + 1000] += 3.0 * rng.random() * np.sin(turns) * np.exp(-time * 120.0)
    return found[:length]


NOISES = {"whistle": whistle, "drill": drill, "bells": bells, "stream": stream}


def change_what_is_seen(power: float, *, floor: bool) -> None:
    """Let training and denoising see magnitudes to another power, or a floor of zeros."""

    def seen(spectrum: np.ndarray) -> np.ndarray:
        found = MAGNITUDES(spectrum)
        return found if floor else found * np.float32([1, 0])[:, None, None]

    speech.POWER = power
    for room in (models.speech, pipeline.autoencoders):
        room.POWER, room.magnitudes = power, seen


def main() -> None:
    run.stoi = None  # SI-SDR alone chooses
    path = Path(__file__).parent / "results" / "designs.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        run.speak_for_training(root / "clean")
        voices = run.recordings(root / "other", run.CHOOSING_VOICES, run.CHOOSING_SENTENCES)
        for number, name in enumerate(sys.argv[1:] or DESIGNS):
            start = time.perf_counter()
            design = {"network": {}, "batch": 8, "power": POWER, "floor": True, **DESIGNS[name]}
            change_what_is_seen(design["power"], floor=design["floor"])
            settings = run.SETTINGS.changed(epochs=EPOCHS, batch_size=design["batch"])
            config = variant("denoising", **{**DESIGN, **design["network"]})
            trained = train_speech(root / "clean", root / str(number), config, settings, pieces=PIECES)
            seconds = time.perf_counter() - start
            denoiser = SpeechDenoiser.load(root / str(number))
            rows = {
                f"{level:g} dB": run.judge(denoiser, voices, level, NOISES)["si_sdr_gain_db"]
                for level in run.LEVELS
            }
            means = {
                tool: float(np.mean([row[n][tool] for row in rows.values() for n in NOISES]))
                for tool in rows["0 dB"]["bells"]
            }
            known[name] = run.family.rounded(
                {
                    "design": design,
                    "loss": trained.best.validation,
                    "seconds": seconds,
                    "mean": means,
                    **rows,
                }
            )
            print(name, json.dumps(known[name]), flush=True)
            path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
