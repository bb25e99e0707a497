"""ONNX Runtime's TensorRT provider: a session per shape of batches, its engines in the user's own folder of engines.

Owns the provider's options and which session answers a batch. TensorRT takes the whole program or the session is
refused: what it leaves would run elsewhere in silence, on shapes that no profile knows. Never chosen by `auto`, since
its engines are those of `--runtime tensorrt`, built a second time; it needs no torch.

Options as documented for ONNX Runtime 1.21 and later (TensorRT execution provider, `trt_*`).
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer.device.lanes import GPU_LANES, Lanes
from wsi_seg.infer.program.onnx_file import read_whole
from wsi_seg.infer.program.onnx_pixels import PIXELS, from_pixels, pixel_axes
from wsi_seg.infer.protocol import ModelSpec, RuntimeFacts
from wsi_seg.infer.runtime.engine_cache import own_folder
from wsi_seg.infer.runtime.onnxruntime_predictor import (
    BoundLane,
    gpu_device,
    make_session,
    refuse_bf16,
    runtime_version,
)
from wsi_seg.infer.runtime.tensorrt_engine import WORKSPACE_BYTES, Profile, profile_for
from wsi_seg.infer.runtime.tensorrt_library import installed

RUNTIME = "onnxruntime-tensorrt"
_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "onnxruntime-gpu")
"""Whose versions an engine follows from, as far as they were installed as packages."""
_NO_TF32 = "NVIDIA_TF32_OVERRIDE"  # the only switch: the provider has no option for it


class OnnxRuntimeTensorrtProgram:
    """An ONNX file on one GPU; all threads share its sessions."""

    def __init__(self, path: Path, card: ModelCard, spec: ModelSpec) -> None:
        refuse_bf16(path, spec)
        self._name, self._card, self._spec = str(path), card, spec
        self._number, self._device = gpu_device(spec)
        installed()  # imported, the package loads TensorRT's libraries, which the provider finds then
        os.environ.setdefault(_NO_TF32, "0")  # fp32 is fp32: TF32 keeps 11 bits
        self._content = from_pixels(read_whole(path), card)
        self._axes = pixel_axes(self._content)
        self._lock = threading.Lock()
        self._sessions: list[tuple[Profile, Lanes[BoundLane]]] = []
        count, height, width = self._axes
        self._lanes((count or 1, height or card.tile_size, width or card.tile_size))
        self.facts = RuntimeFacts(RUNTIME, runtime_version(), self._device, card.precision)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        if not self._content:
            raise PredictorError(f"{self._name} is closed")
        try:
            with self._lanes(batch.shape[:3]).one() as lane:
                return lane.run(batch)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise PredictorError(
                f"ONNX Runtime's TensorRT failed on {self._name}, batch {batch.shape}: {error}"
            ) from error

    def close(self) -> None:
        """Drop the sessions and their buffers."""
        with self._lock:
            self._content = b""
            self._sessions.clear()

    def _lanes(self, shape: tuple[int, ...]) -> Lanes[BoundLane]:
        """The lanes of the session that takes a batch of this shape (N, H, W), made where there is none yet."""
        with self._lock:
            for profile, lanes in self._sessions:
                if profile.covers(shape):
                    return lanes
            profile = self._profile(shape)
            session = self._session(profile)
            lanes = Lanes(lambda: BoundLane(session, ("cuda", self._number)), GPU_LANES)
            self._sessions.append((profile, lanes))
            return lanes

    def _profile(self, shape: tuple[int, ...]) -> Profile:
        """What a session for a shape is built for; axes that the program fixes have one size."""
        free = profile_for(shape[1], shape[2], shape[0])
        least, best, most = (
            tuple(own or asked for own, asked in zip(self._axes, bound, strict=True))
            for bound in (free.least, free.best, free.most)
        )
        return Profile(least, best, most)  # type: ignore[arg-type]  # three sizes each

    def _session(self, profile: Profile) -> Any:
        facts = [
            sha256(self._content).hexdigest(), runtime_version(), *map(_version, _PACKAGES), self._device,
            self._card.precision, asdict(profile),
        ]  # fmt: skip
        folder = own_folder("onnxruntime-" + sha256(json.dumps(facts).encode()).hexdigest())
        options = {
            "device_id": str(self._number),
            **precision_options(self._card.precision),
            **(shape_options(profile) if None in self._axes else {}),
            **({} if folder is None else cache_options(folder)),
        }
        try:
            return make_session(self._content, (self._spec, self._name), options)
        except ModelLoadError as error:
            if folder is None or not any(folder.iterdir()):
                raise
            raise ModelLoadError(
                error.what, rule=error.rule, remedy=f"{error.remedy or 'another --runtime'}; or its engine is broken: "
                f"remove {folder}",
            ) from error  # fmt: skip


def precision_options(precision: str) -> dict[str, str]:
    """Options by which TensorRT may compute in the precision that the program is stored in.

    >>> precision_options("fp16")["trt_fp16_enable"], precision_options("fp32")["trt_fp16_enable"]
    ('1', '0')
    """
    return {
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_int8_enable": str(int(precision == "int8")),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
    }


def shape_options(profile: Profile) -> dict[str, str]:
    """Options that state the shapes an engine takes: at least, tuned for, at most.

    >>> shape_options(Profile((1, 64, 64), (4, 64, 64), (8, 64, 64)))["trt_profile_opt_shapes"]
    'wsi_seg_pixels:4x64x64x3'
    """
    names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
    bounds = (profile.least, profile.best, profile.most)
    return {
        name: f"{PIXELS}:" + "x".join(str(size) for size in (*bound, 3))
        for name, bound in zip(names, bounds, strict=True)
    }


def cache_options(folder: Path) -> dict[str, str]:
    """Options that keep engines and the timings of their kernels in a folder."""
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""
