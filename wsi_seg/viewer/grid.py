"""The grid of tiles that all layers of a view share: level 0 of the slide, halved again and again.

Owns the arithmetic of tile addresses, which is that of OpenSeadragon's default tile source. Knows no pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsi_seg.geometry import Box, ceil_div

TILE = 512
"""Distance between tiles, px."""
OVERLAP = 1
"""Px that a tile has in common with each neighbour. Of tiles without any, OpenSeadragon enlarges each by a px of the
screen, so that no gaps show: everything in them would be shifted by up to that px."""


@dataclass(frozen=True, slots=True)
class ViewBox:
    """A box of a reduced picture: px (y, x) whose sides are `downsample` level-0 px."""

    box: Box
    downsample: int


@dataclass(frozen=True, slots=True)
class ViewGrid:
    """The tiles of a slide of `l0_size` (height, width); level `max_level` is level 0 of the slide.

    >>> grid = ViewGrid((1000, 3000))
    >>> grid.max_level, grid.tile(12, 1, 5), grid.tile(0, 0, 0)
    (12, ViewBox(box=Box(y0=511, x0=2559, y1=1000, x1=3000), downsample=1), ViewBox(box=Box(y0=0, x0=0, y1=1, x1=1), downsample=4096))
    """  # noqa: E501

    l0_size: tuple[int, int]

    @property
    def max_level(self) -> int:
        """Index of the finest level; level 0 has one px."""
        return (max(self.l0_size) - 1).bit_length()

    def tile(self, level: int, row: int, column: int) -> ViewBox:
        """A tile with its overlap, cut at the ends of the picture. Raises KeyError where there is no such tile."""
        if not 0 <= level <= self.max_level:
            raise KeyError(level)
        downsample = 1 << (self.max_level - level)
        height, width = (ceil_div(side, downsample) for side in self.l0_size)
        whole, own = Box(0, 0, height, width), Box.at(row * TILE, column * TILE, TILE, TILE)
        if row < 0 or column < 0 or own.intersect(whole).is_empty:
            raise KeyError((row, column))
        return ViewBox(own.grown(OVERLAP).intersect(whole), downsample)

    def whole(self, longest_side: int) -> ViewBox:
        """All of the slide, at the finest level whose longest side is at most `longest_side` px."""
        downsample = 1
        while ceil_div(max(self.l0_size), downsample) > longest_side:
            downsample *= 2
        return ViewBox(Box(0, 0, *(ceil_div(side, downsample) for side in self.l0_size)), downsample)
