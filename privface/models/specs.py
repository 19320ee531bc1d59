"""What specifications of models say before a network is built: ONNX files with their sidecars, and where facenet's weights lie."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PositiveInt, ValidationError, model_validator

from privface.config import Settings, refused
from privface.errors import ModelError
from privface.models.bundled import file_sha256
from privface.records import InputSpec

ONNX_SPEC = InputSpec(value_range=(0.0, 255.0))
"""What an ONNX model is taken to eat where no sidecar says otherwise."""

FACENET_FILES = {
    "vggface2": "20180402-114759-vggface2.pt",
    "casia-webface": "20180408-102900-casia-webface.pt",
}


def onnx_model(rest: str) -> dict[str, Any]:
    """Path, hash, input and name of an ONNX model and what its sidecar says, of ``FILE[@SIDECAR.yaml]``."""
    file, _, sidecar = rest.partition("@")
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"onnx:{file}: there is no such file.", hint="Give the path of an .onnx file.")
    if path.suffix.lower() != ".onnx":
        raise ModelError(
            f"{path.name} is not an .onnx file.",
            hint="Pickled weights are never loaded; export the model to ONNX first.",
        )
    side = Path(sidecar) if sidecar else path.with_suffix(".yaml")
    if sidecar and not side.is_file():
        raise ModelError(f"The sidecar {side} does not exist.", hint="Create it, or leave out @SIDECAR.")
    settings = read_sidecar(side) if side.is_file() else {"spec": ONNX_SPEC}
    return {
        "name": f"onnx:{path.stem}",
        "weights_sha256": _weights_sha256(path),
        "onnx_path": path,
        **settings,
    }


def _weights_sha256(path: Path) -> str:
    """SHA-256 of an ONNX file and of the files in its folder that it names as places of weights (ONNX's external data)."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    names = set()
    # in a Protobuf: a key, then the length of its value in one byte or two
    for entry in re.finditer(rb"\n\x08location\x12([\x80-\xff]?[\x01-\x7f])", content):
        length = sum((byte & 127) << 7 * place for place, byte in enumerate(entry[1]))
        names.add(content[entry.end() : entry.end() + length].decode(errors="replace"))
    for name in sorted(names):
        beside = path.parent / name
        if beside.is_file() and beside.resolve().is_relative_to(path.parent.resolve()):
            digest.update(file_sha256(beside).encode())
    return digest.hexdigest()


class Sidecar(Settings):
    """What a model's YAML sidecar may say: its input, and of a gender classifier how its output is read."""

    size: tuple[PositiveInt, PositiveInt] = ONNX_SPEC.size
    value_range: tuple[float, float] = ONNX_SPEC.value_range
    mean: tuple[float, float, float] = ONNX_SPEC.mean
    std: tuple[float, float, float] = ONNX_SPEC.std
    channels: Literal["RGB", "BGR", "GRAY"] = ONNX_SPEC.channels
    crop: tuple[float, float, float, float] = ONNX_SPEC.crop
    output: Literal["logit", "logits", "probabilities"] = "probabilities"
    male: Literal[0, 1] = 1

    @model_validator(mode="after")
    def _fits(self) -> Sidecar:
        x1, y1, x2, y2 = self.crop
        if not all(self.std) or x2 <= x1 or y2 <= y1:
            raise ValueError("std must not be zero, and of crop x1 < x2, y1 < y2")
        return self


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a model's YAML sidecar: ``spec``, and what else it says as keyword arguments of a gender classifier."""
    fields = f"Fields: {', '.join(Sidecar.model_fields)}."
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        said = Sidecar.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ModelError(refused(error, where=path.name).message, hint=fields) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ModelError(
            f"{path.name} is no readable YAML ({' '.join(str(error).split())}).", hint=fields
        ) from error
    reading: dict[str, Any] = {name: said.pop(name) for name in ("output", "male") if name in said}
    return {"spec": replace(ONNX_SPEC, **said), **reading}


def facenet_file(weights: str) -> Path:
    """Where the weights of a network of facenet-pytorch belong."""
    if weights not in FACENET_FILES:
        raise ModelError(f"facenet:{weights} does not exist.", hint=f"Choose one of {sorted(FACENET_FILES)}.")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()
    return home / "checkpoints" / FACENET_FILES[weights]
