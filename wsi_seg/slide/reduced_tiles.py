"""Levels that are not stored, from JPEG tiles decoded at a half, a quarter or an eighth of their sides.

Owns which of them are offered and what stands at the slide's end. A decoder that leaves out the high frequencies of
each block of 8 px saves most of the inverse transform, and gives nearly the area average. Knows no file and no tag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Level
from wsi_seg.slide.stored import WHITE
from wsi_seg.slide.tiff_layout import Place, TileTable
from wsi_seg.slide.tile_codec import JPEG, TileCodec

REDUCTIONS = (2, 4, 8)
"""Parts of a side that decoders scale to at no loss: whole px of each block of 8."""
N_LOOKED_AT = 8
"""Tiles whose headers are tried; one is enough."""
APART = 1.05
"""A stored level that is up to so many times coarser than a reduction stands in for it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReducedTable:
    """The tiles of a stored level as those of a coarser one; answers what a `TileTable` answers to a reader."""

    stored: TileTable
    size: tuple[int, int]
    """(height, width) of the reduced level, px."""
    tile: tuple[int, int]
    """(height, width) of a reduced tile, px."""
    codec: TileCodec
    """Decodes at a part of the sides."""

    @property
    def alpha(self) -> str:
        """See `TileTable.alpha`."""
        return self.stored.alpha

    def most_bytes(self, row: int) -> int:
        """Stored bytes beyond which a tile of the row is not read."""
        return self.stored.most_bytes(row)

    def places(self, row: int, columns: range) -> list[Place]:
        """See `TileTable.places`: a reduced tile lies where its stored one does."""
        return self.stored.places(row, columns)

    def pixels(self, payload: bytes, row: int, column: int) -> NDArray[np.uint8]:
        """Reduced pixels, uint8 RGB, of the tile stored as `payload`; see `TileCodec.decode`.

        A tile that the slide's end cuts is decoded whole and averaged: what encoders put beyond the end, often black,
        would else run into the last px, and into those of the same block of 8.
        """
        (height, width), (bottom, right) = self.stored.tile, self.stored.size
        inside = min(height, bottom - row * height), min(width, right - column * width)
        if inside == (height, width):
            return self.codec.decode(payload, self.tile)
        whole = self.stored.pixels(payload, row, column)[: inside[0], : inside[1]]
        return _averaged(whole, self.codec.reduction)


Read = Callable[[int, int], bytes]
"""Bytes of the file: so many from a position. Raises OSError or ValueError."""


def with_reductions(
    stored: Sequence[Level], tables: Sequence[TileTable], read: Read
) -> tuple[tuple[Level, ...], tuple[TileTable | ReducedTable, ...]]:
    """Stored levels with their tables, and after each what can be made by reduced decoding, finest first.

    A reduction is offered of JPEG tiles whose sides it divides, and where no stored level is as coarse. Its size is
    the stored one divided and rounded, as the canvas' is. Strips are left alone: the last is cut, and of any height.
    Some tiles are looked at: where colours would suffer (`TileCodec.can_be_reduced`), nothing is offered.
    Raises OSError where the file cannot be read: what is offered must not depend on that.
    """
    levels: list[Level] = []
    all_tables: list[TileTable | ReducedTable] = []
    for index, (level, table) in enumerate(zip(stored, tables, strict=True)):
        levels.append(level)
        all_tables.append(table)
        coarser = stored[index + 1].downsample if index + 1 < len(stored) else (float("inf"),) * 2
        room = min(next_ / own for next_, own in zip(coarser, level.downsample, strict=True))
        for reduction in REDUCTIONS if _keeps_colours(table, read) else ():
            if reduction * APART < room and all(side % reduction == 0 for side in table.tile):
                reduced = _reduced(table, reduction)
                downsample = level.downsample[0] * reduction, level.downsample[1] * reduction
                levels.append(Level(reduced.size, downsample, reduced.tile, reduction))
                all_tables.append(reduced)
    return tuple(levels), tuple(all_tables)


def _keeps_colours(table: TileTable, read: Read) -> bool:
    """As the first tile says whose header can be read; False where none of some can, and for what is no JPEG tile."""
    if table.codec.compression != JPEG or not table.tiled:
        return False
    rows, columns = np.nonzero(table.present)
    step = max(1, len(rows) // N_LOOKED_AT)
    for row, column in list(zip(rows.tolist(), columns.tolist(), strict=True))[::step]:
        (offset,), (count,) = table.places(row, range(column, column + 1))[0]
        try:
            if count <= table.most_bytes(row):
                return table.codec.can_be_reduced(read(offset, count))
        except ValueError:  # this one is damaged; a file that cannot be read is another matter, and raised
            continue
    return False


def _reduced(table: TileTable, reduction: int) -> ReducedTable:
    height, width = (max(1, round(side / reduction)) for side in table.size)
    tile = table.tile[0] // reduction, table.tile[1] // reduction
    return ReducedTable(table, (height, width), tile, replace(table.codec, reduction=reduction))


def _averaged(pixels: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """uint8 (h, w, 3) reduced by area; the last px of sides that are no multiples are filled up with background."""
    from wsi_kernels import area_resample

    height, width = (-(-side // reduction) for side in pixels.shape[:2])
    filled = np.empty((height * reduction, width * reduction, 3), np.uint8)
    filled[...] = WHITE
    filled[: pixels.shape[0], : pixels.shape[1]] = pixels
    factor = float(reduction), float(reduction)
    reduced: NDArray[np.uint8] = area_resample(filled, (0, 0), factor, (0, 0, height, width))
    return reduced
