"""Where the tissue of a synthetic slide lies: a smooth outline around irregular pieces, exact per tile and per pixel.

Owns the outline in level-0 px. Knows no colour, no pyramid and no file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box, ceil_div

NODE = 64
"""Distance of the nodes between which the outline's field is interpolated, px; divides every tile."""
OUTSIDE, INSIDE, BORDER = 0, 1, 2
"""A tile without tissue, a tile full of tissue, a tile with both."""

_RAGGED_PX = 14.0
_SOFT_PX = 2.0
_N_WAVES = 96
_PAD = 17  # nodes kept beyond the slide, so that tiles of up to 1024 px may reach over its end
_PIECE_PX = (160.0, 9_000.0)


class Outline:
    """A field that is about the distance to the outline in px, positive in tissue.

    The field is bilinear between nodes `NODE` px apart, so its extremes over a tile lie on nodes and a tile is told
    apart exactly without looking at its px; `ragged`, a periodic field in [-1, 1], then roughens the outline.
    """

    def __init__(
        self,
        size: tuple[int, int],
        fraction: float,
        rng: np.random.Generator,
        ragged: NDArray[np.float32],
    ) -> None:
        self.size, self._ragged = size, ragged
        piece = float(np.clip(min(size) / 5, *_PIECE_PX))
        shape = ceil_div(size[0], NODE) + _PAD, ceil_div(size[1], NODE) + _PAD
        field = _waves(shape, piece, rng) - 1.5 * _rim(shape, size, piece)
        on_slide = field[: ceil_div(size[0], NODE) + 1, : ceil_div(size[1], NODE) + 1]
        self._nodes = (field - _threshold(on_slide, fraction)) * np.float32(piece)

    def kinds(self, tile: int) -> NDArray[np.uint8]:
        """(rows, columns) of OUTSIDE, INSIDE or BORDER for the level-0 tiles of side `tile`, a multiple of NODE."""
        rows, columns = ceil_div(self.size[0], tile), ceil_div(self.size[1], tile)
        step = tile // NODE
        windows = np.lib.stride_tricks.sliding_window_view(self._nodes, (step + 1, step + 1))
        windows = windows[: rows * step : step, : columns * step : step]
        margin = _RAGGED_PX + _SOFT_PX
        kinds = np.full((rows, columns), BORDER, np.uint8)
        kinds[windows.max(axis=(2, 3)) < -margin] = OUTSIDE
        kinds[windows.min(axis=(2, 3)) > margin] = INSIDE
        return kinds

    def cover(self, box: Box) -> NDArray[np.float32]:
        """(h, w) share of tissue per level-0 px, 0 … 1, of a box that lies on the grid of NODE."""
        y, x = box.y0 // NODE, box.x0 // NODE
        nodes = self._nodes[y : y + box.height // NODE + 1, x : x + box.width // NODE + 1]
        n = self._ragged.shape[0]
        rows, columns = np.arange(box.y0, box.y1) % n, np.arange(box.x0, box.x1) % n
        distance = _between(_between(nodes).T).T + _RAGGED_PX * self._ragged[np.ix_(rows, columns)]
        return np.asarray(np.clip(distance / _SOFT_PX + 0.5, 0, 1), np.float32)


def _between(nodes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear interpolation along axis 0 at the px centres between the nodes: ((n + 1), m) to (n * NODE, m)."""
    share = ((np.arange(NODE, dtype=np.float32) + np.float32(0.5)) / NODE)[None, :, None]
    between = nodes[:-1, None] * (1 - share) + nodes[1:, None] * share
    return np.asarray(between.reshape(-1, nodes.shape[1]), np.float32)


def _waves(shape: tuple[int, int], piece: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of variance about 1 at the nodes: a sum of plane waves whose lengths lie around `piece` px."""
    ys, xs = np.arange(shape[0]) * NODE, np.arange(shape[1]) * NODE
    total = np.zeros(shape, np.float32)
    for _ in range(_N_WAVES):
        length = piece * np.exp(rng.uniform(-2.6, 1.0))
        turn, phase = rng.uniform(0, 2 * np.pi, 2)
        height = min(1.0, (length / piece) ** 0.9) * (4 / _N_WAVES) ** 0.5
        along = np.exp(1j * (np.sin(turn) * ys / length + phase)) * height
        across = np.exp(1j * (np.cos(turn) * xs / length))
        # cos(a + b) from its parts: no array of complex numbers as large as the slide's grid
        total += np.outer(along.real.astype(np.float32), across.real.astype(np.float32))
        total -= np.outer(along.imag.astype(np.float32), across.imag.astype(np.float32))
    return total


def _rim(shape: tuple[int, int], size: tuple[int, int], piece: float) -> NDArray[np.float32]:
    """1 at and beyond the slide's rim, 0 from half a piece inwards: tissue keeps off the rim where it can."""
    ramps = [
        np.clip(1 - np.minimum(np.arange(n) * NODE, length - np.arange(n) * NODE) / (piece / 2), 0, 1) ** 2
        for n, length in zip(shape, size, strict=True)
    ]
    return np.maximum(ramps[0][:, None], ramps[1][None, :]).astype(np.float32)


def _threshold(field: NDArray[np.float32], fraction: float) -> np.float32:
    """The value above which `fraction` of the slide lies, given its nodes; far beyond their range for none and all."""
    if fraction <= 0 or fraction >= 1:
        return np.float32(1e6 if fraction <= 0 else -1e6)
    # between the nodes, not at them: each of those places stands for an equal part of the slide
    between = field[:-1, :-1] + field[1:, :-1] + field[:-1, 1:] + field[1:, 1:]
    return np.float32(np.quantile(between / 4, 1 - fraction))
