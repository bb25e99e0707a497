"""The picture of a synthetic slide: the px of any tile of any level, and which tiles are mere copies of one another.

Owns the composition of textures inside an outline and its pyramid (2 x 2 area means). Knows no file and no codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box, PyramidLayout, ceil_div
from wsi_seg.sample.outline import BORDER, INSIDE, OUTSIDE, Outline
from wsi_seg.sample.texture import CELL, GLASS, TextureFamily

N_TEXTURES = 12
_GLASS = -1
_DEEPEST = CELL.bit_length() - 1

Rgb = NDArray[np.uint8]
CopyKey = tuple[int, int, int, int]
"""(texture, level, y, x): where in the library of textures a tile comes from."""


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What a synthetic slide shows; checked."""

    size: tuple[int, int]
    """(height, width) of level 0, px."""
    mpp: float = 0.5
    """µm per px of level 0, both axes."""
    seed: int = 0
    """Equal options give equal pictures."""
    tissue_fraction: float = 0.5
    """Share of the slide inside the outline, 0 … 1."""
    tile: int = 256
    """Side of the stored tiles, px."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or max(self.size) > 1 << 20:
            raise UsageError(f"slide size {self.size}", rule="1 … 1048576 px per side", remedy="e.g. 20480 x 20480")
        if not (isfinite(self.mpp) and 0.1 <= self.mpp <= 2):
            raise UsageError(f"mpp {self.mpp}", rule="nuclei are drawn at 0.1 … 2 um/px", remedy="e.g. 0.25 or 0.5")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}", rule="a seed is 0 or more")
        if not 0 <= self.tissue_fraction <= 1:
            raise UsageError(f"tissue fraction {self.tissue_fraction}", rule="it lies in 0 … 1")
        if self.tile not in (64, 128, 256, 512, 1024):
            raise UsageError(f"tile {self.tile}", rule="a power of two in 64 … 1024", remedy="256 suits all readers")


class Scene:
    """Tiles of a synthetic slide, each a pure function of the options.

    Levels halve until the longest side is at most 512 px; a px of level n + 1 is the rounded mean of its four px of
    level n, also in tiles that reach over the slide's end, beyond which there is glass. Asked level by level in
    ascending order, the work per level stays small: halves of composed tiles wait for the level above them.
    """

    def __init__(self, options: SceneOptions) -> None:
        self.options = options
        self.layout = PyramidLayout(options.size, 256)
        self._family = TextureFamily(options.seed, options.mpp)
        fraction, tile = options.tissue_fraction, options.tile
        self._outline = Outline(options.size, fraction, self._family.rng(7), self._family.ragged)
        self._kinds = [self._outline.kinds(tile)]
        while len(self._kinds) < self.layout.n_levels:
            self._kinds.append(_kinds_above(self._kinds[-1]))
        self._mosaic = _mosaic(options.size, self._family.rng(8))
        self._library: dict[int, tuple[list[Rgb], Rgb]] = {}
        self._halves: dict[tuple[int, int, int], Rgb] = {}

    @property
    def n_levels(self) -> int:
        """Stored levels."""
        return self.layout.n_levels

    def grid(self, level: int) -> tuple[int, int]:
        """(rows, columns) of tiles of a level."""
        rows, columns = self._kinds[level].shape
        return rows, columns

    def copy_key(self, level: int, row: int, column: int) -> CopyKey | None:
        """What tells a copied tile from others: equal keys, equal px and labels. None: the tile is unique."""
        kind = self._kinds[level][row, column]
        side, cell = self.options.tile, CELL >> min(level, _DEEPEST)
        if kind == BORDER or (kind == INSIDE and side > cell):
            return None
        y, x = row * side, column * side
        texture = _GLASS if kind == OUTSIDE else int(self._mosaic[y // cell, x // cell])
        return texture, level, y % cell, x % cell

    def pixels(self, level: int, row: int, column: int) -> Rgb:
        """(tile, tile, 3) uint8 RGB of a tile, full size also where the slide ends in it."""
        if (key := self.copy_key(level, row, column)) is not None:
            return self._copied(key)
        if level == 0:
            return self._composed(row, column)
        half = self.options.tile // 2
        pixels = np.empty((2 * half, 2 * half, 3), np.uint8)
        for i in (0, 1):
            for j in (0, 1):
                child = self._half(level - 1, 2 * row + i, 2 * column + j)
                pixels[i * half : (i + 1) * half, j * half : (j + 1) * half] = child
        self._halves[level, row, column] = area_mean(pixels)
        return pixels

    def labels(self, row: int, column: int) -> NDArray[np.uint8]:
        """(tile, tile) uint8 ground truth of a level-0 tile: GLASS, STROMA or NUCLEUS."""
        if (key := self.copy_key(0, row, column)) is not None:
            texture, _, y, x = key
            return self._textures(texture)[1][y : y + self.options.tile, x : x + self.options.tile]
        box = self._box(row, column)
        labels = self._textures(self._texture_at(box))[1][_in_cell(box)].copy()
        labels[self._outline.cover(box) < 0.5] = GLASS
        return labels

    def _box(self, row: int, column: int) -> Box:
        side = self.options.tile
        return Box.at(row * side, column * side, side, side)

    def _half(self, level: int, row: int, column: int) -> Rgb:
        """A tile reduced to half its side; kept ones are handed out once. Beyond the slide there is glass."""
        rows, columns = self.grid(level)
        if row >= rows or column >= columns:
            side, cell = self.options.tile, CELL >> min(level, _DEEPEST)
            return area_mean(self._copied((_GLASS, level, row * side % cell, column * side % cell)))
        kept = self._halves.pop((level, row, column), None)
        if kept is not None:
            return kept
        half = area_mean(self.pixels(level, row, column))
        self._halves.pop((level, row, column), None)
        return half

    def _copied(self, key: CopyKey) -> Rgb:
        texture, level, y, x = key
        side = self.options.tile
        cell = self._textures(texture)[0][min(level, _DEEPEST)]
        if side > cell.shape[0]:
            return np.tile(cell, (side // cell.shape[0], side // cell.shape[0], 1))
        return cell[y : y + side, x : x + side]

    def _composed(self, row: int, column: int) -> Rgb:
        """A level-0 tile through which the outline runs: tissue over glass."""
        box = self._box(row, column)
        glass = self._textures(_GLASS)[0][0][_in_cell(box)].astype(np.float32)
        tissue = self._textures(self._texture_at(box))[0][0][_in_cell(box)]
        cover = self._outline.cover(box)[..., None]
        return np.rint(glass + (tissue - glass) * cover).astype(np.uint8)

    def _texture_at(self, box: Box) -> int:
        """The texture that a level-0 tile shows; tiles never cross a cell's border."""
        return int(self._mosaic[box.y0 // CELL, box.x0 // CELL])

    def _textures(self, index: int) -> tuple[list[Rgb], Rgb]:
        """The picture of a texture at every level, and its labels; made when first asked for."""
        if index not in self._library:
            texture = self._family.glass() if index == _GLASS else self._family.tissue(index, index / (N_TEXTURES - 1))
            levels = [texture.rgb]
            while len(levels) <= _DEEPEST:
                levels.append(area_mean(levels[-1]))
            self._library[index] = levels, texture.labels
        return self._library[index]


def area_mean(pixels: Rgb) -> Rgb:
    """(2h, 2w, 3) to (h, w, 3) uint8: the mean of 2 x 2 px, halves rounded up."""
    wide = pixels.astype(np.uint16)
    rows = wide[0::2] + wide[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + np.uint16(2)) >> 2).astype(np.uint8)


def _mosaic(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.intp]:
    """Which texture each cell shows: at random among those as cellular as the zone of a few mm it lies in."""
    rows, columns = np.ix_(np.arange(ceil_div(size[0], CELL)), np.arange(ceil_div(size[1], CELL)))
    phases = rng.uniform(0, 2 * np.pi, 2)
    zone = np.sin(rows / 2.1 + columns / 5.3 + phases[0]) + np.sin(rows / 4.7 - columns / 2.6 + phases[1])
    zone = zone / 4 + 0.5 + rng.uniform(-0.35, 0.35, zone.shape)
    return np.asarray(np.clip(zone * N_TEXTURES, 0, N_TEXTURES - 1), np.intp)


def _in_cell(box: Box) -> tuple[slice, slice]:
    """Index of a level-0 box, which lies in one cell, in that cell's texture."""
    return box.slices((box.y0 // CELL * CELL, box.x0 // CELL * CELL))


def _kinds_above(kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Kinds of the tiles one level up: the kind of all four children, else BORDER; beyond the slide is OUTSIDE."""
    padded = np.pad(kinds, [(0, n % 2) for n in kinds.shape], constant_values=OUTSIDE)
    children = np.stack([padded[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return np.where((children == children[0]).all(axis=0), children[0], BORDER).astype(np.uint8)
