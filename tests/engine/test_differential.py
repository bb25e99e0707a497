"""Random small runs against one plain NumPy pass over the whole canvas: no blocks, no bands, no cache, no order."""

from __future__ import annotations

import threading
from contextlib import suppress
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from wsi_kernels import axis_window

from tests.engine.runs import answer_nan_where
from wsi_seg.engine.events import TaskDone
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import Prepared, prepare
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import RunStopped
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.label_store import open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.slide import ArraySlide
from wsi_seg.slide.canvas import read_canvas

N_RUNS = 14
IGNORE = 255
MARK = (254, 1, 254)
"""The model answers NaN for a pixel of this colour."""


class HoledSlide(ArraySlide):
    """Cannot be read where a rectangle of `holes`, px of the level that the run reads, is touched."""

    holes: tuple[Box, ...] = ()

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        out[...] = 99  # what is half written must not be used
        if any(not hole.intersect(box).is_empty for hole in self.holes):
            raise self._unreadable(box, level, "a hole")
        super()._read_inside(out, box, level)


@pytest.fixture(autouse=True)
def simple(monkeypatch: pytest.MonkeyPatch) -> None:
    """No overview; NaN where a tile holds MARK."""
    answer_nan_where(MARK, monkeypatch)


def random_slide(rng: np.random.Generator) -> HoledSlide:
    height, width = (int(side) for side in rng.integers(1, 420, 2))
    coarse = rng.integers(0, 128, (-(-height // 24), -(-width // 24), 3), dtype=np.uint8)
    pixels = coarse.repeat(24, 0).repeat(24, 1)[:height, :width] + rng.integers(0, 50, (height, width, 3), np.uint8)
    pixels[: rng.integers(0, height), : rng.integers(0, width)] = 245
    mpp = Mpp(0.5, 0.5) if rng.random() < 0.5 else Mpp(*rng.uniform(0.3, 0.9, 2))
    if mpp.y == mpp.x and rng.random() < 0.5:
        pixels[rng.integers(height), rng.integers(width)] = MARK
    slide = HoledSlide(pixels, mpp=mpp)
    if rng.random() < 0.4:
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        slide.bounds = Box(y, x, int(rng.integers(y + 1, height + 1)), int(rng.integers(x + 1, width + 1)))
    return slide


def random_options(rng: np.random.Generator, models: list[str]) -> dict[str, Any]:
    tile = int(rng.choice([32, 48, 64, 128, 320]))
    return {
        "model": models[rng.integers(len(models))],
        "card": {"output_stride": int(rng.choice([4, 16]))},
        "tile": tile,
        "overlap": int(rng.integers(0, tile // 2 // 16 + 1)) * 16,
        "window": str(rng.choice(["auto", "linear", "cosine", "gaussian", "crop"])),
        "batch": int(rng.choice([1, 2, 5])),
        "block": int(rng.choice([256, 256, 512])),
        "workers": int(rng.integers(1, 4)),
        "skip_background": bool(rng.random() < 0.4),
        "probabilities": True,
    }


def canvas_of(slide: HoledSlide, prepared: Prepared, box: Box) -> NDArray[np.uint8]:
    """Canvas px of `box`, which may leave the slide, in one read; held against exact area means of the level."""
    scale, fill = prepared.plan.scale, prepared.plan.card.background
    level = slide.levels[scale.level].size
    shares = []
    for low, high, factor, origin, size in (
        (box.y0, box.y1, scale.factor[0], scale.level_origin[0], level[0]),
        (box.x0, box.x1, scale.factor[1], scale.level_origin[1], level[1]),
    ):
        start = np.arange(low, high)[:, None] * factor
        source = np.arange(floor(low * factor), ceil(high * factor) + 1)
        part = np.clip(np.minimum(start + factor, source + 1) - np.maximum(start, source), 0, None)
        shares.append((part / factor, source + origin, (source + origin >= 0) & (source + origin < size)))
    (rows, y, y_inside), (columns, x, x_inside) = shares
    pixels = np.empty((y.size, x.size, 3))
    pixels[:] = fill
    stored = slide._pixels[scale.level]
    pixels[np.ix_(y_inside, x_inside)] = stored[np.ix_(y[y_inside], x[x_inside])]
    means = np.moveaxis(rows @ np.moveaxis(pixels, 2, 0) @ columns.T, 0, 2)
    canvas = read_canvas(ArraySlide(*slide._pixels), scale, box, fill)
    assert np.abs(canvas - means).max() < 0.5 + 1e-3
    return canvas


def naive(slide: HoledSlide, prepared: Prepared) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels (h, w), probabilities (C, h, w) and statuses of tiles, from one sum over the whole canvas."""
    sums, sound, statuses = naive_sums(slide, prepared)
    probabilities = np.where(sound, (2 * sums + 257 * 65536) // (2 * 257 * 65536), 0).astype(np.uint8)
    return np.where(sound, sums.argmax(0), IGNORE).astype(np.uint8), probabilities, statuses


def naive_sums(
    slide: HoledSlide, prepared: Prepared
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint8]]:
    """Blended sums (C, h, w), which px of the canvas have a result, and statuses of tiles."""
    plan, grid = prepared.plan, prepared.plan.grid
    (height, width), stride, half = plan.scale.canvas_size, grid.tile - grid.overlap, grid.overlap // 2
    pad = -(-half // grid.output_stride) * grid.output_stride
    sums = np.zeros((prepared.predictor.n_channels, height, width), np.uint64)
    analysed, failed = np.zeros((height, width), bool), np.zeros((height, width), bool)
    statuses = np.full(grid.shape, TileStatus.SKIPPED, np.uint8)
    reach = (half, half + stride) if grid.window == "crop" else (grid.margin, grid.tile - grid.margin)
    whole = Box(-pad, -pad, grid.shape[0] * stride + grid.overlap - pad, grid.shape[1] * stride + grid.overlap - pad)
    canvas = canvas_of(slide, prepared, whole)
    for place in np.ndindex(grid.shape):
        y, x = (index * stride - pad for index in place)
        if plan.selection.analysed[place]:
            analysed[max(0, y + half) : y + half + stride, max(0, x + half) : x + half + stride] = True
        if not plan.selection.predicted[place]:
            continue
        weights = np.outer(*(
            axis_window(grid.tile, grid.overlap, grid.window, grid.margin, first=index == 0, last=index == n - 1)
            for index, n in zip(place, grid.shape, strict=True)
        )).astype(np.uint64)  # fmt: skip
        tile = canvas[y + pad : y + pad + grid.tile, x + pad : x + pad + grid.tile]
        kept = np.s_[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        target = np.s_[max(0, y) : max(0, y + grid.tile), max(0, x) : max(0, x + grid.tile)]
        batch = np.broadcast_to(tile, (plan.batch, *tile.shape))
        prediction = prepared.predictor.predict(batch)[0].astype(np.float64)
        status = TileStatus.DONE
        if any(not hole.intersect(plan.scale.level_box(grid.tile_box(*place))).is_empty for hole in slide.holes):
            status = TileStatus.UNREADABLE
        elif np.isnan(prediction[:, *kept][:, weights[kept] > 0]).any():
            status = TileStatus.MODEL_FAILED
        if status == TileStatus.DONE:
            quantised = np.rint(np.clip(np.nan_to_num(prediction), 0, 1) * 65535).astype(np.uint64)
            sums[:, *target] += (quantised * weights)[:, *kept]
        else:
            rows, columns = (slice(max(0, start + reach[0]), max(0, start + reach[1])) for start in (y, x))
            failed[rows, columns] = True
        if plan.selection.analysed[place]:
            statuses[place] = status
    return sums, analysed & ~failed, statuses


def halved(labels: NDArray[np.uint8], probabilities: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The next level: majority, ties to the lowest; mean of what is analysed, half up."""
    odd = [(0, side % 2) for side in labels.shape]
    padded = np.pad(labels, odd, constant_values=IGNORE)
    four = np.stack([padded[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    n = len(probabilities)
    votes = np.stack([(four == index).sum(0) for index in range(n)])
    counted = (four != IGNORE).sum(0)
    values = np.where(labels == IGNORE, 0, probabilities).astype(np.int64)
    total = sum(np.pad(values, [(0, 0), *odd])[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    means = (2 * total + counted) // np.maximum(2 * counted, 1)
    return np.where(counted, votes.argmax(0), IGNORE).astype(np.uint8), means.astype(np.uint8)


@pytest.mark.parametrize("seed", range(N_RUNS))
def test_as_one_pass_over_the_whole_canvas(
    seed: int, tmp_path: Path, unet: str, null_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    slide, options = random_slide(rng), RunOptions(**random_options(rng, [unet, null_model]))
    prepared = prepare(slide, options)
    level = prepared.plan.scale.level
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        y, x = (int(rng.integers(0, side)) for side in slide.levels[level].size)
        slide.holes += (Box.at(y, x, 9, 20).intersect(Box(0, 0, *slide.levels[level].size)),)
    labels, probabilities, statuses = naive(slide, prepared)

    monkeypatch.setattr(prepared.predictor, "close", lambda: None)
    monkeypatch.setattr("wsi_seg.engine.run.prepare", lambda *_: prepared)
    stop, out = threading.Event(), tmp_path / "x.seg.zarr"
    with suppress(RunStopped):  # a small one is done before it hears of it
        run_slide(slide, options, out=out, stop=stop, listener=lambda e: isinstance(e, TaskDone) and stop.set())
    if not out.exists():
        run_slide(slide, options, out=out)

    result = open_result(out)
    np.testing.assert_array_equal(result.read_tiles(), statuses)
    for n in range(result.n_levels):
        np.testing.assert_array_equal(np.asarray(result.labels(n)[:]), labels, err_msg=f"level {n}")
        np.testing.assert_array_equal(np.asarray(result.probabilities(n)[:]), probabilities, err_msg=f"level {n}")
        labels, probabilities = halved(labels, probabilities)
