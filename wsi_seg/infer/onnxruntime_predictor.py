"""ONNX Runtime on CPU: the only file that imports onnxruntime.

Owns the session and its options, packing of pixels before it and activation behind it. Knows no card file and checks no
result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer.activation import activated
from wsi_seg.infer.output_forms import planar
from wsi_seg.infer.pixels import pixel_feed
from wsi_seg.infer.protocol import ModelSpec, RuntimeFacts

_PROVIDER = "CPUExecutionProvider"
_SILENT = 4  # severity from which the C++ side logs to stderr: fatal only, errors arrive as exceptions


class OnnxRuntimeProgram:
    """An ONNX file on the CPU provider; one session serves all threads."""

    def __init__(self, path: Path, card: ModelCard, spec: ModelSpec) -> None:
        if spec.precision == "bf16":
            raise ModelLoadError(
                f"precision bf16 for {path} on ONNX Runtime", rule="its CPU provider computes in fp32",
                remedy="use --runtime openvino",
            )  # fmt: skip
        self._name, self._card = str(path), card
        self._session: Any = _session(path, spec.threads)
        port = self._session.get_inputs()[0]
        self._input, self._outputs = port.name, [card.output] if card.output else None
        self._convert = pixel_feed(card, port.type)
        self.facts = RuntimeFacts("onnxruntime", ort.__version__, "CPU", card.precision)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        session = self._session
        if session is None:
            raise PredictorError(f"{self._name} is closed")
        try:
            (output,) = session.run(self._outputs, {self._input: self._convert(batch)})
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise PredictorError(f"ONNX Runtime failed on {self._name}, batch {batch.shape}: {error}") from error
        return activated(planar(output, self._card), self._card.activation) if output.ndim in (3, 4) else output

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would eat the readers' time
    try:
        session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ModelLoadError(f"ONNX Runtime cannot read {path}: {error}") from error
    if session.get_providers()[0] != _PROVIDER:
        raise ModelLoadError(f"ONNX Runtime runs {path} on {session.get_providers()[0]}", rule=f"not on {_PROVIDER}")
    return session
