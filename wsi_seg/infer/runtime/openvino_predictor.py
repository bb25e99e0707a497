"""OpenVINO on CPU: the only file that imports openvino.

Owns compilation at a constant batch shape (5-9 % faster than dynamic shapes for a U-Net here), pixel conversion and
activation inside the graph, the precision that really runs, and one infer request per calling thread. Knows no card
file and checks no result.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer.program.output_forms import output_layout
from wsi_seg.infer.protocol import ModelSpec, Port, RuntimeFacts, Signature
from wsi_seg.infer.runtime.buffers import Buffers
from wsi_seg.infer.runtime.live_memory import live_bytes

Shape = tuple[int, ...]

_LOG = logging.getLogger(__name__)

_HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}
"""Of what is not in int8; the plug-in has no fp16 arithmetic on a CPU and computes with fp16 weights in fp32."""
_MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_MAX_COMPILED = 2  # the probe's shape and the run's; each holds its own copy of the weights


def read_signature(path: Path) -> Signature:
    """Shapes and card of an OpenVINO IR; the card may sit in its runtime info. Raises ModelLoadError."""
    model = _read(path)
    with _one_error(path):
        card = str(model.get_rt_info([METADATA_KEY]).astype(str)) if model.has_rt_info([METADATA_KEY]) else None
        return Signature(
            input_shape=_dims(model.input(0)),
            input_type=_element(model.input(0)),
            card_json=card,
            outputs=tuple(_port(output) for output in model.outputs),
            tile_wide=tuple(sorted({node.get_type_name() for node in model.get_ops() if _is_tile_wide(node)})),
        )


def has_native_bf16() -> bool:
    """True where the CPU multiplies bf16 in hardware (AMX or AVX512_BF16); elsewhere OpenVINO emulates it, slowly."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoProgram:
    """An ONNX or IR file on the CPU plug-in."""

    def __init__(self, path: Path, card: ModelCard, spec: ModelSpec) -> None:
        self._core = ov.Core()
        self._name = str(path)
        with _one_error(path):
            self._model = _from_pixels(_with_output(_read(path), card), card, self._name)
        self._precision = "bf16" if spec.precision == "bf16" else card.precision
        if self._precision == "bf16" and not has_native_bf16():
            _LOG.warning("this CPU has no bf16 instructions: OpenVINO emulates them; --precision fp32 may be faster")
        self._config = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "NUM_STREAMS": str(spec.streams),
            "INFERENCE_NUM_THREADS": str(spec.streams * spec.threads),
            "ENABLE_CPU_PINNING": False,  # pinned streams of several processes would share the same cores
        }
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Shape, Any] = OrderedDict()
        self._output_shapes: dict[Shape, Shape] = {}
        self._buffers = Buffers()
        self._thread = threading.local()
        self.facts = RuntimeFacts("openvino", ov.__version__, "CPU", self._precision)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32, in memory that is the caller's while it is held."""
        try:
            request = self._request(batch.shape)
            request.set_input_tensor(ov.Tensor(batch, shared_memory=batch.flags.writeable))  # else copied
            shape = self._output_shapes.get(batch.shape)
            if shape is None:
                request.infer()
                first: NDArray[np.float32] = np.array(request.get_output_tensor().data)
                self._output_shapes[batch.shape] = first.shape
                self._thread.request = None  # its own output memory is not needed again
                return first
            output = self._buffers.take(shape)
            request.set_output_tensor(ov.Tensor(output, shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise PredictorError(f"OpenVINO failed on {self._name}, batch {batch.shape}: {_reason(error)}") from error
        return output

    def prediction_bytes(self, shape: Shape) -> int | None:
        """Memory of one prediction of a batch (N, H, W, 3); None where the graph does not tell its sizes."""
        model = self._model.clone()
        try:
            model.reshape({0: list(shape)})
            return live_bytes(model)
        except RuntimeError:
            return None

    def close(self) -> None:
        """Drop the compiled models; requests of other threads go with their threads."""
        with self._lock:
            self._compiled.clear()
        self._buffers.clear()
        self._thread = threading.local()

    def _request(self, shape: Shape) -> Any:
        """The calling thread's infer request for this batch shape."""
        local = self._thread
        if getattr(local, "request", None) is None or local.shape != shape:
            local.request, local.shape = self._compile(shape).create_infer_request(), shape
        return local.request

    def _compile(self, shape: Shape) -> Any:
        with self._lock:
            if shape not in self._compiled:
                model = self._model.clone()
                model.reshape({0: list(shape)})
                compiled = self._core.compile_model(model, "CPU", self._config)
                _verify_precision(compiled, self._precision, self._name)
                while len(self._compiled) >= _MAX_COMPILED:
                    self._compiled.popitem(last=False)
                self._compiled[shape] = compiled
            self._compiled.move_to_end(shape)
            return self._compiled[shape]


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """What OpenVINO makes of a program that is damaged, or that it does not know, as one error of ours."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError) as error:  # a damaged file in the message is ValueError
        raise ModelLoadError(
            f"OpenVINO cannot read {path}: {_reason(error)}",
            rule="a program is whole, and of operations that the runtime knows",
            remedy="export the model again; an ONNX file may run with --runtime onnxruntime",
        ) from error


def _read(path: Path) -> Any:
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and (weights.is_symlink() or not weights.is_file()):
        raise ModelLoadError(
            f"{path} has no weights in {weights}",
            rule="an OpenVINO IR is two files in one folder, neither of them a link",
            remedy="copy it there",
        )
    if path.suffix == ".xml":
        _expect_xml(path)
    with _one_error(path):
        model = ov.Core().read_model(str(path))
    if len(model.inputs) != 1:
        raise ModelLoadError(
            f"{path} has {len(model.inputs)} inputs",
            rule="a segmentation model takes one image",
            remedy="export it with the others as constants inside the program",
        )
    if not model.outputs:
        raise ModelLoadError(
            f"{path} has no output", rule="a segmentation model gives one value per class and px",
            remedy="export the model again",
        )  # fmt: skip
    return model


def _expect_xml(path: Path) -> None:
    """Refuse what is no XML: OpenVINO would try its readers of other frameworks' files on it. Raises ModelLoadError."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror}", rule="a file", remedy="check it") from error
    if not start.lstrip().startswith(b"<"):
        raise ModelLoadError(f"{path} is no XML", rule="an OpenVINO IR is XML", remedy="fetch it, or export it, again")


def _with_output(model: Any, card: ModelCard) -> Any:
    """The model with only the output that the card names, its channel axis in place: rank 4, never 3."""
    from openvino import opset13

    port = model.output(card.output) if card.output else model.output(0)
    if len(model.outputs) == 1 and len(port.get_partial_shape()) == 4:
        return model
    values = port.get_node().input_value(0)
    if len(port.get_partial_shape()) == 3:
        axis = opset13.constant(np.array([1], np.int64))
        values = opset13.unsqueeze(values, axis).output(0)
    return ov.Model([opset13.result(values)], model.get_parameters(), model.get_friendly_name())


def _from_pixels(model: Any, card: ModelCard, name: str) -> Any:
    """The model with uint8 NHWC RGB in, activated float32 NCHW out."""
    try:
        steps = PrePostProcessor(_with_activation(model, card))
        image = steps.input(0)
        image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        image.model().set_layout(ov.Layout(card.layout))
        pixels = image.preprocess()
        if card.channels == "BGR":
            pixels.reverse_channels()
        if _element(model.input(0)) != "uint8":
            pixels.convert_element_type(ov.Type.f32)
            pixels.mean([255.0 * value for value in card.mean]).scale([255.0 * value for value in card.std])
        steps.output(0).model().set_layout(ov.Layout(output_layout(_dims(model.output(0)), card)))
        steps.output(0).tensor().set_layout(ov.Layout("NCHW")).set_element_type(ov.Type.f32)
        return steps.build()
    except RuntimeError as error:
        raise ModelLoadError(
            f"{name} does not take images of layout {card.layout}: {_reason(error)}",
            rule="a program takes one image of the layout that its card names, within this machine's memory",
            remedy="check --layout",
        ) from error


def _with_activation(model: Any, card: ModelCard) -> Any:
    if card.activation == "probabilities":
        return model
    from openvino import opset13

    logits = model.output(0).get_node().input_value(0)
    axis = 1 if output_layout(_dims(model.output(0)), card) == "NCHW" else 3
    node = opset13.softmax(logits, axis) if card.activation == "softmax" else opset13.sigmoid(logits)
    return ov.Model([node], model.get_parameters(), model.get_friendly_name())


def _verify_precision(compiled: Any, precision: str, name: str) -> None:
    """Refuse a silent fall-back: the plug-in's answer, and operations that really run in bf16 or int8."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT")
    wanted = ov.Type.bf16 if precision == "bf16" else ov.Type.f32
    kinds = {
        _rt(node, "runtimePrecision")
        for node in compiled.get_runtime_model().get_ops()
        if precision != "int8" or _rt(node, "layerType") in _MULTIPLYING
    }
    runs = hint == wanted and ((precision == "bf16") == ("bf16" in kinds))
    if not runs or (precision == "int8" and not kinds & {"i8", "u8"}):
        raise ModelLoadError(
            f"{name} runs in {hint.get_type_name()} ({', '.join(sorted(kinds))}), not in {precision}",
            rule="the precision asked for is the precision that runs",
            remedy="use --precision fp32",
        )


def _rt(node: Any, key: str) -> str:
    value = node.get_rt_info()[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _dims(port: Any) -> tuple[int | None, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(dim.get_length() if dim.is_static else None for dim in shape)


def _element(port: Any) -> str:
    return str(port.get_element_type().to_dtype().name)


def _port(output: Any) -> Port:
    maker = output.get_node().input_value(0).get_node().get_type_name()
    names = sorted(output.get_names())
    operation = {"SoftMax": "Softmax"}.get(maker, maker)
    return Port(names[0] if names else "", _dims(output), _element(output), operation)


def _is_tile_wide(node: Any) -> bool:
    """Whether an operation normalises or reduces over height and width."""
    kind = node.get_type_name()
    if kind == "GroupNormalization":
        return True
    if kind != "MVN" and not kind.startswith("Reduce"):
        return False
    axes = node.input_value(1).get_node()
    found = {int(axis) for axis in axes.get_data().ravel()} if axes.get_type_name() == "Constant" else set()
    return any(pair <= found for pair in ({2, 3}, {-2, -1}, {1, 2}, {-3, -2}))


def _reason(error: Exception) -> str:
    """The telling line of OpenVINO's message, which starts with source paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["no reason given"])[-1][:300]
