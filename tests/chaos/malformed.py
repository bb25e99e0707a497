"""Models that are broken in one of a million ways, each made from a seed.

Owns the four sound models (ONNX, OpenVINO, safetensors, a card) and how they are broken: bytes changed, cut, doubled
or swapped, and numbers and names that lie inside a file that is otherwise whole. Loads nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from onnx import ModelProto

from tests.models_of_others import zoo
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes

CARD = ModelCard("m", 0.5, named_classes(["a", "b", "c"]), 32, halo=0)
NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
"""Values at which something may break."""
_JSON: tuple[Any, ...] = (
    None, True, False, "", "a", "\0", "é" * 100, [], [[]], {}, {"": 0}, 0.5, -0.0, 1e308, 1e-308, float("nan"),
    float("inf"), 10**400, -1, 0, 3, 2**53, 2**64, ["a", "b"], [1, 2, 3], [None] * 3, ["x"] * 300, [float("nan")] * 3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound models, as the bytes of their files."""

    onnx: tuple[bytes, ...]
    xml: bytes
    bin: bytes
    safetensors: bytes
    card: bytes


def sound_models() -> Sound:
    """The same each time."""
    import openvino as ov
    from safetensors.numpy import save

    models = [zoo.chain(("Softmax", {"axis": 1})), zoo.turned(True, True), zoo.multiples_of(4), zoo.instance_norm()]
    ir = ov.Core().read_model(models[2].SerializeToString(), b"")
    xml, weights = _serialised(ir)
    tensors = {"unmix": np.eye(3, dtype=np.float32), "b": np.zeros(2, np.float32)}
    return Sound(
        tuple(model.SerializeToString() for model in models), xml, weights,
        save(tensors, metadata={METADATA_KEY: CARD.to_json()}), CARD.to_json().encode(),
    )  # fmt: skip


def _serialised(model: Any) -> tuple[bytes, bytes]:
    import tempfile

    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        ov.serialize(model, str(Path(folder, "m.xml")), str(Path(folder, "m.bin")))
        return Path(folder, "m.xml").read_bytes(), Path(folder, "m.bin").read_bytes()


Files = Mapping[str, bytes]


def malformed(sound: Sound, chance: Random, number: int) -> tuple[str, Files]:
    """(name of the model's file, content of all files) of one broken model."""
    kind = ("onnx", "openvino", "safetensors", "card")[number % 4]
    return _MAKERS[kind](sound, chance)


def _onnx(sound: Sound, chance: Random) -> tuple[str, Files]:
    content = chance.choice(sound.onnx)
    broken = _bytes(content, chance) if chance.random() < 0.4 else _lying_onnx(content, chance)
    return "model.onnx", {"model.onnx": broken, "card.json": sound.card}


def _openvino(sound: Sound, chance: Random) -> tuple[str, Files]:
    way = chance.random()
    xml = _lying_xml(sound.xml, chance) if way < 0.6 else _bytes(sound.xml, chance) if way < 0.9 else sound.xml
    weights = _bytes(sound.bin, chance) if way >= 0.85 else sound.bin
    return "model.xml", {"model.xml": xml, "model.bin": weights, "card.json": sound.card}


def _safetensors(sound: Sound, chance: Random) -> tuple[str, Files]:
    content = sound.safetensors
    length = int.from_bytes(content[:8], "little")
    if chance.random() < 0.4:
        return "weights.safetensors", {"weights.safetensors": _bytes(content, chance)}
    head = _lying_json(json.loads(content[8 : 8 + length]), chance)
    text = _dumped(head)
    told = len(text) if chance.random() < 0.8 else chance.choice(NUMBERS) % 2**64
    return "weights.safetensors", {"weights.safetensors": told.to_bytes(8, "little") + text + content[8 + length :]}


def _card(sound: Sound, chance: Random) -> tuple[str, Files]:
    if chance.random() < 0.3:
        card = _bytes(sound.card, chance)
    elif chance.random() < 0.1:
        card = chance.choice((b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b'{"mpp":' + b"9" * 5000 + b"}"))
    else:
        card = _dumped(_lying_json(json.loads(sound.card), chance))
    return "model.onnx", {"model.onnx": sound.onnx[0], "card.json": card}


_MAKERS: dict[str, Callable[[Sound, Random], tuple[str, Files]]] = {
    "onnx": _onnx, "openvino": _openvino, "safetensors": _safetensors, "card": _card,
}  # fmt: skip


