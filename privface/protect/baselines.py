"""Simple protectors to compare with: blur, pixelation, noise, JPEG, lost resolution, averaged faces.

None of them knows what gender looks like. They are the bar that a trained protector has to clear: at equal
matching, less leakage. There is no identity protector on purpose: an original never passes through.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.errors import ConfigError
from privface.images import decode_image, encode_image, to_pixels, to_unit
from privface.protect.protector import check_images
from privface.records import FRAME


@dataclass(frozen=True)
class Baseline(ABC):
    """A baseline that needs nothing but numbers.

    Attributes:
        size: Side of the aligned faces in pixels.
    """

    title: ClassVar[str]
    """Name in the fingerprint."""

    size: int = field(default=FRAME, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("size", "sigma"):
            value = getattr(self, name, 1)
            if not value > 0 or not np.isfinite(value):
                hint = "At 0 the original would remain."
                raise ConfigError(f"{name} is {value:g}; it must be above 0.", hint=hint)
        for name, most, hint in (
            ("cells", self.size - 1, "8 to 16 cells hide a face from the eye."),
            ("side", self.size - 1, "24 to 32 pixels leave a coarse face."),
            ("quality", 100, "10 shows blocks."),
        ):
            value = getattr(self, name, None)
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"{name} is {value}; it must be from 1 to {most}.", hint=hint)

    @property
    def fingerprint(self) -> str:
        """Name, version and settings."""
        values = [(each.name, getattr(self, each.name)) for each in _settings(type(self))]
        told = (f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in values)
        return f"{self.title}/1 {' '.join(told)}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        return self._change(images)

    @abstractmethod
    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What it makes of a checked batch."""


@dataclass(frozen=True)
class GaussianBlur(Baseline):
    """Gaussian blur; borders are replicated.

    Attributes:
        sigma: Standard deviation in pixels of an image of side ``size``, above 0.
    """

    title = "gaussian-blur"
    sigma: float

    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - heavy

        sigma = (0, 0, self.sigma, self.sigma)
        blurred: NDArray[np.float32] = gaussian_filter(images, sigma=sigma, mode="nearest")
        return np.clip(blurred, 0.0, 1.0)


@dataclass(frozen=True)
class Pixelate(Baseline):
    """Mosaic: every cell takes its mean colour.

    Attributes:
        cells: Cells per side, at least 1 and below ``size`` (``size`` cells would be the original); they differ by at most
            one pixel where they do not divide it.
    """

    title = "pixelate"
    cells: int

    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        edges = np.linspace(0, self.size, self.cells + 1).astype(np.int64)
        widths = np.diff(edges)
        sums = np.add.reduceat(images.astype(np.float64), edges[:-1], axis=2)
        means = np.add.reduceat(sums, edges[:-1], axis=3) / np.outer(widths, widths)
        means = np.clip(means, 0.0, 1.0).astype(np.float32)
        mosaic: NDArray[np.float32] = np.repeat(np.repeat(means, widths, axis=2), widths, axis=3)
        return mosaic


@dataclass(frozen=True)
class GaussianNoise(Baseline):
    """Additive Gaussian noise, clipped to [0, 1].

    The noise of an image is drawn from a generator seeded by ``seed`` and the image's own content, so it
    depends neither on order nor on batch size, and differs from image to image.

    Attributes:
        sigma: Standard deviation in units of the [0, 1] range, above 0.
        seed: Chooses among noise fields.
    """

    title = "gaussian-noise"
    sigma: float
    seed: int = 0

    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        noisy = np.empty_like(images)
        for index, image in enumerate(images):
            key = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), salt=str(self.seed).encode()[:16])
            generator = np.random.default_rng(int.from_bytes(key.digest(), "big"))
            noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(self.sigma)
            noisy[index] = np.clip(image + noise, 0.0, 1.0)
        return noisy


@dataclass(frozen=True)
class JPEGCompression(Baseline):
    """What is left after JPEG compression.

    Attributes:
        quality: 1 to 100 on libjpeg's scale.
    """

    title = "jpeg"
    quality: int

    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty_like(to_pixels(images))
        for index, pixels in enumerate(to_pixels(images)):
            out[index] = decode_image(encode_image(pixels, ".jpg", quality=self.quality))
        return to_unit(out)


