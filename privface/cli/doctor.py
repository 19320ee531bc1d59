"""``privface doctor``: what this machine has, and what to do where something is missing."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``note`` (an optional part is missing) or ``problem``.
        finding: What was found.
        cure: What to do, empty where nothing is to be done.
    """

    name: str
    state: State
    finding: str
    cure: str = ""


def checks() -> list[Check]:
    """All findings, in the order they are shown."""
    return [
        Check("python", "ok", platform.python_version()),
        *_packages(),
        _torch(),
        _onnx(),
        *_folders(),
    ]


def _packages() -> Iterator[Check]:
    for name in (
        "torch",
        "torchvision",
        "facenet-pytorch",
        "scikit-learn",
        "pandas",
        "opencv-python-headless",
        "numpy",
        "pillow",
        "safetensors",
    ):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "problem", "not installed", f"pip install {name}")


def _torch() -> Check:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        return Check(
            "device",
            "problem",
            f"torch or torchvision does not import: {error}",
            "Install both from the same index in one command.",
        )
    trainer = importlib.import_module("privface.training.trainer")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = (
        torch.cuda.get_device_name(0)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    return Check("device", "ok", f"{named}; training in {trainer.pick_precision('auto', device)}")


def _onnx() -> Check:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return Check(
            "onnxruntime", "note", "not installed", "For ONNX matchers: pip install 'privface[onnx]'"
        )
    return Check(
        "onnxruntime", "ok", f"{runtime.__version__}: {', '.join(runtime.get_available_providers())}"
    )


def _folders() -> Iterator[Check]:
    for name, use in (
        ("PRIVFACE_DATA", "real photos for tests and experiments"),
        ("PRIVFACE_MODELS", "third-party ONNX models for them"),
    ):
        value = os.environ.get(name)
        if value is None:
            yield Check(name, "note", "not set", f"Only needed for {use}.")
        elif Path(value).is_dir():
            yield Check(name, "ok", value)
        else:
            yield Check(name, "problem", f"{value} is no folder", "Correct or unset the variable.")
