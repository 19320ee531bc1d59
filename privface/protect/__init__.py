"""Applies a protector to folders of photos: batched, resumable, with a manifest row for every file."""

from privface.options import ProtectOptions
from privface.protect.baselines import (
    BASELINES,
    DownUpSample,
    GaussianBlur,
    GaussianNoise,
    JPEGCompression,
    KSameAverage,
    Pixelate,
    is_baseline,
    load_baseline,
)
from privface.protect.folder import ProtectSummary, protect_folder
from privface.protect.manifest import STATUSES, ManifestRow, Status, read_manifest, write_manifest
from privface.protect.photo import protect_photo
from privface.protect.protector import ImageProtector, check_images

__all__ = [
    "BASELINES",
    "STATUSES",
    "DownUpSample",
    "GaussianBlur",
    "GaussianNoise",
    "ImageProtector",
    "JPEGCompression",
    "KSameAverage",
    "ManifestRow",
    "Pixelate",
    "ProtectOptions",
    "ProtectSummary",
    "Status",
    "check_images",
    "is_baseline",
    "load_baseline",
    "protect_folder",
    "protect_photo",
    "read_manifest",
    "write_manifest",
]
