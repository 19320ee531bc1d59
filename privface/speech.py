"""Speech in and out: WAV files, spectrograms with their phase kept, and how much of a voice is left in noise."""

from __future__ import annotations

import io
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from privface.errors import DataError
from privface.images import write_atomic

if TYPE_CHECKING:
    from scipy.signal import ShortTimeFFT

RATE: Final = 16_000
"""Samples a second inside."""

WINDOW: Final = 512
"""Samples of a spectrogram's window (32 ms, Hann); windows follow each other every :data:`HOP` samples."""

HOP: Final = 256

BANDS: Final = WINDOW // 2
"""Frequencies that a network sees: all but the highest, whose number does not halve."""

POWER: Final = 0.5
"""Magnitudes are seen and compared to this power, so that faint values count too."""

Samples = NDArray[np.float32]


def read_wav(path: Path) -> Samples:
    """One channel of a WAV file at :data:`RATE`, in [-1, 1].

    Raises:
        DataError: If the file is no WAV, empty, or of a sample type that is not read.
    """
    from scipy.io import wavfile  # noqa: PLC0415
    from scipy.signal import resample_poly  # noqa: PLC0415

    try:
        rate, data = wavfile.read(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.", hint="Give a WAV file.") from error
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise DataError(
            f"{path.name} cannot be read as a WAV file ({str(error).splitlines()[0][:120]}).",
            hint="Convert it to 16-bit PCM WAV.",
        ) from error
    if data.ndim == 2:
        data = data.mean(axis=1).astype(data.dtype)
    if not data.size or not rate:
        raise DataError(
            f"{path.name} holds no sound.", hint="Give a WAV file with at least a second of speech."
        )
    if data.dtype == np.uint8:
        samples = (data.astype(np.float64) - 128.0) / 128.0
    elif data.dtype.kind == "i":
        samples = data.astype(np.float64) / float(np.iinfo(data.dtype).max + 1)
    else:
        samples = data.astype(np.float64)
    if not np.isfinite(samples).all():
        raise DataError(f"{path.name} holds values that are no numbers.", hint="Export the file again.")
    if rate != RATE:
        shared = gcd(int(rate), RATE)
        samples = resample_poly(samples, RATE // shared, int(rate) // shared)
    return np.asarray(np.clip(samples, -1.0, 1.0), np.float32)


def write_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit mono at :data:`RATE`, atomically; what lies outside [-1, 1] is clipped.

    Raises:
        OutputError: If the file cannot be written.
    """
    from scipy.io import wavfile  # noqa: PLC0415

    buffer = io.BytesIO()
    wavfile.write(buffer, RATE, np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16))
    write_atomic(path, buffer.getvalue())


def spectrogram(samples: Samples) -> NDArray[np.complex64]:
    """Short-time Fourier transform, shape ``(BANDS + 1, T)``; :func:`sound` turns it back exactly."""
    padded = np.pad(np.asarray(samples, np.float64), (0, max(0, WINDOW - len(samples))))
    return np.asarray(_transform().stft(padded), np.complex64)


def sound(spectrum: NDArray[np.complex64], *, length: int) -> Samples:
    """Samples ``(length,)`` of a spectrogram ``(BANDS + 1, T)``; the phase is the spectrogram's own."""
    whole = _transform().istft(spectrum.astype(np.complex128), k1=max(length, WINDOW))
    return np.asarray(whole[:length], np.float32)


def magnitudes(spectrum: NDArray[np.complex64]) -> NDArray[np.float32]:
    """What a network sees, shape ``(2, BANDS, T)``: magnitudes to the power :data:`POWER`, 1 at the loudest, and their floor.

    The floor is what four fifths of a frequency's values are above, nearly the noise where that is steady (Seltzer et al.,
    ICASSP 2013, give networks an estimate of the noise; Stahl et al., ICASSP 2000, take it from quantiles).
    """
    seen = np.abs(spectrum[:BANDS])
    seen = (seen / max(float(seen.max()), 1e-9)) ** POWER
    floor = np.quantile(seen, 0.2, axis=1, keepdims=True)
    return np.stack([seen, np.broadcast_to(floor, seen.shape)]).astype(np.float32)


def mix(speech: Samples, noise: Samples, *, snr: float) -> tuple[Samples, Samples]:
    """Speech with noise at a signal-to-noise ratio in dB, and the noise that was added; both ``(N,)``."""
    power = float(np.mean(np.square(speech))) / max(float(np.mean(np.square(noise))), 1e-12)
    added = np.asarray(noise * np.sqrt(power / 10.0 ** (snr / 10.0)), np.float32)
    return np.asarray(speech + added, np.float32), added


def voice_mask(clean: NDArray[np.complex64], noisy: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Phase-sensitive mask ``(BANDS, T)`` in [0, 1] (Erdogan et al., ICASSP 2015): the best real factor at the noisy phase."""
    power = np.maximum(np.square(np.abs(noisy[:BANDS])), 1e-12)
    return np.asarray(np.clip(np.real(clean[:BANDS] * np.conj(noisy[:BANDS])) / power, 0.0, 1.0), np.float32)


def generated_noise(kind: int, count: int, rng: np.random.Generator) -> Samples:
    """One of :data:`NOISES` made-up kinds of noise over faint hiss, ``count`` samples of standard deviation near 1."""
    hiss = 10.0 ** rng.uniform(-3.0, -0.5) * _hiss(count, rng)
    return np.asarray(_unit(_MAKERS[kind % NOISES](count, rng)) + hiss, np.float32)


def _hiss(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Steady noise whose spectrum is a random curve over the octaves."""
    octaves = np.log2(np.arange(1, count // 2 + 2) * (RATE / count))
    curve = (
        np.interp(octaves, np.linspace(5.0, 13.0, 9), rng.uniform(-30.0, 0.0, 9))
        - rng.uniform(0, 6) * octaves
    )
    return np.asarray(
        _unit(np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * 10.0 ** (curve / 20.0), count))
    )


def _gusts(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise that swells and falls at random, in steps of 0.1 to 0.5 s."""
    steps = rng.uniform(0.0, 1.0, 2 + int(count / RATE / rng.uniform(0.1, 0.5)))
    return _hiss(count, rng) * np.interp(np.arange(count), np.linspace(0, count, steps.size), steps) ** 2


def _pulses(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise that beats 2 to 20 times a second."""
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2.0, 20.0) * np.arange(count) / RATE)
    return _hiss(count, rng) * beat ** rng.uniform(0.5, 6.0)


def _hum(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A steady pitch of 45 to 400 Hz with its overtones."""
    turns = 2 * np.pi * 45.0 * 9.0 ** rng.random() * np.arange(count) / RATE
    fall, last = rng.uniform(0.3, 1.5), int(rng.integers(3, 25))
    return np.asarray(sum(np.sin(k * turns + rng.uniform(0, 6.3)) / k**fall for k in range(1, last)))


def _tones(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Up to six unrelated tones that switch on and off."""
    tones = np.zeros(count)
    for _ in range(int(rng.integers(1, 7))):
        on = np.repeat(rng.random(1 + count // 1600) < rng.uniform(0.3, 1.1), 1600)[:count]
        tones += (
            on * np.sin(2 * np.pi * 100.0 * 50.0 ** rng.random() * np.arange(count) / RATE) * rng.random()
        )
    return tones


def _sweeps(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A tone with up to four overtones whose pitch goes in straight lines from one height to the next."""
    heights = 150.0 * 16.0 ** rng.random(2 + int(count / RATE / rng.uniform(0.1, 1.5)))
    pitch = np.interp(np.arange(count), np.linspace(0, count, heights.size), heights)
    turns = 2 * np.pi * np.cumsum(pitch) / RATE
    return np.asarray(
        sum(np.sin(k * turns) * rng.random() ** (k > 1) for k in range(1, int(rng.integers(2, 7))))
    )


def _clatter(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Three to forty hits a second that ring for 5 to 50 ms."""
    hits = (rng.random(count) < rng.uniform(3.0, 40.0) / RATE) * rng.standard_normal(count)
    ring = np.exp(-np.arange(RATE // 10) / (RATE * rng.uniform(0.002, 0.02))) * _hiss(RATE // 10, rng)
    return np.convolve(hits, ring)[:count]


def _unit(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return samples / max(float(samples.std()), 1e-12)


_MAKERS: Final = (_hiss, _gusts, _pulses, _hum, _tones, _sweeps, _clatter)
NOISES: Final = len(_MAKERS)
"""How many kinds of noise can be made up: hiss, gusts, pulses, hum, tones, sweeps, clatter."""


def _transform() -> ShortTimeFFT:
    from scipy.signal import ShortTimeFFT  # noqa: PLC0415
    from scipy.signal.windows import hann  # noqa: PLC0415

    return ShortTimeFFT(hann(WINDOW, sym=False), HOP, RATE)
