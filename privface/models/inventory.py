"""Which models there are on this machine, and whether one loads and runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from numpy.typing import NDArray

from privface.errors import ModelError
from privface.models.bundled import bundled_models, file_sha256, find_bundled, is_bundled
from privface.models.checkpoint import CARD, WEIGHTS
from privface.models.onnx_models import OnnxMatcher, load_template_matcher
from privface.models.protectors import load_protector
from privface.models.specs import FACENET_FILES, facenet_file
from privface.records import FRAME

if TYPE_CHECKING:
    from privface.models.loading import GenderProbe, Matcher

FORMS = {
    "onnx:FILE[@SIDECAR.yaml]": "matcher or probe: any ONNX file; the sidecar describes its input",
    "module:package.function": "matcher or probe: your own nn.Module",
    "mini:FOLDER": "matcher or probe trained by privface (run/classifiers/0, demo/matcher)",
    "autoencoder:FOLDER": "encoder of method erased-code, or matcher: the code of `privface autoencoder train`",
}
"""How a model that has no name of its own is named."""

_FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
_FACENET_LICENCE = "MIT for the file; its training photos have terms of their own"
_UNSTATED = "not stated"
_MINI = {"matcher", "gender-classifier"}


@dataclass(frozen=True)
class ModelEntry:
    """One row of ``privface models list``: size and SHA-256 are ``None`` where the weights are not on this machine.

    ``name`` is how commands name it, ``where`` the path of the weights or where they belong, ``hides`` the attributes that it can
    hide, where it was trained with a choice.
    """

    name: str
    kind: str
    present: bool
    where: str
    bytes: int | None
    sha256: str | None
    licence: str
    source: str
    hides: tuple[str, ...] = ()


def list_models(folder: Path | None = None) -> list[ModelEntry]:
    """Models of the package, others with a name, the ONNX files under ``PRIVFACE_MODELS``, and those of privface anywhere below ``folder``."""
    if folder is not None and not folder.is_dir():
        raise ModelError(f"{folder} is no folder.", hint="Give a folder that holds models, such as runs.")
    return [*_bundled(), *_named(), *_third_party(), *(_trained(folder) if folder is not None else ())]


def _bundled() -> Iterator[ModelEntry]:
    for model in bundled_models():
        file = model.folder / WEIGHTS
        yield _entry(model.spec, model.role, file, licence=model.licence, source=model.source)


def _named() -> Iterator[ModelEntry]:
    for weights in sorted(FACENET_FILES):
        file = facenet_file(weights)
        source = _FACENET + file.name
        yield _entry(f"facenet:{weights}", "matcher", file, licence=_FACENET_LICENCE, source=source)
    package = importlib.util.find_spec("facenet_pytorch")
    for place in package.submodule_search_locations or () if package is not None else ():
        for part in ("pnet", "rnet", "onet"):
            file, source = Path(place) / "data" / f"{part}.pt", "comes with facenet-pytorch"
            yield _entry(f"MTCNN {part}", "detector", file, licence="MIT", source=source)


def _third_party() -> Iterator[ModelEntry]:
    root = os.environ.get("PRIVFACE_MODELS")
    if not root:
        return
    for file in sorted(Path(root).rglob("*.onnx")):
        described = "with" if file.with_suffix(".yaml").is_file() else "without"
        files = sorted(path.name for path in file.parent.glob("LICEN[CS]E*"))
        yield _entry(
            f"onnx:{file}",
            "matcher or probe",
            file,
            licence=f"see {files[0]}" if files else _UNSTATED,
            source=f"PRIVFACE_MODELS, {described} a sidecar",
        )


def _trained(folder: Path) -> Iterator[ModelEntry]:
    for card in sorted(folder.rglob(CARD)):
        if not (card.parent / WEIGHTS).is_file():
            continue
        try:
            content = yaml.safe_load(card.read_text(encoding="utf-8"))
            kind = str(content["kind"])
            hidden = (content.get("config") or {}).get("attributes") or ()
            hides = tuple(a if isinstance(a, str) else a["name"] for a in hidden)
        except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError):
            kind, hides = "damaged card", ()
        name = f"mini:{card.parent}" if kind in _MINI else str(card.parent)
        yield _entry(
            name, kind, card.parent / WEIGHTS, licence=_UNSTATED, source="trained by privface", hides=hides
        )


def _entry(
    name: str, kind: str, file: Path, *, licence: str, source: str, hides: tuple[str, ...] = ()
) -> ModelEntry:
    there = file.is_file()
    size, digest = (file.stat().st_size, file_sha256(file)) if there else (None, None)
    return ModelEntry(name, kind, there, str(file), size, digest, licence, source, hides)


def verify_model(spec: str, *, probe: bool = False) -> tuple[str, str, str, str]:
    """Load a model, or a protector from its run folder, and run one grey image through it; ``probe`` says that it is a gender classifier.

    Returns:
        Name; SHA-256 of the weights, or a protector's fingerprint; input and output in words.

    Raises:
        PrivfaceError: If it does not load, refuses its input, or is not what the package shipped.
    """
    role = find_bundled(spec).role if is_bundled(spec) else None
    if role == "protector" or (role is None and (":" not in spec or Path(spec).is_dir())):
        protector = load_protector(spec)
        out = protector(_grey(protector.size))
        eats, gives = (f"{side} x {side}" for side in (protector.size, out.shape[2]))
        return Path(spec).name, protector.fingerprint, f"aligned RGB {eats}", f"protected image {gives}"
    model: GenderProbe | Matcher | OnnxMatcher
    if role == "gender classifier" if role is not None else probe:
        from privface.models.loading import load_gender_probe  # noqa: PLC0415 - loads torch

        model, what = load_gender_probe(spec), "gender score"
        model.outputs(_grey(FRAME))
    else:
        model = load_template_matcher(spec)
        what = f"embedding of {model.embed(_grey(FRAME)).shape[1]}"
    height, width = model.spec.size
    return model.name, model.weights_sha256, f"{model.spec.channels} {height} x {width}", what


def _grey(side: int) -> NDArray[np.float32]:
    return np.full((1, 3, side, side), 0.5, np.float32)
