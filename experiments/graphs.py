"""Writes the ONNX graphs of MTCNN's networks into the package: layers alone; weights are read where facenet-pytorch lies.

    python experiments/graphs.py

The networks are those of Zhang et al. (IEEE SPL 2016) as facenet-pytorch has them, layer by layer, and names of weights are its own.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

PACKAGE = Path(__file__).parents[1] / "privface" / "faces" / "graphs"
OPSET, IR = 17, 8


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
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
        self.weights.append(tensor)
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
        """A slope a channel below zero."""
        slope = self.weight(f"prelu{number}.weight", count)
        if planes:
            shape = f"planes{number}"
            self.weights.append(helper.make_tensor(shape, TensorProto.INT64, [3], [count, 1, 1]))
            slope = self.add("Reshape", slope, shape)
        return self.add("PRelu", x, slope)

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


def main() -> None:
    PACKAGE.mkdir(exist_ok=True)
    for make in (pnet, rnet, onet):
        content = make()
        (PACKAGE / f"{make.__name__}.onnx").write_bytes(content)
        print(make.__name__, len(content), "bytes")


if __name__ == "__main__":
    main()
