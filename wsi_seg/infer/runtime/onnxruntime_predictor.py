"""ONNX Runtime on CPU or GPU: the only file of this room that imports onnxruntime.

Owns sessions, their options and that they really run where they were asked to: ONNX Runtime itself falls back to the
CPU in silence. On a CPU pixels are packed before it; on a GPU they go up as bytes, are converted in the graph, and lie
in memory that is bound once per lane. Knows no card file and checks no result.
"""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer.device.cuda_driver import LockedArray, gpu_names
from wsi_seg.infer.device.lanes import GPU_LANES, Lanes
from wsi_seg.infer.places import device_number
from wsi_seg.infer.program.onnx_file import read_whole, with_small_inside
from wsi_seg.infer.program.onnx_pixels import PIXELS, PROBABILITIES, from_pixels
from wsi_seg.infer.program.output_forms import planar
from wsi_seg.infer.protocol import ModelSpec, RuntimeFacts
from wsi_seg.infer.runtime.activation import activated
from wsi_seg.infer.runtime.pixels import pixel_feed

_LOG = logging.getLogger(__name__)

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_CUDA_OPTIONS = {
    "use_tf32": "0",  # fp32 is fp32; TF32 keeps 11 bits
    "cudnn_conv_algo_search": "HEURISTIC",  # searching picks by time: another run, other bits
}
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_SILENT = 4  # severity from which the C++ side logs to stderr: fatal only, errors arrive as exceptions


_REMEDIES = {
    _CUDA: "it needs CUDA and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'",
    _TENSORRT: "it needs TensorRT in the version that this onnxruntime-gpu was built for, see pip install tensorrt; "
    "programs that TensorRT cannot take whole run with --runtime onnxruntime",
    _CPU: "export the model again; it may run with --runtime openvino",
}


def has_cuda() -> bool:
    """True for a build with the CUDA provider; whether CUDA's libraries are there is found out by a session."""
    return _CUDA in ort.get_available_providers()


def has_tensorrt() -> bool:
    """True for a build with the TensorRT provider; likewise."""
    return _TENSORRT in ort.get_available_providers()


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


def gpu_device(spec: ModelSpec) -> tuple[int, str]:
    """Number of the GPU that a spec names, and what `RuntimeFacts` call it. Raises ModelLoadError."""
    number, names = device_number(spec.device), gpu_names()
    if number >= len(names):
        raise ModelLoadError(f"device {spec.device}", rule=f"{len(names)} NVIDIA GPUs answer here")
    return number, f"cuda:{number} {names[number]}"


def refuse_bf16(path: Path, spec: ModelSpec) -> None:
    """Raise ModelLoadError where bf16 is asked for."""
    if spec.precision == "bf16":
        raise ModelLoadError(
            f"precision bf16 for {path} on ONNX Runtime", rule="it computes in the precision the program has",
            remedy="use --runtime openvino",
        )  # fmt: skip


class OnnxRuntimeProgram:
    """An ONNX file; one session serves all threads."""

    def __init__(self, path: Path, card: ModelCard, spec: ModelSpec) -> None:
        refuse_bf16(path, spec)
        self._name, self._card = str(path), card
        self._lanes: Lanes[BoundLane] | None = None
        device = "CPU"
        if spec.device.startswith("cuda"):
            number, device = gpu_device(spec)
            options = {"device_id": str(number), **_CUDA_OPTIONS}
            self._session: Any = make_session(from_pixels(read_whole(path), card), (spec, self._name), options)
            self._lanes = Lanes(lambda: BoundLane(self._session, ("cuda", number)), GPU_LANES)
        else:
            self._session = make_session(with_small_inside(path) or path, (spec, self._name), {})
        port = self._session.get_inputs()[0]
        self._input, self._outputs = port.name, [card.output] if card.output else None
        self._convert = pixel_feed(card, port.type)
        self.facts = RuntimeFacts("onnxruntime", runtime_version(), device, card.precision)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        session = self._session
        if session is None:
            raise PredictorError(f"{self._name} is closed")
        try:
            if self._lanes is not None:
                with self._lanes.one() as lane:
                    return lane.run(batch)
            (output,) = session.run(self._outputs, {self._input: self._convert(batch)})
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise PredictorError(f"ONNX Runtime failed on {self._name}, batch {batch.shape}: {error}") from error
        return activated(planar(output, self._card), self._card.activation) if output.ndim in (3, 4) else output

    def close(self) -> None:
        """Drop the session and its buffers."""
        self._session = None
        if self._lanes is not None:
            self._lanes.clear()


