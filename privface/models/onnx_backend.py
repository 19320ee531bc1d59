"""ONNX models in torch: onnx2torch to train against, and networks as ONNX. The only file that imports onnx2torch."""

from __future__ import annotations

import importlib
import operator
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from privface.errors import MissingExtraError, ModelError

_OPSET = 17  # the newest that onnx2torch 1.5 reads; torch.onnx.export writes 18 and later by default


def extra(*names: str, what: str) -> list[Any]:
    """The optional packages of these names, which are heavy.

    Raises:
        MissingExtraError: If one of them is not installed; says that it is needed for ``what``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx2torch touches deprecated torchvision and onnx names
            return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs {error.name or names[0]}, which is not installed.",
            hint="Install the extra: pip install 'privface[onnx]'.",
        ) from error


def to_onnx(network: nn.Module, size: tuple[int, int], **names: Any) -> Any:
    """A network that maps ``(N, 3, *size)`` as an ONNX model with N free; ``names`` are those that torch's exporter takes."""
    example = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = ({0: torch.export.Dim("n", min=1)},)
        program: Any = torch.onnx.export(
            network, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **names
        )
    return program.model_proto


def to_torch(model: nn.Module | Path | bytes) -> nn.Module:
    """Convert an ONNX graph, a file or its content, to a frozen differentiable module (onnx2torch); a network stays as it is."""
    if isinstance(model, nn.Module):
        return model
    onnx2torch, onnx = extra("onnx2torch", "onnx", what="Training against an ONNX model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
            network: nn.Module = onnx2torch.convert(_plainer(graph))
            if isinstance(network, fx.GraphModule):
                _settle(network)
    except Exception as error:  # converters raise whatever their operator raised
        raise ModelError(
            f"{'The model' if isinstance(model, bytes) else model.name} cannot be converted for training ({error}).",
            hint="It can still be used to score. To train against it, export it anew with torch.onnx.export(..., dynamo=False,"
            f" opset_version={_OPSET}), or give its network as module:pkg.fn.",
        ) from error
    # its modules warn at every call of what torch will change; nobody who uses them can do anything about it
    warnings.filterwarnings("ignore", category=UserWarning, module=r"onnx2torch\.")
    return network.eval().requires_grad_(False)


def _plainer(graph: Any) -> Any:
    """The same graph as onnx2torch reads it: of an older opset, without inputs and attributes that say nothing."""
    import onnx  # noqa: PLC0415 - comes with onnx2torch

    for node in graph.graph.node:
        # an optional input that is not given, as behind the minimum of a Clip
        while node.input and not node.input[-1]:
            node.input.pop()
        # no side of ours is empty, so a zero in a shape stands for what was there
        for number, each in reversed(list(enumerate(node.attribute))):
            if node.op_type == "Reshape" and each.name == "allowzero":
                del node.attribute[number]
    known = next((each.version for each in graph.opset_import if each.domain in {"", "ai.onnx"}), _OPSET)
    try:
        return onnx.version_converter.convert_version(graph, _OPSET) if known > _OPSET else graph
    except RuntimeError:  # there is no way down for an operator; perhaps onnx2torch knows it as it is
        return graph


def is_faster_in_torch(model: Path) -> bool:
    """Whether torch runs a graph faster than ONNX Runtime on a CPU: MobileFaceNets, 1.6 times (AVX2), for their PRelu.

    ONNX Runtime 1.32 has none for its blocked layout, so that it leaves that layout at each.
    """
    return b"\x22\x05PRelu" in model.read_bytes()  # an operator's type, as Protobuf writes it


def _settle(network: fx.GraphModule) -> None:
    """Put fixed numbers into the graph: onnx2torch looks at them at each call, which no exporter can follow."""
    known = _known(network)
    for node in network.graph.nodes:
        kind = _kind(network, node)
        numbers: list[Any] = [
            known[argument].tolist() if argument in known else None for argument in node.args[1:]
        ]
        if kind == "OnnxReshape" and numbers == [None]:
            numbers = [_as_it_was(network, known, *node.args)]
        if kind not in _SETTLED or node in known or not numbers or any(n is None for n in numbers):
            continue
        if kind == "OnnxPadDynamic" and network.get_submodule(node.target).mode != "constant":
            continue
        if kind == "OnnxSlice":
            numbers = [_cut(*numbers)]
        if numbers[0] is not None:
            node.op, node.target, node.kwargs = "call_function", _SETTLED[kind], {}
            node.args = (node.args[0], *numbers)
    network.graph.eliminate_dead_code()
    network.recompile()


def _known(network: fx.GraphModule) -> dict[Any, torch.Tensor]:
    """Values of the nodes that do not depend on the input; those that are computed become buffers."""
    known: dict[Any, torch.Tensor] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(network)
        elif node.op == "call_module" and all(argument in known for argument in node.args):
            with torch.no_grad():
                known[node] = network.get_submodule(node.target)(*(known[argument] for argument in node.args))
            name = f"known_{node.name}"
            network.register_buffer(name, known[node].clone())
            node.op, node.target, node.args = "get_attr", name, ()
    return known


def _kind(network: fx.GraphModule, node: Any) -> str:
    """Name of the module that a node calls; empty where it calls none."""
    calls = isinstance(node, fx.Node) and node.op == "call_module"
    return type(network.get_submodule(str(node.target))).__name__ if calls else ""


def _as_it_was(
    network: fx.GraphModule, known: Mapping[Any, torch.Tensor], x: Any, shape: Any
) -> list[int] | None:
    """What ``x.view(x.size(0), -1)`` becomes in ONNX, with zeros for sides that stay; ``None`` where it is anything else."""
    if _kind(network, shape) != "OnnxConcat":
        return None
    sides: list[int] = []
    for side, part in enumerate(shape.args):
        if part in known:
            sides += known[part].tolist()
            continue
        taken = part.args[0]  # Unsqueeze(Gather(Shape(x), side))
        if not _kind(network, taken).startswith("OnnxGather") or known.get(taken.args[1]) != side:
            return None
        if _kind(network, taken.args[0]) != "OnnxShape" or taken.args[0].args[0] is not x:
            return None
        sides.append(0)
    return sides


def _reshaped(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """ONNX's Reshape: a zero stands for what was there."""
    return x.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(shape)])


