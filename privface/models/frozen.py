"""Frozen networks made fast to differentiate with respect to their input.

A generator is trained against matchers whose weights never change. Autograd's general formulas are slow there on a
CPU: the backward passes of PReLU and of depthwise convolutions leave the fast path, above all in bf16.
:func:`frozen` rewrites a network: convolutions compute the gradient of their input as a forward convolution with
flipped weights, PReLU's takes two passes, batch norm goes into the convolution beside it.
"""

from __future__ import annotations

import copy
import operator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from privface.device import Device
from privface.errors import ModelError
from privface.models.onnx_backend import to_torch

# fmt: off
_ANY_TYPE = {  # what may see bf16 or fp16: it only moves numbers or loses no more than the rounding of its output
    "ReLU", "LeakyReLU", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Flatten", "Identity", "Dropout",
    "OnnxConcat", "OnnxSlice", "OnnxReshape", "OnnxTranspose", "OnnxShape", "OnnxExpand", "OnnxTile", "OnnxPadStatic",
    "OnnxPadDynamic", "OnnxBinaryMathOperation", "relu", "relu_", "add", "iadd", "cat", "flatten", "reshape", "view",
    "_reshaped", "_expanded", "_padded", "repeat", "size", "getattr", "getitem", "float", "max_pool2d", "avg_pool2d",
    "_Convolution", "_Prelu", "_Affine",
}
# fmt: on


def frozen(source: nn.Module | Path | bytes, device: Device) -> nn.Module:
    """A copy of a network, or of an ONNX graph, that computes the same and is cheap to differentiate with respect to its input.

    No gradient of a weight is ever computed. What the rewriting does not know stays as it is and runs in fp32. The network, in eval mode,
    maps ``(N, C, H, W)`` to one tensor; the copy takes and gives float32, and its convolutions compute as ``device`` says.
    """
    network = to_torch(source)
    if network.training:
        raise ModelError("A network in training mode cannot be frozen.", hint="Call network.eval() first.")
    with torch.inference_mode(mode=False), torch.no_grad():
        body = _rewritten(copy.deepcopy(network).requires_grad_(False), device.dtype)
        return _Frozen(body, source, device).to(device.name)


