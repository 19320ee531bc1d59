"""Model specifications as people write them: ``bundled:``, ``facenet:``, ``onnx:``, ``module:``, ``mini:`` and ``autoencoder:``."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.errors import ModelError
from privface.models import checkpoint, erased_code
from privface.models.bundled import bundled_folder, find_bundled, is_bundled
from privface.models.face_model import FaceModel, network_sha256
from privface.models.family import Autoencoder, CodeReader
from privface.models.networks import CompactResNet, FaceEncoder
from privface.models.specs import facenet_file, onnx_model
from privface.records import FRAME, InputSpec

FACE_BOX = (16.4, 11.2, 93.0, 116.9)
"""Median MTCNN box in the ArcFace frame, measured on 10,349 LFW photos: for models trained on plain boxes."""

FACENET_SPEC = InputSpec(size=(160, 160), value_range=(-0.99609375, 0.99609375), crop=FACE_BOX)
"""facenet-pytorch's fixed standardisation ``(pixel - 127.5) / 128`` on an MTCNN box."""

_FORMS = (
    "bundled:NAME, facenet:vggface2, facenet:casia-webface, onnx:FILE[@SIDECAR.yaml], module:package.function, "
    "mini:FOLDER, autoencoder:FOLDER"
)


class Matcher(FaceModel):
    """A face matcher: images to embeddings whose cosine similarity is the comparison score."""

    def embed(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings ``(N, D)``, not normalised, for ``(N, 3, H, W)`` in [0, 1]."""
        return self.outputs(images)


class GenderProbe(FaceModel):
    """A frozen gender classifier; its output is a male logit, or female/male logits or probabilities.

    Args:
        output: ``"logit"`` (one column, positive = male), ``"logits"`` or ``"probabilities"`` (two columns).
        male: Column of the male class where there are two.
    """

    def __init__(
        self, network: nn.Module | None, *, output: str = "logit", male: int = 1, **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.output, self.male = output, male
        self.read = output, male

    def logit(self, images: Tensor) -> Tensor:
        """Log-odds of "male", shape ``(N,)``, differentiable."""
        return self._log_odds(self(images))

    def male_scores(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds of "male", shape ``(N,)``, for a NumPy batch ``(N, 3, H, W)`` in [0, 1]."""
        raw = torch.from_numpy(self.outputs(images)).double()
        return self._log_odds(raw).numpy()

    def _log_odds(self, raw: Tensor) -> Tensor:
        columns = 1 if self.output == "logit" else 2
        if raw.shape[1] != columns:
            raise ModelError(
                f"{self.name} has {raw.shape[1]} output columns; output={self.output!r} means {columns}.",
                hint="Set `output:` in its YAML sidecar.",
            )
        if columns == 1:
            return raw[:, 0]
        if self.output == "probabilities":
            raw = torch.log(raw.clamp_min(1e-7))
        return raw[:, self.male] - raw[:, 1 - self.male]


def load_matcher(spec: str, *, seen: bool | None = None) -> Matcher:
    """Load a face matcher.

    Args:
        spec: ``bundled:matcher`` (comes with the package), ``facenet:vggface2`` or ``facenet:casia-webface`` (facenet-pytorch, which downloads its weights
            once), ``onnx:FILE[@SIDECAR.yaml]``, ``module:package.function`` (called without arguments, returns
            an ``nn.Module``; its attribute ``input_spec`` is used if present), ``mini:FOLDER`` (trained here) or
            ``autoencoder:FOLDER`` (of `privface autoencoder train`; its code is the embedding).
        seen: Whether the protector under audit was trained against it.

    Raises:
        ModelError: If the form is unknown or the weights are missing; says which file goes where.
    """
    kind, _, rest = spec.partition(":")
    if kind == "facenet":
        return Matcher(**_described(_facenet(rest), FACENET_SPEC, spec), seen=seen)
    if kind == "autoencoder" and rest:
        return Matcher(**_autoencoder(Path(rest)), seen=seen)
    loaded = _load_common(spec, kind, rest, mini="matcher")
    loaded.pop("output", None)
    loaded.pop("male", None)
    return Matcher(**loaded, seen=seen)


def load_gender_probe(spec: str, *, seen: bool | None = None) -> GenderProbe:
    """Load a frozen gender classifier; same forms as :func:`load_matcher`, except ``facenet:``, and ``bundled:gender``.

    A sidecar may add ``output: logit | logits | probabilities`` (default for ONNX: probabilities) and
    ``male: 0 | 1``, the column of the male class (default 1).

    Raises:
        ModelError: As for matchers.
    """
    kind, _, rest = spec.partition(":")
    loaded = _load_common(spec, kind, rest, mini="gender-classifier")
    if kind == "onnx":
        loaded.setdefault("output", "probabilities")
    return GenderProbe(**loaded, seen=seen)


def _described(network: nn.Module, spec: InputSpec, name: str) -> dict[str, Any]:
    """A network of torch, frozen, as :class:`FaceModel` takes it."""
    network.eval().requires_grad_(False)
    return {"network": network, "spec": spec, "name": name, "weights_sha256": network_sha256(network)}


def _load_common(spec: str, kind: str, rest: str, *, mini: str) -> dict[str, Any]:
    if rest and kind == "onnx":
        return {"network": None, **onnx_model(rest)}
    if rest and kind == "module":
        return _module(rest)
    if rest and kind == "mini":
        return _mini(rest, kind=mini)
    if rest and is_bundled(spec):
        return _bundled(spec, kind=mini)
    raise ModelError(f"{spec!r} is not a model specification.", hint=f"Use one of: {_FORMS}.")


def _module(rest: str) -> dict[str, Any]:
    module_name, _, function = rest.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"module:{rest} cannot be imported ({error}).",
            hint="Give module:package.module.function, importable from here.",
        ) from error
    try:
        network = factory()
    except Exception as error:  # a stranger's code may raise anything
        raise ModelError(
            f"module:{rest} failed when it was called ({type(error).__name__}: {error}).",
            hint="It must be callable without arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"module:{rest} returned a {type(network).__name__}; expected an nn.Module.",
            hint="Return the network itself.",
        )
    spec = getattr(network, "input_spec", InputSpec())
    if not isinstance(spec, InputSpec):
        raise ModelError(
            f"module:{rest} has an input_spec of type {type(spec).__name__}.",
            hint="Make it a privface.records.InputSpec.",
        )
    return _described(network, spec, f"module:{function}")


