"""Which tile size, overlap and window are used where the user did not say; owns what exactness costs (D10).

Knows the card and the measured halo; knows no canvas, no slide and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import lcm

from wsi_seg.card import ModelCard
from wsi_seg.errors import GridError
from wsi_seg.geometry import align_up
from wsi_seg.plan.grid import TileGrid, check_overlap, check_tile, check_window, overlap_step

CHEAP_TILE = 1024
"""Tiles are enlarged up to this only to save work; beyond, only where the halo demands it."""
LARGEST_TILE = 2048
"""Tiles are enlarged up to this where there is memory for it; a larger one would save 5 % more at most."""
BATCH_PX = 8 * 512 * 512
"""Pixels of a batch, where the batch size is not given."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a canvas of any size is cut into tiles."""

    tile: int
    """Side of a tile."""
    overlap: int
    """Px that neighbours share."""
    window: str
    """Weight window, one of `grid.WINDOWS`."""
    margin: int
    """Px at a tile's outer edge with weight 0."""
    exact: bool
    """True when every label equals the one of an untiled prediction: no px is used within a halo of a tile's edge."""

    @property
    def cost(self) -> float:
        """Predicted px per canvas px.

        >>> Tiling(512, 128, "crop", 0, exact=True).cost
        1.7777777777777777
        """
        return (self.tile / (self.tile - self.overlap)) ** 2

    def grid(self, canvas: tuple[int, int], output_stride: int) -> TileGrid:
        """The grid of tiles over a canvas (height, width)."""
        return TileGrid(canvas, self.tile, self.overlap, output_stride, self.window, self.margin)


def choose_tiling(
    card: ModelCard,
    halo: int | None,
    *,
    tile: int | None = None,
    overlap: int | str | None = "auto",
    window: str = "auto",
) -> Tiling:
    """Tile size, overlap and window; what is given is kept, what is not is chosen.

    With a known halo, the overlap is twice the halo (up to the output stride's next multiple) and each px is taken from
    the tile that owns it, which is exact. A larger tile gives the same labels for less work, so the card's tile is
    doubled until the overlap is at most an eighth of it, up to `CHEAP_TILE`, and further only where the overlap exceeds
    half a tile. Without a halo nothing is exact: a quarter of a tile is blended.

    Args:
        card: the model contract.
        halo: context per side that an exact prediction needs, px; None: not known, or unbounded.
        tile: side of a tile; None: chosen.
        overlap: px; None or "auto": chosen.
        window: one of `grid.WINDOWS`, or "auto".

    Raises:
        GridError: the values do not fit each other or the model's output stride; names the nearest that do.

    >>> card = ModelCard.from_mapping({"name": "m", "mpp": 0.5, "classes": ["a", "b"], "output_stride": 16}, "example")
    >>> choose_tiling(card, 92)
    Tiling(tile=1024, overlap=192, window='crop', margin=0, exact=True)
    >>> choose_tiling(card, 20)
    Tiling(tile=512, overlap=64, window='crop', margin=0, exact=True)
    >>> choose_tiling(card, None)
    Tiling(tile=512, overlap=128, window='cosine', margin=0, exact=False)
    """
    if window != "auto":
        check_window(window)
    if halo is not None and halo < 0:
        raise GridError(f"halo {halo}", rule="0 or more px")
    side = card.tile_size if tile is None else tile
    check_tile(side, card.output_stride)
    if overlap is None or overlap == "auto":
        side, chosen = _auto_overlap(side, card.output_stride, halo, fixed=tile is not None)
    elif isinstance(overlap, str):
        raise GridError(f"overlap {overlap!r}", rule="a number of px or auto")
    else:
        chosen = overlap
        check_overlap(chosen, side, card.output_stride)
    return _with_window(side, chosen, halo, window)


def enlargements(tiling: Tiling, output_stride: int, largest: int) -> Iterator[Tiling]:
    """An exact tiling with larger tiles up to `largest`, which give the same predictions; the smallest first.

    None where it is not exact: another tile would give other labels.

    >>> [larger.tile for larger in enlargements(Tiling(1024, 192, "crop", 0, exact=True), 16, 1100)]
    [1056, 1088]
    """
    if tiling.exact and tiling.window == "crop" and tiling.overlap:
        for side in range(tiling.tile + lcm(32, output_stride), largest + 1, lcm(32, output_stride)):
            yield replace(tiling, tile=side)


def choose_batch(tile: int) -> int:
    """Tiles per batch, where the user did not say: about `BATCH_PX` pixels.

    >>> choose_batch(512), choose_batch(1024), choose_batch(4096)
    (8, 2, 1)
    """
    return max(1, BATCH_PX // tile**2)


def tiling_notes(tiling: Tiling, halo: int | None, output_stride: int) -> list[str]:
    """What a user should know about the choice, in words; empty when every label is exact."""
    if tiling.exact:
        return []
    if halo is None:
        return [
            "the model's halo is unknown or unbounded: labels near tile borders are blended, "
            "and another tile size or overlap would change some of them"
        ]
    needed = 2 * align_up(halo, output_stride)
    return [
        f"overlap {tiling.overlap} is less than the {needed} px that the model's halo of {halo} px needs: labels near "
        f"tile borders are not exact; --tile {max(tiling.tile, 2 * needed)} --overlap {needed} makes them so"
    ]


def _auto_overlap(tile: int, output_stride: int, halo: int | None, *, fixed: bool) -> tuple[int, int]:
    """(tile, overlap): exact where the tile may grow or is large enough, else the most that fits."""
    step = overlap_step(output_stride)
    if halo is None:
        quarter = tile // 4 // step * step
        return tile, quarter or min(step, tile // 2 // step * step)
    overlap = 2 * align_up(halo, output_stride)
    if fixed:
        return tile, min(overlap, tile // 2 // step * step)
    while 2 * overlap > tile or (8 * overlap > tile and 2 * tile <= CHEAP_TILE):
        tile *= 2
    return tile, overlap


def _with_window(tile: int, overlap: int, halo: int | None, window: str) -> Tiling:
    exact = halo is not None and 2 * halo <= overlap
    kind = ("crop" if exact else "cosine") if window == "auto" else window
    margin = halo if halo is not None and exact and kind != "crop" else 0
    return Tiling(tile, overlap, kind, margin, exact)
