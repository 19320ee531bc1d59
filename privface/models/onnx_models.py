"""Models that run in ONNX Runtime alone: exported protectors, ONNX matchers, and graphs of models that come with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from privface.device import Device
from privface.errors import ModelError
from privface.models.bundled import DEFAULT_MATCHER, bundled_folder, is_bundled, model_folder
from privface.models.checkpoint import WEIGHTS
from privface.models.inputs import array_input, require_unit_images
from privface.models.specs import onnx_model
from privface.records import InputSpec
from privface.sessions import open_session, session_outputs

if TYPE_CHECKING:
    from privface.models.loading import Matcher

PREFIX = "privface."
"""How what a file says of itself begins."""

GRAPH, MATCHER_GRAPH = "model.onnx", "matcher.onnx"
"""Beside the weights of a model of the package: the protector's graph and its encoder's, without weights."""


class OnnxProtector:
    """A protector that runs in ONNX Runtime; needs neither the run folder nor torch.

    Args:
        content: What :func:`~privface.models.export.export_protector` wrote, or a graph of the package.
        name: For messages.
        weights: Of a graph of the package, which holds none.

    Attributes:
        fingerprint: SHA-256 of the content. With weights beside it, that of the network in torch and ``@onnxruntime``, as the two
            differ in the last bits.
        size: Side of the aligned faces it takes and gives, in pixels.
        strength: Scale of the change, built in.
        metadata: What the file says of itself.

    Raises:
        ModelError: If it is no ONNX model, or none of privface's.
    """

    def __init__(
        self, content: bytes, name: str, weights: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        self._content, self._name, self._weights = content, name, weights
        self._session = open_session(content, weights=weights)
        self.metadata = _said_by(self._session)
        self.strength = float(self.metadata.get(f"{PREFIX}strength", "1"))
        try:
            self.size = int(self.metadata[f"{PREFIX}size"])
        except (KeyError, ValueError):
            raise ModelError(
                f"{name} is no protector of privface: it does not say its size.",
                hint="Write it with `privface export RUN OUT.onnx`.",
            ) from None
        self.fingerprint = hashlib.sha256(content).hexdigest()
        if weights is not None:
            self.fingerprint = f"{self.metadata[f'{PREFIX}fingerprint']}@onnxruntime"

    @classmethod
    def load(cls, model: Path | str) -> OnnxProtector:
        """Read a file of :func:`~privface.models.export.export_protector`, or ``bundled:erased``.

        Raises:
            ModelError: If it is missing, no ONNX file, or none of privface's.
            CheckpointError: If a model of the package is not what was shipped.
        """
        if is_bundled(model):
            folder = model_folder(model)
            return cls((folder / GRAPH).read_bytes(), str(model), _weights(folder))
        path = Path(model)
        if not path.is_file():
            raise ModelError(f"{path} does not exist.", hint="Write it with `privface export RUN OUT.onnx`.")
        return cls(path.read_bytes(), path.name)

    def __reduce__(self) -> tuple[type[OnnxProtector], tuple[Any, ...]]:
        # a session cannot be copied to another process
        return OnnxProtector, (self._content, self._name, self._weights)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Protect aligned RGB images ``(N, 3, size, size)`` in [0, 1]; same shape and range out.

        Raises:
            InputRangeError: If shape, type or range break the contract.
        """
        require_unit_images(images, what="images to protect")
        return session_outputs(self._session, images, name=self._name)


class OnnxMatcher:
    """A face matcher in ONNX Runtime, as far as making templates goes; what it gives and is called is what the one in torch is."""

    def __init__(self, session: Any, *, spec: InputSpec, name: str, weights_sha256: str) -> None:
        self._session, self.spec, self.name, self.weights_sha256 = session, spec, name, weights_sha256
        self.fingerprint = hashlib.sha256(repr((weights_sha256, spec)).encode()).hexdigest()

    @classmethod
    def load(cls, spec: str) -> OnnxMatcher:
        """The matcher of the package, or ``onnx:FILE[@SIDECAR.yaml]``; others need torch.

        Raises:
            ModelError: If it cannot be loaded.
            CheckpointError: If the matcher of the package is not what was shipped.
        """
        kind, _, rest = spec.partition(":")
        if spec == DEFAULT_MATCHER:
            folder = bundled_folder(spec)
            session = open_session((folder / MATCHER_GRAPH).read_bytes(), weights=_weights(folder))
            told = _said_by(session)
            low, high = map(float, told[f"{PREFIX}range"].split())
            shown = InputSpec(value_range=(low, high))
            return cls(session, spec=shown, name=spec, weights_sha256=told[f"{PREFIX}fingerprint"])
        if kind != "onnx" or not rest:
            import torch  # noqa: F401, PLC0415 - says that it is missing

            raise ModelError(
                f"{spec!r} has no form for ONNX Runtime.", hint=f"Use {DEFAULT_MATCHER} or onnx:FILE."
            )
        found = onnx_model(rest)
        names = ("spec", "name", "weights_sha256")
        return cls(open_session(found["onnx_path"]), **{name: found[name] for name in names})

    def embed(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings ``(N, D)``, not normalised, for ``(N, 3, H, W)`` in [0, 1].

        Raises:
            InputRangeError: If shape or range break the contract.
            ModelError: If the network refuses the input its InputSpec describes.
        """
        require_unit_images(images, what=f"images for {self.name}")
        return session_outputs(self._session, array_input(images, self.spec), name=self.name)


def load_template_matcher(spec: str, device: Device = Device()) -> Matcher | OnnxMatcher:  # noqa: B008 - frozen
    """A matcher to make templates with: in torch, on ``device``, where that is installed, else in ONNX Runtime.

    Takes what :func:`~privface.models.load_matcher` does; in ONNX Runtime ``bundled:matcher`` or ``onnx:FILE[@SIDECAR.yaml]``.
    """
    if find_spec("torch") is None:
        return OnnxMatcher.load(spec)
    from privface.models.loading import load_matcher  # noqa: PLC0415 - loads torch

    return load_matcher(spec).on(device)


def _said_by(session: Any) -> dict[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)


def _weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Weights of a model of the package, by name, in single precision."""
    stored = load_file(folder / WEIGHTS)
    return {name: array.astype(np.float32) for name, array in stored.items() if array.dtype.kind == "f"}
