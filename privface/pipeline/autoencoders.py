"""Autoencoders on their own: trained on any folder of images or of speech, and applied to others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from privface.errors import ConfigError, DataError, ImageError, OutputError, PrivfaceError
from privface.images import (
    WRITTEN_SUFFIXES,
    decode_image,
    encode_image,
    file_key,
    list_images,
    to_pixels,
    to_unit,
    write_atomic,
)
from privface.models import Autoencoder, AutoencoderConfig, load_network, save_network
from privface.models.checkpoint import build
from privface.models.speech import KIND as SPEECH_KIND
from privface.models.speech import SpeechDenoiser
from privface.pipeline.faces import Progress, require_folder
from privface.report.sheet import tile
from privface.speech import (
    BANDS,
    HOP,
    NOISES,
    POWER,
    RATE,
    Samples,
    generated_noise,
    magnitudes,
    mix,
    read_wav,
    spectrogram,
    voice_mask,
    write_wav,
)
from privface.training import RESUME_FILE, ArraySource, DecodingSource, Epoch, FitSettings, ImageSource
from privface.training import train_autoencoder as fit

KIND = "autoencoder"
VALIDATION_SHARE = 0.1
IN_MEMORY = 2_000_000_000
"""Bytes of pixels up to which all images are kept in memory; above it they are decoded on every visit."""

FRAMES = 128
"""Spectrogram columns (two seconds) that a speech denoiser learns from at a time."""


@dataclass(frozen=True)
class Trained:
    """What training came to: images, or pieces of speech, learnt from; others that chose the epoch; files left out."""

    images: int
    validation: int
    unreadable: tuple[str, ...]
    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return [epoch for epoch in self.epochs if epoch.kept][-1]


@dataclass(frozen=True)
class Applied:
    """What became of a folder: how many files were written, and input file and reason of those that were not."""

    written: int
    failed: tuple[tuple[str, str], ...]


def train_images(
    source: Path,
    out: Path,
    config: AutoencoderConfig,
    settings: FitSettings,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train an autoencoder on the images below a folder; the best epoch so far always lies in the model folder ``out``.

    Each image is cropped to the middle square and resized to the shape of ``config``. A tenth of the folders (of the files
    where there is one folder only) chooses the epoch. ``resume`` goes on from the last whole epoch.

    Raises:
        CheckpointError: If there is nothing to go on from, or it was made with other settings.
        DataError: If fewer than ten images can be read.
        OutputError: If ``out`` holds another model or cannot be written.
    """
    side = _square(config)
    paths = list(list_images(source))
    held = _held_out([file_key(path, source) for path in paths])
    if not resume:
        require_folder(out, empty="Choose a new folder for the model.")
    pixels, good = _read_all(paths, side, progress)
    if good.sum() < 10:
        raise DataError(
            f"{int(good.sum())} images in {source} can be read, 10 are needed.",
            hint="Give a folder with more photos.",
        )
    learn, choose = _source(paths, pixels, good & ~held, side), _source(paths, pixels, good & held, side)
    torch.manual_seed(settings.seed)
    network = Autoencoder(config)
    meta: dict[str, Any] = {"size": side, "images": len(learn), "loss": settings.loss, "seed": settings.seed}
    epochs = _fit(
        network, learn, choose, settings, out, kind=KIND, meta=meta, resume=resume, progress=progress
    )
    bad = tuple(file_key(path, source) for path, read in zip(paths, good, strict=True) if not read)
    return Trained(len(learn), len(choose), bad, tuple(epochs))


