"""Perturbation models as ONNX files: one graph, the batch free, checked against torch before anybody may use it."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privface import __version__
from privface.device import Device
from privface.errors import ConfigError, MissingExtraError, ModelError
from privface.images import write_atomic
from privface.models.bundled import model_folder
from privface.models.checkpoint import load_network
from privface.models.erased_code import FrozenReader
from privface.models.inputs import require_unit_images
from privface.models.labelled import LabelledProtector
from privface.models.onnx_backend import open_session, session_outputs
from privface.models.protector import Perturbation, Protector
from privface.models.san2018 import KIND as SAN_2018
from privface.models.san2018 import San2018Protector
from privface.records import Gender

TOLERANCE = 1e-4
"""Largest difference in [0, 1] between ONNX Runtime and torch that an export may show; a fortieth of an 8-bit step."""

_PREFIX = "privface."
_BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote.

    Attributes:
        path: The ONNX file.
        bytes: Its size.
        difference: Largest difference to torch over the parity check's images, in [0, 1].
        metadata: What the file says of itself.
    """

    path: Path
    bytes: int
    difference: float
    metadata: dict[str, str]


class OnnxProtector:
    """A protector that runs in ONNX Runtime; needs neither the run folder nor torch's operators.

    Args:
        content: What :func:`export_protector` wrote.
        name: For messages.

    Attributes:
        fingerprint: SHA-256 of the content.
        size: Side of the aligned faces it takes and gives, in pixels.
        metadata: What the file says of itself.

    Raises:
        ModelError: If it is no ONNX model, or none of privface's.
        MissingExtraError: If onnxruntime is not installed.
    """

    def __init__(self, content: bytes, *, name: str) -> None:
        self._content, self._name = content, name
        self._session = open_session(content)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            self.size = int(self.metadata[f"{_PREFIX}size"])
        except (KeyError, ValueError):
            raise ModelError(
                f"{name} is no protector of privface: it does not say its size.",
                hint="Write it with `privface export RUN OUT.onnx`.",
            ) from None
        self.fingerprint = hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, path: Path) -> OnnxProtector:
        """Read a file of :func:`export_protector`.

        Raises:
            ModelError: If it is missing, no ONNX file, or none of privface's.
            MissingExtraError: If onnxruntime is not installed.
        """
        if not path.is_file():
            raise ModelError(f"{path} does not exist.", hint="Write it with `privface export RUN OUT.onnx`.")
        return cls(path.read_bytes(), name=path.name)

    def __reduce__(self) -> tuple[Callable[[bytes, str], OnnxProtector], tuple[bytes, str]]:
        return _again, (self._content, self._name)  # a session cannot be copied to another process

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Protect aligned RGB images ``(N, 3, size, size)`` in [0, 1]; same shape and range out.

        Raises:
            InputRangeError: If shape, type or range break the contract.
        """
        require_unit_images(torch.from_numpy(np.ascontiguousarray(images)), what="images to protect")
        return session_outputs(self._session, images, name=self._name)


def _again(content: bytes, name: str) -> OnnxProtector:
    return OnnxProtector(content, name=name)


def export_protector(
    run: Path | str, out: Path, *, strength: float = 1.0, code_size: int | None = None
) -> ExportSummary:
    """Write a trained model as one ONNX file: input ``images`` float32 ``(N, 3, size, size)`` in [0, 1], output ``protected`` alike.

    The file is written only if ONNX Runtime and torch agree on drawn images in several batch sizes. Its metadata
    tells size, strength, the model's fingerprint and the version that wrote it. The graph draws nothing: a variational code is its
    mean, an input is not corrupted. A randomised protection needs the run folder.

    Args:
        run: Run folder of `privface train`, or ``bundled:erased``.
        out: File to write.
        strength: Built into the graph; 1 is what was trained and audited.
        code_size: As for :func:`load_protector`; built into the graph.

    Raises:
        ConfigError: If ``out`` does not end in ``.onnx``.
        CheckpointError: If the run cannot be loaded.
        MissingExtraError: If an ONNX package is missing.
        ModelError: If the network cannot be exported or the two disagree.
        OutputError: If the file cannot be written.
    """
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"{out} does not end in .onnx.", hint="Name the file so.")
    content, difference, metadata = _exported(
        Protector.load(run, strength=strength, code_size=code_size), strength
    )
    write_atomic(out, content)
    return ExportSummary(out, len(content), difference, metadata)


def _exported(protector: Protector, strength: float) -> tuple[bytes, float, dict[str, str]]:
    """A model as ONNX, its largest difference to torch, and what it says of itself."""
    metadata = {
        f"{_PREFIX}version": __version__,
        f"{_PREFIX}size": str(protector.size),
        f"{_PREFIX}strength": f"{strength:g}",
        f"{_PREFIX}fingerprint": protector.fingerprint,
    }
    content = _graph(_Exported(protector.network, strength), protector.size, metadata)
    difference = _parity(protector, content)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"ONNX Runtime differs from torch by {difference:.2g}, the limit is {TOLERANCE:g}; nothing was written.",
            hint="Use the run folder with --runtime torch, and report the model.",
        )
    return content, difference, metadata


def load_protector(
    model: Path | str,
    *,
    strength: float = 1.0,
    runtime: Literal["auto", "torch", "onnx"] = "auto",
    genders: Mapping[str, Gender] | None = None,
    hide: Sequence[str] | None = None,
    draw: int | None = None,
    code_size: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Protector | OnnxProtector | LabelledProtector:
    """A run folder, a model that comes with the package, or an exported file.

    Args:
        model: The folder, ``bundled:erased``, or the ``.onnx`` file.
        strength: Scale of the change; an exported file has its own built in.
        runtime: ``"auto"`` runs a run folder in torch and an exported file in ONNX Runtime; ``"onnx"`` exports a run folder
            in memory first, with the parity check of :func:`export_protector`.
        genders: True gender of each photo by its key, for a method that needs it (``san-2018``).
        hide: Attributes to hide, for a method that has a choice (``privacynet``).
        draw: Seed of a randomised protection, for a network with something to draw; runs in torch.
        code_size: Size of the code, for a model that was trained with several (``erased-code``); by default the largest.
        device: Where a run folder computes, as for :meth:`privface.device.Device.choose`; all else is for the CPU in fp32.
        precision: In what, likewise.

    Raises:
        ConfigError: If a strength is given for an exported file that was written with another one, or torch is
            asked to run one; if genders are given to a model that asks for none, or a strength or ONNX is asked of
            one that does; if ``hide`` is asked of a model that has no choice, or not this one; if ``draw`` is asked of one that has
            nothing random, as an exported file has not.
        LabelError: If the model needs true genders and none are given.
        PrivfaceError: As for :class:`OnnxProtector` and :meth:`Protector.load`.
    """
    model = Path(model)
    if hide is not None and (genders is not None or model.suffix.lower() == ".onnx"):
        raise ConfigError(
            f"{model} has no choice of attributes; asked to hide {', '.join(hide)}.",
            hint="Give the run folder of the method privacynet.",
        )
    if draw is not None and (genders is not None or runtime == "onnx" or model.suffix.lower() == ".onnx"):
        what = "needs genders" if genders is not None else "runs in ONNX Runtime"
        raise ConfigError(
            f"draw={draw}: {model.name} {what} and has nothing random, so every draw would be the same.",
            hint="Leave the draw out, or give the run folder of a variational or denoising backbone, in torch.",
        )
    if code_size is not None and (genders is not None or model.suffix.lower() == ".onnx"):
        raise ConfigError(
            f"{model} has no code size to choose; asked for {code_size}.",
            hint="Give the run folder of the method erased-code; `privface export --code-size` builds one in.",
        )
    if genders is not None or runtime == "onnx" or model.suffix.lower() == ".onnx":
        here = (
            Device()
            if device == "auto" and precision in {"auto", "fp32"}
            else Device.choose(device, precision)
        )
        if not here.is_plain:
            raise ConfigError(
                f"device={device}, precision={precision}: {model.name} computes on the CPU in fp32 where ONNX Runtime runs it "
                "or genders are needed.",
                hint="Leave both out, or give the run folder alone.",
            )
    else:
        here = Device.choose(device, precision)
    if genders is not None:
        return _load_labelled(model, genders, strength=strength, runtime=runtime)
    if model.suffix.lower() != ".onnx":
        protector = Protector.load(
            model, strength=strength, hide=hide, draw=draw, code_size=code_size, device=here
        )
        if runtime != "onnx":
            return protector
        return OnnxProtector(_exported(protector, strength)[0], name=model.name)
    if runtime == "torch":
        raise ConfigError(
            f"{model.name} runs in ONNX Runtime only.", hint="Give the run folder that it was exported from."
        )
    found = OnnxProtector.load(model)
    built_in = float(found.metadata.get(f"{_PREFIX}strength", "1"))
    if strength not in {1.0, built_in}:
        raise ConfigError(
            f"strength={strength:g}: {model.name} has {built_in:g} built in.",
            hint="Export it again with that strength, or give the run folder.",
        )
    return found


def _load_labelled(
    model: Path, genders: Mapping[str, Gender], *, strength: float, runtime: str
) -> LabelledProtector:
    if model.suffix.lower() == ".onnx" or load_network(model_folder(model)).kind != SAN_2018:
        raise ConfigError(
            f"{model} asks for no gender, and a table of genders was given.",
            hint="Leave it out: a label that is not needed should not travel with photos.",
        )
    if strength != 1.0 or runtime == "onnx":
        raise ConfigError(
            f"strength={strength:g}, runtime={runtime}: the SAN of 2018 has one strength, 1, and runs in torch.",
            hint="Leave both at their defaults.",
        )
    return LabelledProtector(San2018Protector.load(model), genders)


class _Exported(nn.Module):
    def __init__(self, network: Perturbation, strength: float) -> None:
        super().__init__()
        self.network, self.strength = copy.deepcopy(network), strength
        for part in self.network.modules():
            if isinstance(part, FrozenReader):
                part.unpack()

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.network(images, strength=self.strength)).clamp(0.0, 1.0)


def _graph(network: nn.Module, size: int, metadata: dict[str, str]) -> bytes:
    try:
        import onnx  # noqa: PLC0415 - optional and heavy
        import onnxscript  # noqa: F401, PLC0415 - torch's exporter needs it and asks late
    except ImportError as error:
        raise MissingExtraError(
            f"An export needs {error.name}, which is not installed.",
            hint="Install the extra: pip install 'privface[onnx]'.",
        ) from error
    example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the exporter reports on both
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["protected"],
                dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
                verbose=False,
            )
        model = program.model_proto
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
    for count in _BATCHES:
        images = rng.random((count, 3, protector.size, protector.size), np.float32)
        images[0] = np.linspace(0, 1, protector.size, dtype=np.float32)
        found = session_outputs(session, images, name="the export")
        worst = max(worst, float(np.abs(found - protector(images)).max()))
    return worst
