"""Results kept by content hash, so that a second audit of the same originals costs only the protected side.

Off unless a folder is named: what it holds (embeddings and probe scores of originals) is biometric data.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privface.errors import ConfigError, OutputError
from privface.images import write_atomic

_FORMAT = "privface.audit.cache/1"


class Cache:
    """A folder of NumPy archives named by the hash of what they were computed from.

    Args:
        folder: Where to keep results; made with access for its owner only. ``None`` keeps nothing.

    Raises:
        ConfigError: If the path is a file.
        OutputError: If the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"The cache {folder} is a file.", hint="Name a folder.")
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise OutputError(
                    f"Cannot make the cache {folder}: {error.strerror}.",
                    hint="Choose a folder that you may write to.",
                ) from error
        self._folder = folder

    def __contains__(self, key: tuple[object, ...]) -> bool:
        """Whether there is an entry, damaged or not."""
        return self._folder is not None and (self._folder / f"{digest_of(key)}.npz").is_file()

    def arrays(
        self, key: tuple[object, ...], compute: Callable[[], Mapping[str, NDArray[Any]]]
    ) -> Mapping[str, NDArray[Any]]:
        """The arrays computed for ``key`` before, else those that ``compute`` gives.

        A damaged entry counts as missing.

        Args:
            key: Everything the result depends on, as texts, numbers and arrays.
            compute: Gives arrays by name; called only where there is no entry.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{digest_of(key)}.npz"
        if (found := _read(path)) is not None:
            return found
        result = dict(compute())
        buffer = io.BytesIO()
        np.savez(buffer, **result)  # type: ignore[arg-type]  # the stub takes `allow_pickle` for an array
        write_atomic(path, buffer.getvalue())
        return result


def digest_of(key: tuple[object, ...]) -> str:
    """A hash of texts, numbers and arrays."""
    digest = hashlib.blake2b(_FORMAT.encode(), digest_size=20)
    for part in key:
        if isinstance(part, np.ndarray):
            digest.update(f"array {part.dtype.str} {part.shape}\0".encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            digest.update(f"{type(part).__name__} {part!r}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(path: Path) -> Mapping[str, NDArray[Any]] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError):
        return None
