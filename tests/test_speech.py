"""Sound in and out: round trips, closed forms, refusal of what is no speech."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import wavfile

from privface.errors import DataError
from privface.speech import (
    BANDS,
    NOISES,
    POWER,
    RATE,
    generated_noise,
    magnitudes,
    mix,
    read_wav,
    sound,
    spectrogram,
    voice_mask,
    write_wav,
)


def tone(seconds: float = 1.0, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def ratio(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Decibels of what is the reference, at any volume, over what is not (SI-SDR)."""
    a, b = estimate.astype(np.float64), reference.astype(np.float64)
    target = (a @ b) / (b @ b) * b
    return float(10 * np.log10((target @ target) / ((a - target) @ (a - target))))


@pytest.mark.parametrize("length", [1, 100, 512, 16_001])
def test_a_spectrogram_turns_back_exactly(length):
    samples = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    np.testing.assert_allclose(sound(spectrogram(samples), length=length), samples, atol=1e-6)


def test_magnitudes_are_in_the_unit_range_and_do_not_depend_on_the_volume():
    seen, floor = magnitudes(spectrogram(tone()))
    assert seen.shape[0] == BANDS
    assert seen.min() >= 0.0
    assert seen.max() == 1.0
    np.testing.assert_allclose(magnitudes(spectrogram(0.01 * tone())), [seen, floor], atol=1e-4)
    assert np.argmax(seen[:, 40]) == round(440 / (RATE / 2) * BANDS)
    assert magnitudes(spectrogram(np.zeros(4000, np.float32))).max() == 0.0
    two = magnitudes(spectrogram(tone() + 0.01 * tone(hertz=3000)))[0]  # 40 dB below
    assert two[round(3000 / (RATE / 2) * BANDS)].max() == pytest.approx(0.01**POWER, rel=0.05)


def test_the_floor_is_the_steady_noise_and_not_the_voice():
    voice = tone(2.0, hertz=1000) * (np.arange(2 * RATE) % RATE > RATE // 2)  # half of the time
    hiss = generated_noise(0, 2 * RATE, np.random.default_rng(2))
    noisy, noise = mix(voice.astype(np.float32), hiss, snr=0.0)
    seen, floor = magnitudes(spectrogram(noisy))
    assert (floor == floor[:, :1]).all()
    at = round(1000 / (RATE / 2) * BANDS)
    noise_only = np.median(np.abs(spectrogram(noise))[at]) / np.abs(spectrogram(noisy)[:BANDS]).max()
    assert floor[at, 0] <= 1.2 * noise_only**POWER
    assert floor[at, 0] < 0.7 * np.quantile(seen[at], 0.9)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.0])
def test_mixtures_have_the_ratio_that_was_asked_for(snr):
    speech, noise = tone(), generated_noise(1, RATE, np.random.default_rng(0))
    noisy, added = mix(speech, noise, snr=snr)
    np.testing.assert_allclose(noisy, speech + added, atol=1e-6)
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-3)


def test_the_mask_leaves_the_voice():
    speech, noise = tone(hertz=500), generated_noise(0, RATE, np.random.default_rng(1))
    noisy, _ = mix(speech, noise, snr=0.0)
    spectrum = spectrogram(noisy)
    mask = voice_mask(spectrogram(speech), spectrum)
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0
    cleaned = sound(spectrum * np.vstack([mask, mask[-1:]]), length=len(noisy))
    assert ratio(cleaned, speech) > ratio(noisy, speech) + 8


@pytest.mark.parametrize("kind", range(NOISES))
def test_noises_are_heard_and_repeatable(kind):
    found, again = (generated_noise(kind, 8000, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(found, again)
    assert found.shape == (8000,)
    assert np.isfinite(found).all()
    assert found.std() == pytest.approx(1.0, abs=0.2)
    other = generated_noise(kind, 8000, np.random.default_rng(4))
    assert abs(np.corrcoef(found, other)[0, 1]) < 0.5  # each seed another noise of the kind


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "float32"])
def test_wav_files_of_any_type_and_rate_are_read(kind, tmp_path):
    samples = tone(rate=8000)
    data = {
        "int16": (samples * 32767).astype(np.int16),
        "int32": (samples * (2**31 - 1)).astype(np.int32),
        "uint8": (samples * 127 + 128).astype(np.uint8),
        "float32": samples,
    }[kind]
    wavfile.write(tmp_path / "a.wav", 8000, np.stack([data, data], axis=1))
    found = read_wav(tmp_path / "a.wav")
    assert len(found) == RATE
    assert ratio(found[500:-500], tone()[500:-500]) > 25


def test_written_files_are_read_back_and_what_is_no_speech_is_refused(tmp_path):
    write_wav(tmp_path / "deep" / "b.wav", tone())
    np.testing.assert_allclose(read_wav(tmp_path / "deep" / "b.wav"), tone(), atol=1e-4)
    with pytest.raises(DataError, match="No such file"):
        read_wav(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(DataError, match="cannot be read as a WAV"):
        read_wav(tmp_path / "text.wav")
    wavfile.write(tmp_path / "empty.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(DataError, match="holds no sound"):
        read_wav(tmp_path / "empty.wav")
    wavfile.write(tmp_path / "nan.wav", RATE, np.array([0.1, np.nan], np.float32))
    with pytest.raises(DataError, match="no numbers"):
        read_wav(tmp_path / "nan.wav")
