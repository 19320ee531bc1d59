"""Mean faces by gender, which the semi-adversarial network of 2018 mixes into an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from privface.errors import CheckpointError, DataError, InputRangeError, LabelError
from privface.images import write_atomic
from privface.models.inputs import require_unit_images
from privface.records import GENDERS

PROTOTYPE_SIDE: Final = 224
"""Side of a prototype in pixels."""

_SHAPE: Final = (3, PROTOTYPE_SIDE, PROTOTYPE_SIDE)
_NAMES: Final = ("male", "female", "neutral")


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
