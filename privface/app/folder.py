"""The private folder of a running server: nobody else may look into it, and it is gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "privface-app-"
_LOCK = "lock"


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A folder of mode 0700 that is removed at the end; leftovers of killed servers are removed, too."""
    remove_leftovers(parent)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / _LOCK, mode=0o600),  # the kernel frees it even when we are killed
    ):
        yield Path(folder)


def remove_leftovers(parent: Path) -> None:
    """Remove folders of our user's servers that no longer run."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(Timeout, OSError):  # its server runs, or it has gone meanwhile
            ours = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if ours and (folder / _LOCK).is_file():  # without one, it is being made
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