@dataclass(frozen=True)
class DownUpSample(Baseline):
    """Resolution thrown away: reduced by area, enlarged again bilinearly.

    Attributes:
        side: Pixels per side that are kept, at least 1 and below ``size``.
    """

    title = "down-up"
    side: int

    def _change(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty_like(images)
        small, large = (self.side, self.side), (self.size, self.size)
        for index, image in enumerate(np.moveaxis(images, 1, -1)):
            reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            out[index] = np.moveaxis(cv2.resize(reduced, large, interpolation=cv2.INTER_LINEAR), -1, 0)
        return np.clip(out, 0.0, 1.0)


BASELINES: dict[str, type[Baseline]] = {
    "blur": GaussianBlur,
    "pixelation": Pixelate,
    "noise": GaussianNoise,
    "jpeg": JPEGCompression,
    "down-up": DownUpSample,
}
"""Baselines that need nothing but numbers, by their name in a specification."""

_PREFIX = "baseline:"


def is_baseline(spec: str) -> bool:
    """Whether a specification names a baseline and not a model."""
    return spec.startswith(_PREFIX)


def load_baseline(spec: str, *, size: int = FRAME) -> Baseline:
    """A baseline as people write it, such as ``baseline:blur,sigma=3`` or ``baseline:noise,sigma=0.2,seed=7``.

    Args:
        spec: Name and settings; ``baseline:`` may be left out.
        size: Side of the aligned faces in pixels, where the specification gives none.

    Raises:
        ConfigError: If the name, a setting or its value is wrong; the message gives what there is.
    """
    name, *settings = spec.removeprefix(_PREFIX).split(",")
    if name not in BASELINES:
        raise ConfigError(
            f"There is no baseline {name!r}.", hint=f"Baselines: {'; '.join(map(_form, BASELINES))}."
        )
    kind = BASELINES[name]
    types = {each.name: float if each.type == "float" else int for each in fields(kind)}
    needed = {each.name for each in fields(kind) if each.default is MISSING}
    values: dict[str, float] = {"size": size}
    for setting in settings:
        key, _, text = setting.partition("=")
        try:
            values[key] = types[key](text)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{setting!r} in {spec!r} is no setting of {name}.", hint=f"{_form(name)}."
            ) from error
    if not needed <= values.keys():
        raise ConfigError(
            f"{spec!r} lacks {', '.join(sorted(needed - values.keys()))}.", hint=f"{_form(name)}."
        )
    return kind(**values)  # type: ignore[arg-type]  # each value was read as the type of its field


def _form(name: str) -> str:
    parts = [
        f"{each.name}={str(each.type).upper()}"
        if each.default is MISSING
        else f"[{each.name}={each.default}]"
        for each in _settings(BASELINES[name])
    ]
    return f"{_PREFIX}{','.join([name, *parts])}"


def _settings(kind: type[Baseline]) -> list[Field[Any]]:
    """The fields of a baseline, its own before the size."""
    return sorted(fields(kind), key=lambda each: each.name == "size")


class KSameAverage:
    """Each face becomes the mean of itself and its nearest faces in a gallery of other people.

    The averaging of k-Same (Newton, Sweeney and Malin, TKDE 2005) with a fixed gallery instead of the photos
    that are protected, so that a photo's output depends on nothing but that photo. Nearest by squared
    distance of 16 x 16 grey pictures; each gallery person stands for one face at most.

    Args:
        gallery: Aligned faces of people who are not protected with it, uint8 ``(G, size, size, 3)``.
        people: Who is on each gallery face, shape ``(G,)``.
        k: How many faces are averaged, the photo among them; 2 or more.

    Raises:
        ConfigError: If ``k`` is out of range or the gallery has fewer than ``k - 1`` people.
    """

    def __init__(self, gallery: NDArray[np.uint8], people: NDArray[np.str_], *, k: int) -> None:
        names, self._person = np.unique(people, return_inverse=True)
        if k < 2 or k - 1 > len(names):
            raise ConfigError(
                f"k is {k}; it must be 2 or more and at most one above the gallery's {len(names)} people.",
                hint="4 to 10 are usual; give a larger gallery for more.",
            )
        self._gallery, self._k = gallery, k
        self._thumbnails = _thumbnails(gallery)

    @property
    def size(self) -> int:
        """Side in pixels of the aligned faces it takes and gives."""
        return int(self._gallery.shape[1])

    @property
    def fingerprint(self) -> str:
        """Name, version, settings and a hash of the gallery."""
        digest = hashlib.blake2b(np.ascontiguousarray(self._gallery).tobytes(), digest_size=16)
        return f"k-same-average/1 k={self._k} size={self.size} gallery={digest.hexdigest()}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Average a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        out = np.empty_like(images)
        for index, thumbnail in enumerate(_thumbnails(to_pixels(images))):
            order = np.argsort(np.square(self._thumbnails - thumbnail).sum(axis=1), kind="stable")
            _, first = np.unique(self._person[order], return_index=True)  # each person's nearest face
            nearest = order[np.sort(first)[: self._k - 1]]
            others = to_unit(self._gallery[nearest]).sum(axis=0)
            out[index] = (images[index] + others) / self._k
        return np.clip(out, 0.0, 1.0)


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images]
    grey = np.array(small, np.float32).mean(axis=-1)
    return np.asarray(grey.reshape(len(images), -1), np.float32)
