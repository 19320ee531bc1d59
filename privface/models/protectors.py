"""Protectors as people name them: a run folder, a model that comes with the package, or an exported file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privface.attributes import GENDER
from privface.device import Device
from privface.errors import ConfigError
from privface.models.bundled import is_bundled, model_folder
from privface.models.onnx_models import OnnxProtector
from privface.records import Gender

if TYPE_CHECKING:
    from privface.models.protector import Protector
    from privface.models.san2018 import LabelledProtector


def load_protector(
    model: Path | str,
    *,
    strength: float = 1.0,
    runtime: Literal["auto", "torch", "onnx"] = "auto",
    genders: Mapping[str, Gender] | None = None,
    draw: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    **choices: Any,
) -> Protector | OnnxProtector | LabelledProtector:
    """Load what protects.

    Args:
        model: A run folder, ``bundled:erased``, or the ``.onnx`` file of an export.
        strength: Scale of the change; an exported file has its own built in.
        runtime: ``"auto"`` runs a run folder in torch and an exported file in ONNX Runtime; ``bundled:erased`` in torch where that
            is installed. ``"onnx"`` exports a run folder in memory first, with the parity check of
            :func:`~privface.models.export.export_protector`; ``bundled:erased`` comes with its graph.
        genders: True gender of each photo by its key, for a method that needs it (``san-2018``).
        draw: Seed of a randomised protection, for a network with something to draw; runs in torch.
        device: Where a run folder computes, as for :meth:`privface.device.Device.choose`; all else is for the CPU in fp32.
        precision: In what, likewise.
        choices: As for :meth:`Protector.load`; an exported file has them built in.

    Raises:
        ConfigError: If the model has nothing of what is asked of it.
        LabelError: If the model needs true genders and none are given.
        PrivfaceError: As for :class:`~privface.models.onnx_models.OnnxProtector` and :meth:`Protector.load`.
    """
    model = Path(model)
    asked = {name: value for name, value in choices.items() if value is not None}
    has_torch = find_spec("torch") is not None
    as_graph = is_bundled(model) and (runtime == "onnx" and not asked if has_torch else runtime != "torch")
    is_file = as_graph or model.suffix.lower() == ".onnx"
    if not is_file and runtime != "onnx" and genders is None:
        from privface.models.protector import Protector  # noqa: PLC0415 - loads torch

        here = Device.choose(device, precision)
        return Protector.load(model, strength=strength, draw=draw, device=here, **choices)
    what = f"{model.name}, {'in ONNX Runtime' if genders is None else 'with genders'},"
    if device not in {"auto", "cpu"} or precision not in {"auto", "fp32"}:
        raise ConfigError(
            f"device={device}, precision={precision}: {what} computes on the CPU in fp32.",
            hint="Leave both out, or give the run folder alone.",
        )
    if draw is not None:
        raise ConfigError(
            f"draw={draw}: {what} has nothing random, so every draw would be the same.",
            hint="Leave the draw out, or give the run folder of a variational or denoising backbone, in torch.",
        )
    if genders is not None:
        return _labelled(model, genders, strength, choices, is_file=is_file, runtime=runtime)
    if not is_file:
        from privface.models.export import exported  # noqa: PLC0415 - loads torch
        from privface.models.protector import Protector  # noqa: PLC0415

        content, _, _ = exported(Protector.load(model, strength=strength, **choices))
        return OnnxProtector(content, model.name)
    if runtime == "torch":
        raise ConfigError(
            f"{model.name} runs in ONNX Runtime only.", hint="Give the run folder that it was exported from."
        )
    return _graph(model, strength, asked, as_graph=as_graph)


def _labelled(
    model: Path,
    genders: Mapping[str, Gender],
    strength: float,
    choices: Mapping[str, Any],
    *,
    is_file: bool,
    runtime: str,
) -> LabelledProtector:
    """A model that asks for true genders, with those of the photos."""
    from privface.models.checkpoint import load_network  # noqa: PLC0415 - loads torch, as the others do
    from privface.models.protector import class_of  # noqa: PLC0415
    from privface.models.san2018 import LabelledProtector, San2018Protector  # noqa: PLC0415

    if is_file or not class_of(load_network(model_folder(model)), where=model).needs_genders:
        raise ConfigError(
            f"{model} asks for no gender, and a table of genders was given.",
            hint="Leave it out: a label that is not needed should not travel with photos.",
        )
    if runtime == "onnx":
        raise ConfigError(f"runtime=onnx: {model} runs in torch.", hint="Leave it out.")
    asking = San2018Protector.load(model)
    asking.network.check(strength=strength)
    asking.network.choose(**choices)
    return LabelledProtector(asking, genders)


def _graph(model: Path, strength: float, asked: dict[str, Any], *, as_graph: bool) -> OnnxProtector:
    """An exported file, or the graph of a model of the package, which have their choices built in."""
    if as_graph and list(asked.get("hide") or ()) == [GENDER]:
        del asked["hide"]  # what it hides in any case
    found = OnnxProtector.load(model)
    other = None if strength in {1.0, found.strength} else strength
    for name, value in {"strength": other, **asked}.items():
        if value is not None:
            raise ConfigError(
                f"{name}={value}: {model.name} has strength {found.strength:g} and all choices built in.",
                hint="For other choices: pip install 'privface[train]'."
                if as_graph
                else "Export it again with what you want, or give the run folder.",
            )
    return found
