"""TensorRT on an NVIDIA GPU: engines loaded or built per batch shape, run on the lanes of `torch_device`.

Owns which engine answers a batch. Device memory, pinned memory and streams are torch's. An engine file is loaded only
where the user trusts it; what is built here comes from the ONNX program and is kept by `engine_cache`.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer.device.lanes import GPU_LANES, Lanes
from wsi_seg.infer.device.torch_device import Lane, compute_capability, device_name, open_device
from wsi_seg.infer.program.onnx_file import read_whole
from wsi_seg.infer.program.onnx_pixels import PIXELS, PROBABILITIES
from wsi_seg.infer.protocol import ModelSpec, RuntimeFacts
from wsi_seg.infer.runtime.engine_cache import engine_name, publish, read_kept, timing_name
from wsi_seg.infer.runtime.tensorrt_engine import (
    ENGINE_SUFFIX,
    Profile,
    build_timed,
    profile_for,
    read_engine,
    read_engine_file,
)
from wsi_seg.infer.runtime.tensorrt_library import load_library, make_logger

_LOG = logging.getLogger(__name__)


class TensorrtProgram:
    """An ONNX program, or an engine file, on one GPU; all threads share its engines."""

    def __init__(self, path: Path, card: ModelCard, spec: ModelSpec) -> None:
        if spec.precision not in ("auto", card.precision):
            raise ModelLoadError(
                f"precision {spec.precision} for {path} on TensorRT",
                rule=f"engines are strongly typed: the program is stored in {card.precision}, and so it runs",
                remedy=f"wsi-seg export --precision {spec.precision} makes one in {spec.precision}",
            )
        self._library = load_library()
        self._device = open_device(spec.device)
        self._name, self._card = str(path), card
        self._logger = make_logger(self._library)
        self._runtime = self._library.Runtime(self._logger)
        self._lock = threading.Lock()
        self._engines: list[tuple[Profile, Any]] = []
        self._program = b""
        if path.suffix == ENGINE_SUFFIX:
            self._load_file(path)
        else:
            self._program = read_whole(path)
        self._lanes: Lanes[_EngineLane] | None = Lanes(lambda: _EngineLane(self._device), GPU_LANES)
        self.facts = RuntimeFacts(
            "tensorrt",
            f"{self._library.__name__} {self._library.__version__}",
            device_name(self._device),
            card.precision,
        )

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        lanes = self._lanes
        if lanes is None:
            raise PredictorError(f"{self._name} is closed")
        engine = self._engine(batch.shape)
        with lanes.one() as lane:
            try:
                return lane.run(engine, batch)
            except RuntimeError as error:  # torch's, of memory and streams
                reason = " ".join(str(error).split())[:400]
                raise PredictorError(f"TensorRT failed on {self._name}, batch {batch.shape}: {reason}") from error
            except _RefusedError as error:
                raise PredictorError(
                    f"TensorRT {error} on {self._name}, batch {batch.shape}: {self._logger.reason()}"
                ) from error

    def close(self) -> None:
        """Drop engines and buffers."""
        self._lanes = None
        with self._lock:
            self._engines.clear()

    def _load_file(self, path: Path) -> None:
        head, engine = read_engine_file(read_engine(path), self._name)
        here = (self._library.__name__, self._library.__version__)
        if (head.library, head.version) != here:
            raise ModelLoadError(
                f"{path} was built with {head.library} {head.version}", rule=f"this machine has {' '.join(here)}",
                remedy="name the ONNX program: its engine is built here",
            )  # fmt: skip
        self._engines.append((head.profile, self._deserialised(engine)))

    def _engine(self, shape: tuple[int, ...]) -> Any:
        """The engine that takes a batch of this shape, built where there is none yet."""
        with self._lock:
            for profile, engine in self._engines:
                if profile.covers(shape):
                    return engine
            if not self._program:
                raise PredictorError(
                    f"batch {shape} for {self._name}", rule=f"this engine takes {self._engines[0][0]}",
                    remedy="choose --tile and --batch-size within, or name the ONNX program",
                )  # fmt: skip
            profile = profile_for(shape[1], shape[2], shape[0])
            try:
                engine = self._deserialised(self._kept_or_built(profile))
            except ModelLoadError as error:
                if not self._engines:
                    raise
                raise PredictorError(str(error)) from error
            self._engines.append((profile, engine))
            return engine

    def _kept_or_built(self, profile: Profile) -> bytes:
        """The engine for a profile, from the cache or built now."""
        where = (
            self._library.__name__,
            self._library.__version__,
            f"{device_name(self._device)} {compute_capability(self._device)}",
        )
        name, timings = engine_name(self._program, self._card, where, profile), timing_name(where)
        if (kept := read_kept(name)) is not None:
            try:
                return read_engine_file(kept, name)[1]
            except ModelLoadError as error:
                _LOG.warning("%s", error)
        _LOG.warning("building a TensorRT engine of %s for tiles of %d x %d px", self._name, *profile.best[1:])
        built, timed = build_timed(self._program, self._card, profile, read_kept(timings))
        publish(name, built)
        if timed is not None:
            publish(timings, timed)
        return read_engine_file(built, name)[1]

    def _deserialised(self, content: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ModelLoadError(
                f"{self._library.__name__} {self._library.__version__} cannot load an engine of {self._name} on "
                f"{device_name(self._device)}: {self._logger.reason()}",
                rule="tensorrt_rtx knows compute capabilities 7.5, 8.0, 8.6, 8.9 and 12.x; tensorrt all recent ones",
                remedy="use --runtime onnxruntime or --runtime torch",
            )
        return engine


class _RefusedError(Exception):
    """TensorRT answered no."""


class _EngineLane(Lane):
    """A lane with an execution context of its own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._engine: Any = None
        self._context: Any = None

    def run(self, engine: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predictions (N, C, H, W) float32. Raises _RefusedError, RuntimeError."""
        if self._engine is not engine:
            self._context, self._engine = engine.create_execution_context(), engine
        context = self._context
        if context is None:
            raise _RefusedError("makes no execution context")
        with self.active():
            pixels = self.upload(batch)
            if not context.set_input_shape(PIXELS, tuple(batch.shape)):
                raise _RefusedError("refuses the shape")
            output = self.buffer("result", tuple(context.get_tensor_shape(PROBABILITIES)), torch.float32)
            for name, tensor in ((PIXELS, pixels), (PROBABILITIES, output)):
                if not context.set_tensor_address(name, tensor.data_ptr()):
                    raise _RefusedError(f"refuses the memory of {name}")
            if not context.execute_async_v3(self.stream_handle):
                raise _RefusedError("does not run")
            result = self.download(output)
            return result.copy() if self.stream is None else result
