"""MTCNN's three networks: graphs of ours in ONNX Runtime, with the weights that lie in facenet-pytorch's wheel.

facenet-pytorch imports torch, so it is not imported: its files are found and read where it is installed. They are pickles of an
old layout of torch's. What reads them here knows the few names that a table of weights needs and refuses all others, so that no
file can run code.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import MissingExtraError, ModelError
from privface.sessions import open_session

NAMES = ("pnet", "rnet", "onet")
PACKAGE = "facenet_pytorch"
CURE = "pip install --no-deps facenet-pytorch; without it, aligned crops are protected (--faces aligned)."

Network: TypeAlias = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]
"""Normalised pixels ``(N, 3, H, W)`` to box offsets, landmarks (the third network's alone) and probabilities."""

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_GRAPHS = Path(str(resources.files("privface.faces"))) / "graphs"


def load_networks() -> tuple[Network, Network, Network]:
    """The three networks, one thread each call.

    Raises:
        MissingExtraError: If facenet-pytorch, whose wheel brings the weights, is not installed.
        ModelError: If a file is damaged.
    """
    first, second, third = map(_network, NAMES)
    return first, second, third


def weights(name: str) -> dict[str, NDArray[np.float32]]:
    """The weights of one network."""
    package = find_spec(PACKAGE)
    places = package.submodule_search_locations if package is not None else None
    file = Path(places[0]) / "data" / f"{name}.pt" if places else None
    if file is None or not file.is_file():
        raise MissingExtraError(
            "Faces cannot be looked for: facenet-pytorch, which brings the detector's weights, is not installed.",
            hint=CURE,
        )
    return read_state(file.read_bytes(), name=file.name)


def _network(name: str) -> Network:
    session = open_session(
        (_GRAPHS / f"{name}.onnx").read_bytes(), weights=weights(name), device="cpu", threads=1
    )
    outputs: Network = lambda images: session.run(None, {"images": images})  # noqa: E731
    return outputs


def read_state(content: bytes, *, name: str) -> dict[str, NDArray[np.float32]]:
    """Arrays by name of a state dict of float32 tensors, as torch wrote it before version 1.6.

    Args:
        content: The file: pickles of a magic number, a version, the writer, the tensors and their storages' names, then the storages.
        name: For messages.

    Raises:
        ModelError: If it is no such file, or names anything but tensors.
    """
    file = io.BytesIO(content)
    try:
        for expected in (_MAGIC, _PROTOCOL):
            _require(_Tensors(file).load() == expected, "another layout")
        _, tensors, keys = (_Tensors(file).load() for _ in range(3))
        storages = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = np.frombuffer(file.read(4 * count), "<f4", count)
        return {str(part): _array(storages[key], *where) for part, (key, *where) in tensors.items()}
    except Exception as error:  # a damaged pickle raises anything
        raise ModelError(
            f"{name} is no file of weights as facenet-pytorch 2.5 has them ({type(error).__name__}: {error}).",
            hint="pip install --force-reinstall --no-deps facenet-pytorch",
        ) from error


def _part(*parts: Any) -> tuple[Any, ...]:
    """Storage, offset, shape and strides of a tensor; in the place of torch's own function."""
    return parts[:4]


def _array(
    storage: NDArray[np.float32], offset: int, shape: Sequence[int], strides: Sequence[int]
) -> NDArray[np.float32]:
    offset, shape, strides = int(offset), tuple(map(int, shape)), tuple(map(int, strides))
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    inside = min(offset, *shape, *strides) >= 0 and last < len(storage)
    _require(inside, f"shape {shape} in {len(storage)} numbers")
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [4 * step for step in strides]).copy()


class _Tensors(pickle.Unpickler):
    """Reads what a state dict needs: no name leads to code of others."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _part,
            ("torch", "FloatStorage"): "FloatStorage",
        }
        _require((module, name) in known, f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> str:
        kind, storage, key, *_ = pid
        _require((kind, storage) == ("storage", "FloatStorage"), f"it holds a {kind} of {storage}")
        return str(key)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