def _mini(rest: str, *, kind: str) -> dict[str, Any]:
    folder = Path(rest)
    student = kind == "matcher" and checkpoint.load_network(folder).kind == FaceEncoder.kind
    saved = checkpoint.load_network(folder, kind=FaceEncoder.kind if student else kind)
    network = checkpoint.build(FaceEncoder if student else CompactResNet, saved, where=folder)
    size = int(saved.meta.get("input_size", FRAME))
    crop = tuple(float(v) for v in saved.meta.get("crop", (0, 0, FRAME, FRAME)))
    spec = InputSpec(size=(size, size), value_range=(-1.0, 1.0), crop=crop)  # type: ignore[arg-type]
    return _described(network, spec, f"mini:{folder.name}")


def _autoencoder(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise ModelError(
            f"autoencoder:{folder}: there is no such folder.",
            hint="Give one that `privface autoencoder train` has written.",
        )
    saved = checkpoint.load_network(folder, kind=Autoencoder.kind)
    reader = CodeReader.of(checkpoint.build(Autoencoder, saved, where=folder))
    return _described(reader, reader.spec, f"autoencoder:{folder.name}")


def _bundled(spec: str, *, kind: str) -> dict[str, Any]:
    folder = bundled_folder(spec)
    if kind != "matcher" or folder == find_bundled(spec).card.parent:
        return {**_mini(str(folder), kind=kind), "name": spec}
    # in the protector's folder, as its encoder: weights need not come twice
    saved = checkpoint.load_network(folder, kind=erased_code.ErasedCode.kind)
    reader: Any = checkpoint.build(erased_code.ErasedCode, saved, where=folder).encoders[0]
    return _described(reader.network, reader.spec, spec)


def _facenet(weights: str) -> nn.Module:
    from facenet_pytorch import InceptionResnetV1  # noqa: PLC0415 - imports torchvision

    file = facenet_file(weights)
    # facenet-pytorch downloads in its constructor; privface touches the network only when told to
    if not file.is_file() and os.environ.get("PRIVFACE_DOWNLOAD") != "1":
        raise ModelError(
            f"The weights of facenet:{weights} are not at {file}.",
            hint=f"Set PRIVFACE_DOWNLOAD=1 to let facenet-pytorch fetch them, or put its release file {file.name} there.",
        )
    try:
        return InceptionResnetV1(pretrained=weights)  # type: ignore[no-any-return]
    except Exception as error:  # a damaged file or a failed download may raise anything
        raise ModelError(
            f"The weights of facenet:{weights} at {file} cannot be loaded ({type(error).__name__}).",
            hint="Delete the file and fetch it again.",
        ) from error