class BoundLane:
    """Memory on the device that a session's pixels and probabilities are bound to, for one batch shape at a time.

    `place` is `("cuda", N)`; `("cpu", 0)` runs the same code for tests.
    """

    def __init__(self, session: Any, place: tuple[str, int]) -> None:
        self._session, self._place = session, place
        self._shape: tuple[int, ...] = ()
        self._binding: Any = None
        self._pixels: Any = None
        self._staging: LockedArray | None = None

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, C, H, W) float32 of pixels (N, H, W, 3) uint8, an array of the caller's own."""
        if batch.shape != self._shape:
            self._bind(batch.shape)
        assert self._staging is not None
        np.copyto(self._staging.values, batch)
        self._pixels.update_inplace(self._staging.values)
        self._session.run_with_iobinding(self._binding)
        output: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return output if self._place[0] != "cpu" else output.copy()  # there it is the bound memory itself

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Allocate for a shape; the first run tells the shape of the output, whose memory is bound from then on."""
        device, number = self._place
        binding = self._session.io_binding()
        self._pixels = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, device, number)
        self._staging = LockedArray(shape, number)
        self._staging.values[:] = 0
        self._pixels.update_inplace(self._staging.values)
        binding.bind_ortvalue_input(PIXELS, self._pixels)
        binding.bind_output(PROBABILITIES, device, number)
        self._session.run_with_iobinding(binding)
        binding.bind_ortvalue_output(PROBABILITIES, binding.get_outputs()[0])
        self._binding, self._shape = binding, shape


def make_session(program: Path | bytes, asked: tuple[ModelSpec, str], options: dict[str, str]) -> Any:
    """A session of a program on the provider that a spec means, and on no other.

    `asked` is the spec and the path of the program for messages, in whose folder external data lies; `options` are the
    provider's. Raises ModelLoadError.
    """
    spec, name = asked
    wanted = _provider(spec)
    if wanted != _CPU:
        _load_cuda()
    source = str(program) if isinstance(program, Path) else program
    try:
        # Without its own fall-back, which prints to stdout and goes on to the CPU, at the start and in the middle.
        session = ort.InferenceSession(
            source, _settings(spec, wanted, name), providers=[(wanted, options)], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ModelLoadError(
            f"ONNX Runtime cannot read {name}: {error}",
            rule="a program is whole, and of operations that the runtime knows",
            remedy=_REMEDIES[wanted],
        ) from error
    if session.get_providers()[0] != wanted:
        raise ModelLoadError(
            f"ONNX Runtime runs {name} on {session.get_providers()[0]}", rule=f"not on {wanted}",
            remedy=_REMEDIES[wanted],
        )  # fmt: skip
    return session


@lru_cache(maxsize=1)
def _load_cuda() -> None:
    """Load CUDA and cuDNN from where pip puts them: ONNX Runtime does not look there. What it lacks it would print."""
    with redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    _LOG.debug("%s", said.getvalue())


def _provider(spec: ModelSpec) -> str:
    if not spec.device.startswith("cuda"):
        return _CPU
    return _TENSORRT if spec.runtime == "onnxruntime-tensorrt" else _CUDA


def _settings(spec: ModelSpec, provider: str, name: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would eat the readers' time
    # The folder of what stays outside a program that is given as bytes.
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(Path(name).absolute().parent))
    if provider == _TENSORRT:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of the program, or an error
    return options
