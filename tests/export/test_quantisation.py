"""Odd programs under ONNX Runtime's quantiser: a sound int8 program or one message of ours, and a quiet terminal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import ModelLoadError
from wsi_seg.export.quantisation import Quantiser

CARD = ModelCard("odd", 0.5, named_classes(["a", "b", "c"]), 32)
IMAGE = ("N", 3, "H", "W")


def conv(source: str, target: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w"], [target], name, kernel_shape=[3, 3], pads=[1] * 4)


def made(
    nodes: Sequence[onnx.NodeProto], opset: int = 18, kind: int = 1, result: tuple[object, ...] = IMAGE
) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(random.normal(size=(3, 3, 3, 3)).astype(np.float32 if kind == 1 else np.float16), "w"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"),
    ]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", IMAGE), ("y", result))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("strange", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


RELU = helper.make_node("Relu", ["a"], ["b"])
SOUND = {
    "nodes without names": (made([conv("x", "a"), RELU, conv("b", "y")]), 2),
    "nodes of one name": (made([conv("x", "a", "same"), RELU, conv("b", "y", "same")]), 2),
    "an output of another shape than is declared": (made([conv("x", "y")], result=("N", 5, "H", "W")), 1),
    "an old opset": (
        made([
            conv("x", "a"), helper.make_node("Upsample", ["a", "s"], ["b"], mode="nearest"),
            helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ], opset=9),
        1,
    ),
}  # fmt: skip
REFUSED = {
    "an operator of nobody": (
        made([conv("x", "a"), helper.make_node("Odd", ["a"], ["y"], domain="strange")]), "strange:Odd"
    ),
    "an operator that is none": (made([conv("x", "a"), helper.make_node("NoSuch", ["a"], ["y"])]), "NoSuch"),
    "an opset of the future": (made([conv("x", "y")], opset=99), "failed:ONNX Runtime only .*opset versions"),
    "a broken graph": (made([conv("nowhere", "y")]), "Node input 'nowhere'"),
    "half precision": (made([conv("x", "y")], kind=10), "neither float32 nor uint8"),
    "nothing with weights": (made([helper.make_node("Softmax", ["x"], ["y"], axis=1)]), "nothing that could be int8"),
}  # fmt: skip


@pytest.fixture
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program: what nobody handles goes to stderr."""
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.mark.parametrize("name", SOUND)
def test_it_becomes_a_sound_program(
    name: str, tmp_path: Path, tiles: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    model, n_layers = SOUND[name]
    onnx.save(model, str(tmp_path / "odd.onnx"))
    quantiser = Quantiser(tmp_path / "odd.onnx", CARD, tiles, "minmax", False)
    names = [layer.name for layer in quantiser.layers]
    assert len(set(names)) == len(names) == n_layers
    content = onnx.ModelProto.FromString(quantiser.quantised(names[1:]))
    onnx.checker.check_model(content)  # nodes in order, too
    stored = {tensor.name: tensor.data_type for tensor in content.graph.initializer}
    read = [node.input[0] for node in content.graph.node if node.op_type == "DequantizeLinear"]
    assert sum(stored.get(tensor) == onnx.TensorProto.INT8 for tensor in read) == 1  # weights of one layer
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_message(
    name: str, tmp_path: Path, tiles: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    model, reason = REFUSED[name]
    onnx.save(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(ModelLoadError, match=reason) as caught:
        Quantiser(tmp_path / "odd.onnx", CARD, tiles, "minmax", False)
    assert str(caught.value).startswith("odd.onnx ")
    assert "in fp32 or fp16" in caught.value.remedy
    assert "\n" not in str(caught.value)
    assert "/" not in caught.value.what.replace("function/op", "")  # no places of our copies
    assert len(str(caught.value)) < 700
    assert capfd.readouterr() == ("", "")
