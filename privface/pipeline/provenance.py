"""What a run has met: the people, as short hashes, and the models, as its ``provenance.json`` says them."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from privface.data.splits import person_key
from privface.errors import CheckpointError
from privface.models.bundled import model_folder

PROVENANCE_FILE = "provenance.json"


def read_provenance(run: Path | str) -> dict[str, Any]:
    """What a run, or a model that comes with the package, was trained on and against.

    Raises:
        CheckpointError: If the file is missing or damaged.
        ModelError: If no model of that name comes with the package.
    """
    file = model_folder(run) / PROVENANCE_FILE
    content = None
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{run} has no readable {PROVENANCE_FILE}.",
            hint="Give a finished run folder of `privface train`.",
        )
    return content


def person_digest(identity: str) -> str:
    """Short hash of a person, so that a run can refuse its training people without naming them."""
    return hashlib.blake2b(person_key(identity).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
