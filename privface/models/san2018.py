"""The semi-adversarial network of 2018: a grey face and gender prototypes (mean faces) in, a grey face out."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor, nn

from privface.errors import CheckpointError, ConfigError, DataError, InputRangeError, LabelError
from privface.images import write_atomic
from privface.models.checkpoint import build, load_network
from privface.models.face_model import network_sha256
from privface.models.inputs import require_unit_images, to_input
from privface.models.protectable import Protectable
from privface.records import FRAME, GENDERS, Gender, InputSpec

Target: TypeAlias = Literal["same", "neutral", "opposite"]
"""Whose prototype is mixed into the decoded face, as seen from the photo's own gender."""

TARGETS: Final[tuple[Target, ...]] = get_args(Target)

PROTOTYPES: Final = "prototypes.safetensors"
"""Name of the prototypes in a run folder."""

WHY_GENDERS: Final = (
    "the SAN of 2018 hands its network the prototype of each photo's own gender, so it cannot protect a photo without"
    " knowing the true one"
)
"""For messages."""

_SPEC: Final = InputSpec(size=(224, 224), channels="GRAY")
_SHAPE: Final = (3, 224, 224)
_NAMES: Final = ("male", "female", "neutral")

_RELEASED: Final[Mapping[str, str]] = {
    "autoencoder.0": "encoder.0",
    "autoencoder.3": "encoder.3",
    "autoencoder.6": "decoder.0",
    "autoencoder.9": "decoder.3",
    "protocombiner.0": "combiner",
}
"""Layers with weights: the authors' names and ours."""

_MAX_BYTES: Final = 16 * 2**20
"""Largest file that :func:`load_released` reads; the authors' has 1.3 MB."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """A typical male, a typical female and a neutral face, all three in the ArcFace frame.

    A prototype made of very few people shows them: treat it as biometric data.

    Attributes:
        male: float32 RGB of shape ``(3, 224, 224)`` in [0, 1].
        female: The same.
        neutral: The same.

    Raises:
        InputRangeError: If the type, the shape or the range of one of them differs.
    """

    male: NDArray[np.float32]
    female: NDArray[np.float32]
    neutral: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in _NAMES:
            pixels = getattr(self, name)
            if pixels.dtype != np.float32 or pixels.shape != _SHAPE:
                raise InputRangeError(
                    f"The {name} prototype is {pixels.dtype} {pixels.shape}; expected float32 {_SHAPE}.",
                    hint="Make prototypes with make_prototypes.",
                )
            require_unit_images(pixels[None], what=f"pixels of the {name} prototype")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the three faces, in hexadecimal."""
        digest = hashlib.sha256()
        for name in _NAMES:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the three faces to one safetensors file.

        Raises:
            OutputError: If the file cannot be written.
        """
        faces = {name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}
        write_atomic(path, save_safetensors(faces))

    @classmethod
    def load(cls, path: Path) -> Prototypes:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If the file is missing, damaged, a pickle, or holds anything but three prototypes.
        """
        try:
            return cls(**load_safetensors(path.read_bytes()))
        except InputRangeError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
        # KeyError: an unknown number type; TypeError: an unknown name
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is not a safetensors file of three prototypes ({error}).",
                hint="Give a file written by Prototypes.save; pickles are never loaded.",
            ) from error


