"""Writes ONNX graphs without weights into the package, for ONNX Runtime, which is given the weights as it opens them.

    python experiments/graphs.py

Of MTCNN's networks (Zhang et al., IEEE SPL 2016) as facenet-pytorch has them, layer by layer; names of weights are its own. And of
`bundled:erased` and its encoder, `bundled:matcher`, as torch exports them; names are those of their `model.safetensors`. The list
of bundled models is given the hashes of theirs. Run it after `experiments/bundle.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import privface
from privface.models import Protector, load_matcher
from privface.models.bundled import DEFAULT_MATCHER, DEFAULT_PROTECTOR, MANIFEST
from privface.models.onnx_models import GRAPH, MATCHER_GRAPH, PREFIX

PACKAGE = Path(privface.__file__).parent
OPSET, IR = 17, 8


def outside(name: str, shape: Sequence[int]) -> onnx.TensorProto:
    """A weight whose values lie elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor


class Graph:
    """A graph that grows by a layer at a time.

    Args:
        name: Of the network.
        side: Of its input in pixels; ``None`` for any.
    """

    def __init__(self, name: str, side: int | None) -> None:
        self.name, self.side = name, side
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        """Declare one whose values are given when the graph is run."""
        self.weights.append(outside(name, shape))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Any operator of one output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def conv(self, x: str, name: str, into: int, out: int, side: int) -> str:
        """A convolution without padding."""
        kernel = self.weight(f"{name}.weight", out, into, side, side)
        return self.add("Conv", x, kernel, self.weight(f"{name}.bias", out), kernel_shape=[side, side])

    def dense(self, x: str, name: str, into: int, out: int) -> str:
        """A matrix and a bias."""
        matrix = self.weight(f"{name}.weight", out, into)
        return self.add("Gemm", x, matrix, self.weight(f"{name}.bias", out), transB=1)

    def prelu(self, x: str, number: int, count: int, *, planes: bool = True) -> str:
        """A slope a channel below zero, as ``a x + (1 - a) relu(x)``: faster than ONNX Runtime's own PRelu."""
        slope = self.weight(f"prelu{number}.weight", count)
        if planes:
            shape = f"planes{number}"
            self.weights.append(helper.make_tensor(shape, TensorProto.INT64, [3], [count, 1, 1]))
            slope = self.add("Reshape", slope, shape)
        if number == 1:
            self.weights.append(helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
        above = self.add("Mul", self.add("Relu", x), self.add("Sub", "one", slope))
        return self.add("Add", self.add("Mul", x, slope), above)

    def pool(self, x: str, side: int) -> str:
        """The largest of each square, steps of two; a square at the border may be cut."""
        return self.add("MaxPool", x, kernel_shape=[side, side], strides=[2, 2], ceil_mode=1)

    def flat(self, x: str, count: int) -> str:
        """Planes to rows, column by column."""
        self.weights.append(helper.make_tensor("row", TensorProto.INT64, [2], [-1, count]))
        return self.add("Reshape", self.add("Transpose", x, perm=[0, 3, 2, 1]), "row")

    def model(self, *outputs: str) -> bytes:
        """The file."""
        image = [None, 3, self.side, self.side]
        return helper.make_model(
            helper.make_graph(
                self.nodes,
                self.name,
                [helper.make_tensor_value_info("images", TensorProto.FLOAT, image)],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
                self.weights,
            ),
            producer_name="privface",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR,
        ).SerializeToString()


def pnet() -> bytes:
    """Looks at every square of 12 pixels."""
    g = Graph("pnet", None)
    x = g.pool(g.prelu(g.conv("images", "conv1", 3, 10, 3), 1, 10), 2)
    x = g.prelu(g.conv(x, "conv2", 10, 16, 3), 2, 16)
    x = g.prelu(g.conv(x, "conv3", 16, 32, 3), 3, 32)
    probability = g.add("Softmax", g.conv(x, "conv4_1", 32, 2, 1), axis=1)
    return g.model(g.conv(x, "conv4_2", 32, 4, 1), probability)


def rnet() -> bytes:
    """Looks at cut-outs of 24 pixels."""
    g = Graph("rnet", 24)
    x = g.pool(g.prelu(g.conv("images", "conv1", 3, 28, 3), 1, 28), 3)
    x = g.pool(g.prelu(g.conv(x, "conv2", 28, 48, 3), 2, 48), 3)
    x = g.prelu(g.conv(x, "conv3", 48, 64, 2), 3, 64)
    x = g.prelu(g.dense(g.flat(x, 576), "dense4", 576, 128), 4, 128, planes=False)
    probability = g.add("Softmax", g.dense(x, "dense5_1", 128, 2), axis=1)
    return g.model(g.dense(x, "dense5_2", 128, 4), probability)


def onet() -> bytes:
    """Looks at cut-outs of 48 pixels."""
    g = Graph("onet", 48)
    x = g.pool(g.prelu(g.conv("images", "conv1", 3, 32, 3), 1, 32), 3)
    x = g.pool(g.prelu(g.conv(x, "conv2", 32, 64, 3), 2, 64), 3)
    x = g.pool(g.prelu(g.conv(x, "conv3", 64, 64, 3), 3, 64), 2)
    x = g.prelu(g.conv(x, "conv4", 64, 128, 2), 4, 128)
    x = g.prelu(g.dense(g.flat(x, 1152), "dense5", 1152, 256), 5, 256, planes=False)
    probability = g.add("Softmax", g.dense(x, "dense6_1", 256, 2), axis=1)
    return g.model(g.dense(x, "dense6_2", 256, 4), g.dense(x, "dense6_3", 256, 10), probability)


class Drawing(nn.Module):
    """A protector as a graph has it."""

    def __init__(self, protector: Protector) -> None:
        super().__init__()
        self.network = protector.network.exportable()

    def forward(self, images: Tensor) -> Tensor:
        """Protected images."""
        return self.network(images).clamp(0.0, 1.0)


def exported(network: nn.Module, homes: Mapping[str, str], told: Mapping[str, object]) -> bytes:
    """A network that torch exports, without its weights.

    Args:
        network: Maps images ``(N, 3, 112, 112)`` to one tensor.
        homes: How names of weights begin in the network, the longest first, and in the file of weights.
        told: What the graph says of itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network.eval(),
            (torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)),),
            dynamo=True,
            input_names=["images"],
            dynamic_shapes={
                "images" if isinstance(network, Drawing) else "x": {0: torch.export.Dim("n", min=1)}
            },
            optimize=False,  # what is put together of weights would be weights again
            verbose=False,
        )
    model = program.model_proto
    names = {}
    for weight in network.state_dict():
        start = next(start for start in homes if weight.startswith(start))
        names[weight] = homes[start] + weight.removeprefix(start)
    shapes = {names[one.name]: list(one.dims) for one in model.graph.initializer if one.name in names}
    kept = [one for one in model.graph.initializer if one.name not in names]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    # inputs, while it is made smaller: of them nothing is known
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    model.graph.input.extend(places)
    model = onnxscript.optimizer.optimize(model)
    del model.graph.input[1:]
    del model.graph.value_info[:]
    model.graph.initializer.extend(outside(name, shape) for name, shape in shapes.items())
    for node in model.graph.node:  # it says where the exporter's own source lies, and in which line
        node.ClearField("metadata_props")
    helper.set_model_props(model, {f"{PREFIX}{key}": str(value) for key, value in told.items()})
    return bytes(model.SerializeToString())


def bundled(root: Path) -> None:
    """The graphs of the models in a folder like the package's, and their hashes in its list."""
    protector, matcher = Protector.load(DEFAULT_PROTECTOR), load_matcher(DEFAULT_MATCHER)
    reader = "encoders.0.network."
    drawn = {"size": protector.size, "fingerprint": protector.fingerprint}
    read = {"fingerprint": matcher.weights_sha256, "range": " ".join(map(str, matcher.spec.value_range))}
    made = {
        ("erased", GRAPH): exported(
            Drawing(protector), {"network.encoders.0.plain.": reader, "network.": ""}, drawn
        ),
        ("matcher", MATCHER_GRAPH): exported(matcher.network, {"": reader}, read),
    }
    listed = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    for (model, name), content in made.items():
        (root / "erased" / name).write_bytes(content)
        listed["models"][model]["files"][name] = hashlib.sha256(content).hexdigest()
        print(model, len(content), "bytes")
    (root / MANIFEST).write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for make in (pnet, rnet, onet):
        content = make()
        (PACKAGE / "faces" / "graphs" / f"{make.__name__}.onnx").write_bytes(content)
        print(make.__name__, len(content), "bytes")
    bundled(PACKAGE / "models" / "weights")


if __name__ == "__main__":
    main()
