"""What an ONNX file says of itself, read without compiling it, and its content with external data brought inside.

Owns the signature: input, outputs, the card in the metadata, the operations that look at a whole tile. Refuses programs
that do not take one image. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from wsi_seg.card import METADATA_KEY
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.program import onnx_trust
from wsi_seg.infer.protocol import Port, Signature

_LAYOUT_ONLY = ("Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze")
_TILE_WIDE = frozenset({
    "InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool",
})  # fmt: skip
_WHOLE, _AGAIN = "an ONNX file is one whole protobuf message with a graph", "fetch it, or export the model, again"
_SMALL_VALUES = 1024
"""A tensor of up to so many values may be a shape, a scale or a list of axes, which decide the shapes in a graph."""
_SPATIAL = ({2, 3}, {-2, -1}, {1, 2}, {-3, -2})
"""Pairs of axes that are height and width, planar or not."""


def read_signature(path: Path) -> Signature:
    """Input, outputs, tile-wide operations and card of an ONNX file that is safe to load. Raises ModelLoadError."""
    model = _parse(path)
    with _one_error(path):
        onnx_trust.external_files(path, model)
        onnx_trust.check_trust(path, model)
        _bring_inside(path, model)
        return _signature(path, model)


def external_files(path: Path) -> list[Path]:
    """Files beside `path` that hold its large weights, sorted; none for most models. Raises ModelLoadError."""
    model = _parse(path)
    with _one_error(path):
        return onnx_trust.external_files(path, model)


def _signature(path: Path, model: Any) -> Signature:
    graph = model.graph
    weights = {tensor.name for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer))}
    inputs = [port for port in graph.input if port.name not in weights]
    if len(inputs) != 1:
        listed = ", ".join(f"{port.name} {_words(_shape(port))}" for port in inputs) or "none"
        raise ModelLoadError(
            f"{path} has {len(inputs)} inputs: {listed}",
            rule="a segmentation model takes one image",
            remedy="export it with the others as constants inside the program",
        )
    outputs = tuple(Port(port.name, _shape(port), _type(port), _maker(graph, port.name)) for port in graph.output)
    cards = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    return Signature(
        input_shape=_shape(inputs[0]),
        input_type=_type(inputs[0]),
        card_json=cards[0] if cards else None,
        outputs=outputs,
        tile_wide=_tile_wide(graph),
    )


def read_whole(path: Path) -> bytes:
    """The program with its external data, if any, inside. Raises ModelLoadError."""
    external_files(path)
    try:
        content: bytes = onnx.load(str(path)).SerializeToString()
    except Exception as error:  # protobuf raises its own; a message over 2 GiB cannot be made
        raise ModelLoadError(f"{path} cannot be read in one piece: {error}") from error
    return content


def with_small_inside(path: Path) -> bytes | None:
    """The program with its small external tensors inside and the large ones where they are; None where it has none.

    ONNX Runtime refuses a graph whose shapes follow from values that lie in another file, such as the scales of a
    Resize: it works the shapes out before it opens that file. Raises ModelLoadError.
    """
    model = _parse(path)
    with _one_error(path):
        if not onnx_trust.external_files(path, model):
            return None
        onnx_trust.check_trust(path, model)
        _bring_inside(path, model)
        content: bytes = model.SerializeToString()
        return content


def _bring_inside(path: Path, model: Any) -> None:
    """Read the small external tensors of a model that was found safe."""
    for tensor in onnx_trust.outside(model):
        if prod(tensor.dims) <= _SMALL_VALUES and tensor.data_type != TensorProto.STRING:
            tensor.raw_data = onnx_trust.external_values(path, tensor)
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """What a damaged file makes of text and numbers, such as names that are bytes, as one error of ours."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ModelLoadError(
            f"{path} is damaged ({error!r})",
            rule="names are text, and sizes are those of what is there",
            remedy="fetch it, or export the model, again",
        ) from error


def _parse(path: Path) -> Any:
    try:
        onnx_trust.check_size(path)
        model = onnx.load(str(path), load_external_data=False)
    except ModelLoadError:  # is an OSError
        raise
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf raises its own DecodeError, or ValueError, by version
        raise ModelLoadError(f"{path} is not an ONNX file ({error})", rule=_WHOLE, remedy=_AGAIN) from error
    if not model.graph.node:
        raise ModelLoadError(f"{path} is not an ONNX file: it holds no graph", rule=_WHOLE, remedy=_AGAIN)
    return model


def _shape(port: Any) -> tuple[int | None, ...]:
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def _words(shape: Iterable[int | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _type(port: Any) -> str | None:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)))
    except (KeyError, TypeError, ValueError):
        return None


def _maker(graph: Any, name: str) -> str | None:
    """Operation that makes the values of an output, looking through changes of layout."""
    makers = {made: node for node in graph.node for made in node.output}
    for _ in range(len(graph.node)):  # bounded: a broken graph may hold a cycle
        node = makers.get(name)
        if node is None or node.op_type not in _LAYOUT_ONLY:
            return str(node.op_type) if node is not None else None
        name = node.input[0]
    return None


def _tile_wide(graph: Any) -> tuple[str, ...]:
    """Operations of the graph that look at all pixels of a tile at once, by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return tuple(sorted({str(node.op_type) for node in graph.node if _is_tile_wide(node, constants)}))


def _is_tile_wide(node: Any, constants: dict[str, Any]) -> bool:
    if node.op_type in _TILE_WIDE:
        return True
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "LayerNormalization":
        return "axis" in attributes and attributes["axis"].i in (1, -3, -2)
    if not node.op_type.startswith("Reduce"):
        return False
    if "axes" in attributes:
        axes = set(attributes["axes"].ints)
    elif len(node.input) > 1 and node.input[1] in constants:
        tensor = constants[node.input[1]]
        axes = set() if tensor.external_data else {int(axis) for axis in numpy_helper.to_array(tensor).ravel()}
    else:
        return len(node.input) == 1  # over all axes
    return any(pair <= axes for pair in _SPATIAL)
