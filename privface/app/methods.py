"""What the page can protect with: the model of the command line, and simple baselines to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from privface.models import Protector, load_protector
from privface.options import Computing
from privface.protect import (
    DownUpSample,
    GaussianBlur,
    GaussianNoise,
    ImageProtector,
    JPEGCompression,
    Pixelate,
)

WEAKEST, STRONGEST = 0.1, 2.0
"""Ends of the strength slider; at 0 the original would remain."""

BASELINE_WARNING = (
    "This is a simple baseline. It does not hide gender from an attacker who adapts: one trained on photos that were "
    "changed in the same way reads gender almost as well as before. It is here to compare with."
)
MODEL_NOTE = (
    "A trained model. What it hides from attackers who adapt is not shown by the readings below; only an audit "
    "tells (next tab)."
)


@dataclass(frozen=True)
class Method:
    """A way to protect."""

    name: str
    note: str  # what it promises, in words
    make: Callable[[float], ImageProtector]  # of a strength; 1 is usual, or what was trained and audited
    adjustable: bool = True  # whether strength changes anything
    baseline: bool = False


def baselines() -> list[Method]:
    """The classical ones; strength 1 is visible and leaves a face."""
    made: dict[str, Callable[[float], ImageProtector]] = {
        "Blur": lambda s: GaussianBlur(sigma=3.0 * s),
        "Pixelation": lambda s: Pixelate(cells=min(111, round(16 / s))),
        "Noise": lambda s: GaussianNoise(sigma=0.15 * s),
        "JPEG compression": lambda s: JPEGCompression(quality=min(100, round(10 / s))),
        "Low resolution": lambda s: DownUpSample(side=min(111, round(24 / s))),
    }
    return [
        Method(f"{name} (baseline)", BASELINE_WARNING, make, baseline=True) for name, make in made.items()
    ]


def model_methods(path: Path, where: Computing = Computing()) -> list[Method]:  # noqa: B008 - frozen
    """The model of a run folder or an exported file, once for each choice of what it hides; some have one strength."""
    loaded = load_protector(path, device=where.device, precision=where.precision)
    name = f"Model {path.resolve().name}"
    if not isinstance(loaded, Protector) or not (
        loaded.network.has_strength or len(loaded.network.combinations) > 1
    ):
        note = f"{MODEL_NOTE} It has one strength."
        return [Method(name, note, lambda _strength: loaded, adjustable=False)]
    network, size, here = loaded.network, loaded.size, loaded.device
    if network.has_strength:

        @lru_cache(maxsize=32)
        def make(strength: float) -> Protector:
            return Protector(network, size=size, strength=strength, device=here)

        return [Method(name, MODEL_NOTE, make)]

    @lru_cache(maxsize=2)
    def hiding(hide: tuple[str, ...]) -> Protector:
        return Protector.load(path, hide=hide, device=here)

    return [
        Method(
            f"{name}, hiding {' and '.join(hide)}",
            f"{MODEL_NOTE} What it does not hide, it tries to keep.",
            lambda _strength, hide=hide: hiding(hide),  # type: ignore[misc]
            adjustable=False,
        )
        for hide in network.combinations
    ]
