"""Small ONNX programs with the habits of other people's: one linear map of the pixels, in many disguises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
WEIGHT = np.array([[4.0, -2.0, 0.5], [-3.0, 5.0, -1.0], [0.5, -1.0, 2.0]], np.float32)
"""Logits of three classes from (red, green, blue) / 255."""
BIAS = np.array([-1.0, -0.5, -1.5], np.float32)

Dims = Sequence[int | str | None]
IMAGE: Dims = ("N", 3, "H", "W")
MAP: Dims = ("N", 3, "H", "W")


def logits(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the map below gives for pixels / 255: (N, H, W, 3) uint8 -> (N, 3, H, W)."""
    return np.einsum("nhwc,kc->nkhw", batch / 255, WEIGHT.astype(np.float64)) + BIAS[:, None, None]


def linear(source: str = "x", target: str = "y", kind: int = FLOAT, scale: float = 1.0) -> tuple[list[Any], list[Any]]:
    """Nodes and tensors of a 1 x 1 convolution by `WEIGHT` and `BIAS`; `scale` 1/255 for pixels in 0-255."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tensors = [
        numpy_helper.from_array((WEIGHT * np.float32(scale)).reshape(3, 3, 1, 1).astype(dtype), f"{target}.weight"),
        numpy_helper.from_array(BIAS.astype(dtype), f"{target}.bias"),
    ]
    return [helper.make_node("Conv", [source, *(tensor.name for tensor in tensors)], [target])], tensors


def model(
    nodes: Sequence[Any], tensors: Sequence[Any], inputs: dict[str, tuple[int, Dims]],
    outputs: dict[str, tuple[int, Dims]], **more: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A file's content; ports as name -> (element type, dimensions)."""
    ports = [
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in of.items()]
        for of in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "g", *ports, list(tensors))
    opsets = [helper.make_opsetid("", 18), *more.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def integers(name: str, *values: int) -> Any:
    """A tensor of integers, for axes and shapes."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def chain(
    *steps: tuple[str, dict[str, Any]], image: Dims = IMAGE, result: Dims = MAP, kind: int = FLOAT, gives: int = FLOAT
) -> onnx.ModelProto:
    """The linear map, then `steps` (operator, attributes) one after the other; from x to y."""
    nodes, tensors = linear("x", "t0" if steps else "y", kind)
    for number, (operator, attributes) in enumerate(steps):
        target = "y" if number == len(steps) - 1 else f"t{number + 1}"
        nodes.append(helper.make_node(operator, [f"t{number}"], [target], **attributes))
    return model(nodes, tensors, {"x": (kind, image)}, {"y": (gives, result)})


def turned(before: bool, after: bool, dims: Sequence[int | str] = ("N", "H", "W")) -> onnx.ModelProto:
    """Input, output, or both with the channels last."""
    nodes, tensors = linear("a" if before else "x", "t")
    if before:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Softmax", ["t"], ["s" if after else "y"], axis=1))
    if after:
        nodes.append(helper.make_node("Transpose", ["s"], ["y"], perm=[0, 2, 3, 1]))
    n, h, w = dims
    sides = [(n, h, w, 3) if last else (n, 3, h, w) for last in (before, after)]
    return model(nodes, tensors, {"x": (FLOAT, sides[0])}, {"y": (FLOAT, sides[1])})


def of_bytes(last: bool) -> onnx.ModelProto:
    """Takes raw uint8 and normalises inside."""
    nodes, tensors = linear("f", "t", scale=1 / 255)
    nodes.insert(0, helper.make_node("Cast", ["a" if last else "x"], ["f"], to=FLOAT))
    if last:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Softmax", ["t"], ["y"], axis=1))
    return model(nodes, tensors, {"x": (BYTE, ("N", "H", "W", 3) if last else IMAGE)}, {"y": (FLOAT, MAP)})


def two_outputs() -> onnx.ModelProto:
    """The classes and something coarser, as with deep supervision."""
    nodes, tensors = linear("x", "t")
    nodes += [
        helper.make_node("Softmax", ["t"], ["classes"], axis=1),
        helper.make_node("AveragePool", ["classes"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    ports = {"coarse": (FLOAT, ("N", 3, "h", "w")), "classes": (FLOAT, MAP)}
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, ports)


def two_inputs() -> onnx.ModelProto:
    """An image and a factor."""
    nodes, tensors = linear("x", "t")
    nodes.append(helper.make_node("Mul", ["t", "factor"], ["y"]))
    return model(nodes, tensors, {"x": (FLOAT, IMAGE), "factor": (FLOAT, (1,))}, {"y": (FLOAT, MAP)})


def coarse(step: int = 4) -> onnx.ModelProto:
    """An answer at 1/step of the resolution."""
    nodes, tensors = linear("x", "t")
    nodes += [
        helper.make_node("AveragePool", ["t"], ["p"], kernel_shape=[step, step], strides=[step, step]),
        helper.make_node("Softmax", ["p"], ["y"], axis=1),
    ]
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, ("N", 3, "h", "w"))})


def multiples_of(step: int, share: float = 0.2) -> onnx.ModelProto:
    """Down and up by `step` with a skip connection that fits no other sides; `share` of the coarse part in the sum."""
    nodes, tensors = linear("x", "t")
    tensors += [
        numpy_helper.from_array(np.array([1, 1, step, step], np.float32), "scales"),
        numpy_helper.from_array(np.array(share, np.float32), "share"),
    ]
    nodes += [
        helper.make_node("AveragePool", ["t"], ["p"], kernel_shape=[step, step], strides=[step, step]),
        helper.make_node("Resize", ["p", "", "scales"], ["u"], mode="nearest"),
        helper.make_node("Mul", ["u", "share"], ["v"]),
        helper.make_node("Add", ["t", "v"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, MAP)})


def instance_norm() -> onnx.ModelProto:
    """Normalised by the mean and the deviation of the tile."""
    nodes, tensors = linear("x", "t")
    tensors += [
        numpy_helper.from_array(np.ones(3, np.float32), "one"), numpy_helper.from_array(np.zeros(3, np.float32), "zero")
    ]  # fmt: skip
    nodes += [
        helper.make_node("InstanceNormalization", ["t", "one", "zero"], ["n"]),
        helper.make_node("Softmax", ["n"], ["y"], axis=1),
    ]
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, MAP)})


def squeeze_excite(operator: str = "GlobalAveragePool") -> onnx.ModelProto:
    """Channels weighted by their mean over the tile."""
    nodes, tensors = linear("x", "t")
    if operator == "GlobalAveragePool":
        nodes.append(helper.make_node(operator, ["t"], ["m"]))
    else:
        tensors.append(integers("axes", -1, -2))
        nodes.append(helper.make_node(operator, ["t", "axes"], ["m"], keepdims=1))
    nodes += [
        helper.make_node("Sigmoid", ["m"], ["g"]),
        helper.make_node("Mul", ["t", "g"], ["e"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=1),
    ]
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, MAP)})


def strange_operator(domain: str, local: bool = False) -> onnx.ModelProto:
    """Ends in an operator `Twice` of a domain; `local`: the file defines it as a function."""
    nodes, tensors = linear("x", "t")
    nodes.append(helper.make_node("Twice", ["t"], ["d"], domain=domain))
    nodes.append(helper.make_node("Softmax", ["d"], ["y"], axis=1))
    opsets = [helper.make_opsetid(domain, 1)]
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    twice = helper.make_function(domain, "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    functions = [twice] if local else []
    return model(nodes, tensors, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, MAP)}, opsets=opsets, functions=functions)


def contributed_operator() -> onnx.ModelProto:
    """An operator that only ONNX Runtime has built in."""
    nodes, tensors = linear("x", "t")
    nodes += [
        helper.make_node("FusedMatMul", ["t", "eye"], ["f"], domain="com.microsoft", alpha=1.0),
        helper.make_node("Softmax", ["f"], ["y"], axis=1),
    ]
    tensors.append(numpy_helper.from_array(np.eye(64, dtype=np.float32), "eye"))
    return model(
        nodes, tensors, {"x": (FLOAT, (1, 3, 64, 64))}, {"y": (FLOAT, (1, 3, 64, 64))},
        opsets=[helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip


def outside(content: onnx.ModelProto, folder: Path, location: str = "weights.bin", **entries: int) -> onnx.ModelProto:
    """The model with its largest tensor in a file of that folder; `entries` are told of it, true or not."""
    tensor = max(content.graph.initializer, key=lambda stored: len(stored.raw_data))
    (folder / location).parent.mkdir(exist_ok=True)
    (folder / location).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return content


def all_outside(
    content: onnx.ModelProto, folder: Path, *, constants: bool = False, location: str = "weights.bin"
) -> onnx.ModelProto:
    """The model with every tensor in one file, the scalars and shapes too; `constants`: first made Constant nodes."""
    if constants:
        for tensor in list(content.graph.initializer):
            content.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        del content.graph.initializer[:]
    onnx.save(
        content, folder / "whole.onnx", save_as_external_data=True, location=location, size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    return onnx.load(folder / "whole.onnx", load_external_data=False)
