"""ONNX programs as files: card inside, weights in half, resizing as transposed convolutions, and as OpenVINO IR.

Owns graph surgery. Knows nothing of calibration or limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from wsi_seg.card import METADATA_KEY, ModelCard

_BILINEAR = np.array([0.25, 0.75, 0.75, 0.25], np.float32)


def embed_card(program: Path, card: ModelCard) -> bytes:
    """The program, in one piece, with `card` in its metadata."""
    return _with_card(onnx.load(str(program)), card)


def transposed(content: bytes) -> tuple[bytes, int, int]:
    """The program with resizing by two as depthwise transposed convolutions of fixed weights: the same values.

    TensorRT runs them better than Resize. Nearest neighbour is a kernel of four ones; bilinear (half pixels) one of
    (1, 3, 3, 1) / 4 on an input whose border is repeated. Answers the program, how many were replaced, how many not.
    """
    model = onnx.ModelProto.FromString(content)
    channels = _channels(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[Any] = []
    replaced = left = 0
    for node in model.graph.node:
        mode = _twice(node, constants)
        n = channels.get(node.input[0]) if node.op_type == "Resize" else None
        if node.op_type != "Resize":
            nodes.append(node)
        elif mode and n:
            nodes += _as_convolution(model, node, mode, n)
            replaced += 1
        else:
            nodes.append(node)
            left += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True), replaced, left


def write_openvino(content: bytes, card: ModelCard, path: Path, *, half: bool) -> None:
    """Write an OpenVINO IR (`path` .xml, weights .bin beside it) of an ONNX program, the card in its runtime info."""
    import openvino as ov

    model = ov.Core().read_model(content, b"")
    model.set_rt_info(card.to_json(), [METADATA_KEY])
    ov.save_model(model, str(path), compress_to_fp16=half)


def _with_card(model: Any, card: ModelCard) -> bytes:
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, {**kept, METADATA_KEY: card.to_json()})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _channels(model: Any) -> dict[str, int]:
    """Channels of every float32 value of four axes, where they are known."""
    graph = shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and len(dims) == 4 and dims[1].dim_value:
            found[value.name] = dims[1].dim_value
    return found


def _twice(node: Any, constants: dict[str, Any]) -> str:
    """`nearest` or `linear` for a Resize to twice the height and width that a transposed convolution can be."""
    if node.op_type != "Resize" or len(node.input) != 3:
        return ""
    scales = constants.get(node.input[2])
    if scales is None or scales.tolist() != [1, 1, 2, 2]:
        return ""
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    frame = options.get("coordinate_transformation_mode", b"half_pixel").decode()
    mode = str(options.get("mode", b"nearest").decode())
    if mode == "linear" and frame in ("half_pixel", "pytorch_half_pixel") and not options.get("antialias"):
        return mode
    rounded = options.get("nearest_mode", b"round_prefer_floor").decode()
    exact = (frame == "asymmetric" and rounded == "floor") or (frame == "half_pixel" and rounded.startswith("round"))
    return mode if mode == "nearest" and exact else ""


def _as_convolution(model: Any, node: Any, mode: str, n: int) -> list[Any]:
    """The nodes that take the place of a Resize of `n` channels; their weights go into the graph."""
    name = f"{node.output[0]}_transposed"
    kernel = np.ones((2, 2), np.float32) if mode == "nearest" else np.outer(_BILINEAR, _BILINEAR)
    weight = np.ascontiguousarray(np.broadcast_to(kernel, (n, 1, *kernel.shape)))
    model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
    source, before, pads = node.input[0], [], [0] * 4
    if mode == "linear":
        model.graph.initializer.append(
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), f"{name}_pads")
        )
        source, pads = f"{name}_padded", [3] * 4
        before = [helper.make_node("Pad", [node.input[0], f"{name}_pads"], [source], f"{name}_pad", mode="edge")]
    convolution = helper.make_node(
        "ConvTranspose", [source, f"{name}_weight"], [node.output[0]], name,
        kernel_shape=list(kernel.shape), strides=[2, 2], pads=pads, group=n,
    )  # fmt: skip
    return [*before, convolution]
