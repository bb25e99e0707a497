"""What no reader is given: sides, tiles and counts beyond those of any slide; owns the limits, knows no format."""

from __future__ import annotations

from pathlib import Path

from wsi_seg.errors import SlideOpenError

MAX_SIDE = 2**31 - 1
MAX_LEVEL_PX = 1 << 38
"""A slide of 75 x 25 mm at 0.1 um/px has two thirds of that."""
MAX_COARSEST_PX = 1 << 34
"""All of the coarsest level is read for the thumbnail; slides of one level have a tenth of that."""
MAX_TILE_PX = 64 << 20
MAX_TILES = 1 << 26
MAX_LEVELS = 64
MAX_TEXT_BYTES = 16 << 20
"""Of a description, or of a metadata file."""


def check_sides(path: Path, height: int, width: int) -> None:
    """Raises SlideOpenError where a level of that many px is no level of a slide."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise SlideOpenError(
            f"{path} holds a page of {height} x {width} px",
            rule=f"1 to {MAX_SIDE} px per side",
            remedy="compare the file with its source",
        )
    if height * width > MAX_LEVEL_PX:
        raise SlideOpenError(
            f"{path} holds a page of {height} x {width} px",
            rule=f"at most {MAX_LEVEL_PX} px in a level",
            remedy="compare the file with its source",
        )


def check_tile(path: Path, tile: tuple[int, int]) -> None:
    """Raises SlideOpenError where a tile of (height, width) is empty or would take too much memory."""
    if not 0 < tile[0] * tile[1] <= MAX_TILE_PX:
        raise SlideOpenError(
            f"{path} has tiles of {tile[0]} x {tile[1]} px",
            rule=f"at most {MAX_TILE_PX} px in a tile",
            remedy="compare the file with its source, or convert it to smaller tiles",
        )


def check_tiles(path: Path, count: int) -> None:
    """Raises SlideOpenError where a level has more tiles than we keep in a table."""
    if count > MAX_TILES:
        raise SlideOpenError(
            f"{path} has {count} tiles on a level",
            rule=f"at most {MAX_TILES}",
            remedy="compare the file with its source, or convert it to larger tiles",
        )


def checked_levels(
    path: Path, sizes: list[tuple[int, int]], tiles: list[tuple[int, int] | None]
) -> tuple[list[tuple[int, int]], list[tuple[int, int] | None]]:
    """The (height, width) of levels and of their tiles, once they are those of a slide. Raises SlideOpenError."""
    if not 0 < len(sizes) <= MAX_LEVELS:
        raise SlideOpenError(
            f"{path} has {len(sizes)} levels", rule=f"1 to {MAX_LEVELS}", remedy="compare the file with its source"
        )
    for height, width in sizes:
        check_sides(path, height, width)
    if min(height * width for height, width in sizes) > MAX_COARSEST_PX:
        raise SlideOpenError(
            f"{path} has no level below {min(sizes)[0]} x {min(sizes)[1]} px",
            rule=f"at most {MAX_COARSEST_PX} px in the coarsest level, all of which is read to look for tissue",
            remedy="convert it to a pyramid, e.g. `vips tiffsave in.tif out.tif --tile --pyramid --bigtiff`",
        )
    for tile in tiles:
        if tile is not None:
            check_tile(path, tile)
    return sizes, tiles