def _expanded(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """ONNX's Expand: both sides may be the wider one."""
    return x * x.new_ones(shape)


def _padded(x: torch.Tensor, pads: list[int], value: float = 0.0) -> torch.Tensor:
    """ONNX's Pad with a constant: all beginnings, then all ends; torch wants pairs, last axis first."""
    half = len(pads) // 2
    pairs = zip(reversed(pads[:half]), reversed(pads[half:]), strict=True)
    return F.pad(x, [n for pair in pairs for n in pair], value=value)


_SETTLED: Mapping[str, Callable[..., Any]] = {
    "OnnxSlice": operator.getitem,
    "OnnxReshape": _reshaped,
    "OnnxExpand": _expanded,
    "OnnxTile": torch.Tensor.repeat,
    "OnnxPadDynamic": _padded,
}


def _cut(
    starts: list[int], ends: list[int], axes: list[int] | None = None, steps: list[int] | None = None
) -> tuple[slice, ...] | None:
    """Indices of a slice; ``None`` where it counts from the end."""
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    if min(axes) < 0 or min(steps) < 0:
        return None
    bounds = {axis: slice(*cut) for axis, *cut in zip(axes, starts, ends, steps, strict=True)}
    return tuple(bounds.get(axis, slice(None)) for axis in range(max(axes) + 1))


def graph_bytes(model: Path | nn.Module, size: tuple[int, int]) -> bytes:
    """One self-contained ONNX graph: of a file, its external weights included, or of a network that maps ``(N, 3, *size)`` to ``(N, D)``."""
    (onnx,) = extra("onnx", what="Keeping a matcher in a run folder")
    try:
        content = onnx.load(str(model)) if isinstance(model, Path) else to_onnx(model, size)
        return bytes(content.SerializeToString())
    except Exception as error:  # both raise whatever an operator raised
        raise ModelError(
            f"The matcher cannot be kept as ONNX ({str(error).splitlines()[0][:160]}).",
            hint="Export it to ONNX yourself and give onnx:FILE.",
        ) from error
