"""The options of protection jobs and of audits, each declared once: name, type, default, meaning, limits.

A module of its own that loads nothing heavy, so that the command line shows the defaults before any model is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from privface.errors import ConfigError

FaceMode: TypeAlias = Literal["auto", "aligned", "detect"]
Layout: TypeAlias = Literal["tree", "webdataset", "parquet"]
OnNoFace: TypeAlias = Literal["skip", "fail"]
Alignment: TypeAlias = Literal["auto", "aligned", "landmarks", "detect"]
"""How labelled photos become aligned faces; ``auto`` takes landmarks that stand in the labels, else it detects."""

Effort: TypeAlias = Literal["quick", "standard", "full"]
"""``quick``: a first look in minutes. ``standard``: every attacker that needs no deep network but the CNN.
``full``: also fine-tuned networks and recovery of images; for what is published."""

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]

MAX_PIXELS = 100_000_000
"""Decode limit in pixels; a larger image is refused before it is decompressed."""

_CHOICES = {"faces": get_args(FaceMode), "layout": get_args(Layout), "on_no_face": get_args(OnNoFace)}
_COUNTS = ("batch_size", "max_pixels", "max_faces", "shard_size", "workers")
_WITHOUT_TRACE = frozenset(
    {"batch_size", "workers", "max_pixels", "videos", "overwrite", "on_no_face", "as_csv", "times"}
)
"""Options that change no byte of a protected image."""


@dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """How photos are protected; the same object goes from whoever asks for the job down to who does it.

    Attributes:
        faces: ``detect`` looks for faces and writes each alone; ``aligned`` takes all inputs for face crops; ``auto`` takes those
            of exactly 112 x 112 (the ArcFace frame) or of the model's size for such crops and looks in all others.
        paste: Paste protected faces back into their photos under a soft edge, instead of writing each alone. Hair, clothes and
            background stay and give gender away. If the model's faces are grey, the photo becomes grey. Not with ``aligned``.
        max_faces: Refuse photos in which more faces are found (status ``many_faces``), 1 or more. Not with ``aligned``.
        on_no_face: What a photo without a face does to the job: it is skipped, or the job fails.
        max_pixels: Larger inputs are not decoded, 1 or more.
        videos: Protect the videos of folders and lists, too (extra ``video``), only with ``paste``; frames without a face become black.
        sound: Keep the sound of videos; voices tell gender, too.
        image_format: Write all as ``jpg``, ``png`` or ``webp``; by default each in its input's format.
        quality: JPEG and WebP quality, 1 to 100.
        layout: ``tree`` writes a file for each face; ``webdataset`` tar shards; ``parquet`` tables with ``file`` and ``image``.
        shard_size: Inputs a shard, 1 or more; one shard is held in memory.
        overwrite: Replace what an earlier job with another model or other settings wrote, instead of refusing; with the same ones it
            goes on.
        as_csv: Also write ``manifest.csv``.
        times: Note in the manifest when each file was finished; it then differs from run to run.
        batch_size: Images a call of the model, 1 or more; shorter batches are filled up.
        workers: Threads that decode ahead of the model and encode behind it, 1 or more.

    Raises:
        ConfigError: If a value is out of range, or two exclude each other.
    """

    faces: FaceMode = "auto"
    paste: bool = False
    max_faces: int | None = None
    on_no_face: OnNoFace = "skip"
    max_pixels: int = MAX_PIXELS
    videos: bool = False
    sound: bool = True
    image_format: str | None = None
    quality: int = 95
    layout: Layout = "tree"
    shard_size: int = 1000
    overwrite: bool = False
    as_csv: bool = False
    times: bool = False
    batch_size: int = 32
    workers: int = 2

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
                raise ConfigError(f"{name} is {getattr(self, name)!r}.", hint=f"Choose {known}.")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.", hint=f"Give {name} >= 1.")
        if not 1 <= self.quality <= 100:
            raise ConfigError(
                f"quality is {self.quality}; it must be from 1 to 100.", hint="95 is a good choice."
            )
        if self.faces == "aligned" and (self.paste or self.max_faces is not None):
            raise ConfigError(
                "Pasting and a limit of faces need a detector, and the faces are said to be aligned.",
                hint="Use faces='auto' or 'detect'.",
            )
        if self.videos and not self.paste:
            raise ConfigError(
                "A video needs its faces pasted back into every frame, and pasting is off.",
                hint="Add --paste (paste=True), or leave videos out.",
            )

    def output_settings(self) -> dict[str, object]:
        """The options that change what is written, for the journal; a new option is among them unless it leaves no trace."""
        kept = {name: value for name, value in asdict(self).items() if name not in _WITHOUT_TRACE}
        if self.layout == "tree":
            del kept["shard_size"]
        if self.paste:
            kept["pasted"] = "rounded"
        name = kept.pop("image_format")
        return {**kept, "format": name and name.lower().lstrip(".")}


DEFAULT_OPTIONS = ProtectOptions()
"""Every option of a protection at its default."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where networks compute, as for :meth:`privface.device.Device.choose`.

    Attributes:
        device: Where networks compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: What they compute in: ``fp32``; ``bf16``, several times faster where the device has units for it; ``fp16`` on
            a GPU; ``auto``: bf16 with such units, else fp32. On the CPU in fp32 the same input gives the same bytes everywhere.
    """

    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """What is chosen of a model that was trained with a choice.

    Attributes:
        strength: 0 to 2; 1 is what was trained and audited.
        hide: What to hide, for a model that was trained with a choice (methods erased-code, privacynet), such as
            ``gender,race``. Repeatable.
        code_size: Values of the code that faces are drawn from, for a model trained with several (method erased-code).
            Fewer hide more and keep fewer matches.
    """

    strength: float = 1.0
    hide: tuple[str, ...] = ()
    code_size: int | None = None

    @property
    def hidden(self) -> list[str] | None:
        """The names of ``hide``, each alone; ``None`` where nothing was chosen."""
        return [name.strip() for text in self.hide for name in text.split(",")] or None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Computing, ModelChoice):
    """What is asked of the model that protects, as :func:`privface.models.load_protector` takes it.

    Attributes:
        genders: CSV or Parquet with file and gender, for a model that cannot work without the true gender of every photo
            (method san-2018). No other model asks for it.
        draw: Seed of a randomised protection, for a variational or denoising backbone: same seed, same output. Keep one
            draw of a photo: an attacker averages several (docs/methods.md).
        runtime: What runs the model; ``onnx`` turns a run folder into ONNX first, in memory.
    """

    genders: Path | None = None
    draw: int | None = None
    runtime: Literal["auto", "torch", "onnx"] = "auto"


@dataclass(frozen=True)
class AuditOptions:
    """How hard an audit looks.

    Attributes:
        seed: Of splits, attackers and resampling; same seed, same ``audit.json``.
        resamples: Bootstrap resamples of people.
        effort: ``quick``: linear and SVM attackers, a first look in minutes. ``standard``: every attacker but fine-tuned
            networks. ``full``: also those, and learned recovery of the images; for what is published. (``demo`` sends one
            attacker of each kind.)
        cnn_epochs: Epochs of the CNN attacker.
        attributes: Column beside gender that attackers read, too; numbers in bands, as in ``age=16,30,45,60``. Repeatable.
        size: Side of the aligned images, in pixels; by default that of the ArcFace frame.
        faces: How originals are aligned; ``auto``: as ``privface protect`` took them, else by landmarks of the labels, else by
            detection.
        protected_faces: How protected photos are aligned; ``auto`` takes the crops that ``privface protect`` wrote as aligned
            (its manifest says which they are), everything else as ``faces``.
        cache: Folder that keeps embeddings and probe scores, so that a second audit of the same originals costs only the
            protected side. They are biometric data: keep it private.
        battery: ``selftest.json`` to quote in the report; by default the one that came with this version.
        recoverer: With ``full`` effort: variant of autoencoder that turns images back (docs/autoencoders.md); by default a U-Net.
        device: Where networks compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: What they compute in: ``auto`` (bf16 where the device has units for it), ``fp32``, ``bf16`` or ``fp16``.
    """

    seed: int = 0
    resamples: int = 1000
    effort: Literal["demo", "quick", "standard", "full"] = "standard"
    cnn_epochs: int = 16
    attributes: tuple[str, ...] = ()
    size: int = 112
    faces: Alignment = "auto"
    protected_faces: Alignment = "auto"
    cache: Path | None = None
    battery: Path | None = None
    recoverer: str | None = None
    device: str = "auto"
    precision: Precision = "auto"


DEFAULT_AUDIT = AuditOptions()
"""Every option of an audit at its default."""
