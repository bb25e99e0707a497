"""Blending and labelling on torch's device, to the bits of the kernels K5 to K8; little but labels comes back.

Owns the integer arithmetic in torch: int64, because torch does not add uint32; every sum stays below 2**32 as proven in
kernels/DESIGN.md, so nothing else differs. Float64 quantises exactly, so no device may round otherwise. Knows no model,
no grid and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.errors import PredictorError, WsiSegError
from wsi_seg.infer.device.out_of_memory import out_of_memory, ran_out_of_memory
from wsi_seg.infer.device.torch_device import Lane

Weights = tuple[NDArray[np.uint32], NDArray[np.uint32]]
"""Weights 0 … 256 along y and along x."""
Range = tuple[int, int]
_ONE, _FULL = 65535, 65536
_LOW, _HIGH = float(np.float32(-1e-2)), float(np.float32(1 + 1e-2))  # as K5 accepts them


class TorchTile:
    """Probabilities (C, H, W) float32 of one tile, left where the network made them."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.values.shape)

    def copy(self) -> TorchTile:
        """A tile that keeps nothing else of its batch alive; finished."""
        return self._made(torch.clone)

    def behind(self, constant: np.float32) -> TorchTile:
        """The tile with a channel before its own that is `constant` everywhere; finished."""
        return self._made(lambda values: torch.cat([torch.full_like(values[:1], float(constant)), values]))

    def _made(self, make: Callable[[torch.Tensor], torch.Tensor]) -> TorchTile:
        """What is made of the values, finished, so that any thread and stream may read it."""
        lane = Lane(self.values.device)
        with _on(lane, self.shape):
            made = make(self.values)
            lane.finish()
            return TorchTile(made)


