"""Models that come with the package, by name: ``bundled:erased``, ``bundled:matcher``, ``bundled:gender``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

from privface.errors import CheckpointError, ModelError

PREFIX = "bundled:"
"""How a specification of such a model begins."""

DEFAULT_PROTECTOR = "bundled:erased"
"""What ``privface protect`` and ``privface app`` take where no model is given."""

DEFAULT_MATCHER = "bundled:matcher"
"""The matcher of the package."""

MANIFEST = "manifest.json"
MODEL_CARD = "README.md"
SCHEMA = "privface.bundled/1"

Role: TypeAlias = Literal["protector", "matcher", "gender classifier"]

_ROOT = Path(str(resources.files("privface.models"))) / "weights"
_LEFT = {f"{PREFIX}san", f"{PREFIX}san-grey"}
_WHY_LEFT = "It left: attackers who are trained on its photos read gender from them with an AUC above 0.95."
_CURE = "Install privface again: pip install --force-reinstall --no-deps privface."


@dataclass(frozen=True)
class BundledModel:
    """A model of the package, as its manifest describes it.

    The ``folder`` is laid out like a run folder; the matcher lies in the protector's, as the encoder of its network. ``card`` is Markdown,
    ``files`` has the SHA-256 of every file that loading reads.
    """

    spec: str
    role: Role
    folder: Path
    card: Path
    licence: str
    source: str
    files: Mapping[str, str]


def is_bundled(spec: str | Path) -> bool:
    """Whether a specification or a path names a model of the package."""
    return str(spec).startswith(PREFIX)


def bundled_models() -> tuple[BundledModel, ...]:
    """Every model of the package, by name; their files are not looked at."""
    file = _ROOT / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        return tuple(
            BundledModel(
                f"{PREFIX}{name}",
                entry["role"],
                _ROOT / entry.get("folder", name),
                _ROOT / name / MODEL_CARD,
                str(entry["licence"]),
                str(entry["source"]),
                dict(entry["files"]),
            )
            for name, entry in sorted(manifest["models"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}, the list of models that come with privface, is missing or damaged ({error}).",
            hint=_CURE,
        ) from error


def find_bundled(spec: str | Path) -> BundledModel:
    """A model of the package by its name, ``bundled:NAME``.

    Raises:
        ModelError: If there is no such model; lists those there are.
        CheckpointError: If the manifest is missing or damaged.
    """
    models = {model.spec: model for model in bundled_models()}
    if str(spec) in models:
        return models[str(spec)]
    there = f"Models that do: {', '.join(models)}."
    raise ModelError(
        f"{str(spec)!r} does not come with privface.",
        hint=f"{_WHY_LEFT} {there}" if str(spec) in _LEFT else there,
    )


def bundled_folder(spec: str | Path) -> Path:
    """Folder of a model of the package, its files found to be those that were shipped.

    Raises:
        ModelError: If there is no such model.
        CheckpointError: If one of its files is missing or differs from what was shipped.
    """
    model = find_bundled(spec)
    for name, expected in model.files.items():
        file = model.folder / name
        if not file.is_file():
            raise CheckpointError(f"{model.spec}: {file} is missing.", hint=_CURE)
        found = file_sha256(file)
        if found != expected:
            raise CheckpointError(
                f"{model.spec}: {file} is not what was shipped; its SHA-256 is {found[:16]}..., expected {expected[:16]}...",
                hint=_CURE,
            )
    return model.folder


def model_folder(spec: str | Path) -> Path:
    """The folder of a protector: that of one of the package, or the path itself.

    Raises:
        PrivfaceError: As for :func:`bundled_folder`, or if that model is no protector.
    """
    if not is_bundled(spec):
        return Path(spec)
    if (role := find_bundled(spec).role) != "protector":
        raise ModelError(
            f"{spec} is a {role}; a protector is needed.", hint=f"{DEFAULT_PROTECTOR} comes with privface."
        )
    return bundled_folder(spec)


def model_card(spec: str | Path) -> str:
    """The model card, Markdown.

    Raises:
        ModelError: If there is no such model.
        CheckpointError: If the card is missing.
    """
    model = find_bundled(spec)
    try:
        return model.card.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{model.spec} has no card ({error.strerror}).", hint=_CURE) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
