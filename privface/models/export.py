"""Perturbation models as ONNX files: one graph, the batch free, checked against torch before anybody may use it."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privface import __version__
from privface.errors import ConfigError, ModelError
from privface.images import write_atomic
from privface.models.onnx_backend import extra, to_onnx
from privface.models.onnx_models import PREFIX
from privface.models.protectable import Protectable
from privface.models.protector import Protector
from privface.sessions import open_session, session_outputs

TOLERANCE = 1e-4
"""Largest difference in [0, 1] between ONNX Runtime and torch that an export may show; a fortieth of an 8-bit step."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote: the file, its size, the largest difference to torch in [0, 1], and what the file says of itself."""

    path: Path
    bytes: int
    difference: float
    metadata: dict[str, str]


def export_protector(run: Path | str, out: Path, *, strength: float = 1.0, **choices: Any) -> ExportSummary:
    """Write a trained model as one ONNX file: input ``images`` float32 ``(N, 3, size, size)`` in [0, 1], output ``protected`` alike.

    The file is written only if ONNX Runtime and torch agree on drawn images in several batch sizes. Its metadata
    tells size, strength, the model's fingerprint and the version that wrote it. Strength and ``choices``, as for :meth:`Protector.load`, are built
    into the graph, which draws nothing: a variational code is its mean, an input is not corrupted. A randomised protection needs the run folder.

    Raises:
        ConfigError: If ``out`` does not end in ``.onnx``.
        CheckpointError: If the run cannot be loaded.
        MissingExtraError: If an ONNX package is missing.
        ModelError: If the network cannot be exported or the two disagree.
        OutputError: If the file cannot be written.
    """
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"{out} does not end in .onnx.", hint="Name the file so.")
    content, difference, metadata = exported(Protector.load(run, strength=strength, **choices))
    write_atomic(out, content)
    return ExportSummary(out, len(content), difference, metadata)


def exported(protector: Protector) -> tuple[bytes, float, dict[str, str]]:
    """A model as ONNX, its largest difference to torch, and what it says of itself.

    Raises:
        MissingExtraError: If an ONNX package is missing.
        ModelError: If the network cannot be exported or the two disagree.
    """
    metadata = {
        f"{PREFIX}version": __version__,
        f"{PREFIX}size": str(protector.size),
        f"{PREFIX}strength": f"{protector.strength:g}",
        f"{PREFIX}fingerprint": protector.fingerprint,
    }
    content = _graph(_Exported(protector.network, protector.strength), protector.size, metadata)
    difference = _parity(protector, content)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"ONNX Runtime differs from torch by {difference:.2g}, the limit is {TOLERANCE:g}; nothing was written.",
            hint="Use the run folder with --runtime torch, and report the model.",
        )
    return content, difference, metadata


class _Exported(nn.Module):
    def __init__(self, network: Protectable, strength: float) -> None:
        super().__init__()
        self.network, self.strength = network.exportable(), strength

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.network(images, strength=self.strength)).clamp(0.0, 1.0)


def _graph(network: nn.Module, size: int, metadata: dict[str, str]) -> bytes:
    onnx, _ = extra("onnx", "onnxscript", what="An export")  # torch's exporter asks late for the second
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # the exporter reports there
            model = to_onnx(network.eval(), (size, size), input_names=["images"], output_names=["protected"])
        for node in model.graph.node:  # it says where the exporter's own source lies, and in which line
            node.ClearField("metadata_props")
    except Exception as error:  # the exporter raises whatever an operator raised
        raise ModelError(
            f"The network cannot be exported ({str(error).splitlines()[0][:160]}).",
            hint="Use the run folder; not every kind of code has an ONNX form.",
        ) from error
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _parity(protector: Protector, content: bytes) -> float:
    """Largest difference between the graph and torch on drawn images, noise and plain ones among them."""
    rng = np.random.default_rng(0)
    session = open_session(content)
    worst = 0.0
    for count in (1, 3, 8):
        images = rng.random((count, 3, protector.size, protector.size), np.float32)
        images[0] = np.linspace(0, 1, protector.size, dtype=np.float32)
        found = session_outputs(session, images, name="the export")
        worst = max(worst, float(np.abs(found - protector(images)).max()))
    return worst
