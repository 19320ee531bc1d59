"""What matchers and attribute classifiers have in common: a network, an InputSpec, two ways to run."""

from __future__ import annotations

import copy
import hashlib
import logging
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.device import Device
from privface.errors import ModelError
from privface.models import onnx_backend
from privface.models.frozen import frozen
from privface.models.inputs import require_unit_images, to_input
from privface.records import FRAME, InputSpec
from privface.sessions import open_session, session_outputs
from privface.threads import map_parts

logger = logging.getLogger(__name__)


class FaceModel(nn.Module):
    """A network that reads aligned faces and converts them to its own input by itself.

    Calling the module is differentiable with respect to the images. :meth:`outputs` scores NumPy batches
    without autograd; a model that came as ONNX is scored by ONNX Runtime and converted to torch only
    when it is first called, or by :meth:`frozen`.

    Args:
        network: Maps ``(N, C, *spec.size)`` to ``(N, K)``; ``None`` for an ONNX model not converted yet.
        spec: What the network expects.
        name: Short name for tables, such as ``onnx:matcher_a``.
        weights_sha256: Says whether a protector has met this model, however it is used.
        seen: Whether the audited protector was trained against it; ``None`` if unknown.
        onnx_path: The ONNX file, if there is one.

    Attributes:
        device: Where it computes; ``None`` for a model as it was loaded.
    """

    def __init__(
        self,
        network: nn.Module | None,
        *,
        spec: InputSpec,
        name: str,
        weights_sha256: str,
        seen: bool | None = None,
        onnx_path: Path | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec, self.name, self.weights_sha256, self.seen = spec, name, weights_sha256, seen
        self.onnx_path = onnx_path
        self.read: tuple[object, ...] = ()  # which output, and how
        self._session: Any = None
        self.device: Device | None = None

    def on(self, device: Device) -> Self:
        """The model where it computes on that device.

        On the CPU in fp32 it is the model as it was loaded, but for an ONNX graph that is faster in torch. Elsewhere a copy computes in
        torch; an ONNX model that cannot be converted stays where it was, with a warning.
        """
        if device.is_plain:
            slow = self.onnx_path is not None and onnx_backend.is_faster_in_torch(self.onnx_path)
            return self._in_torch(device) if slow else self
        try:
            return self.frozen(device)
        except ModelError as error:
            logger.warning("%s computes on the CPU in fp32: %s", self.name, error.message)
            return self

    def _in_torch(self, device: Device) -> Self:
        """A copy that computes in torch, where that gives what ONNX Runtime does; else the model itself."""
        grey = np.full((1, 3, FRAME, FRAME), 0.5, np.float32)
        try:
            made = self.frozen(device)
            agrees = np.allclose(made.outputs(grey), self.outputs(grey), rtol=1e-3, atol=1e-3)
        except Exception:  # graphs of others fail in many ways
            return self
        return made if agrees else self

    def frozen(self, device: Device) -> Self:
        """A copy whose network is frozen for that device (:func:`privface.models.frozen.frozen`): fast to differentiate through.

        Raises:
            ModelError: If it came as ONNX and cannot be converted.
        """
        made = copy.copy(self)
        made.__dict__ |= {"_modules": {"network": frozen(self.source, device)}, "device": device}
        return made

    @property
    def source(self) -> Path | nn.Module:
        """What it was made of: the ONNX file, or else the network."""
        source = self.onnx_path or self.network
        assert source is not None  # noqa: S101 - one of them is given
        return source

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, InputSpec and which output is read: what its answers depend on. Names what is kept of them."""
        return hashlib.sha256(repr((self.weights_sha256, self.spec, *self.read)).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: all but the ONNX Runtime session, which cannot be copied and is reopened."""
        return {**self.__dict__, "_session": None}

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs ``(N, K)`` for aligned RGB images ``(N, 3, H, W)`` in [0, 1]; differentiable."""
        if self.network is None:
            self.network = onnx_backend.to_torch(self.source).to(images.device)
        out: Tensor = self.network(to_input(images, self.spec))
        if out.ndim != 2 or out.shape[0] != images.shape[0]:
            raise ModelError(
                f"{self.name} gave shape {tuple(out.shape)} for {images.shape[0]} images; expected (N, K).",
                hint="Wrap the network so that it returns one vector an image.",
            )
        return out

    def outputs(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw outputs ``(N, K)`` for a NumPy batch ``(N, 3, H, W)`` in [0, 1], without autograd.

        Raises:
            InputRangeError: If shape or range break the contract.
            ModelError: If the network refuses the input its InputSpec describes.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        require_unit_images(batch, what=f"images for {self.name}")
        if self.device is not None:
            place, parts = self.device.name, torch.split(batch, self.device.at_once)
            return np.concatenate(map_parts(lambda part: self._scored(part, place), parts))
        with torch.inference_mode():
            if self.onnx_path is None:
                # training moves its models to where it computes
                return self._scored(batch, next(self.parameters(), batch).device)
            if self._session is None:
                self._session = open_session(self.onnx_path)
            return session_outputs(self._session, to_input(batch, self.spec).numpy(), name=self.name)

    def _scored(self, batch: Tensor, place: torch.device | str) -> NDArray[np.float32]:
        with torch.inference_mode():
            outputs: NDArray[np.float32] = self(batch.to(place)).float().cpu().numpy()
        return outputs


def network_sha256(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
