"""Erasers on disk: safetensors beside YAML. Pickle is never read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from privface.erasers.base import Eraser
from privface.errors import CheckpointError
from privface.images import write_atomic

WEIGHTS = "eraser.safetensors"
CARD = "eraser.yaml"
"""File in an eraser's folder that says what it is."""

_PEOPLE = "people"


@dataclass(frozen=True)
class SavedEraser:
    """A fitted eraser, ready to ``transform``, with what was written beside it: data and counts.

    ``people`` are hashes, ``(P,)``, of those it was fitted on, so that an audit can refuse them.
    """

    eraser: Eraser
    meta: Mapping[str, Any] = field(default_factory=dict)
    people: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


def save_eraser(
    folder: Path,
    eraser: Eraser,
    *,
    meta: Mapping[str, Any] | None = None,
    people: NDArray[np.uint64] | None = None,
) -> None:
    """Write ``eraser.safetensors`` and ``eraser.yaml`` into ``folder``; the same eraser gives the same bytes.

    Beside the fitted eraser stand plain values (``meta``) and hashes of the ``people`` that it was fitted on.

    Raises:
        OutputError: If the folder cannot be written.
        sklearn.exceptions.NotFittedError: If the eraser is not fitted.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in eraser.state().items()}
    arrays[_PEOPLE] = np.sort(np.empty(0, np.uint64) if people is None else people)
    card = {
        "method": eraser.method,
        "parameters": _plain(eraser.get_params()),
        "dimensions": int(eraser.n_features_in_),
        "classes": np.asarray(getattr(eraser, "classes_", [])).tolist(),
        "promise": dataclasses.asdict(eraser.stated()),
        "meta": _plain(meta or {}),
    }
    # arrays last: where they are, the folder is whole
    write_atomic(folder / CARD, yaml.safe_dump(card, sort_keys=True).encode())
    write_atomic(folder / WEIGHTS, save_safetensors(arrays))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with Python's numbers in place of NumPy's, which YAML does not know."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def load_eraser(folder: Path, methods: Mapping[str, type[Eraser]] | None = None) -> SavedEraser:
    """Read the folder of a fitted eraser, of one of ``methods``; by default those of privface.

    Raises:
        CheckpointError: If a file is missing, damaged, a pickle, or of an unknown method.
    """
    from privface.erasers import METHODS  # noqa: PLC0415 - the package names this function

    methods = METHODS if methods is None else methods
    if folder.is_file():
        raise CheckpointError(
            f"{folder.name} is a file; an eraser is a folder with {WEIGHTS} and {CARD}.",
            hint="Pickles are never loaded: they can run code.",
        )
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}.", hint="Give a folder made by `privface erase fit`."
            )
    try:
        card = yaml.safe_load((folder / CARD).read_text(encoding="utf-8"))
        method, dimensions = str(card["method"]), int(card["dimensions"])
        parameters, classes = dict(card["parameters"]), list(card["classes"])
        meta = dict(card.get("meta") or {})
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CARD} is damaged ({type(error).__name__}).", hint="Fit again or restore the file."
        ) from error
    if method not in methods:
        raise CheckpointError(
            f"{folder} holds the method {method!r}; known are {', '.join(methods)}.", hint="Fit again."
        )
    try:
        arrays = load_safetensors((folder / WEIGHTS).read_bytes())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not a safetensors file ({error}).",
            hint="Pickles are never loaded; restore or fit again.",
        ) from error
    people = arrays.pop(_PEOPLE, np.empty(0, np.uint64))
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise CheckpointError(f"{folder / WEIGHTS}: {bad[0]!r} is not finite.", hint="Fit again.")
    try:
        eraser = methods[method](**parameters).restore(arrays, dimensions=dimensions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: {WEIGHTS} does not fit {CARD} ({str(error).splitlines()[0][:160]}).",
            hint="The two files come from different fits.",
        ) from error
    if classes:
        eraser.classes_ = np.asarray(classes)
    missing = [name for name in eraser.arrays if not hasattr(eraser, name)]
    if missing:
        raise CheckpointError(f"{folder / WEIGHTS} has no {missing[0]!r}.", hint="Fit again.")
    return SavedEraser(eraser, meta, people)
