"""An ONNX program computing in fp16, its input and output still float32; owns which operations stay in fp32.

Graph surgery only, no runtime. Weights are halved, casts stand where the two types meet. In fp32 stay: what is computed
from shapes (fp16 counts to 2048 only), sums and powers that overflow, the closing softmax or sigmoid, and whatever ONNX
does not define for fp16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from wsi_seg.errors import ModelLoadError

_LARGEST = float(np.finfo(np.float16).max)
_WIDE = {
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "Log", "LogSoftmax", "Pow", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus",
}  # fmt: skip
"""Operations that leave the range of fp16, or lose its 11 bits, on ordinary activations."""
_CLOSING = ("Softmax", "Sigmoid")
_LAYOUT_ONLY = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def to_half(content: bytes) -> bytes:
    """The serialised program with fp16 arithmetic; float32 at its borders, metadata as before.

    Finite weights beyond ±65504 are clipped. Raises ModelLoadError for quantised programs, for control flow, for
    external data and where a value has no type.
    """
    model = onnx.ModelProto.FromString(content)
    _refuse(model)
    _Conversion(model).run()
    onnx.checker.check_model(model, full_check=True)
    halved: bytes = model.SerializeToString(deterministic=True)
    return halved


def _refuse(model: Any) -> None:
    operations = {node.op_type for node in model.graph.node}
    inner = any(
        attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute
    )
    reason = ""
    if used := sorted(operations.intersection(_QUANTISED)):
        reason = f"it is quantised already ({used[0]})"
    elif inner or model.functions:
        reason = "it holds control flow or functions"
    elif any(tensor.external_data for tensor in model.graph.initializer):
        reason = "its weights lie in another file"
    if reason:
        raise ModelLoadError(
            f"a program cannot be made fp16: {reason}", rule="fp16 is made from a plain fp32 graph in one file",
            remedy="start from the fp32 original, saved as one file",
        )  # fmt: skip


class _Conversion:
    """One graph on its way; nodes are visited in order, casts made where a value is asked for in the other type."""

    def __init__(self, model: Any) -> None:
        self._model, self._graph = model, model.graph
        self._version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        _constants_to_weights(self._graph)
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._floats = _float_values(model)
        self._outputs = {port.name for port in self._graph.output}
        self._fixed = set(self._weights)
        """Values that do not depend on the image's pixels."""
        self._names: dict[tuple[str, bool], str] = {(name, False): name for name in self._floats}
        """(value, half) -> its name in that type, where it exists."""
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Rewrite the graph."""
        closing = _closing_node(self._graph)
        for node in list(self._graph.node):
            if node.op_type in ("Shape", "Size") or all(name in self._fixed for name in node.input if name):
                self._fixed.update(node.output)
                self._keep(node)
            elif node is closing or not self._may_be_half(node):
                self._keep(node)
            else:
                self._halve(node)
        for name in sorted(self._outputs & self._floats):
            self._as(name, half=False)
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for name, tensor in self._weights.items() if name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _may_be_half(self, node: Any) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type in _WIDE:
            return False
        if any(attribute.name == "dtype" for attribute in node.attribute):
            return False
        if any(name in self._weights and _is_lost(self._weights[name]) for name in node.input):
            return False
        ports = [*zip(node.input, _input_types(node, self._version), strict=False), *self._result_types(node)]
        variable = [types for name, types in ports if name in self._floats and name not in self._weights]
        return bool(variable) and all("tensor(float16)" in types for types in variable)

    def _result_types(self, node: Any) -> Iterator[tuple[str, list[str]]]:
        schema = onnx.defs.get_schema(node.op_type, self._version)
        return zip(node.output, _types(schema, schema.outputs, len(node.output)), strict=False)

    def _keep(self, node: Any) -> None:
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._as(name, half=False)
        self._nodes.append(node)

    def _halve(self, node: Any) -> None:
        for index, (name, types) in enumerate(zip(node.input, _input_types(node, self._version), strict=False)):
            if name in self._floats:
                node.input[index] = self._as(name, half="tensor(float16)" in types)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        for index, name in enumerate(node.output):
            if name in self._floats:
                made = f"{name}_half" if name in self._outputs else name
                del self._names[name, False]
                self._names[name, True] = node.output[index] = made
        self._nodes.append(node)

    def _as(self, name: str, *, half: bool) -> str:
        """The name under which a float value is had in fp16 or fp32."""
        if (name, half) not in self._names:
            made = f"{name}_half" if half else name if name in self._outputs else f"{name}_full"
            if name in self._weights:
                self._weights[made] = _halved(self._weights[name], made)
            else:
                kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self._nodes.append(
                    helper.make_node("Cast", [self._names[name, not half]], [made], f"{made}_cast", to=kind)
                )
            self._names[name, half] = made
        return self._names[name, half]


def _constants_to_weights(graph: Any) -> None:
    """Constant nodes of tensors as initializers, so that there is one kind of weights."""
    kept = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _float_values(model: Any) -> set[str]:
    """Names of all float32 values. Raises ModelLoadError where the type of one cannot be told."""
    graph = shape_inference.infer_shapes(model).graph
    ports = (*graph.input, *graph.output, *graph.value_info)
    types = {port.name: port.type.tensor_type.elem_type for port in ports}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if untold := [name for name in node.output if name and not types.get(name)]:
            raise ModelLoadError(
                f"a program cannot be made fp16: the type of {untold[0]!r} ({node.op_type}) is not known",
                rule="every value has a type that ONNX can infer", remedy="export the model again with torch.onnx",
            )  # fmt: skip
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}


def _closing_node(graph: Any) -> Any:
    """The softmax or sigmoid that makes the output, seen through changes of layout; None where there is none."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _LAYOUT_ONLY:
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type in _CLOSING else None


def _input_types(node: Any, version: int) -> list[list[str]]:
    schema = onnx.defs.get_schema(node.op_type, version)
    return _types(schema, schema.inputs, len(node.input))


def _types(schema: Any, formal: Any, count: int) -> list[list[str]]:
    """Types that each of `count` inputs or outputs may have; the last one of an operation may repeat."""
    constraints = {item.type_param_str: list(item.allowed_type_strs) for item in schema.type_constraints}
    ports = [formal[min(index, len(formal) - 1)] for index in range(count)]
    return [constraints.get(port.type_str, [port.type_str]) for port in ports]


def _is_lost(tensor: Any) -> bool:
    """True for a single number that fp16 makes zero or infinite, such as the epsilon of a norm."""
    if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) != 1:
        return False
    value = float(numpy_helper.to_array(tensor).reshape(-1)[0])
    return np.isfinite(value) and (abs(value) > _LARGEST or (value != 0 and np.float16(value) == 0))


def _halved(tensor: Any, name: str) -> Any:
    values = numpy_helper.to_array(tensor)
    clipped = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    return numpy_helper.from_array(clipped.astype(np.float16), name)
