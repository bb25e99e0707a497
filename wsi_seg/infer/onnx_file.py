"""What an ONNX file says of itself, read without compiling it; the only file of this room that imports onnx.

Owns the signature, the card in the metadata and the list of external data files. Refuses programs that do not take one
image and give one map, and external data outside the program's own folder. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from wsi_seg.card import METADATA_KEY
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.protocol import Signature

_LAYOUT_ONLY = ("Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze")


def read_signature(path: Path) -> Signature:
    """Shapes, last operation and card of an ONNX file. Raises ModelLoadError."""
    model = _parse(path)
    external_files(path, model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [port for port in graph.input if port.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelLoadError(
            f"{path} has {len(inputs)} inputs and {len(graph.output)} outputs",
            rule="a segmentation model takes one image and gives one map",
            remedy="export the model with its class map as the only output",
        )
    cards = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    return Signature(
        _shape(inputs[0]),
        _shape(graph.output[0]),
        _type(inputs[0]),
        _last_operation(graph),
        cards[0] if cards else None,
    )


def external_files(path: Path, model: Any = None) -> list[Path]:
    """Files beside `path` that hold its large weights, sorted; none for most models.

    Raises ModelLoadError where one is absolute, a link, or outside the program's folder: a model must not make its
    runtime open other files.
    """
    found = set()
    for tensor in _tensors((model or _parse(path)).graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                found.add(_inside(path, entry.value))
    return sorted(found)


def _inside(path: Path, location: str) -> Path:
    target = path.parent / location
    inside = location and not Path(location).is_absolute()  # `..` and links do not survive resolve() below
    if not inside or target.resolve() != path.parent.resolve() / location or not target.is_file():
        raise ModelLoadError(
            f"{path} keeps weights in {location!r}",
            rule="external data is a plain file in the folder of the program",
            remedy="copy it there, or save the model as one file",
        )
    return target


def _parse(path: Path) -> Any:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf raises its own DecodeError, or ValueError, by version
        raise ModelLoadError(f"{path} is not an ONNX file ({error})", remedy="export the model again") from error
    if not model.graph.node:
        raise ModelLoadError(f"{path} is not an ONNX file: it holds no graph", remedy="export the model again")
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """All stored tensors of a graph and its subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _shape(port: Any) -> tuple[int | None, ...]:
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def _type(port: Any) -> str | None:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)))
    except (KeyError, TypeError, ValueError):
        return None


def _last_operation(graph: Any) -> str | None:
    """Operation that makes the values of the output, looking through changes of layout."""
    makers = {name: node for node in graph.node for name in node.output}
    name = graph.output[0].name
    for _ in range(len(graph.node)):  # bounded: a broken graph may hold a cycle
        node = makers.get(name)
        if node is None or node.op_type not in _LAYOUT_ONLY:
            return str(node.op_type) if node is not None else None
        name = node.input[0]
    return None
