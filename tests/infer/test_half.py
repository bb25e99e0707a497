"""Programs in fp16: what becomes half, what stays, and that the labels are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from wsi_seg.errors import ModelLoadError
from wsi_seg.infer import ModelSpec, agreement, builtin_models, load_predictor
from wsi_seg.infer.program.half import to_half


def _program(nodes: list[onnx.NodeProto], *weights: tuple[str, np.ndarray]) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def _run(program: bytes, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(program, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image})[0]


def _operations(program: bytes) -> dict[str, onnx.NodeProto]:
    return {node.op_type: node for node in onnx.load_from_string(program).graph.node}


def test_a_network_keeps_its_labels_at_half_the_size(
    small_unet: Path, tissue_like: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    for source in (small_unet, builtin_models()["nuclei"]):
        halved = to_half(source.read_bytes())
        path = tmp_path / source.name
        path.write_bytes(halved)
        graph = onnx.load_from_string(halved).graph
        assert (
            graph.input[0].type.tensor_type.elem_type == graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
        )
        assert {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4} == {TensorProto.FLOAT16}
        assert len(halved) < 0.75 * source.stat().st_size
        plain = load_predictor(ModelSpec(str(source), runtime="onnxruntime"))
        half = load_predictor(ModelSpec(str(path), runtime="onnxruntime"))
        found = agreement(plain, half, tissue_like(2, 128))
        assert found.argmax_agreement > 0.999
        assert 1e-5 < found.max_abs < 1e-2  # it really is another arithmetic


def test_what_is_computed_from_shapes_stays_exact() -> None:
    """The height as a float: fp16 knows no 2049."""
    program = _program(
        [
            helper.make_node("Shape", ["x"], ["shape"], start=2, end=3),
            helper.make_node("Cast", ["shape"], ["height"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["height", "limit"], ["excess"]),
            helper.make_node("Mul", ["x", "excess"], ["y"]),
        ],
        ("limit", np.array([2048], np.float32)),
    )
    image = np.ones((1, 3, 2049, 1), np.float32)
    np.testing.assert_array_equal(_run(to_half(program), image), image)


def test_an_epsilon_is_not_lost_and_a_large_weight_is_clipped() -> None:
    epsilon = _program([helper.make_node("Add", ["x", "e"], ["y"])], ("e", np.array(1e-9, np.float32)))
    assert (_run(to_half(epsilon), np.zeros((1, 3, 1, 1), np.float32)) > 0).all()
    large = _program(
        [helper.make_node("Add", ["x", "w"], ["y"])], ("w", np.array([[[1e6]], [[-np.inf]], [[1.0]]], np.float32))
    )
    found = _run(to_half(large), np.zeros((1, 3, 1, 1), np.float32)).ravel()
    np.testing.assert_array_equal(found, [65504, -np.inf, 1])


def test_powers_and_the_closing_softmax_stay_in_fp32() -> None:
    program = _program(
        [
            helper.make_node("Pow", ["x", "two"], ["square"]),
            helper.make_node("Sqrt", ["square"], ["root"]),
            helper.make_node("Softmax", ["root"], ["y"], axis=1),
        ],
        ("two", np.array(2, np.float32)),
    )
    halved = to_half(program)
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(onnx.load_from_string(halved)).graph.value_info
    }
    nodes = _operations(halved)
    assert types[nodes["Pow"].output[0]] == types[nodes["Softmax"].input[0]] == TensorProto.FLOAT
    assert types[nodes["Sqrt"].output[0]] == TensorProto.FLOAT16


def test_scales_of_a_resize_stay_float() -> None:
    program = _program(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        ("scales", np.array([1, 1, 2, 2], np.float32)),
    )
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.testing.assert_array_equal(_run(to_half(program), image), _run(program, image))


def test_a_value_used_inside_and_given_out_exists_in_both_types() -> None:
    program = _program(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Neg", ["y"], ["unused"]),
        ]
    )
    image = np.full((1, 3, 1, 1), 0.1, np.float32)
    assert _run(to_half(program), image).dtype == np.float32
    np.testing.assert_array_equal(_run(to_half(program), image), image.astype(np.float16).astype(np.float32))


def test_quantised_programs_and_control_flow_are_refused() -> None:
    scale, zero = ("scale", np.array(0.1, np.float32)), ("zero", np.array(0, np.int8))
    quantised = _program(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        scale,
        zero,
    )
    with pytest.raises(ModelLoadError, match="quantised already"):
        to_half(quantised)
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    branch = _program(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)], ("c", np.array(True))
    )
    with pytest.raises(ModelLoadError, match="control flow"):
        to_half(branch)
