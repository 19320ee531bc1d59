"""ONNX Runtime: graphs with their weights inside, or given beside them. The only file that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privface.errors import MissingExtraError, ModelError
from privface.threads import thread_count


def open_session(
    model: Path | bytes,
    *,
    weights: Mapping[str, NDArray[np.float32]] | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Any:
    """An ONNX Runtime session of a file or of its content; a provider that silently fell back to the CPU is an error.

    Args:
        model: The file or its content.
        weights: Arrays by name, for a graph, given as bytes, that declares them as data outside of it. It need not declare all.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Threads of one operation; by default as many as there are (:func:`~privface.threads.thread_count`).

    Raises:
        MissingExtraError: If onnxruntime is not installed.
        ModelError: If it is no ONNX model, lacks weights, or the device's provider is missing.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 - heavy
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX models and the face detector need onnxruntime, which does not import ({error}).",
            hint="pip install --force-reinstall onnxruntime",
        ) from error

    provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or thread_count()
    # waiting threads would starve others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, bytes) else str(model)
    if weights is not None and isinstance(content, bytes):
        declared = [name for name in weights if _declares(content, name)]
        arrays = (np.ascontiguousarray(weights[name]) for name in declared)
        options.add_external_initializers(declared, [ort.OrtValue.ortvalue_from_numpy(one) for one in arrays])
    try:
        session = ort.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # onnxruntime raises bare C++ exceptions of many kinds
        raise ModelError(
            f"{'The model' if isinstance(model, bytes) else model.name} cannot be opened as an ONNX model ({str(error).splitlines()[0][:120]}).",
            hint="Export it with torch.onnx.export; pickles are not read.",
        ) from error
    if provider not in session.get_providers():
        raise ModelError(
            f"ONNX Runtime has no {provider} here; it offers {session.get_providers()}.",
            hint="Install onnxruntime-gpu or use --device cpu.",
        )
    return session


def _declares(graph: bytes, name: str) -> bool:
    """Whether a graph declares a weight: ONNX Runtime refuses others. In a Protobuf, text stands behind its length."""
    text = name.encode()
    size, length = len(text), bytearray()
    while size > 127:  # seven bits a byte, the lowest first
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([*length, size]) + text in graph


def session_outputs(session: Any, x: NDArray[np.float32], *, name: str) -> NDArray[np.float32]:
    """Run a one-input session on a batch and return its first output.

    Raises:
        ModelError: If the model refuses the batch.
    """
    try:
        out = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]
    except Exception as error:  # as above: wrong shapes arrive as bare C++ exceptions
        raise ModelError(
            f"{name} refused a batch of shape {x.shape} ({str(error).splitlines()[0][:160]}).",
            hint="Describe its size, channels and range in a YAML file of the same name (see docs: adding a matcher).",
        ) from error
    return np.asarray(out, dtype=np.float32)
