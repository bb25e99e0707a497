"""An ONNX program that takes pixels: uint8 (N, H, W, 3) RGB in, float32 probabilities (N, C, H, W) out.

Owns that surgery, so that a GPU gets a quarter of the bytes and converts them itself. Graph only, no runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.program.output_forms import output_layout

PIXELS, PROBABILITIES = "wsi_seg_pixels", "wsi_seg_probabilities"
"""Names of the input and the output of the programs made here."""
_OLDEST = 13  # opset from which Softmax works along one axis
_TO_PLANAR = [0, 3, 1, 2]
Step = tuple[str, list[str], dict[str, Any]]
"""Operation, inputs besides the value that goes through, attributes."""


def from_pixels(content: bytes, card: ModelCard) -> bytes:
    """The serialised program with the card's normalisation, layout, channel order and activation inside.

    `content` takes one image (float32, float16 or uint8) and gives the map that its card says, of any form that
    `output_forms.planar` takes. Class indices become float32. Raises ModelLoadError.
    """
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (image,) = (port for port in graph.input if port.name not in weights)
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if version < _OLDEST:
        raise ModelLoadError(
            f"an ONNX program of opset {version}", rule=f"GPU runtimes take opset {_OLDEST} and later",
            remedy="export the model again, or use --device cpu",
        )  # fmt: skip
    (output,) = [port for port in graph.output if port.name == card.output] or graph.output[:1]
    nodes = [*_conversion(image, card), *graph.node, *_closing(output, card)]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(tensor for tensor in _constants(card) if tensor.name in used)
    count, height, width = _free_axes(image, card)
    graph.input.remove(image)
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [count, height, width, 3]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, None))
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def pixel_axes(content: bytes) -> tuple[int | None, int | None, int | None]:
    """(N, H, W) that a program made by `from_pixels` demands; None where it takes any."""
    (port,) = (port for port in onnx.ModelProto.FromString(content).graph.input if port.name == PIXELS)
    count, height, width, _ = (dim.dim_value or None for dim in port.type.tensor_type.shape.dim)
    return count, height, width


def _constants(card: ModelCard) -> list[Any]:
    std = np.array(card.std)
    return [
        numpy_helper.from_array((1 / (255 * std)).astype(np.float32), "wsi_seg_scale"),
        numpy_helper.from_array((-np.array(card.mean) / std).astype(np.float32), "wsi_seg_shift"),
        numpy_helper.from_array(np.array([2, 1, 0], np.int64), "wsi_seg_bgr"),
        numpy_helper.from_array(np.array([1], np.int64), "wsi_seg_channel"),
    ]


def _conversion(image: Any, card: ModelCard) -> list[Any]:
    """Nodes from pixels to the program's own input; one product and one sum per value as on the CPU."""
    kind = image.type.tensor_type.elem_type
    steps: list[Step] = []
    if card.channels == "BGR":
        steps.append(("Gather", ["wsi_seg_bgr"], {"axis": 3}))
    if kind != TensorProto.UINT8:
        steps += [
            ("Cast", [], {"to": TensorProto.FLOAT}),
            ("Mul", ["wsi_seg_scale"], {}),
            ("Add", ["wsi_seg_shift"], {}),
        ]
    if kind == TensorProto.FLOAT16:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    if card.layout == "NCHW":
        steps.append(("Transpose", [], {"perm": _TO_PLANAR}))
    return _chain(PIXELS, image.name, steps or [("Identity", [], {})])


def _closing(output: Any, card: ModelCard) -> list[Any]:
    """Nodes from the program's own output to float32 (N, C, H, W), activated."""
    dims = [dim.dim_value or None for dim in output.type.tensor_type.shape.dim]
    steps: list[Step] = []
    if len(dims) == 3:
        steps.append(("Unsqueeze", ["wsi_seg_channel"], {}))
    elif (output_layout(dims, card) if dims else card.layout) == "NHWC":
        steps.append(("Transpose", [], {"perm": _TO_PLANAR}))
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if card.activation == "softmax":
        steps.append(("Softmax", [], {"axis": 1}))
    elif card.activation == "sigmoid":
        steps.append(("Sigmoid", [], {}))
    return _chain(output.name, PROBABILITIES, steps or [("Identity", [], {})])


def _chain(source: str, target: str, steps: list[Step]) -> list[Any]:
    """Nodes one after another, from the value `source` to the value `target`."""
    names = [source, *(f"{target}_step{index}" for index in range(1, len(steps))), target]
    return [
        helper.make_node(kind, [names[index], *others], [names[index + 1]], f"{target}_{kind}_{index}", **options)
        for index, (kind, others, options) in enumerate(steps)
    ]


def _free_axes(image: Any, card: ModelCard) -> list[int | str]:
    """(N, H, W) of the input: a number where the program demands it, else a name."""
    dims = image.type.tensor_type.shape.dim
    axes = (0, 2, 3) if card.layout == "NCHW" else (0, 1, 2)
    found = zip(("N", "H", "W"), (dims[axis] for axis in axes), strict=True)
    return [dim.dim_value if dim.dim_value > 0 else name for name, dim in found]
