"""Simple protectors to compare with: blur, pixelation, noise.

None of them knows what gender looks like. They are the bar that a trained protector has to clear: at equal
matching, less leakage. There is no identity protector on purpose: an original never passes through.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from privface.errors import ConfigError
from privface.protect.protector import check_images
from privface.records import FRAME


@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian blur.

    Attributes:
        sigma: Standard deviation in pixels of an image of side ``size``, above 0.
        size: Side of the aligned faces in pixels.
    """

    sigma: float
    size: int = FRAME

    def __post_init__(self) -> None:
        _require_positive("sigma", self.sigma)
        _require_positive("size", self.size)

    @property
    def fingerprint(self) -> str:
        """Name, version and settings."""
        return f"gaussian-blur/1 sigma={self.sigma:g} size={self.size}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Blur a batch, float32 ``(N, 3, size, size)`` in [0, 1]; borders are replicated."""
        check_images(images, size=self.size)
        blurred: NDArray[np.float32] = gaussian_filter(
            images, sigma=(0, 0, self.sigma, self.sigma), mode="nearest"
        )
        return np.clip(blurred, 0.0, 1.0)


@dataclass(frozen=True)
class Pixelate:
    """Mosaic: every cell takes its mean colour.

    Attributes:
        cells: Cells per side, at least 1 and below ``size`` (``size`` cells would be the original).
        size: Side of the aligned faces in pixels; cells differ by at most one pixel where it does not divide.
    """

    cells: int
    size: int = FRAME

    def __post_init__(self) -> None:
        _require_positive("size", self.size)
        if not 1 <= self.cells < self.size:
            raise ConfigError(
                f"cells is {self.cells}; it must be at least 1 and below the side of {self.size} pixels.",
                hint="8 to 16 cells hide a face from the eye.",
            )

    @property
    def fingerprint(self) -> str:
        """Name, version and settings."""
        return f"pixelate/1 cells={self.cells} size={self.size}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixelate a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        edges = np.linspace(0, self.size, self.cells + 1).astype(np.int64)
        widths = np.diff(edges)
        sums = np.add.reduceat(images.astype(np.float64), edges[:-1], axis=2)
        means = np.add.reduceat(sums, edges[:-1], axis=3) / np.outer(widths, widths)
        means = np.clip(means, 0.0, 1.0).astype(np.float32)
        mosaic: NDArray[np.float32] = np.repeat(np.repeat(means, widths, axis=2), widths, axis=3)
        return mosaic


@dataclass(frozen=True)
class GaussianNoise:
    """Additive Gaussian noise, clipped to [0, 1].

    The noise of an image is drawn from a generator seeded by ``seed`` and the image's own content, so it
    depends neither on order nor on batch size, and differs from image to image.

    Attributes:
        sigma: Standard deviation in units of the [0, 1] range, above 0.
        seed: Chooses among noise fields.
        size: Side of the aligned faces in pixels.
    """

    sigma: float
    seed: int = 0
    size: int = FRAME

    def __post_init__(self) -> None:
        _require_positive("sigma", self.sigma)
        _require_positive("size", self.size)

    @property
    def fingerprint(self) -> str:
        """Name, version and settings."""
        return f"gaussian-noise/1 sigma={self.sigma:g} seed={self.seed} size={self.size}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add noise to a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        noisy = np.empty_like(images)
        for index, image in enumerate(images):
            key = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), salt=str(self.seed).encode()[:16])
            generator = np.random.default_rng(int.from_bytes(key.digest(), "big"))
            noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(self.sigma)
            noisy[index] = np.clip(image + noise, 0.0, 1.0)
        return noisy


def _require_positive(name: str, value: float) -> None:
    if not value > 0 or not np.isfinite(value):
        raise ConfigError(f"{name} is {value:g}; it must be above 0.", hint="At 0 the original would remain.")
