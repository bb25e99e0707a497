"""What an ONNX file must not hold: weights elsewhere, tensors whose sizes lie, operators of strangers.

Owns these refusals, made before a runtime sees the file. Works on a parsed file; computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from onnx import TensorProto, defs, helper

from wsi_seg.errors import ModelLoadError

MAX_BYTES = 2**31 - 1
"""Largest ONNX file: what protobuf can parse."""

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains whose operators are built into the runtimes; `com.microsoft` only into ONNX Runtime."""
_ONNX = ("", "ai.onnx")
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def check_size(path: Path) -> None:
    """Refuse a file that no ONNX reader can parse. Raises ModelLoadError."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ModelLoadError(
            f"{path} has {size / 1e9:.1f} GB",
            rule="an ONNX file has at most 2 GB",
            remedy="save its weights as external data beside it (onnx.save with save_as_external_data)",
        )


def check_trust(path: Path, model: Any) -> None:
    """Refuse operators that need foreign code and tensors that are not what they claim. Raises ModelLoadError."""
    local = {(function.domain, function.name) for function in model.functions}
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in _nodes(model)
         if node.domain not in _STANDARD and (node.domain, node.op_type) not in local}
    )  # fmt: skip
    if foreign:
        raise ModelLoadError(
            f"{path} uses the custom operators {', '.join(foreign[:5])}",
            rule="a custom operator needs a library of its own, and foreign code is never loaded",
            remedy="export the model with standard ONNX operators only",
        )
    for tensor in _tensors(model):
        _check_tensor(path, tensor)
    versions = [entry.version for entry in model.opset_import if entry.domain in _ONNX]
    for node in _graph_nodes(model.graph.node):
        if node.domain in _ONNX and len(versions) == 1:
            _check_edges(path, node, versions[0])


def _check_edges(path: Path, node: Any, version: int) -> None:
    """Refuse a node that lacks an input it needs: OpenVINO 2026.4 ends the process on some (Conv without weights)."""
    try:
        schema = defs.get_schema(node.op_type, version, "")
    except defs.SchemaError:  # the runtime says that it does not know it
        return
    needed = [i for i, port in enumerate(schema.inputs) if port.option == defs.OpSchema.FormalParameterOption.Single]
    absent = [schema.inputs[i].name for i in needed if i >= len(node.input) or not node.input[i]]
    sizes = f"{len(node.input)} inputs and {len(node.output)} outputs"
    fits = len(node.input) <= schema.max_input and schema.min_output <= len(node.output) <= schema.max_output
    if absent or not fits:
        raise ModelLoadError(
            f"operator {node.op_type} {node.name!r} of {path} has {sizes}"
            + (f", and lacks {', '.join(absent)}" if absent else ""),
            rule=f"as opset {version} says of it",
            remedy="the file is damaged; export or fetch it again",
        )


def external_files(path: Path, model: Any) -> list[Path]:
    """Files beside `path` that hold its large weights, sorted; none for most models.

    Raises ModelLoadError where one is absolute, a link, missing, or outside the program's folder: a model must not
    make its runtime open other files.
    """
    return sorted({_inside(path, _place(tensor).get("location", "")) for tensor in outside(model)})


def outside(model: Any) -> Iterator[Any]:
    """The tensors of a file whose values lie in another one."""
    return (tensor for tensor in _tensors(model) if tensor.external_data)


def external_values(path: Path, tensor: Any) -> bytes:
    """The bytes of a tensor that `outside` gave, of a file that `check_trust` accepted. Raises ModelLoadError."""
    place = _place(tensor)
    source = _inside(path, place.get("location", ""))
    try:
        with source.open("rb") as file:
            file.seek(int(place.get("offset", 0)))
            return file.read(_expected_bytes(tensor))
    except OSError as error:
        raise ModelLoadError(f"cannot read {source}: {error.strerror}") from error


def _place(tensor: Any) -> dict[str, str]:
    """Where values lie, by key. Raises ValueError where a key is there twice: readers differ in which one they take."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    if len(place) != len(tensor.external_data):
        raise ValueError(f"tensor {tensor.name!r} says twice where its values lie")
    return place


def _inside(path: Path, location: str) -> Path:
    target = path.parent / location
    if not _is_inside(path.parent, location):
        raise ModelLoadError(
            f"{path} keeps weights in {location[:200]!r}",
            rule="external data is a plain file in the folder of the program",
            remedy="copy it there, or save the model as one file",
        )
    return target


def _is_inside(folder: Path, location: str) -> bool:
    """Whether a location is a plain file in a folder; `..` and links do not survive `resolve`."""
    # Runtimes take a name that begins so for an address in their own memory, whatever lies on the disk.
    if not location or location.startswith("*") or Path(location).is_absolute():
        return False
    try:
        target = folder / location
        return target.resolve() == folder.resolve() / location and target.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _check_tensor(path: Path, tensor: Any) -> None:
    """Refuse a tensor that holds fewer or more values than its dimensions say."""
    kind = _kind(tensor)
    if kind in ("", "UNDEFINED", "STRING"):
        return
    expected, bits = _expected_bytes(tensor), _bits(tensor)
    if tensor.external_data:
        found = _external_bytes(path, tensor, expected)
    elif tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
    elif bits < 8 or kind.startswith("COMPLEX"):
        return
    else:
        found = sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS) * bits // 8
    if min(tensor.dims, default=0) < 0 or found != expected:
        raise ModelLoadError(
            f"tensor {tensor.name!r} of {path} has {found} bytes for {kind} {tuple(tensor.dims)}",
            rule="a tensor has as many values as its dimensions say",
            remedy="the file is damaged; export or fetch it again",
        )


def _kind(tensor: Any) -> str:
    """Name of the element type, empty where ONNX knows none of that number."""
    return TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else ""


def _bits(tensor: Any) -> int:
    """Of one value of a type that has a fixed size."""
    return _PACKED_BITS.get(_kind(tensor)) or 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _expected_bytes(tensor: Any) -> int:
    """What the dimensions come to, for such a type."""
    return int(-(-prod(tensor.dims) * _bits(tensor) // 8))


def _external_bytes(path: Path, tensor: Any, expected: int) -> int:
    """Bytes that the external file really has for a tensor, `length` where that is stated and there."""
    place = _place(tensor)
    try:
        offset, length = int(place.get("offset", 0)), int(place.get("length", expected))
    except ValueError:
        return 0
    size = _inside(path, place.get("location", "")).stat().st_size
    return min(length, max(0, size - offset)) if offset >= 0 else 0


def _nodes(model: Any) -> Iterator[Any]:
    """All nodes of a file: of its graph, of the graphs inside them, and of its functions."""
    return _graph_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)])


def _graph_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """These, and all in the graphs inside them."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            pending += [inner for graph in (attribute.g, *attribute.graphs) for inner in graph.node]


def _tensors(model: Any) -> Iterator[Any]:
    """All stored tensors of a file, those of inner graphs and of attributes included."""
    yield from _graph_tensors(model.graph)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
