"""ONNX networks with known properties, built from onnx.helper and seeded weights; no torch, no training.

Owns three families: `identity` (returns its input), `null` (one 1 x 1 convolution: what an engine costs when the
network costs nothing) and `unet` (a U-Net whose receptive field `unet_halo` states exactly). Each is written with its
card in the metadata, dynamic in N, H and W. Weights are random: outputs vary over tissue and mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wsi_seg.card import METADATA_KEY, ModelCard, SegmentationClass, named_classes

OPSET = 17
IR_VERSION = 9  # read by every onnxruntime since 1.15 and OpenVINO since 2023


@dataclass
class _Graph:
    """Nodes and weights of a graph under construction."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: object) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, values: NDArray[np.float32]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, shape: tuple[int, ...], std: float) -> str:
        return self.constant((self.rng.standard_normal(shape) * std).astype(np.float32))

    def conv(self, x: str, n_in: int, n_out: int, side: int = 3, gain: float = 2.0) -> str:
        weight = self.normal((n_out, n_in, side, side), (gain / (n_in * side * side)) ** 0.5)  # He initialisation
        bias = self.normal((n_out,), 0.05)
        return self.add("Conv", [x, weight, bias], pads=[side // 2] * 4, kernel_shape=[side, side])

    def double_conv(self, x: str, n_in: int, n_out: int) -> str:
        x = self.add("Relu", [self.conv(x, n_in, n_out)])
        return self.add("Relu", [self.conv(x, n_out, n_out)])

    def up(self, x: str, n_in: int, n_out: int, upsample: str) -> str:
        """Twice the size, half the channels: a strided transposed convolution or nearest + 1 x 1 convolution."""
        if upsample == "transpose":
            weight = self.normal((n_in, n_out, 2, 2), (2.0 / n_in) ** 0.5)
            return self.add("ConvTranspose", [x, weight], strides=[2, 2], kernel_shape=[2, 2])
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.conv(self.add("Resize", [x, "", scales], **options), n_in, n_out, side=1)

    def write(self, path: Path, card: ModelCard, n_out: int) -> Path:
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "H", "W"])
            for name, channels in (("image", 3), ("probabilities", n_out))
        ]
        graph = helper.make_graph(self.nodes, card.name, ports[:1], ports[1:], self.weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="wsi-seg")
        helper.set_model_props(model, {METADATA_KEY: card.to_json()})
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def identity(path: Path, tile_size: int = 512) -> Path:
    """Write a network whose three probabilities are the pixel's red, green and blue / 255."""
    classes = tuple(
        SegmentationClass(name, colour)
        for name, colour in (("red", "#ff0000"), ("green", "#00ff00"), ("blue", "#0000ff"))
    )
    card = ModelCard(
        "identity", 0.5, classes, tile_size, halo=0, licence="Apache-2.0", description="Returns its input, RGB / 255."
    )
    graph = _Graph(np.random.default_rng(0))
    graph.add("Identity", ["image"], "probabilities")
    return graph.write(path, card, 3)


def null(path: Path, n_classes: int = 3, tile_size: int = 512, seed: int = 0) -> Path:
    """Write a network of one 1 x 1 convolution and a softmax."""
    card = _card("null", n_classes, tile_size, halo=0, stride=1)
    graph = _Graph(np.random.default_rng(seed))
    graph.add("Softmax", [graph.conv("image", 3, n_classes, side=1, gain=12.0)], "probabilities", axis=1)
    return graph.write(path, card, n_classes)


@dataclass(frozen=True, slots=True)
class UnetShape:
    """Size of a U-Net: channels of the first level, number of poolings, classes, input tile, kind of up-sampling."""

    base_channels: int = 16
    depth: int = 4
    n_classes: int = 3
    tile_size: int = 512
    upsample: str = "transpose"
    """`transpose` or `nearest`."""


def unet(path: Path, shape: UnetShape = UnetShape(), seed: int = 0) -> Path:
    """Write a U-Net: per level two 3 x 3 convolutions + ReLU, 2 x 2 max pooling, skips by concatenation, softmax."""
    card = _card(f"unet-{shape.base_channels}-{shape.depth}", shape.n_classes, shape.tile_size,
                 halo=unet_halo(shape.depth), stride=2**shape.depth)  # fmt: skip
    graph = _Graph(np.random.default_rng(seed))
    widths = [shape.base_channels * 2**level for level in range(shape.depth + 1)]
    x, n_in, skips = "image", 3, []
    for width in widths[:-1]:
        skips.append(graph.double_conv(x, n_in, width))
        x, n_in = graph.add("MaxPool", [skips[-1]], kernel_shape=[2, 2], strides=[2, 2]), width
    x = graph.double_conv(x, n_in, widths[-1])
    for width in reversed(widths[:-1]):
        x = graph.add("Concat", [graph.up(x, 2 * width, width, shape.upsample), skips.pop()], axis=1)
        x = graph.double_conv(x, 2 * width, width)
    logits = graph.conv(x, shape.base_channels, shape.n_classes, side=1, gain=4.0)
    graph.add("Softmax", [logits], "probabilities", axis=1)
    return graph.write(path, card, shape.n_classes)


def save_weights(model: Path, path: Path, side: int = 64) -> Path:
    """Write a network's weights for programs without ONNX, with one example to check them by.

    A .npz of float32: `w0`, `w1` ... in the order of the graph, `input` (1, 3, side, side) and `output` (1, C, side,
    side), as ONNX Runtime computes it.
    """
    import onnxruntime

    weights = [numpy_helper.to_array(weight) for weight in onnx.load(model).graph.initializer]
    example = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: example})
    np.savez(path, **{f"w{i}": weight for i, weight in enumerate(weights)}, input=example, output=output)
    return path


def unet_halo(depth: int) -> int:
    """Context per side that a pixel of `unet` needs, px, worst phase of the down-sampling grid.

    Interval arithmetic over the graph: what rows of the input an output row depends on.

    >>> [unet_halo(depth) for depth in range(5)]
    [2, 9, 23, 51, 107]
    """

    def encoder(level: int, low: int, high: int) -> tuple[int, int]:
        low, high = low - 2, high + 2  # two 3 x 3 convolutions
        return (low, high) if level == 0 else encoder(level - 1, 2 * low, 2 * high + 1)

    def decoder(level: int, low: int, high: int) -> tuple[int, int]:
        if level == depth:
            return encoder(level, low, high)
        skip = encoder(level, low - 2, high + 2)
        deep = decoder(level + 1, (low - 2) // 2, (high + 2) // 2)
        return min(skip[0], deep[0]), max(skip[1], deep[1])

    spans = [(row, *decoder(0, row, row)) for row in range(2**depth)]
    return max(max(row - low, high - row) for row, low, high in spans)


def _card(name: str, n_classes: int, tile_size: int, halo: int, stride: int) -> ModelCard:
    return ModelCard(
        name, 0.5, named_classes([f"class {index}" for index in range(n_classes)]), tile_size,
        halo=halo, output_stride=stride, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), licence="Apache-2.0",
        description="Random weights, for tests and benchmarks.",
    )  # fmt: skip
