"""A protector that asks for the true gender of every photo, together with a table of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privface.errors import LabelError
from privface.models.san2018 import WHY_GENDERS, San2018Protector
from privface.records import GENDERS, Gender


class LabelledProtector:
    """Protects photos by name: their genders come from a table.

    Folder jobs tell a protector with ``needs_keys`` which photo each image comes from, and ask it beforehand which
    photos it cannot protect.

    Args:
        protector: Asks for genders.
        genders: True gender of each photo by its key, the path below the root as a manifest writes it.

    Attributes:
        needs_keys: True.
        fingerprint: The protector's, with a hash of the table: another table, other photos.
        size: Side of the aligned images in pixels.
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
        """Protect a batch.

        Args:
            images: Aligned RGB, ``(N, 3, size, size)`` in [0, 1].
            keys: Key of the photo that each image comes from; needed.

        Returns:
            Same shape and range.

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
