"""What a stopped training goes on from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from privface.errors import CheckpointError
from privface.images import write_atomic

RESUME_FILE = "resume.ckpt"
"""Name of the checkpoint in a model folder."""


def write_checkpoint(path: Path, key: str, parts: Mapping[str, Any], **values: Any) -> None:
    """Replace a checkpoint at once; a kill leaves the old one or the new one.

    It holds networks and optimisers (``parts``), tensors and plain ``values``, and the settings to go on with (``key``).
    """
    buffer = io.BytesIO()
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, **values, "key": key}, buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(
    path: Path, key: str, parts: Mapping[str, Any], *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Put the parts back as they were, and give the values; nothing but tensors and plain values is unpickled."""
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name} to resume from.", hint="Start without --resume."
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises zipfile, pickle and runtime errors alike
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}).", hint="Delete it and start again."
        ) from error
    if state["key"] != key:
        raise CheckpointError(
            f"{path} was made with other settings.",
            hint="Resume with the settings that the training began with, or write to another folder.",
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state