def _dumped(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode(errors="backslashreplace")


def _bytes(content: bytes, chance: Random) -> bytes:
    """Some bytes changed, cut out, put in, doubled, or the end missing."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        start = chance.randrange(len(made) or 1)
        stop = start + chance.choice((1, 1, 2, 4, 8, 64))
        way = chance.randrange(7)
        if way == 0:
            made[start:stop] = bytes(chance.randrange(256) for _ in range(stop - start))
        elif way == 1:
            made[start : start + 1] = bytes([made[start] ^ 1 << chance.randrange(8)]) if made else b""
        elif way == 2:
            made[start:stop] = (chance.choice(NUMBERS) % 2**64).to_bytes(8, "little")[: stop - start]
        elif way == 3:
            del made[start:stop]
        elif way == 4:
            made[start:start] = made[start:stop]
        elif way == 5:
            made[start:stop] = b"\xff" * (stop - start)
        else:
            del made[start:]
    return bytes(made)


def _lying_json(content: Any, chance: Random) -> Any:
    """One to three values, at any depth, are others or gone."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = chance.choice(places)
        way = chance.random()
        if way < 0.1:
            del holder[key]
        elif way < 0.2 and isinstance(holder, dict):
            holder[chance.choice(("", "x", "dtype", "shape", "__metadata__", "mpp"))] = _value(chance)
        elif way < 0.5:
            holder[key] = chance.choice(NUMBERS)
        else:
            holder[key] = _value(chance)
    return content


def _value(chance: Random) -> Any:
    """A value of its own, which may be changed further."""
    return deepcopy(chance.choice(_JSON))


def _places(content: Any) -> list[tuple[Any, Any]]:
    if not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    return [place for key in keys for place in ((content, key), *_places(content[key]))]


def _lying_xml(content: bytes, chance: Random) -> bytes:
    """Some attributes of an IR have other values, or elements are gone or doubled."""
    text = content.decode()
    for _ in range(chance.choice((1, 1, 2, 4))):
        found = list(re.finditer(r'="([^"]*)"|<dim>(-?\d+)</dim>', text))
        if not found:
            break
        one = chance.choice(found)
        start, stop = one.span(1 if one[1] is not None else 2)
        if chance.random() < 0.15:
            lines = text.split("\n")
            number = chance.randrange(len(lines))
            lines[number : number + 1] = chance.choice(([], [lines[number]] * 2))
            text = "\n".join(lines)
            continue
        other = chance.choice((str(chance.choice(NUMBERS)), chance.choice(found)[1] or "", "", "x", "?", "1,2,3", "-1"))
        text = text[:start] + other + text[stop:]
    return text.encode()


def _lying_onnx(content: bytes, chance: Random) -> bytes:
    """A file that can be parsed, in which something is not so."""
    model = ModelProto.FromString(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(_LIES)(model.graph, chance)
    return bytes(model.SerializeToString())


def _other_dims(graph: Any, chance: Random) -> None:
    tensor = chance.choice(graph.initializer)
    if tensor.dims and chance.random() < 0.7:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(NUMBERS)
    else:
        tensor.dims.append(chance.choice(NUMBERS))


def _other_type(graph: Any, chance: Random) -> None:
    chance.choice(graph.initializer).data_type = chance.randrange(30)


def _other_values(graph: Any, chance: Random) -> None:
    tensor = chance.choice(graph.initializer)
    tensor.raw_data = _bytes(tensor.raw_data, chance)


def _other_operator(graph: Any, chance: Random) -> None:
    node = chance.choice(graph.node)
    node.op_type = chance.choice((
        "Resize", "Conv", "Reshape", "Loop", "If", "Scan", "Gather", "Slice", "Pad", "Tile", "Expand", "Concat",
        "Split", "Squeeze", "Transpose", "ConvTranspose", "MaxPool", "LSTM", "TopK", "ScatterND", "NonMaxSuppression",
        "Einsum", "OneHot", "DepthToSpace", "QuantizeLinear", "DequantizeLinear", "RoiAlign", "GridSample", "Unsqueeze",
        "Range",
    ))  # fmt: skip


def _other_edges(graph: Any, chance: Random) -> None:
    names = [name for node in graph.node for name in (*node.input, *node.output)] + ["", "nowhere"]
    node = chance.choice(graph.node)
    names_of = chance.choice((node.input, node.output))
    if names_of and chance.random() < 0.7:
        names_of[chance.randrange(len(names_of))] = chance.choice(names)
    else:
        names_of.append(chance.choice(names))


def _other_attribute(graph: Any, chance: Random) -> None:
    node = chance.choice(graph.node)
    if not node.attribute or chance.random() < 0.2:
        made = node.attribute.add()
        made.name, made.type, made.i = chance.choice(("axis", "group", "mode", "to", "pads")), 2, chance.choice(NUMBERS)
        return
    attribute = chance.choice(node.attribute)
    way = chance.randrange(4)
    if way == 0 and attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = max(-(2**63), chance.choice(NUMBERS))
    elif way == 1:
        attribute.i = chance.choice(NUMBERS)
    elif way == 2:
        attribute.type = chance.randrange(15)
    else:
        attribute.ints.append(chance.choice(NUMBERS))


def _other_port(graph: Any, chance: Random) -> None:
    tensor = chance.choice((graph.input[0], graph.output[0])).type.tensor_type
    way = chance.randrange(4)
    if way == 0:
        tensor.elem_type = chance.randrange(25)
    elif way == 1 and tensor.shape.dim:
        del tensor.shape.dim[chance.randrange(len(tensor.shape.dim))]
    elif way == 2:
        tensor.shape.dim.add().dim_value = chance.choice(NUMBERS)
    elif tensor.shape.dim:
        chance.choice(tensor.shape.dim).dim_value = chance.choice(NUMBERS)


def _external(graph: Any, chance: Random) -> None:
    tensor = chance.choice(graph.initializer)
    tensor.data_location = 1
    for key in ("location", "offset", "length"):
        entry = tensor.external_data.add()
        entry.key = key
        entry.value = (
            chance.choice(("card.json", "", "..", "x" * 300)) if key == "location" else str(chance.choice(NUMBERS))
        )


_LIES: tuple[Callable[[Any, Random], None], ...] = (
    _other_dims, _other_type, _other_values, _other_operator, _other_edges, _other_attribute, _other_port, _external,
)  # fmt: skip
