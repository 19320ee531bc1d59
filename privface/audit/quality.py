"""How much the pixels changed: PSNR and SSIM. They do not stand in for identity or for privacy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privface.audit.intervals import BootstrapParams, measure_mean
from privface.audit.subjects import AuditData
from privface.errors import AuditError
from privface.records import Measured

if TYPE_CHECKING:
    from privface.audit.context import Context

_WINDOW = 11
_SIGMA = 1.5


def psnr(original: NDArray[np.uint8], protected: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image, in decibels: ``10 log10(255^2 / MSE)``.

    Args:
        original: uint8 RGB, shape ``(N, H, W, 3)``.
        protected: The same photos protected, same shape.

    Returns:
        Shape ``(N,)``; ``inf`` where nothing changed.

    Raises:
        AuditError: If shapes or types differ.
    """
    _check(original, protected)
    errors = [np.mean(np.square(a.astype(np.float64) - b)) for a, b in zip(original, protected, strict=True)]
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(255.0**2 / np.array(errors, np.float64)), np.float64)


def ssim(original: NDArray[np.uint8], protected: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004).

    Mean SSIM of the BT.601 luma in a Gaussian 11 x 11 window of sigma 1.5, with K1 = 0.01, K2 = 0.03 and
    L = 255, over the positions where the window lies inside the image.

    Args:
        original: uint8 RGB, shape ``(N, H, W, 3)``, at least 11 x 11 pixels.
        protected: The same photos protected, same shape.

    Returns:
        Shape ``(N,)``, at most 1.

    Raises:
        AuditError: If shapes or types differ, or the images are smaller than the window.
    """
    _check(original, protected)
    if min(original.shape[1:3]) < _WINDOW:
        raise AuditError(
            f"SSIM needs images of {_WINDOW} x {_WINDOW} pixels or more, these are {original.shape[1:3]}.",
            hint="Audit larger face crops.",
        )
    from skimage import metrics  # noqa: PLC0415

    similarity = partial(
        metrics.structural_similarity,
        gaussian_weights=True,
        sigma=_SIGMA,
        use_sample_covariance=False,
        data_range=255.0,
    )
    luma = np.array([0.299, 0.587, 0.114])
    pairs = zip(original, protected, strict=True)
    return np.array([similarity(a @ luma, b @ luma) for a, b in pairs], np.float64)


def _check(original: NDArray[np.uint8], protected: NDArray[np.uint8]) -> None:
    for images in (original, protected):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise AuditError(
                f"Images must be uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}.",
                hint="Convert with privface.images.to_pixels.",
            )
    if original.shape != protected.shape:
        raise AuditError(
            f"Original images {original.shape} and protected images {protected.shape} differ in shape.",
            hint="Align both sets to the same size.",
        )


def run(context: Context) -> dict[str, Any]:
    """Section: ``quality`` of the protected photos, and the sizes of their files."""
    data, params = context.data, context.params
    if not isinstance(data, AuditData):
        none = Measured.undefined("templates were audited, not images")
        return {"quality": {"psnr": none, "ssim": none, "identical_images": 0}}
    sizes = _file_sizes(data, params)
    both = np.flatnonzero(data.enrolled_original & data.enrolled_protected)
    if not both.size:
        none = Measured.undefined("no photo is enrolled on both sides")
        return {"quality": {"psnr": none, "ssim": none, "identical_images": 0, **sizes}}
    a, b = data.original[both], data.protected[both]
    same = np.array([np.array_equal(x, y) for x, y in zip(a, b, strict=True)])
    people = data.identities[both]
    # PSNR of an unchanged photo is infinite, so they are counted instead of averaged
    decibels = _mean(psnr(a, b)[~same], people[~same], params, "no photo was changed")
    if min(a.shape[1:3]) < _WINDOW:
        similarity = Measured.undefined(f"the images are smaller than SSIM's window of {_WINDOW} pixels")
    else:
        similarity = _mean(ssim(a, b), people, params, "no photos")
    found = {"psnr": decibels, "ssim": similarity, "identical_images": int(same.sum()), **sizes}
    return {"quality": found}


def _file_sizes(data: AuditData, params: BootstrapParams) -> dict[str, Measured]:
    found = {}
    for title, sizes in (("bytes_original", data.bytes_original), ("bytes_protected", data.bytes_protected)):
        if sizes is not None:
            known = np.isfinite(sizes)
            found[title] = _mean(sizes[known], data.identities[known], params, "no file")
    return found


def _mean(
    values: NDArray[np.float64], people: NDArray[np.str_], params: BootstrapParams, reason: str
) -> Measured:
    return measure_mean(values, people, params) if values.size else Measured.undefined(reason)