def train_speech(
    source: Path,
    out: Path,
    config: AutoencoderConfig,
    settings: FitSettings,
    *,
    noise: Path | None = None,
    pieces: int = 3000,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a speech denoiser on clean WAV files, mixed with noise at -5 to 15 dB; otherwise as :func:`train_images`.

    Noise comes from the WAV files in ``noise``, or is generated. ``config`` is a convolutional network without a flat code, whose shape is
    replaced; it learns from ``pieces`` mixtures of two seconds, each made when it is needed.

    Raises:
        CheckpointError: If there is nothing to go on from, or it was made with other settings.
        DataError: If there are fewer than four files of speech, or a file cannot be read.
    """
    config = _speech_config(config)
    files = _wav_files(source, minimum=4)
    if not resume:
        require_folder(out, empty="Choose a new folder for the model.")
    held = _held_out([file_key(path, source) for path in files])
    voices = [read_wav(path) for path in files]
    if silent := [path.name for path, voice in zip(files, voices, strict=True) if not np.any(voice)]:
        raise DataError(f"{silent[0]} holds only silence.", hint="Take it out of the folder.")
    noises = [read_wav(path) for path in _wav_files(noise, minimum=1)] if noise is not None else None
    torch.manual_seed(settings.seed)
    network = Autoencoder(config)
    parts = ((~held, pieces), (held, max(20, pieces // 8)))
    mixed = []
    for number, (rows, count) in enumerate(parts):
        own = [voice for voice, row in zip(voices, rows, strict=True) if row]
        mixed.append(_mixtures(own, noises, count, seed=(settings.seed, number)))
    (learn, choose), targets = zip(*mixed, strict=True)
    meta: dict[str, Any] = {"rate": RATE, "speech_files": len(files), "seed": settings.seed}
    epochs = _fit(
        network, learn, choose, settings, out,
        targets=targets, kind=SPEECH_KIND, meta=meta, resume=resume, progress=progress,
    )  # fmt: skip
    return Trained(len(learn), len(choose), (), tuple(epochs))


def load_autoencoder(folder: Path) -> Autoencoder:
    """The network of a model folder, in evaluation mode.

    Raises:
        CheckpointError: If the folder is incomplete, damaged or of another kind.
    """
    return build(Autoencoder, load_network(folder, kind=KIND), where=folder).eval()


def apply_to_folder(
    model: Path, source: Path, out: Path, *, colourise: bool = False, progress: Progress | None = None
) -> Applied:
    """Pass every image below a folder through an autoencoder: reproduce, denoise or colourise it.

    Networks whose code is a map work at each image's own size; the others at the size they were trained on, on the middle
    square. Names and formats are kept (``a.gif``, which is not written, becomes ``a.gif.png``), metadata is not.
    """
    network = load_autoencoder(model)
    if colourise and not network.settings.grey:
        raise ConfigError(
            f"{model} was not trained to add colour.", hint="Train one with --variant colourising."
        )
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out} lies within {source}.", hint="Write to a folder of its own.")
    paths = list(list_images(source))
    if not paths:
        raise DataError(f"No image lies below {source}.", hint="Give a folder that holds images.")
    failed: list[tuple[str, str]] = []
    for number, path in enumerate(paths, start=1):
        kept = path.suffix.lower() in WRITTEN_SUFFIXES
        target = out / path.relative_to(source)
        try:
            made = encode_image(apply(network, decode_image(path)), path.suffix if kept else ".png")
            write_atomic(target if kept else target.with_name(f"{target.name}.png"), made)
        except OutputError:
            raise
        except PrivfaceError as error:
            failed.append((file_key(path, source), error.message))
        if progress is not None:
            progress("apply", number, len(paths))
    return Applied(len(paths) - len(failed), tuple(failed))


def apply(network: Autoencoder, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a network makes of one image, uint8 ``(H, W, 3)``.

    Colourising networks keep the image's own luma. Networks of a fixed size give the middle square in that size; the others keep height and width.
    """
    if not network.any_size:
        pixels = _middle(pixels, network.settings.shape[1])
    height, width = pixels.shape[:2]
    image = to_unit(pixels[None])
    if network.settings.shape[0] == 1:
        image = image.mean(axis=1, keepdims=True)
    pad = [(0, 0), (0, 0), (0, -height % network.multiple), (0, -width % network.multiple)]
    with torch.inference_mode():
        padded = torch.from_numpy(np.pad(image, pad, mode="edge"))
        made = (network.colour(padded) if network.settings.grey else network(padded)).clamp(0.0, 1.0).numpy()
    made = np.broadcast_to(made, (1, 3, *made.shape[2:]))
    return to_pixels(made[0, :, :height, :width])


def sample_images(model: Path, out: Path, *, count: int, seed: int) -> list[Path]:
    """Draw images from a variational autoencoder into ``sheet.png``, with all of them, and ``0000.png`` onwards.

    Raises:
        ModelError: If the network is not variational.
        ConfigError: If ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"count is {count}; it must be 1 or more.", hint="64 fill a sheet.")
    network = load_autoencoder(model)
    with torch.inference_mode():
        drawn = network.sample(count, generator=torch.Generator().manual_seed(seed)).clamp(0.0, 1.0).numpy()
    pixels = to_pixels(np.broadcast_to(drawn, (count, 3, *drawn.shape[2:])))
    written = [out / "sheet.png"]
    write_atomic(written[0], encode_image(tile(pixels), ".png"))
    for number, image in enumerate(pixels):
        written.append(out / f"{number:04d}.png")
        write_atomic(written[-1], encode_image(image, ".png"))
    return written


def denoise_speech(model: Path, source: Path, out: Path) -> float:
    """Take noise out of one WAV file; returns its seconds."""
    samples = read_wav(source)
    write_wav(out, SpeechDenoiser.load(model)(samples))
    return len(samples) / RATE


# ten arguments: what autoencoders of images and of speech differ in
def _fit(
    network: Autoencoder,
    learn: ImageSource,
    choose: ImageSource,
    settings: FitSettings,
    out: Path,
    *,
    targets: Sequence[ImageSource | None] = (None, None),
    kind: str,
    meta: dict[str, Any],
    resume: bool,
    progress: Progress | None,
) -> list[Epoch]:
    """Learn to give back ``learn``, or the first of ``targets`` for it; ``choose`` and the second choose the epoch."""

    def keep(epoch: Epoch) -> None:
        if epoch.kept:
            figures = {"epoch": epoch.number, "validation_loss": epoch.validation}
            save_network(out, network, kind=kind, meta={**meta, **figures})

    tell = None if progress is None else lambda done, total, _: progress("train", done, total)
    return fit(
        network, learn, settings,
        validation=choose if len(choose) else None, targets=targets[0], validation_targets=targets[1],
        progress=tell, on_epoch=keep, checkpoint=out / RESUME_FILE, resume=resume,
    )  # fmt: skip


def _square(config: AutoencoderConfig) -> int:
    channels, height, width = config.shape
    if height != width or channels != 3:
        raise ConfigError(
            f"Images are learnt as squares in colour, not {channels} x {height} x {width}.",
            hint="Give shape=[3,64,64], for example.",
        )
    return height


def _speech_config(config: AutoencoderConfig) -> AutoencoderConfig:
    if config.architecture != "convolutional" or config.flat or config.grey or config.kind == "variational":
        raise ConfigError(
            "Speech of any length needs a convolutional network whose code is a map.",
            hint="Use --variant denoising.",
        )
    return config.changed(shape=(2, BANDS, FRAMES), corruption="none", level=0.0, spread=0.0, output="mask")


def _held_out(keys: Sequence[str]) -> NDArray[np.bool_]:
    """Which files choose the epoch: a tenth of the folders if there are ten, else of the files, by a hash."""
    folders = [key.rpartition("/")[0] for key in keys]
    groups = folders if len(set(folders)) >= 10 else list(keys)
    held = np.array([_share(group) < VALIDATION_SHARE for group in groups], np.bool_)
    if len(held) and not held.any():  # few groups: the one with the lowest hash
        lowest = min(groups, key=_share)
        held = np.array([group == lowest for group in groups], np.bool_)
    return held


def _share(text: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def _middle(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = pixels[top : top + edge, left : left + edge]
    how = cv2.INTER_AREA if edge > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=how), np.uint8)


def _read_all(
    paths: Sequence[Path], side: int, progress: Progress | None
) -> tuple[NDArray[np.uint8] | None, NDArray[np.bool_]]:
    """Pixels of all images if they fit into memory, ``(N, side, side, 3)``, and which of them can be read."""
    fits = len(paths) * side * side * 3 <= IN_MEMORY
    pixels = np.zeros((len(paths), side, side, 3), np.uint8) if fits else None
    good = np.ones(len(paths), np.bool_)
    for number, path in enumerate(paths):
        try:
            image = _middle(decode_image(path), side)
            if pixels is not None:
                pixels[number] = image
        except ImageError:
            good[number] = False
        if progress is not None:
            progress("read", number + 1, len(paths))
    return pixels, good


def _source(
    paths: Sequence[Path], pixels: NDArray[np.uint8] | None, rows: NDArray[np.bool_], side: int
) -> ImageSource:
    if pixels is not None:
        return ArraySource(pixels[rows])
    chosen = [path for path, row in zip(paths, rows, strict=True) if row]
    return DecodingSource(lambda k: _middle(decode_image(chosen[k]), side), count=len(chosen))


def _wav_files(folder: Path, *, minimum: int) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.", hint="Give a folder that holds WAV files.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav")
    if len(files) < minimum:
        raise DataError(
            f"{len(files)} WAV files lie below {folder}, {minimum} are needed.", hint="Give more files."
        )
    return files


@dataclass(frozen=True)
class _Made:
    """Images of which each is made from its number when it is asked for."""

    make: Callable[[int], NDArray[np.float32]]
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images at ``index``."""
        return np.stack([self.make(int(k)) for k in index])


def _mixtures(
    voices: Sequence[Samples], noises: Sequence[Samples] | None, count: int, *, seed: tuple[int, int]
) -> tuple[ImageSource, ImageSource]:
    """Magnitudes and floor of noisy speech, and those that its voice is left with, both ``(count, 2, BANDS, FRAMES)``."""

    def disturb(length: int, rng: np.random.Generator) -> Samples:
        if noises is not None:
            return _excerpt(noises[int(rng.integers(len(noises)))], length, rng)
        kind = int(rng.integers(NOISES + 1))
        return _babble(voices, length, rng) if kind == NOISES else generated_noise(kind, length, rng)

    @lru_cache(maxsize=160)  # what is seen is made a batch ahead of what is wanted
    def make(number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([*seed, number])
        voice = np.zeros(1, np.float32)
        while not np.any(voice):
            voice = _excerpt(voices[int(rng.integers(len(voices)))], FRAMES * HOP, rng).copy()
            quiet = int(rng.uniform(-RATE / 2, RATE / 2))  # half of them begin with noise alone
            voice[: max(0, quiet)] = 0.0
        noisy, _ = mix(voice, disturb(len(voice), rng), snr=float(rng.uniform(-5.0, 15.0)))
        spectrum = spectrogram(noisy)
        seen = magnitudes(spectrum)[..., :FRAMES]
        left = seen[0] * voice_mask(spectrogram(voice), spectrum)[:, :FRAMES] ** POWER
        floor = np.minimum(np.quantile(left, 0.2, axis=1, keepdims=True), seen[1])
        return seen, np.stack([left, floor]).astype(np.float32)

    return _Made(lambda number: make(number)[0], count), _Made(lambda number: make(number)[1], count)


def _babble(voices: Sequence[Samples], length: int, rng: np.random.Generator) -> Samples:
    chosen = rng.integers(len(voices), size=5)
    return np.asarray(np.sum([_excerpt(voices[int(k)], length, rng) for k in chosen], axis=0), np.float32)


def _excerpt(samples: Samples, length: int, rng: np.random.Generator) -> Samples:
    if len(samples) < length:
        samples = np.tile(samples, -(-length // max(1, len(samples))))
    start = int(rng.integers(0, len(samples) - length + 1))
    return samples[start : start + length]
