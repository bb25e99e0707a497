"""What can be learnt of a model by asking it: batch independence, halo, output stride.

Owns three measurements on the `Predictor` protocol; knows no runtime and no graph, so they hold for every one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import PredictorError
from wsi_seg.infer.protocol import Predictor

Tiles = NDArray[np.uint8]

_STRIDES = (1, 2, 4, 8, 16, 32, 64)


def batch_independent(predictor: Predictor, tiles: Tiles, batch_size: int) -> bool:
    """True when a tile's prediction has the same bits at other positions and beside other neighbours.

    `tiles` (n, T, T, 3) uint8, n >= 1; all batches have `batch_size` tiles, as a run has. Costs four batches.
    """
    order = np.arange(batch_size)
    batch = tiles[order % len(tiles)]
    reference = predictor.predict(batch)
    shifted = np.roll(order, batch_size // 2)
    extreme = batch.copy()
    extreme[1:] = np.where(np.arange(batch_size - 1)[:, None, None, None] % 2, 255, 255 - batch[1:])
    asked = ((np.ascontiguousarray(batch[::-1]), reference[::-1]), (batch[shifted], reference[shifted]))
    return all(_same(predictor.predict(pixels), expected) for pixels, expected in asked) and _same(
        predictor.predict(extreme)[0], reference[0]
    )


def _same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Whether two predictions are equal; a tile on which the model fails gives NaN, and gives it again."""
    return np.array_equal(found, expected, equal_nan=True)


def measure_halo(predictor: Predictor, tiles: Tiles, tolerance: float = 0.0) -> int | None:
    """Context per side that any pixel's prediction depends on, px; None where it reaches the tile's border.

    A patch of one output stride is changed strongly; the outputs that move by more than `tolerance` (0: any bit) bound
    the halo to within a stride. Then it is proven: all pixels beyond a margin around the patch become noise, and the
    smallest margin at which the patch's prediction does not move is the answer, plus what the far pixels of the patch
    saw more of. So it holds for every phase of the down-sampling grid. What no tile provokes is not seen: give several
    tiles with tissue. Where predictions are nothing but 0 and 1 (class indices, saturation), a change that flips no
    class does not show, and the answer is None.

    Args:
        predictor: any.
        tiles: (n, T, T, 3) uint8 real tiles, n >= 1, T a multiple of the output stride.
        tolerance: largest difference of probability that counts as none.
    """
    stride = predictor.card.output_stride
    scenes = _scenes(predictor, tiles)
    if all(np.isin(scene.reference, (0, 1)).all() for scene in scenes):
        return None
    near = max(_moved_beyond(predictor, scene, tolerance) for scene in scenes)
    limit: int = min(min(scene.start, scene.tile.shape[0] - scene.start - stride) for scene in scenes) - 1

    def leaks(margin: int) -> bool:
        return any(_leaks(predictor, scene, margin, tolerance) for scene in scenes)

    low, high = max(0, near - stride + 1), min(limit, near + stride - 1)
    while leaks(high):
        if high == limit:
            return None
        low, high = high + 1, min(limit, high + stride)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if leaks(middle) else (low, middle)
    return high + stride - 1


@dataclass(frozen=True, slots=True)
class _Scene:
    """A tile, the first row and column of the patch in it, and the tile's prediction (C, T, T)."""

    tile: Tiles
    start: int
    stride: int
    reference: NDArray[np.float32]

    def square(self, margin: int = 0) -> tuple[slice, slice]:
        """The patch grown by `margin` px on each side."""
        return (slice(self.start - margin, self.start + self.stride + margin),) * 2


