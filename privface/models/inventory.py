"""Which models there are on this machine, and whether one loads and runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privface.models.loading import FACENET_FILES, facenet_file, load_gender_probe, load_matcher
from privface.models.protector import Protector


@dataclass(frozen=True)
class ModelEntry:
    """One row of ``privface models list``."""

    name: str
    kind: str
    present: bool
    where: str


def list_models() -> list[ModelEntry]:
    """Named models and the forms that take a path."""
    named = [
        ModelEntry(f"facenet:{w}", "matcher", facenet_file(w).is_file(), str(facenet_file(w)))
        for w in sorted(FACENET_FILES)
    ]
    return [
        *named,
        ModelEntry(
            "onnx:FILE[@SIDECAR.yaml]",
            "matcher or probe",
            True,
            "any ONNX file; the sidecar describes its input",
        ),
        ModelEntry("module:package.function", "matcher or probe", True, "your own nn.Module"),
        ModelEntry(
            "mini:FOLDER", "matcher or probe", True, "trained by privface (run/classifiers/0, demo/matcher)"
        ),
    ]


def verify_model(spec: str, *, probe: bool = False) -> tuple[str, str, str, str]:
    """Load a model and run one grey image through it.

    Args:
        spec: Specification, or a run folder of a protector.
        probe: Whether it is a gender classifier.

    Returns:
        Name, SHA-256, input and output in words.

    Raises:
        ModelError: If it does not load, or refuses the input that its InputSpec describes.
    """
    blank = np.full((1, 3, 112, 112), 0.5, np.float32)
    if ":" not in spec or Path(spec).is_dir():
        protector = Protector.load(Path(spec))
        out = protector(np.full((1, 3, protector.size, protector.size), 0.5, np.float32))
        return (
            Path(spec).name,
            protector.fingerprint,
            f"aligned RGB {protector.size} x {protector.size}",
            f"protected image {out.shape[2]} x {out.shape[3]}",
        )
    model = load_gender_probe(spec) if probe else load_matcher(spec)
    size = model.outputs(blank).shape[1]
    what = "gender score" if probe else f"embedding of {size}"
    return (
        model.name,
        model.fingerprint,
        f"{model.spec.channels} {model.spec.size[0]} x {model.spec.size[1]}",
        what,
    )
