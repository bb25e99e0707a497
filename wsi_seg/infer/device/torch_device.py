"""Torch's side of a device: which one, and the buffers through which pixels go up and predictions come down.

Owns pinned memory, streams and transfers. On a CPU the same calls run with ordinary memory and no stream. Knows no
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.errors import ModelLoadError


def open_device(name: str) -> torch.device:
    """The device `cpu` or `cuda:N`. Raises ModelLoadError saying what is missing."""
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if reason := missing_for_cuda():
        raise ModelLoadError(f"device {name} for torch: {reason}", remedy="use --device cpu")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(f"device {name}", rule=f"this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", device.index or 0)


def missing_for_cuda() -> str:
    """Why torch cannot use CUDA here, in words; empty where it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no CUDA device or driver"


def device_name(device: torch.device) -> str:
    """`CPU`, or the device with its product name, such as `cuda:0 NVIDIA H200`."""
    return "CPU" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"


def compute_capability(device: torch.device) -> str:
    """Such as `9.0`; `none` for a CPU."""
    if device.type == "cpu":
        return "none"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


class Lane:
    """A stream and the staging buffers of one call at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._pins = device, device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(device) if self._pins else None
        self._buffers: dict[tuple[str, tuple[int, ...], torch.dtype], torch.Tensor] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this lane's stream the current one of this thread."""
        if self.stream is None:
            yield
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    @property
    def stream_handle(self) -> int:
        """The stream as the number that other CUDA libraries take; 0 on a CPU."""
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    def upload(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        """Pixels on the device, in a buffer that is this lane's until its next upload."""
        staging = self._host("up", batch.shape, torch.uint8)
        np.copyto(staging.numpy(), batch)
        if not self._pins:
            return staging
        target = self.buffer("pixels", batch.shape, torch.uint8)
        target.copy_(staging, non_blocking=True)
        return target

    def finish(self) -> None:
        """Wait for all that this lane was given to do."""
        if self.stream is not None:
            self.stream.synchronize()

    def download(self, values: torch.Tensor) -> NDArray[Any]:
        """Values as an array of the caller's own; waits for the stream."""
        if not self._pins:
            owned: NDArray[Any] = values.contiguous().numpy()
            return owned
        staging = self._host("down", tuple(values.shape), values.dtype)
        staging.copy_(values, non_blocking=True)
        self.stream.synchronize()
        result: NDArray[Any] = staging.numpy().copy()
        return result

    def buffer(self, use: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory on the device, the same one whenever it is asked for."""
        return self._kept((use, tuple(shape), dtype), pinned=False)

    def _host(self, use: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self._kept((use, tuple(shape), dtype), pinned=True)

    def _kept(self, key: tuple[str, tuple[int, ...], torch.dtype], *, pinned: bool) -> torch.Tensor:
        if key not in self._buffers:
            for other in [other for other in self._buffers if other[0] == key[0]]:
                del self._buffers[other]  # a run has one batch shape; those of probing are not kept
            _, shape, dtype = key
            place = {"pin_memory": self._pins} if pinned else {"device": self.device}
            self._buffers[key] = torch.empty(shape, dtype=dtype, **place)
        return self._buffers[key]
