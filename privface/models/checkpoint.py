"""Weights on disk: safetensors beside YAML. Pickle is never read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from safetensors import SafetensorError

from privface.errors import CheckpointError
from privface.images import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
CARD = "model.yaml"

NetworkT = TypeVar("NetworkT", bound="nn.Module")


@dataclass(frozen=True)
class SavedNetwork:
    """What a model folder holds: which network class the weights belong to, its constructor's arguments, its state dict on the CPU.

    ``meta`` is everything else written beside it (data, hashes, figures).
    """

    kind: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)


def save_network(
    folder: Path, network: nn.Module, *, kind: str, meta: Mapping[str, Any] | None = None
) -> None:
    """Write ``model.safetensors`` and ``model.yaml``, with the ``config`` that a network must have and plain values in ``meta``.

    Raises:
        OutputError: If the folder cannot be written.
    """
    from safetensors.torch import save  # noqa: PLC0415 - loads torch

    # safetensors refuses channels_last tensors
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    card = {"kind": kind, "config": network.config, "meta": dict(meta or {})}
    # weights last: where they are, the folder is whole
    write_atomic(folder / CARD, yaml.safe_dump(card, sort_keys=True).encode())
    write_atomic(folder / WEIGHTS, save(weights))


def load_network(folder: Path, *, kind: str | None = None) -> SavedNetwork:
    """Read a model folder of any kind, or of the one that is expected.

    Raises:
        CheckpointError: If a file is missing, damaged, a pickle, or of another kind.
    """
    from safetensors.torch import load  # noqa: PLC0415 - loads torch

    if folder.is_file():  # most often a pickle
        raise CheckpointError(
            f"{folder.name} is a file; a model is a folder with {WEIGHTS} and {CARD}.",
            hint="Pickled weights (.pkl, .pt, .pth) are never loaded: they can run code.",
        )
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}.", hint="Give a run folder made by `privface train`."
            )
    try:
        card = yaml.safe_load((folder / CARD).read_text(encoding="utf-8"))
        written, config, meta = str(card["kind"]), dict(card["config"]), dict(card.get("meta") or {})
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CARD} is damaged ({type(error).__name__}).", hint="Train again or restore the file."
        ) from error
    if kind is not None and written != kind:
        raise CheckpointError(
            f"{folder} holds a {written!r}; a {kind!r} is needed.", hint="Give the right folder."
        )
    try:
        weights = load((folder / WEIGHTS).read_bytes())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not a safetensors file ({error}).",
            hint="Pickles are never loaded; restore or retrain.",
        ) from error
    return SavedNetwork(written, config, weights, meta)


def build(make: Callable[..., NetworkT], saved: SavedNetwork, *, where: Path) -> NetworkT:
    """Build the network of class ``make`` that a model folder describes, and load its weights; ``where`` is for messages."""
    try:
        network = make(**saved.config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{where / CARD} describes a network that cannot be built ({str(error).splitlines()[0][:160]}).",
            hint="Restore the file, or train again.",
        ) from error
    restore(network, saved, where=where)
    return network


def restore(network: nn.Module, saved: SavedNetwork, *, where: Path) -> None:
    """Load weights into a freshly built network."""
    import torch  # noqa: PLC0415

    bad = [name for name, tensor in saved.weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{where}: {len(bad)} weights are not finite, the first is {bad[0]!r}.",
            hint="Training diverged; train again with a lower learning rate.",
        )
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: weights do not fit the architecture in {CARD} ({_detail(error)}).",
            hint="The two files come from different runs.",
        ) from error


def _detail(error: RuntimeError) -> str:
    # torch's first line names only the class; the lines below say which weight
    return " ".join(str(error).splitlines()[1:2]).strip().rstrip(".")[:160] or str(error)[:160]
