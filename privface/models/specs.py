"""What specifications of models say before a network is built: ONNX files with their sidecars, and where facenet's weights lie."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

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
    """Path, hash, input and name of an ONNX model and what its sidecar says, of ``FILE[@SIDECAR.yaml]``.

    Raises:
        ModelError: If there is no such file, or the sidecar is wrong.
    """
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
        "weights_sha256": file_sha256(path),
        "onnx_path": path,
        **settings,
    }


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a model's YAML sidecar: InputSpec fields, and ``output`` and ``male`` for gender classifiers.

    Raises:
        ModelError: If the file is no YAML mapping or a field is unknown or malformed; lists the fields.
    """
    known = {"size", "value_range", "mean", "std", "channels", "crop"}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ModelError(
            f"{path.name} is not readable YAML ({str(error).splitlines()[0]}).",
            hint=f"Fields: {sorted(known)}, output, male.",
        ) from error
    if not isinstance(content, dict) or (unknown := set(content) - known - {"output", "male"}):
        what = f"unknown field {sorted(unknown)[0]!r}" if isinstance(content, dict) else "not a mapping"
        raise ModelError(f"{path.name}: {what}.", hint=f"Fields: {sorted(known)}, output, male.")
    settings: dict[str, Any] = {k: content[k] for k in ("output", "male") if k in content}
    fields: dict[str, Any] = {}
    lengths = {"size": 2, "value_range": 2, "mean": 3, "std": 3, "crop": 4}
    for key in sorted(known & set(content)):
        value = content[key]
        if key == "channels":
            if value not in {"RGB", "BGR", "GRAY"}:
                raise ModelError(f"{path.name}: channels={value!r}.", hint="Use RGB, BGR or GRAY.")
            fields[key] = value
            continue
        kind = int if key == "size" else float
        if (
            not isinstance(value, list)
            or len(value) != lengths[key]
            or not all(isinstance(v, int | float) and math.isfinite(v) for v in value)
        ):
            raise ModelError(
                f"{path.name}: {key}={value!r} is not a list of {lengths[key]} numbers.",
                hint=f"Example: {key}: {list(getattr(ONNX_SPEC, key))}.",
            )
        fields[key] = tuple(kind(v) for v in value)
    if min(fields.get("size", (1, 1))) < 1 or min(map(abs, fields.get("std", (1.0,)))) == 0:
        raise ModelError(f"{path.name}: size must be positive and std not zero.", hint="Correct the sidecar.")
    x1, y1, x2, y2 = fields.get("crop", ONNX_SPEC.crop)
    if x2 <= x1 or y2 <= y1:
        raise ModelError(
            f"{path.name}: crop={[x1, y1, x2, y2]} is empty.",
            hint="Write x1, y1, x2, y2 with x1 < x2, y1 < y2.",
        )
    settings["spec"] = replace(ONNX_SPEC, **fields)
    return settings


def facenet_file(weights: str) -> Path:
    """Where the weights of a network of facenet-pytorch belong.

    Raises:
        ModelError: If there are none of that name.
    """
    if weights not in FACENET_FILES:
        raise ModelError(f"facenet:{weights} does not exist.", hint=f"Choose one of {sorted(FACENET_FILES)}.")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()
    return home / "checkpoints" / FACENET_FILES[weights]
