"""``privface doctor``: what this machine has, and what to do where something is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from privface.device import Device
from privface.errors import PrivfaceError
from privface.models.bundled import bundled_folder, bundled_models
from privface.models.specs import FACENET_FILES, facenet_file
from privface.threads import thread_count

State = Literal["ok", "note", "problem"]

_NEEDED = ("numpy", "opencv-python-headless", "pillow", "safetensors")

_DETECTOR = "facenet-pytorch"
"""Brings the weights of the face detector; the light install adds it without what it depends on."""

_OF_TRAIN = ("torch", "torchvision", "scikit-learn", "pandas", "pyarrow")
"""Shown by themselves where they are; where not, the extra ``train`` says so."""

_EXTRAS = {
    "train": (
        (*_OF_TRAIN, "lightning-fabric", "scikit-image", "scipy", "matplotlib"),
        "training, audits, erasers and reports",
    ),
    "onnx": (("onnx", "onnxscript", "onnx2torch"), "training against ONNX models, export"),
    "ray": (("ray",), "protect --engine ray"),
    "video": (("av",), "protect --video"),
    "app": (("gradio",), "the web page"),
    "track": (("tensorboard",), "TensorBoard files of training"),
}
"""Optional parts: their packages, and what they are for."""

_GIB = 2**30
_LITTLE, _TOO_LITTLE = 8 * _GIB, 1 * _GIB


@dataclass(frozen=True)
class Check:
    """One finding: of what, how it is (``note``: an optional part is missing), and what to do."""

    name: str
    state: State
    finding: str
    cure: str = ""


def checks() -> list[Check]:
    """All findings, in the order they are shown."""
    return [
        Check("python", "ok", platform.python_version()),
        Check("privface", "ok", version("privface")),
        *_packages(),
        _torch(),
        *_extras(),
        _onnx(),
        *_bundled(),
        *_weights(),
        *_folders(),
        _disk(),
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    for name in (*_NEEDED, _DETECTOR, *_OF_TRAIN):
        if found := _version(name):
            yield Check(name, "ok", found)
        elif name in _NEEDED:
            yield Check(name, "problem", "not installed", f"pip install {name}")
        elif name == _DETECTOR:
            cure = (
                f"To find faces in photos: pip install --no-deps {_DETECTOR}. Aligned crops work without it."
            )
            yield Check(name, "note", "not installed", cure)


def _torch() -> Check:
    if find_spec("torch") is None:
        return Check("device", "ok", f"cpu, {thread_count()} threads, in ONNX Runtime")
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = (
        torch.cuda.get_device_name(0)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    return Check("device", "ok", f"{named}; training in {Device.choose(device.type, 'auto').precision}")


def _extras() -> Iterator[Check]:
    for extra, (packages, use) in _EXTRAS.items():
        name = f"extra [{extra}]"
        missing = [package for package in packages if _version(package) is None]
        if not missing:
            yield Check(name, "ok", ", ".join(f"{package} {version(package)}" for package in packages))
            continue
        cure = f"For {use}: pip install 'privface[{extra}]'"
        yield Check(name, "note", f"not installed: {', '.join(missing)}", cure)


def _bundled() -> Iterator[Check]:
    try:
        models = bundled_models()
    except PrivfaceError as error:
        yield Check("bundled models", "problem", error.message, error.hint or "")
        return
    for model in models:
        try:
            folder = bundled_folder(model.spec)
        except PrivfaceError as error:
            yield Check(model.spec, "problem", error.message, error.hint or "")
        else:
            yield Check(model.spec, "ok", f"{model.role}, as it was shipped, in {folder}")


def _weights() -> Iterator[Check]:
    if find_spec("torch") is None:  # nothing could load them
        return
    for name in sorted(FACENET_FILES):
        file = facenet_file(name)
        if file.is_file():
            yield Check(f"facenet:{name}", "ok", str(file))
        else:
            cure = f"Only needed for this matcher: set PRIVFACE_DOWNLOAD=1, or put the file at {file}."
            yield Check(f"facenet:{name}", "note", "weights not here", cure)


def _disk() -> Check:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    finding = f"{free / _GIB:.1f} GiB free in {here}"
    if free < _TOO_LITTLE:
        return Check("disk", "problem", finding, "Free at least 1 GiB, or work on another disk.")
    if free < _LITTLE:
        return Check(
            "disk", "note", finding, "Enough for small sets; protected copies are as large as the originals."
        )
    return Check("disk", "ok", finding)


def _onnx() -> Check:
    try:
        runtime = importlib.import_module("onnxruntime")
    except (ImportError, RuntimeError, OSError) as error:
        return Check(
            "onnxruntime", "problem", f"does not import: {error}", "pip install --force-reinstall onnxruntime"
        )
    providers = runtime.get_available_providers()
    finding = f"{runtime.__version__}: {', '.join(providers)}"
    torch = sys.modules.get("torch")  # loaded above, unless it does not import
    if torch is not None and torch.cuda.is_available() and "CUDAExecutionProvider" not in providers:
        return Check(
            "onnxruntime",
            "note",
            f"{finding}; torch sees a GPU that it does not use",
            "pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )
    return Check("onnxruntime", "ok", finding)


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