def make_prototypes(batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> Prototypes:
    """Mean faces of a labelled set, after Mirjalili et al. (ICB 2018, arXiv 1712.00321).

    The authors average the faces of each gender and align the averages to every photo by its landmarks; how they do
    that was not released. Here all faces stand in one frame, given by five landmarks, so a mean of them is aligned to
    each face by construction. The neutral prototype is the mean of the other two and so does not depend on how many
    faces of either gender there are.

    Args:
        batches: Images, floating point RGB ``(N, 3, H, W)`` in [0, 1] in the ArcFace frame, and their genders ``(N,)``,
            0 female and 1 male. H and W are the same throughout. Read once, so a generator will do for sets that do
            not fit into memory.

    Raises:
        InputRangeError: If images break the contract or differ in size.
        LabelError: If genders are not one 0 or 1 for each image.
        DataError: If there is no face of one of the genders.
    """
    sums: NDArray[np.float64] | None = None
    counts = np.zeros(len(GENDERS), np.int64)
    for images, genders in batches:
        require_unit_images(torch.tensor(np.ascontiguousarray(images)), what="faces of prototypes")
        require_genders(genders, count=len(images))
        if sums is None:
            sums = np.zeros((len(GENDERS), *images.shape[1:]), np.float64)
        if images.shape[1:] != sums.shape[1:]:
            raise InputRangeError(
                f"Faces of {images.shape[2]} x {images.shape[3]} pixels after faces of {sums.shape[2]} x {sums.shape[3]}.",
                hint="Align all faces to one size.",
            )
        for code in range(len(GENDERS)):
            chosen = images[genders == code]
            sums[code] += chosen.sum(axis=0, dtype=np.float64)
            counts[code] += len(chosen)
    if sums is None or not counts.all():
        raise DataError(
            f"Prototypes of {counts[0]} female and {counts[1]} male faces; at least 1 of each is needed.",
            hint="Give faces of both genders.",
        )
    means = torch.from_numpy(sums / counts[:, None, None, None])
    female, male = F.interpolate(means, size=_SHAPE[1:], mode="bilinear", align_corners=False, antialias=True)
    # sums of rounded weights leave the range by a few units in the last place
    return Prototypes(*(face.clamp(0, 1).float().numpy() for face in (male, female, (male + female) / 2)))


def require_genders(genders: NDArray[Any], *, count: int) -> None:
    """Refuse genders that are not integers 0 (female) or 1 (male) of shape ``(count,)``."""
    if not np.issubdtype(genders.dtype, np.integer) or genders.shape != (count,):
        raise LabelError(
            f"Genders are {genders.dtype} {genders.shape}; expected integers ({count},).",
            hint="Give one code for each image: 0 female, 1 male.",
        )
    strange = genders[(genders != 0) & (genders != 1)]
    if len(strange):
        raise LabelError(
            f"{len(strange)} of {count} genders are neither 0 nor 1, the first is {strange[0]}.",
            hint="Code female as 0 and male as 1, and leave images without a label out.",
        )


class San2018(Protectable):
    """The autoencoder of Mirjalili, Raschka, Namboodiri and Ross (ICB 2018, arXiv 1712.00321).

    It sees a grey face together with the prototype of the face's own gender, decodes 128 maps, and mixes them, pixel by
    pixel, with the prototype of the gender wanted. 324,248 parameters; layers as in the authors' released code.
    """

    kind: ClassVar[str] = "san-2018"
    needs_genders: ClassVar[bool] = True
    has_strength: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.AvgPool2d(2),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(12, 256, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(256, 128, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )
        self.combiner = nn.Conv2d(131, 1, 1)

    def decode(self, faces: Tensor, same: Tensor) -> Tensor:
        """Everything up to the second use of a prototype, maps ``(N, 128, 224, 224)``; training combines it with two of them.

        Args:
            faces: Grey in [0, 1], shape ``(N, 1, 224, 224)``.
            same: Prototype of each face's own gender, RGB in [0, 1], shape ``(N, 3, 224, 224)``.
        """
        maps: Tensor = self.decoder(self.encoder(torch.cat([faces, same], 1)))
        return maps

    def combine(self, maps: Tensor, chosen: Tensor) -> Tensor:
        """Grey faces in (0, 1), ``(N, 1, 224, 224)``, of what :meth:`decode` gave and prototypes ``(N, 3, 224, 224)``."""
        return torch.sigmoid(self.combiner(torch.cat([maps, chosen], 1)))

    def forward(self, faces: Tensor, same: Tensor, chosen: Tensor) -> Tensor:
        """:meth:`decode`, then :meth:`combine` with the same, the neutral or the opposite prototype."""
        return self.combine(self.decode(faces, same), chosen)


def to_grey(images: Tensor) -> Tensor:
    """What the network sees of aligned RGB images ``(N, 3, H, W)`` in [0, 1]: grey, ``(N, 1, 224, 224)``."""
    return to_input(images, _SPEC)


def from_grey(faces: Tensor, *, size: int) -> Tensor:
    """The network's grey faces ``(N, 1, 224, 224)`` as others see them: RGB, ``(N, 3, size, size)``, differentiably."""
    small = F.interpolate(faces, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return small.expand(-1, 3, -1, -1)


def load_released(path: Path) -> San2018:
    """The network in evaluation mode with the authors' own weights, a state dict that ``torch.save`` wrote (``conv-autoencoder-e20.pkl``).

    This is the one pickle that privface reads, and torch reads it with ``weights_only=True``: tensors are built, nothing
    is called. To keep the network, write it with :func:`~privface.models.checkpoint.save_network`.

    Raises:
        CheckpointError: If the file is missing, damaged, above 16 MiB, no plain state dict, of another network, or holds a value
            that is not finite.
    """
    try:
        return _released(path)
    except Exception as error:  # torch's reader leaks whatever a damaged byte leads to
        raise CheckpointError(
            f"{path} does not hold the weights of the SAN of 2018 ({type(error).__name__}: {' '.join(str(error).split())[:160]}).",
            hint="Give the authors' file of weights, fetched from them. A damaged one, or a pickle that would run code, is refused.",
        ) from error


def _released(path: Path) -> San2018:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on foreign pickles before it refuses them
        weights = torch.load(path, map_location="cpu", weights_only=True)
    if odd := {str(weight.dtype) for weight in weights.values()} - {"torch.float32"}:
        raise ValueError(f"its weights are {min(odd)}, expected torch.float32")
    network = San2018()
    parts = [name.rpartition(".") for name in weights]
    network.load_state_dict(
        {f"{_RELEASED[layer]}.{part}": weights[f"{layer}.{part}"] for layer, _, part in parts}
    )
    if not all(bool(weight.isfinite().all()) for weight in network.parameters()):
        raise ValueError("it has values that are not finite")
    return network.eval()


class San2018Protector:
    """The 2018 network as a protector of aligned faces.

    **It needs the true gender of every photo at the time of protection**, as the original does: the encoder is handed
    the prototype of the photo's own gender, and ``"opposite"`` is undefined without it. A wrong label gives another
    picture. The output is therefore a function of the label as well as of the photo, with every target.

    Colour is lost: the grey result stands in all three channels. Photos are computed one at a time, so the same image
    with the same gender gives the same bytes in any batch.

    Args:
        network: The trained network; put into evaluation mode and frozen.
        prototypes: The gender prototypes, in the frame of the images.
        target: Prototype for the output: of the ``"same"`` gender, ``"neutral"``, or of the ``"opposite"`` gender.
        size: Side of the aligned images in pixels; they are resized to 224 and back.

    Attributes:
        fingerprint: SHA-256 over weights, prototypes, target and size.

    Raises:
        ConfigError: If the target is unknown.
    """

    def __init__(
        self, network: San2018, prototypes: Prototypes, *, target: Target, size: int = FRAME
    ) -> None:
        if target not in TARGETS:
            raise ConfigError(
                f"target={target!r} does not exist.", hint=f"Choose one of {', '.join(TARGETS)}."
            )
        self.network = network.eval().requires_grad_(False)
        self.target: Target = target
        self.size = size
        female, male, neutral = (
            torch.tensor(pixels) for pixels in (prototypes.female, prototypes.male, prototypes.neutral)
        )
        self._same = (female, male)
        pairs = {"same": (female, male), "neutral": (neutral, neutral), "opposite": (male, female)}
        self._chosen = pairs[target]
        parts = ("san-2018/1", network_sha256(network), prototypes.fingerprint, target, str(size))
        self.fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @classmethod
    def load(cls, run: Path) -> San2018Protector:
        """Load a run folder of ``privface train`` with the method ``san-2018``; it holds the prototypes, too.

        Raises:
            CheckpointError: If the folder is incomplete, damaged, a pickle or of another kind.
        """
        saved = load_network(run, kind=San2018.kind)
        network = build(San2018, saved, where=run)
        prototypes = Prototypes.load(run / PROTOTYPES)
        target, size = saved.meta.get("target", "opposite"), int(saved.meta.get("size", FRAME))
        return cls(network, prototypes, target=target, size=size)

    def __call__(
        self, images: NDArray[np.float32], genders: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Protect a batch; same shape and range out, grey.

        Args:
            images: Aligned RGB, ``(N, 3, size, size)`` in [0, 1].
            genders: Their true genders, 0 female and 1 male, ``(N,)``; needed.

        Raises:
            InputRangeError: If shape, type or range break the contract.
            LabelError: If there is not one 0 or 1 for each image.
        """
        batch = torch.tensor(np.ascontiguousarray(images))
        require_unit_images(batch, what="images to protect")
        if batch.shape[2:] != (self.size, self.size):
            raise InputRangeError(
                f"Images to protect have {batch.shape[2]} x {batch.shape[3]} pixels; expected {self.size} x {self.size}.",
                hint="Align the faces to the protector's size.",
            )
        if genders is None:
            raise LabelError(
                f"No genders were given for {len(batch)} images: {WHY_GENDERS}.",
                hint="Call it with the true genders, 0 female and 1 male, one for each image.",
            )
        genders = np.asarray(genders)
        require_genders(genders, count=len(batch))
        protected = np.empty(batch.shape, np.float32)
        with torch.inference_mode():
            for place, code in enumerate(genders.tolist()):
                image = to_grey(batch[place : place + 1].float())
                grey = self.network(image, self._same[code][None], self._chosen[code][None])
                protected[place] = from_grey(grey, size=self.size)[0].clamp(0.0, 1.0).numpy()
        return protected


class LabelledProtector:
    """Protects photos by name: their genders come from a table.

    Folder jobs tell a protector with ``needs_keys`` which photo each image comes from, and ask it beforehand which
    photos it cannot protect.

    Args:
        protector: Asks for genders.
        genders: True gender of each photo by its key, the path below the root as a manifest writes it.

    Attributes:
        fingerprint: The protector's, with a hash of the table: another table, other photos.
    """

    needs_keys = True

    def __init__(self, protector: San2018Protector, genders: Mapping[str, Gender]) -> None:
        self._protector, self._genders = protector, dict(genders)
        table = hashlib.sha256(json.dumps(sorted(self._genders.items())).encode())
        self.fingerprint = f"{protector.fingerprint}+genders:{table.hexdigest()[:16]}"
        self.size = protector.size

    def lacks(self, key: str) -> str | None:
        """Why the photo of this key cannot be protected; ``None`` where it can."""
        return None if key in self._genders else f"no gender label for this photo, and {WHY_GENDERS}"

    def __call__(self, images: NDArray[np.float32], keys: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Protect aligned RGB images ``(N, 3, size, size)`` in [0, 1] of the photos ``keys``; same shape and range out.

        Raises:
            InputRangeError: If shape, type or range break the contract.
            LabelError: If a key is missing or has no gender.
        """
        if keys is None:
            raise LabelError(
                f"{len(images)} images without keys: {WHY_GENDERS}.",
                hint="Give the key of each image's photo.",
            )
        unknown = [key for key in keys if key not in self._genders]
        if unknown:
            raise LabelError(
                f"{len(unknown)} of {len(keys)} photos have no gender label, the first is {unknown[0]!r};"
                f" {WHY_GENDERS}.",
                hint="Add them to the table of genders.",
            )
        codes = np.array([GENDERS.index(self._genders[key]) for key in keys], np.int64)
        return self._protector(images, codes)
