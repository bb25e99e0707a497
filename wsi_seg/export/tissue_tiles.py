"""Tiles drawn from the tissue of real slides: half to calibrate on, half to judge on; none in both.

Owns the draw: stratified by how dark the tissue is, equal for every slide, repeatable by its seed. Knows no model but
the resolution and the side of its tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import MissingMppError, RegionReadError, UsageError
from wsi_seg.geometry import Box

if TYPE_CHECKING:
    from wsi_seg.card import ModelCard
    from wsi_seg.plan import Scale
    from wsi_seg.slide import Slide

Tiles = NDArray[np.uint8]

THUMBNAIL_SIDE = 2048
"""Longest side of the thumbnail that tissue is looked for in, px."""
MIN_TISSUE = 0.1
"""Share of a tile that must be tissue: edges of tissue are drawn too, since a network meets them."""


@dataclass(frozen=True, slots=True)
class TileSets:
    """Tiles of tissue, each (n, T, T, 3) uint8 with n >= 1."""

    calibration: Tiles
    judging: Tiles
    apart: bool = True
    """False where there was one tile of tissue only, which serves both."""


def draw_tiles(slides: Sequence[Path], card: ModelCard, n: int, seed: int, slide_mpp: float | None) -> TileSets:
    """Up to `n` tiles for each purpose, as many of every slide; fewer where the tissue is smaller.

    Tiles lie on a grid without overlap, at the card's resolution and tile size. Within a slide they are sorted by
    brightness and cut into as many strata as tiles are wanted; one is drawn of each, and they go to the two purposes
    in turn. Raises SlideError, PlanError, UsageError where there is no tissue.
    """
    calibration: list[list[Tiles]] = []
    judging: list[list[Tiles]] = []
    share = -(-n // len(slides))
    for number, path in enumerate(slides):
        tiles = _of_slide(path, card, 2 * share, np.random.default_rng([seed, number]), slide_mpp)
        calibration.append(tiles[::2])
        judging.append(tiles[1::2])
    if not any(calibration):
        raise UsageError(
            f"no tissue in {', '.join(path.name for path in slides)}",
            rule=f"a tile counts from {MIN_TISSUE:.0%} tissue", remedy="give slides with stained tissue",
        )  # fmt: skip
    apart = any(judging)
    calibrate, judge = (np.stack(_in_turn(tiles)[:n]) for tiles in (calibration, judging if apart else calibration))
    return TileSets(calibrate, judge, apart)


def _in_turn(of_slides: Sequence[Sequence[Tiles]]) -> list[Tiles]:
    """One tile of each slide, then the next of each: where they are cut short, every slide has its share."""
    return [tile for tiles in zip_longest(*of_slides) for tile in tiles if tile is not None]


def _of_slide(path: Path, card: ModelCard, n: int, random: np.random.Generator, slide_mpp: float | None) -> list[Tiles]:
    from wsi_seg.plan import choose_scale
    from wsi_seg.slide import open_slide
    from wsi_seg.slide.canvas import read_canvas

    slide = open_slide(path, mpp=slide_mpp)
    try:
        if slide.mpp is None:
            raise MissingMppError(f"{path} does not state its resolution", remedy="give --mpp")
        scale = choose_scale(slide.levels, slide.mpp, slide.bounds, card.mpp)
        tiles = []
        for box in _drawn(_cells(slide, scale, card.tile_size), n, random):
            try:
                tiles.append(read_canvas(slide, scale, box, card.background))
            except RegionReadError:
                continue
        return tiles
    finally:
        slide.close()


def _cells(slide: Slide, scale: Scale, side: int) -> list[Box]:
    """Cells of the canvas with tissue in them, the darkest first."""
    from wsi_seg.plan import tissue_from_thumbnail

    thumbnail = slide.thumbnail(THUMBNAIL_SIDE)
    tissue = tissue_from_thumbnail(thumbnail, scale, slide.levels[0].size)
    grey = thumbnail.mean(axis=2)
    height, width = scale.canvas_size
    found = []
    for y0 in range(0, max(1, height - side + 1), side):
        for x0 in range(0, max(1, width - side + 1), side):
            part = tuple(
                slice(max(0, int((start - origin) / step)), max(1, round((start + side - origin) / step)))
                for start, origin, step in zip((y0, x0), tissue.origin, tissue.step, strict=True)
            )
            inside = tissue.mask[part]
            if inside.size and inside.mean() >= MIN_TISSUE:
                found.append((float(grey[part][inside].mean()), Box.at(y0, x0, side, side)))
    return [box for _, box in sorted(found, key=lambda cell: (cell[0], cell[1].y0, cell[1].x0))]


def _drawn(cells: list[Box], n: int, random: np.random.Generator) -> list[Box]:
    """One cell of each of `n` strata; all of them where there are not more."""
    if len(cells) <= n:
        return cells
    edges = np.linspace(0, len(cells), n + 1).astype(int)
    return [cells[int(random.integers(low, high))] for low, high in pairwise(edges)]
