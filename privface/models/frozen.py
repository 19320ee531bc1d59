"""Frozen networks made fast to differentiate with respect to their input.

A generator is trained against matchers whose weights never change. Autograd's general formulas are slow there on a
CPU: the backward passes of PReLU and of depthwise convolutions leave the fast path, and bf16 makes it worse.
:func:`frozen` rewrites such a network: convolutions compute their input's gradient as a forward convolution with
flipped weights, PReLU needs two passes over its input instead of many, batch norm goes into the convolution beside it.
"""

from __future__ import annotations

import copy
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from privface.errors import ModelError

Precision = Literal["auto", "bf16", "fp32"]

_BF16_UNITS = {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"}  # Intel's and AMD's flags, and Arm's
_ANY_TYPE = {  # what keeps bf16 as it is, without losing more than the rounding of its output
    *("ReLU", "LeakyReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Flatten", "Identity", "Dropout", "Dropout2d"),
    *("OnnxConcat", "OnnxSlice", "OnnxReshape", "OnnxTranspose", "OnnxShape", "OnnxExpand", "OnnxTile", "OnnxPadStatic"),
    *("OnnxPadDynamic", "OnnxBinaryMathOperation", "OnnxGlobalAveragePool", "OnnxGlobalAveragePoolWithKnownInputShape"),
    *("relu", "add", "iadd", "cat", "flatten", "size", "reshape", "view", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("relu_", "getattr", "getitem", "float"),
}  # fmt: skip


def frozen(network: nn.Module, *, precision: Precision = "auto") -> nn.Module:
    """A copy of a network that computes the same and is cheap to differentiate with respect to its input.

    No gradient of a weight is ever computed. What the rewriting does not know stays as it is and runs in fp32.

    Args:
        network: Any network in eval mode, maps ``(N, C, H, W)`` to one tensor, such as ``(N, K)``.
        precision: What convolutions compute in. ``auto`` takes bf16 where the CPU has units for it, else fp32.

    Returns:
        A module with the same input and output in float32; it stays in eval mode.

    Raises:
        ModelError: If the network is in training mode or the precision is unknown.
    """
    if precision not in {"auto", "bf16", "fp32"}:
        raise ModelError(f"precision={precision!r}.", hint="Choose one of auto, bf16, fp32.")
    if network.training:
        raise ModelError("A network in training mode cannot be frozen.", hint="Call network.eval() first.")
    low = precision == "bf16" or (precision == "auto" and _fast_bf16())
    kind = torch.bfloat16 if low else torch.float32
    with torch.no_grad():
        return _Frozen(_rewritten(copy.deepcopy(network).requires_grad_(False), kind))


def _fast_bf16() -> bool:
    """Whether bf16 is computed by units of its own: oneDNN also takes it where it is several times slower."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - no public query
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return True  # no such file: another system, where oneDNN's word is all there is
    return bool(words & _BF16_UNITS)


class _Frozen(nn.Module):
    """Float32 in and out around the rewritten network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        super().train(False)

    def train(self, mode: bool = True) -> _Frozen:
        """Stay in eval mode: batch norm is folded."""
        del mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the network's output, float32."""
        with torch.autocast(x.device.type, enabled=False):  # the precision is chosen already
            out: Tensor = self.body(x.float()).float()
            return out


# --- what replaces slow modules -----------------------------------------------------------------------


class _ConvolutionOfInput(torch.autograd.Function):
    """A convolution that only its input is differentiated through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: _Convolution) -> Tensor:
        ctx.conv, ctx.size = conv, x.shape[-2:]
        out = conv.direct(x)
        if conv.relu:
            ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.conv.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)
        return ctx.conv.input_gradient(gradient, ctx.size), None


class _Convolution(nn.Module):
    """A frozen convolution, its ReLU with it if it has one; weights are held in both directions."""

    weight: Tensor
    flipped: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, kind: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.relu, self.widen = False, False
        weight = conv.weight.detach().to(kind)
        grouped = weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        flipped = grouped.flip(2, 3)
        for name, value in (("weight", weight), ("flipped", flipped)):
            packed = value.contiguous(memory_format=torch.channels_last)
            self.register_buffer(name, packed, persistent=False)
        bias = None if conv.bias is None else conv.bias.detach().to(kind)
        self.register_buffer("bias", bias, persistent=False)

    @staticmethod
    def fits(conv: nn.Module) -> bool:
        """Whether the rewriting covers this convolution; autograd keeps the rest."""
        return (
            type(conv) is nn.Conv2d
            and tuple(conv.dilation) == (1, 1)
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and all(p < k for p, k in zip(conv.padding, conv.kernel_size, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the convolution's output, in the precision of the weights."""
        x = x.to(self.weight.dtype).contiguous(memory_format=torch.channels_last)
        if not (torch.is_grad_enabled() and x.requires_grad):
            out = self.direct(x)
        else:
            out = _ConvolutionOfInput.apply(x, self)
        return out.float() if self.widen else out

    def direct(self, x: Tensor) -> Tensor:
        """The output, without autograd."""
        out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return F.relu_(out) if self.relu else out

    def input_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """The gradient of an input of ``(H, W) = size`` from that of the output."""
        kernel = self.weight.shape[-2:]
        spread = [n + 2 * p - k + 1 for n, p, k in zip(size, self.padding, kernel, strict=True)]
        if tuple(self.stride) != (1, 1):
            if self.groups == 1 or gradient.dtype == torch.float32:
                rest = [(n - 1) % s for n, s in zip(spread, self.stride, strict=True)]
                return F.conv_transpose2d(
                    gradient, self.weight, None, self.stride, self.padding, rest, self.groups
                )
            # transposed convolutions of many groups in bf16 are fifteen times slower than this
            wide = torch.empty(
                (*gradient.shape[:2], *spread),
                dtype=gradient.dtype,
                device=gradient.device,
                memory_format=torch.channels_last,
            ).zero_()
            wide[:, :, :: self.stride[0], :: self.stride[1]] = gradient
            gradient = wide
        around = [k - 1 - p for k, p in zip(kernel, self.padding, strict=True)]
        return F.conv2d(gradient, self.flipped, None, 1, around, 1, self.groups)


class _PreluOfInput(torch.autograd.Function):
    """PReLU that only its input is differentiated through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.ndim - 2)) if slope.numel() > 1 else (1,) * x.ndim
        passed = torch.ops.aten.threshold_backward(gradient, x, 0)
        return torch.lerp(passed, gradient, slope.view(shape)), None


class _Prelu(nn.Module):
    """PReLU with slopes that stay, one or one a channel."""

    slope: Tensor

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach().float().reshape(-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to the same shape and type."""
        slope = self.slope.to(x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return F.prelu(x, slope)
        out: Tensor = _PreluOfInput.apply(x, slope)
        return out


class _Affine(nn.Module):
    """Batch norm that no convolution could take in: a factor and a shift a channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to the same shape and type."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale, shift = (v.to(x.dtype).view(shape) for v in (self.scale, self.shift))
        return torch.addcmul(shift, x, scale)


# --- rewriting ----------------------------------------------------------------------------------------


def _rewritten(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """The network with fast modules in place of slow ones; works on the given copy."""
    try:
        graph = network if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network)
    except Exception:  # a forward that cannot be traced may fail in any way
        return _swapped(network, kind)
    _fold_constants(graph)
    for node in list(graph.graph.nodes):
        _fold_norm(graph, node)
    for node in list(graph.graph.nodes):
        _replace(graph, node, kind)
    if kind != torch.float32:
        _guard(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _swapped(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """Replace modules one by one, for a network whose graph is not known: what is between them meets fp32 only."""
    fast = _fast(network, kind)
    if isinstance(fast, _Convolution):
        fast.widen = True
    if fast is not None:
        return fast
    for name, child in network.named_children():
        setattr(network, name, _swapped(child, kind))
    return network


def _fast(module: nn.Module | None, kind: torch.dtype) -> nn.Module | None:
    """What replaces a module; ``None`` if it stays."""
    if isinstance(module, nn.Conv2d) and _Convolution.fits(module):
        return _Convolution(module, kind)
    if type(module) is nn.PReLU:
        return _Prelu(module.weight)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
        return _Affine(*_scale_and_shift(module, module.eps))
    return None


def _scale_and_shift(norm: Any, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(norm.running_var + eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _module(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    is_module = isinstance(node, fx.Node) and node.op == "call_module"
    return graph.get_submodule(str(node.target)) if is_module else None


def _name(graph: fx.GraphModule, node: fx.Node) -> str:
    """What a node computes: the class of its module, the name of its function or method."""
    module = _module(graph, node)
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _constant(graph: fx.GraphModule, node: Any) -> Tensor | None:
    if not (isinstance(node, fx.Node) and node.op == "get_attr"):
        return None
    value = operator.attrgetter(str(node.target))(graph)
    return value.detach() if isinstance(value, Tensor) else None


def _set_module(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let a node call a module of its own: the old one may also be called elsewhere."""
    name = f"fast_{node.name}"
    graph.add_submodule(name, module)
    node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute what does not depend on the input once; ONNX spells out slopes, shapes and paddings as nodes."""
    known: dict[fx.Node, Tensor] = {}
    for node in list(graph.graph.nodes):
        module, inputs = _module(graph, node), node.all_input_nodes
        value = _constant(graph, node)
        if value is None and (
            type(module).__name__ == "OnnxConstant" or (inputs and known.keys() >= set(inputs))
        ):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            if module is not None:
                value = module(*args, **kwargs)
            elif node.op == "call_function":
                value = node.target(*args, **kwargs)
        if not isinstance(value, Tensor):
            continue
        known[node] = value
        if node.op != "get_attr":
            graph.register_buffer(f"known_{node.name}", value, persistent=False)
            node.op, node.target, node.args, node.kwargs = "get_attr", f"known_{node.name}", (), {}


def _fold_norm(graph: fx.GraphModule, node: fx.Node) -> None:
    """Put a batch norm into the convolution before it, else into the one after it, else make it one pass."""
    module = _module(graph, node)
    if type(module).__name__ == "OnnxBatchNorm":
        values = [_constant(graph, a) for a in node.args[1:]]
        if len(values) != 4 or any(v is None for v in values):
            return
        names = ("weight", "bias", "running_mean", "running_var")
        scale, shift = _scale_and_shift(
            SimpleNamespace(**dict(zip(names, values, strict=True))), module.epsilon
        )  # type: ignore[union-attr, arg-type]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
        scale, shift = _scale_and_shift(module, module.eps)
    else:
        return
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return
    before, follower = _module(graph, source), next(iter(node.users), None)
    after = _module(graph, follower)
    if type(before) is nn.Conv2d and len(source.users) == 1:
        conv = _conv_like(before, before.weight * scale.view(-1, 1, 1, 1))
        conv.bias = _fixed(shift if before.bias is None else shift + before.bias * scale)
        _set_module(graph, source, conv)
        node.replace_all_uses_with(source)
    elif type(after) is nn.Conv2d and len(node.users) == 1 and tuple(after.padding) == (0, 0):
        parts = after.weight.unflatten(0, (after.groups, -1))  # (groups, outputs, inputs, kh, kw)
        weight = parts * scale.view(after.groups, 1, -1, 1, 1)
        extra = (parts.sum((3, 4)) * shift.view(after.groups, 1, -1)).sum(2).flatten()
        conv = _conv_like(after, weight.flatten(0, 1))
        conv.bias = _fixed(extra if after.bias is None else extra + after.bias)
        _set_module(graph, follower, conv)  # type: ignore[arg-type]
        node.replace_all_uses_with(source)
    else:
        _set_module(graph, node, _Affine(scale, shift))


def _conv_like(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    made = copy.copy(conv)
    made._parameters = {"weight": _fixed(weight), "bias": conv.bias}  # noqa: SLF001 - a shallow copy shares the dictionary
    return made


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _replace(graph: fx.GraphModule, node: fx.Node, kind: torch.dtype) -> None:
    """Let a node call its fast module if there is one."""
    fast = _fast(_module(graph, node), kind)
    if fast is None and _name(graph, node) in {"OnnxPReLU", "prelu"} and len(node.args) == 2:
        slope = _constant(graph, node.args[1])
        if slope is not None and slope.numel() in {1, slope.shape[0] if slope.ndim else 1}:
            fast = _Prelu(slope)
    if fast is None:
        return
    _set_module(graph, node, fast)
    follower = next(iter(node.users), None)
    if isinstance(fast, _Convolution) and len(node.users) == 1 and _name(graph, follower) in {"ReLU", "relu"}:  # type: ignore[arg-type]
        fast.relu = True
        follower.replace_all_uses_with(node)  # type: ignore[union-attr]


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def _guard(graph: fx.GraphModule) -> None:
    """Have what may not know bf16, or loses too much in it, see fp32."""
    for node in list(graph.graph.nodes):
        fast = isinstance(_module(graph, node), _Convolution | _Prelu | _Affine)
        if not node.op.startswith("call_") or fast or _name(graph, node) in _ANY_TYPE:
            continue
        for source in node.all_input_nodes:
            with graph.graph.inserting_before(node):
                node.replace_input_with(source, graph.graph.call_function(_wide, (source,)))