class _Frozen(nn.Module):
    """Float32 in and out around the rewritten network."""

    def __init__(self, body: nn.Module, source: nn.Module | Path | bytes, device: Device) -> None:
        super().__init__()
        self.body, self.made_of = body, (source, device)  # in a tuple: no part of this one
        super().train(mode=False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A graph cannot be copied to another process: it is made there anew."""
        return frozen, self.made_of

    def train(self, mode: bool = True) -> _Frozen:
        """Stay in eval mode: batch norm is folded."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # the precision is chosen already
            out: Tensor = self.body(x.float()).float()
            return out


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
        with torch.autocast(gradient.device.type, enabled=False):
            return ctx.conv.input_gradient(gradient, ctx.size), None


class _Convolution(nn.Module):
    """A frozen convolution, with its ReLU if it has one; the weights are held for both directions."""

    weight: Tensor
    flipped: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, kind: torch.dtype) -> None:
        super().__init__()
        self.stride, self.groups = conv.stride, conv.groups
        self.padding = tuple(int(p) for p in conv.padding)
        self.relu, self.widen = False, False
        weight = conv.weight.to(kind)
        flipped = _by_group(weight, conv.groups).transpose(1, 2).flatten(0, 1).flip(2, 3)
        for name, value in (("weight", weight), ("flipped", flipped)):
            packed = value.contiguous(memory_format=torch.channels_last)
            self.register_buffer(name, packed, persistent=False)
        bias = None if conv.bias is None else conv.bias.detach().to(kind)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the convolution's output, in the precision of the weights unless it is widened to float32."""
        x = x.to(self.weight.dtype).contiguous(memory_format=torch.channels_last)
        out: Tensor = _ConvolutionOfInput.apply(x, self) if _is_tracked(x) else self.direct(x)
        return out.float() if self.widen else out

    def direct(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return F.relu_(out) if self.relu else out

    def input_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """The gradient of an input of ``(H, W) = size`` from that of the output, both channels last."""
        sides = list(zip(size, self.weight.shape[2:], self.padding, strict=True))
        spread = [n + 2 * p - k + 1 for n, k, p in sides]  # the size of an output of stride 1
        strided = self.stride != (1, 1)
        if strided and (self.groups == 1 or gradient.dtype == torch.float32):
            rest = [(n - 1) % s for n, s in zip(spread, self.stride, strict=True)]
            return F.conv_transpose2d(
                gradient, self.weight, None, self.stride, self.padding, rest, self.groups
            )
        if strided:  # less than fp32 and many groups: transposed convolutions take fifteen times as long
            sparse = gradient.new_zeros((len(gradient), *spread, gradient.shape[1])).permute(0, 3, 1, 2)
            sparse[:, :, :: self.stride[0], :: self.stride[1]] = gradient
            gradient = sparse
        around = [k - 1 - p for _, k, p in sides]
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
        passed = torch.ops.aten.threshold_backward(gradient, x, 0)  # torch.where is many times slower in bf16
        return passed.lerp_(gradient, _by_channel(slope, x)), None


class _Prelu(nn.Module):
    """PReLU with slopes that stay, one or one a channel."""

    slope: Tensor

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach().float().flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        slope = self.slope.to(x.dtype)
        out: Tensor = _PreluOfInput.apply(x, slope) if _is_tracked(x) else F.prelu(x, slope)
        return out


class _Affine(nn.Module):
    """Batch norm in eval mode, made of running mean, running variance, weight and bias: a factor and a shift."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, weight: Any, bias: Any, eps: float) -> None:
        super().__init__()
        scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        self.register_buffer("scale", scale.detach(), persistent=False)
        self.register_buffer("shift", shift.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (_by_channel(v.to(x.dtype), x) for v in (self.scale, self.shift))
        return torch.addcmul(shift, x, scale)


def _is_tracked(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """A convolution's weights as ``(groups, outputs, inputs, height, width)``."""
    return weight.view(groups, -1, *weight.shape[1:])


def _fast(module: nn.Module | None, kind: torch.dtype) -> nn.Module | None:
    """What replaces a module; ``None`` if it stays."""
    if type(module) is nn.PReLU:
        return _Prelu(module.weight)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
        return _Affine(module.running_mean, module.running_var, module.weight, module.bias, module.eps)  # type: ignore[arg-type]
    if (
        type(module) is nn.Conv2d
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and all(p < k for p, k in zip(module.padding, module.kernel_size, strict=True))
    ):
        return _Convolution(module, kind)
    return None


def _swapped(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """Replace modules one by one where the graph is not known: what stands between them sees fp32 only."""
    fast = _fast(network, kind)
    if isinstance(fast, _Convolution):
        fast.widen = True
    for name, child in network.named_children():
        setattr(network, name, _swapped(child, kind))
    return network if fast is None else fast


def _rewritten(network: nn.Module, kind: torch.dtype) -> nn.Module:
    """The network with fast modules in place of slow ones; works on the given copy."""
    try:
        traced = network if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network)
    except Exception:  # a forward that cannot be traced fails in many ways
        return _swapped(network, kind)
    work = _Rewriting(traced)
    for step in (work.replace_onnx, work.fold_norm):
        for node in list(traced.graph.nodes):
            step(node)
    for node in list(traced.graph.nodes):
        work.replace(node, kind)
    if kind != torch.float32:
        work.guard()
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Rewriting:
    """The passes over a network's graph, in the order of their use."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.graph = network, network.graph

    def replace_onnx(self, node: fx.Node) -> None:
        """Give onnx2torch's PReLU and batch norm, and torch's function, their constants as weights."""
        name, values = self.name(node), [self.constant(a) for a in node.args[1:]]
        if not values or any(v is None for v in values):
            return
        if name in {"OnnxPReLU", "prelu"} and values[0].numel() in {1, len(values[0])}:  # type: ignore[union-attr, arg-type]
            self.put(node, _Prelu(values[0]))  # type: ignore[arg-type]
        elif name == "OnnxBatchNorm":
            weight, bias, mean, variance = values
            self.put(node, _Affine(mean, variance, weight, bias, self.module(node).epsilon))  # type: ignore[arg-type, union-attr]

    def fold_norm(self, node: fx.Node) -> None:
        """Put a batch norm into the convolution before it, or into one after it that adds no zeros around."""
        norm, source = self.module(node), node.args[0] if node.args else None
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm = _fast(norm, torch.float32)
        if not isinstance(norm, _Affine) or not isinstance(source, fx.Node):
            return
        follower = next(iter(node.users), None)
        before, after = self.module(source), self.module(follower)
        if type(before) is nn.Conv2d and len(source.users) == 1:
            old = 0 if before.bias is None else before.bias * norm.scale
            self.put(source, _like(before, before.weight * norm.scale.view(-1, 1, 1, 1), old + norm.shift))
            node.replace_all_uses_with(source)
        elif type(after) is nn.Conv2d and len(node.users) == 1 and not any(map(int, after.padding)):
            parts = _by_group(after.weight, after.groups)
            scale, shift = (v.view(after.groups, 1, -1, 1, 1) for v in (norm.scale, norm.shift))
            bias = (parts * shift).sum((2, 3, 4)).flatten() + (0 if after.bias is None else after.bias)
            self.put(follower, _like(after, (parts * scale).flatten(0, 1), bias))  # type: ignore[arg-type]
            node.replace_all_uses_with(source)

    def replace(self, node: fx.Node, kind: torch.dtype) -> None:
        """Let a node call its fast module if there is one; a ReLU after a convolution goes into it."""
        fast = _fast(self.module(node), kind) if node.args else None
        if fast is None:
            return
        self.put(node, fast)
        if isinstance(fast, _Convolution) and len(node.users) == 1:
            follower = next(iter(node.users))
            if self.name(follower) in {"ReLU", "relu", "relu_"}:
                fast.relu = True
                follower.replace_all_uses_with(node)

    def guard(self) -> None:
        """Show fp32 to whatever may not know bf16, or would lose too much in it."""
        for node in list(self.graph.nodes):
            if node.op.startswith("call_") and self.name(node) not in _ANY_TYPE:
                for source in node.all_input_nodes:
                    with self.graph.inserting_before(node):
                        node.replace_input_with(source, self.graph.call_function(_wide, (source,)))

    def module(self, node: Any) -> nn.Module | None:
        """The module that a node calls."""
        calls = isinstance(node, fx.Node) and node.op == "call_module"
        return self.network.get_submodule(str(node.target)) if calls else None

    def name(self, node: fx.Node) -> str:
        """The class of a node's module, or the name of its function or method."""
        module = self.module(node)
        if module is not None:
            return type(module).__name__
        return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")

    def constant(self, node: Any) -> Tensor | None:
        """The tensor that a node stands for, if it does not depend on the input."""
        if not (isinstance(node, fx.Node) and node.op == "get_attr"):
            return None
        value = operator.attrgetter(str(node.target))(self.network)
        return value if isinstance(value, Tensor) else None

    def put(self, node: fx.Node, module: nn.Module) -> None:
        """Let a node call a module of its own; its old one may have other callers."""
        name = f"own_{node.name}"
        self.network.add_submodule(name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    made = copy.copy(conv)
    made.__dict__["_parameters"] = {
        n: nn.Parameter(v, False) for n, v in (("weight", weight), ("bias", bias))
    }
    return made


def _wide(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.dtype in {torch.bfloat16, torch.float16}
    return value.float() if narrow else value