def _scenes(predictor: Predictor, tiles: Tiles) -> list[_Scene]:
    """One scene per tile, the patch at or beside the middle, on the grid of the output stride."""
    stride = predictor.card.output_stride
    scenes = []
    for index, tile in enumerate(tiles):
        start = (tile.shape[0] // 2 // stride - index % 2) * stride
        scenes.append(_Scene(tile, start, stride, _predict(predictor, tile)))
    return scenes


def _moved_beyond(predictor: Predictor, scene: _Scene, tolerance: float) -> int:
    """Rows or columns beyond the patch that move when it turns black, white, inverted or random."""
    patch = scene.tile[scene.square()]
    noise = np.random.default_rng(0).integers(0, 256, patch.shape, dtype=np.uint8)
    reach = 0
    for value in (0, 255, 255 - patch, noise):
        changed = scene.tile.copy()
        changed[scene.square()] = value
        moved = np.abs(_predict(predictor, changed) - scene.reference).max(axis=0) > tolerance
        for axis in (0, 1):
            lines = np.flatnonzero(moved.any(axis=axis))
            if lines.size:
                reach = max(reach, scene.start - int(lines[0]), int(lines[-1]) - scene.start - scene.stride + 1)
    return reach


def _leaks(predictor: Predictor, scene: _Scene, margin: int, tolerance: float) -> bool:
    """True when noise beyond the margin moves the prediction of the patch."""
    patch = (slice(None), *scene.square())
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, scene.tile.shape, dtype=np.uint8)
        noise[scene.square(margin)] = scene.tile[scene.square(margin)]
        if np.abs(_predict(predictor, noise)[patch] - scene.reference[patch]).max() > tolerance:
            return True
    return False


def measure_output_stride(predictor: Predictor) -> int | None:
    """Smallest power of two up to 64 by which a shifted image gives the shifted prediction; None where none does.

    Compares the middle of the tile, where the border is furthest, on a synthetic image of blobs and grain. What leaves
    the image on one side enters on the other, so that statistics of the whole tile stay what they were. A step counts
    as exact when its error is below 1e-4, or below 5 % of the worst step's (what leaks in from the border).
    """
    side = predictor.card.tile_size
    image = _blobs(side)
    origin = _predict(predictor, image)
    steps = [step for step in _STRIDES if side % step == 0 and step <= side // 4]
    errors = []
    for step in steps:
        shifted = _predict(predictor, np.roll(image, (-step, -step), (0, 1)))
        low, high = side // 2 - side // 8, side // 2 + side // 8
        middle = slice(low + step, high + step)
        errors.append(float(np.abs(shifted[:, low:high, low:high] - origin[:, middle, middle]).max()))
    bound = max(1e-4, 0.05 * max(errors, default=0.0))
    return next((step for step, error in zip(steps, errors, strict=True) if error <= bound), None)


def accepted_stride(predictor: Predictor, stride: int) -> int | None:
    """The smallest doubling of `stride`, up to 64, of which the program takes an odd multiple as the side of a tile.

    A skip connection that only fits sides of a multiple of 32 may hardly show in the values. None where none is taken;
    `stride` itself for a program of fixed sides.
    """
    if any(predictor.fixed_input[1:]):
        return stride
    count = predictor.fixed_input[0] or 1
    while stride <= _STRIDES[-1]:
        side = stride * max(1, predictor.card.tile_size // (2 * stride) | 1)
        try:
            predictor.predict(np.full((count, side, side, 3), 128, np.uint8))
        except PredictorError:
            stride *= 2
        else:
            return stride
    return None


def _blobs(side: int) -> Tiles:
    """A random image with structure at many scales, (side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    image = np.zeros((side, side, 3))
    for scale in (1, 2, 4, 8, 16, 32):
        coarse = rng.normal(size=(-(-side // scale), -(-side // scale), 3))
        image += np.repeat(np.repeat(coarse, scale, 0), scale, 1)[:side, :side]
    image -= image.min()
    pixels: Tiles = (image * (255 / image.max())).astype(np.uint8)
    return pixels


def _predict(predictor: Predictor, tile: Tiles) -> NDArray[np.float32]:
    """Probabilities (C, T, T) of one tile, in a batch of one or of the size the program demands."""
    count = predictor.fixed_input[0] or 1
    batch = np.ascontiguousarray(np.broadcast_to(tile, (count, *tile.shape)))
    probabilities: NDArray[np.float32] = predictor.predict(batch)[0]
    return probabilities