class TorchBlend:
    """A `DeviceBlend` on a torch device, `cpu` included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, shape: tuple[int, int, int]) -> TorchSums:
        """Sums (C, h, w) of nothing. Raises PredictorError, PredictorOutOfMemory."""
        lane = Lane(self._device)
        with _on(lane, shape):
            return TorchSums(torch.zeros(shape, dtype=torch.int64, device=self._device), lane)

    def is_sound(self, tile: TorchTile, y: slice, x: slice) -> bool:
        """Whether K5 would take all of tile[:, y, x]: finite and within [-0.01, 1.01]."""
        lane = Lane(self._device)
        with _on(lane, tile.shape):
            return _all_probabilities(tile.values[:, y, x])

    def quantised(self, tile: TorchTile, y: slice, x: slice) -> NDArray[np.uint16]:
        """tile[:, y, x] as K5 quantises it, uint16 on the host; unspecified where it is not sound."""
        lane = Lane(self._device)
        with _on(lane, tile.shape):
            return _downloaded(lane, levels(tile.values[:, y, x]), np.uint16)


class TorchSums:
    """A canvas of sums (C, h, w), or a view of one; for one thread at a time."""

    def __init__(self, values: torch.Tensor, lane: Lane) -> None:
        self._values, self._lane = values, lane

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self._values.shape)

    def part(self, y: slice, x: slice) -> TorchSums:
        """A view of the px [y, x] of all channels."""
        return TorchSums(self._values[:, y, x], self._lane)

    def add(self, tile: NDArray[np.uint16], weights: Weights, y: int, x: int) -> None:
        """As `wsi_kernels.accumulate`."""
        with _on(self._lane, tile.shape):
            values = torch.from_numpy(np.ascontiguousarray(tile).view(np.int16)).to(self._values.device)
            self._add(values, weights, _counting(self.shape, weights, y, x), (y, x))

    def add_prediction(self, tile: TorchTile | NDArray[np.float32], weights: Weights, y: int, x: int) -> bool:
        """As `wsi_kernels.accumulate_probabilities`; a tile that lies on the host is brought here."""
        with _on(self._lane, tile.shape):
            here = self._values.device
            values = tile.values if isinstance(tile, TorchTile) else torch.from_numpy(tile).to(here)
            counting = _counting(self.shape, weights, y, x)
            (top, bottom), (left, right) = counting
            # Waits for the answer: from here on the network may use the tile's memory for something else.
            quantised = levels(values)
            if not _all_probabilities(values[:, top:bottom, left:right]):
                return False
            self._add(quantised, weights, counting, (y, x))
            return True

    def clear(self) -> None:
        """Make all sums 0."""
        with _on(self._lane, self.shape):
            self._values.zero_()

    def move_up(self, n: int, used: int) -> None:
        """Drop the first `n` rows of the `used` first; what follows moves up, and zeros follow that."""
        with _on(self._lane, self.shape):
            self._values[:, : used - n] = self._values[:, n:used].clone()
            self._values[:, used - n : used] = 0

    def label(self, threshold: float, out: NDArray[Any]) -> None:
        """As `wsi_kernels.label_argmax`, or `label_threshold` for a single channel."""
        with _on(self._lane, self.shape):
            if len(self._values) == 1:
                labels = self._values[0] >= int(np.rint(threshold * _ONE)) * _FULL
            else:
                labels = _largest(self._values)
            out[:] = _downloaded(self._lane, labels, np.uint8 if out.dtype == np.uint8 else np.uint16)

    def probabilities_uint8(self, out: NDArray[np.uint8]) -> None:
        """As `wsi_kernels.probabilities_uint8`."""
        with _on(self._lane, self.shape):
            whole = (self._values + 32768) >> 16
            out[:] = _downloaded(self._lane, (whole * 255 + 32895) >> 16, np.uint8)

    def blended_uint16(self, out: NDArray[np.uint16]) -> None:
        """Probabilities in 0 … 65535, rounded down."""
        with _on(self._lane, self.shape):
            out[:] = _downloaded(self._lane, self._values >> 16, np.uint16)

    def _add(self, tile: torch.Tensor, weights: Weights, counting: tuple[Range, Range], place: tuple[int, int]) -> None:
        """Add a tile (C, H, W) of 16-bit levels, weighted, where it counts."""
        (top, bottom), (left, right) = counting
        if top == bottom or left == right:
            return
        along_y, along_x = (
            torch.from_numpy(axis[first:last].astype(np.int64)).to(self._values.device)
            for axis, (first, last) in zip(weights, counting, strict=True)
        )
        part = tile[:, top:bottom, left:right].to(torch.int64) & _ONE  # int16 holds the bits of a uint16
        y, x = place
        target = self._values[:, y + top : y + bottom, x + left : x + right]
        target += part * (along_y[:, None] * along_x)


def levels(probabilities: torch.Tensor) -> torch.Tensor:
    """rint(p * 65535), clipped to 0 … 65535, half to even, exactly; int64. NaN becomes 0."""
    clipped = torch.where(probabilities > 0, probabilities, 0).clamp_(max=1)
    return clipped.double().mul_(_ONE).round_().to(torch.int64)


def _all_probabilities(values: torch.Tensor) -> bool:
    return bool(((values >= _LOW) & (values <= _HIGH)).all())  # false for NaN


def _largest(sums: torch.Tensor) -> torch.Tensor:
    """Index (h, w) of the largest channel, ties to the lowest: a loop, as no device promises that of its argmax."""
    best = sums[0]
    index = torch.zeros_like(best)
    for channel in range(1, len(sums)):
        above = sums[channel] > best
        best = torch.where(above, sums[channel], best)
        index = torch.where(above, channel, index)
    return index


def _counting(shape: tuple[int, ...], weights: Weights, y: int, x: int) -> tuple[Range, Range]:
    """Rows and columns of a tile from the first to the last that has weight inside sums of `shape`."""
    found = []
    for axis, length, start in zip(weights, shape[1:], (y, x), strict=True):
        first = max(0, -start)
        used = np.flatnonzero(axis[first : max(first, min(len(axis), length - start))])
        found.append((first + int(used[0]), first + int(used[-1]) + 1) if used.size else (0, 0))
    return found[0], found[1]


def _downloaded(lane: Lane, values: torch.Tensor, dtype: type) -> NDArray[Any]:
    """Whole numbers as an array of the caller's own, cut to uint8 or uint16 on the device."""
    if dtype == np.uint8:
        return lane.download(values.to(torch.uint8))
    return lane.download(values.to(torch.int16)).view(np.uint16)  # the bits of it: torch knows uint16 by halves


@contextmanager
def _on(lane: Lane, shape: tuple[int, ...]) -> Iterator[None]:
    """On this lane's stream; what torch raises becomes PredictorError or PredictorOutOfMemory."""
    try:
        with torch.inference_mode(), lane.active():
            yield
    except WsiSegError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise out_of_memory("blending", shape, str(error)[:160]) from None
        raise PredictorError(
            f"blending on the device failed at {shape}: {type(error).__name__}: {error}"[:400],
            remedy="blend on the host: --blend host",
        ) from error
