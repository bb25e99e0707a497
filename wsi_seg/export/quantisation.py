"""An fp32 ONNX program to int8 by static quantisation: Q/DQ nodes around convolutions, ranges from calibration tiles.

Owns how ONNX Runtime's quantiser is driven: per channel, symmetric weights, biases left in float. Weights and ranges
are those of Jacob et al. 2018 (arXiv:1712.05877); entropy ranges minimise the divergence of histograms (Migacz 2017).
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import shape_inference, version_converter
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.errors import ModelLoadError
from wsi_seg.export.quiet import quiet_terminal
from wsi_seg.infer.runtime.pixels import pixel_feed

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_PERCENTILE = 99.99
_QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operations that become int8; all others see float values between them."""
_FED = {onnx.TensorProto.FLOAT: "tensor(float)", onnx.TensorProto.UINT8: "tensor(uint8)"}
"""Element type of an input -> what `pixel_feed` calls it."""
_OLDEST_OPSET = 13
"""From here on QuantizeLinear has a scale per channel."""
_SILENT, _WARNINGS = 4, 2
"""Severities of ONNX Runtime's own log: fatal errors, and warnings, which is what it starts with."""
_SOURCE_LINE = re.compile(r"/\S+\.(?:h|cc):\d+:? (?:[^()]*\([^()]*\) )?")
"""Where in its own source ONNX Runtime raises."""
_OTHERWISE = "export it in fp32 or fp16"


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation with weights."""

    name: str
    macs: float
    """Multiply-adds for one tile."""


class Quantiser:
    """One program with the ranges of its activations, from which int8 programs are made."""

    def __init__(self, program: Path, card: ModelCard, tiles: NDArray[np.uint8], method: str, symmetric: bool) -> None:
        """Read the ranges off `tiles` (n, T, T, 3) uint8. Raises ModelLoadError."""
        self._card, self._symmetric = card, symmetric
        with TemporaryDirectory() as folder, _quiet(), _one_message(program, folder):
            prepared, augmented = Path(folder) / "prepared.onnx", Path(folder) / "augmented.onnx"
            _prepare(program, prepared)
            self._model = onnx.load(str(prepared))
            self._ranges = _ranges(prepared, augmented, self._inputs(tiles), (method, symmetric))
        self.layers = _layers(self._model, card.tile_size)
        if not self.layers:
            raise ModelLoadError(
                f"{program.name} has nothing that could be int8",
                rule=f"int8 is for {', '.join(_QUANTISED)} with weights that the file states", remedy=_OTHERWISE,
            )  # fmt: skip

    def quantised(self, kept: Collection[str] = (), card: ModelCard | None = None) -> bytes:
        """The int8 program as bytes, the layers named in `kept` left in float; `card` in its metadata."""
        kind = QuantType.QInt8 if self._symmetric else QuantType.QUInt8
        options = {"ActivationSymmetric": self._symmetric, "WeightSymmetric": True, "QuantizeBias": False}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with _quiet():
            quantiser = QDQQuantizer(
                model, True, False, QuantType.QInt8, kind, self._ranges,
                [layer.name for layer in self.layers if layer.name not in kept], [], list(_QUANTISED), options,
            )  # fmt: skip
            quantiser.quantize_model()
            quantiser.model.topological_sort()  # nodes come after what they read, as ONNX wants it
        result = quantiser.model.model
        result.graph.doc_string = ""
        del result.metadata_props[:]
        onnx.helper.set_model_props(result, {METADATA_KEY: (card or self._card).to_json()})
        content: bytes = result.SerializeToString(deterministic=True)
        return content

    def _inputs(self, tiles: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.float32]]]:
        weights = {tensor.name for tensor in self._model.graph.initializer}
        port = next(port for port in self._model.graph.input if port.name not in weights)
        kind = port.type.tensor_type.elem_type
        if kind not in _FED:
            raise ValueError("its input is neither float32 nor uint8")
        convert = pixel_feed(self._card, _FED[kind])
        count = max(1, port.type.tensor_type.shape.dim[0].dim_value)  # a fixed batch is the same tile again and again
        return ({port.name: convert(np.repeat(tile[None], count, axis=0))} for tile in tiles)


def _prepare(program: Path, prepared: Path) -> None:
    """Write the program as the quantiser wants it: each node with a name of its own, simplified, shapes known."""
    model = onnx.load(str(program))
    version = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if version < _OLDEST_OPSET:
        model = version_converter.convert_version(model, _OLDEST_OPSET)
    uses = Counter(node.name for node in model.graph.node)
    for number, node in enumerate(model.graph.node):
        if not node.name or uses[node.name] > 1:
            node.name = f"{node.name or node.op_type}_{number}"
    onnx.save(model, str(prepared))
    quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)


class _Reader:
    """What ONNX Runtime's calibration asks for: one tile, then no more."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feed: dict[str, Any] | None = feed

    def get_next(self) -> dict[str, Any] | None:
        """The tile at the first call."""
        feed, self._feed = self._feed, None
        return feed


def _ranges(prepared: Path, augmented: Path, inputs: Iterator[dict[str, Any]], how: tuple[str, bool]) -> Any:
    """Ranges of all activations; tile by tile, so that the activations of one tile only are in memory."""
    method, symmetric = how
    options = {"symmetric": symmetric} | ({"percentile": _PERCENTILE} if method == "percentile" else {})
    calibrator = create_calibrator(
        str(prepared), list(_QUANTISED), str(augmented), calibrate_method=_METHODS[method], extra_options=options
    )
    for feed in inputs:
        calibrator.collect_data(_Reader(feed))
    return calibrator.compute_data()


def _layers(model: Any, side: int) -> list[Layer]:
    """The operations that can become int8, in order, with what they cost on a tile of `side` px."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for dim, value in zip(fixed.graph.input[0].type.tensor_type.shape.dim, (1, None, side, side), strict=False):
        if value is not None and not dim.dim_value:
            dim.dim_value = value
    inferred = shape_inference.infer_shapes(fixed).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        Layer(node.name, float(np.prod(weights[node.input[1]])) * _positions(node, shapes))
        for node in model.graph.node
        if node.op_type in _QUANTISED and len(node.input) > 1 and node.input[1] in weights
    ]


def _positions(node: Any, shapes: dict[str, list[int]]) -> float:
    """How often each weight is used; 1 where the shape is not known."""
    ends = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0], [])
    return max(1.0, float(ends[2] * ends[3])) if len(ends) == 4 else 1.0


@contextlib.contextmanager
def _one_message(program: Path, folder: str) -> Iterator[None]:
    """Whatever the quantiser raises, from ValueError to its own, as one error without the places of our copies."""
    try:
        yield
    except Exception as error:
        text = _SOURCE_LINE.sub("", " ".join(str(error).split()).replace(f"{folder}/", ""))
        raise ModelLoadError(
            f"{program.name} cannot be calibrated: {text[:400]}",
            rule=f"int8 is made by ONNX Runtime of float32 programs, from opset {_OLDEST_OPSET} on or converted to it",
            remedy=_OTHERWISE,
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantiser and the sessions under it say from the terminal; errors that matter are raised."""
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        with quiet_terminal():
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
