"""Sums of weighted tiles, on the host or where the model runs: the same integers, so the same bits.

Owns that choice and the host's side of it. Knows no block, no tile grid and no device library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import (
    accumulate,
    accumulate_probabilities,
    are_probabilities,
    label_argmax,
    label_threshold,
    probabilities_uint8,
    quantise,
)

from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.infer import Predictor

BLENDS = ("auto", "host", "device")

Weights = tuple[NDArray[np.uint32], NDArray[np.uint32]]
"""Weights 0 … 256 along y and along x."""


class Sums(Protocol):
    """A canvas (C, h, w) of weighted sums, or a view of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""

    def part(self, y: slice, x: slice) -> Sums:
        """A view of the px [y, x]; steps are 1."""

    def add(self, tile: NDArray[np.uint16], weights: Weights, y: int, x: int) -> None:
        """See `wsi_kernels.accumulate`."""

    def add_prediction(self, tile: Any, weights: Weights, y: int, x: int) -> bool:
        """See `wsi_kernels.accumulate_probabilities`; `tile` also as the device's predictor left it."""

    def clear(self) -> None:
        """Make all sums 0."""

    def move_up(self, n: int, used: int) -> None:
        """Drop the first `n` rows of the `used` first; what follows moves up, and zeros follow that."""

    def label(self, threshold: float, out: NDArray[Any]) -> None:
        """Labels (h, w): the largest class; for a single channel, 1 from `threshold`."""

    def probabilities_uint8(self, out: NDArray[np.uint8]) -> None:
        """See `wsi_kernels.probabilities_uint8`."""

    def blended_uint16(self, out: NDArray[np.uint16]) -> None:
        """Probabilities (C, h, w) in 0 … 65535, rounded down."""


class Blend(Protocol):
    """Where tiles are blended, and what else is asked of a single one there."""

    def zeros(self, shape: tuple[int, int, int]) -> Sums:
        """Sums (C, h, w) of nothing."""

    def is_sound(self, tile: Any, y: slice, x: slice) -> bool:
        """Whether all of tile[:, y, x] is finite and within [-0.01, 1.01]."""

    def quantised(self, tile: Any, y: slice, x: slice) -> NDArray[np.uint16]:
        """tile[:, y, x] in 0 … 65535, on the host; unspecified where it is not sound."""


class HostSums:
    """Sums in a NumPy array, by the kernels."""

    def __init__(self, values: NDArray[np.uint32]) -> None:
        self._values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Sums`."""
        return self._values.shape

    def part(self, y: slice, x: slice) -> HostSums:
        """See `Sums`."""
        return HostSums(self._values[:, y, x])

    def add(self, tile: NDArray[np.uint16], weights: Weights, y: int, x: int) -> None:
        """See `Sums`."""
        accumulate(self._values, tile, *weights, y, x)

    def add_prediction(self, tile: NDArray[np.float32], weights: Weights, y: int, x: int) -> bool:
        """See `Sums`."""
        return accumulate_probabilities(self._values, tile, *weights, y, x)

    def clear(self) -> None:
        """See `Sums`."""
        self._values[:] = 0

    def move_up(self, n: int, used: int) -> None:
        """See `Sums`."""
        for plane in self._values:
            plane[: used - n] = plane[n:used]
            plane[used - n : used] = 0

    def label(self, threshold: float, out: NDArray[Any]) -> None:
        """See `Sums`."""
        if len(self._values) == 1:
            label_threshold(self._values, threshold, out)
        else:
            label_argmax(self._values, out)

    def probabilities_uint8(self, out: NDArray[np.uint8]) -> None:
        """See `Sums`."""
        probabilities_uint8(self._values, out)

    def blended_uint16(self, out: NDArray[np.uint16]) -> None:
        """See `Sums`."""
        np.right_shift(self._values, 16, out=out, casting="unsafe")


class HostBlend:
    """Blending by the processor that runs the engine."""

    def zeros(self, shape: tuple[int, int, int]) -> HostSums:
        """See `Blend`."""
        return HostSums(np.zeros(shape, np.uint32))

    def is_sound(self, tile: NDArray[np.float32], y: slice, x: slice) -> bool:
        """See `Blend`."""
        return are_probabilities(tile[:, y, x])

    def quantised(self, tile: NDArray[np.float32], y: slice, x: slice) -> NDArray[np.uint16]:
        """See `Blend`."""
        part = tile[:, y, x]
        levels = np.empty(part.shape, np.uint16)
        quantise(part, levels)
        return levels


class _EitherBlend:
    """Sums on the device; of a tile, wherever it lies: a tile redone in fp32 comes to the host."""

    def __init__(self, device: Blend) -> None:
        self._host, self._device = HostBlend(), device

    def zeros(self, shape: tuple[int, int, int]) -> Sums:
        return self._device.zeros(shape)

    def is_sound(self, tile: Any, y: slice, x: slice) -> bool:
        return self._of(tile).is_sound(tile, y, x)

    def quantised(self, tile: Any, y: slice, x: slice) -> NDArray[np.uint16]:
        return self._of(tile).quantised(tile, y, x)

    def _of(self, tile: Any) -> Blend:
        return self._host if isinstance(tile, np.ndarray) else self._device


def chosen_blend(asked: str, predictor: Predictor) -> str:
    """`host` or `device` of what is one of `BLENDS`. Raises UsageError for a device where the predictor offers none.

    `auto` is the host: on a GPU the device's sums have not run yet.
    """
    offered = getattr(predictor, "device_blend", None) is not None
    if asked == "device" and not offered:
        raise UsageError(
            f"--blend device with model {predictor.card.name!r} on {predictor.facts.runtime}",
            rule="predictions stay on the device for a single torch model that answers probabilities, not augmented",
            remedy="leave --blend out",
        )
    if asked == "auto":
        return "host"
    return asked


def open_blend(chosen: str, predictor: Predictor) -> Blend:
    """What `chosen_blend` chose."""
    return HostBlend() if chosen == "host" else _EitherBlend(predictor.device_blend)  # type: ignore[attr-defined]
