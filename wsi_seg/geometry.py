"""Coordinates: boxes, resolutions, stored levels and the layout of the output pyramid.

Owns the algebra of pixel frames. Knows no file, no array and no model. Always (y, x) and (height, width).
A bare size or box is in canvas pixels; other frames carry a prefix (`l0_`, `level_`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

from wsi_seg.errors import GridError

MIN_SHARD = 256
"""Smallest side of a shard that one block writes, in px of its level."""
MAX_CHUNK = 512
"""Largest side of a chunk, the smallest unit readable alone."""
TOP_LEVEL_SIDE = 512
"""The pyramid ends at the first level whose longest side is at most this."""


def ceil_div(value: int, step: int) -> int:
    """Smallest integer >= value / step.

    >>> ceil_div(7, 4), ceil_div(8, 4), ceil_div(-7, 4)
    (2, 2, -1)
    """
    return -(-value // step)


def align_up(value: int, step: int) -> int:
    """Smallest multiple of `step` >= `value`.

    >>> align_up(65, 32)
    96
    """
    return ceil_div(value, step) * step


@dataclass(frozen=True, slots=True)
class Mpp:
    """Resolution in µm per pixel, per axis; the frame is named by whoever holds it."""

    y: float
    x: float

    def __post_init__(self) -> None:
        if not (isfinite(self.y) and isfinite(self.x) and self.y > 0 and self.x > 0):
            raise GridError(f"resolution {self.y} x {self.x} um/px", rule="both must be finite and above 0")

    def scaled(self, y: float, x: float) -> Mpp:
        """Resolution of pixels that are `y` times as high and `x` times as wide."""
        return Mpp(self.y * y, self.x * x)


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Half-open rectangle [y0, y1) x [x0, x1) of pixels; may leave the slide, may be empty."""

    y0: int
    x0: int
    y1: int
    x1: int

    @classmethod
    def at(cls, y: int, x: int, height: int, width: int) -> Box:
        """Box of `height` x `width` with its upper left corner at (y, x)."""
        return cls(y, x, y + height, x + width)

    @property
    def height(self) -> int:
        """Rows; 0 for an empty box."""
        return max(0, self.y1 - self.y0)

    @property
    def width(self) -> int:
        """Columns; 0 for an empty box."""
        return max(0, self.x1 - self.x0)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def is_empty(self) -> bool:
        """True when it holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def intersect(self, other: Box) -> Box:
        """Pixels in both.

        >>> Box(0, 0, 4, 4).intersect(Box(2, 3, 9, 9))
        Box(y0=2, x0=3, y1=4, x1=4)
        """
        return Box(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))

    def hull(self, other: Box) -> Box:
        """Smallest box holding both."""
        return Box(min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1))

    def contains(self, other: Box) -> bool:
        """True when every pixel of `other` is here."""
        return other.is_empty or self.intersect(other) == other

    def grown(self, n: int) -> Box:
        """The box with `n` more px on every side.

        >>> Box(0, 3, 4, 4).grown(2)
        Box(y0=-2, x0=1, y1=6, x1=6)
        """
        return Box(self.y0 - n, self.x0 - n, self.y1 + n, self.x1 + n)

    def shift(self, y: int, x: int) -> Box:
        """The same box, moved by (y, x)."""
        return Box(self.y0 + y, self.x0 + x, self.y1 + y, self.x1 + x)

    def slices(self, origin: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        """Index of these pixels in an array whose element (0, 0) is the pixel `origin`."""
        y, x = origin
        return slice(self.y0 - y, self.y1 - y), slice(self.x0 - x, self.x1 - x)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution at which a slide can be read; level 0 is the finest."""

    size: tuple[int, int]
    """(height, width) in px of this level."""
    downsample: tuple[float, float]
    """Level-0 px per px of this level, (y, x), from the level sizes."""
    tile: tuple[int, int] | None = None
    """(height, width) of the file's own tiles, where it is tiled: aligned reads decode each tile once."""
    reduction: int = 1
    """1: it is stored like this. Else its px are made by decoding the tiles of the last stored level before it at 1/2,
    1/4 or 1/8 of their sides, and those tiles have px of this level."""


@dataclass(frozen=True, slots=True)
class PyramidLayout:
    """How the output grid is cut into levels, shards and chunks, and which task writes which shard.

    Levels are grouped in *tiers* of `depth` levels. A task of tier t owns one `block` x `block` box of level
    t * depth and writes the shards of levels t * depth + 1 … (t + 1) * depth inside it; a task of tier 0 writes
    the shard of level 0 as well. So every shard has exactly one writer, and a tier needs only the one below.

    >>> layout = PyramidLayout((100_000, 100_000), 4096)
    >>> layout.n_levels, layout.depth, layout.n_tiers, layout.grid(0), layout.grid(1), layout.shard(4)
    (9, 4, 2, (25, 25), (2, 2), 256)
    """

    size: tuple[int, int]
    """(height, width) of level 0."""
    block: int
    """Side of a block and of a level-0 shard, a power of two from 256."""

    def __post_init__(self) -> None:
        if self.block < MIN_SHARD or self.block & (self.block - 1):
            raise GridError(f"block size {self.block}", rule=f"a power of two, at least {MIN_SHARD}", remedy="try 4096")
        if min(self.size) < 1:
            raise GridError(f"canvas size {self.size}", rule="at least 1 x 1 px")

    @property
    def depth(self) -> int:
        """Levels that one task makes above the one it reads or predicts; at least 1."""
        return max(1, (self.block // MIN_SHARD).bit_length() - 1)

    @property
    def n_levels(self) -> int:
        """Levels of the pyramid, level 0 included."""
        n, side = 1, max(self.size)
        while side > TOP_LEVEL_SIDE:
            n, side = n + 1, ceil_div(side, 2)
        return n

    @property
    def n_tiers(self) -> int:
        """Tiers; 1 where the blocks alone make every level."""
        return max(1, ceil_div(self.n_levels - 1, self.depth))

    def level_size(self, level: int) -> tuple[int, int]:
        """(height, width) of a level: that of level 0 halved `level` times, rounded up."""
        return ceil_div(self.size[0], 1 << level), ceil_div(self.size[1], 1 << level)

    def shard(self, level: int) -> int:
        """Side of a shard of a level, in px of that level."""
        steps = 0 if level == 0 else (level - 1) % self.depth + 1
        return self.block >> steps

    def chunk(self, level: int) -> int:
        """Side of a chunk of a level; divides the shard."""
        return min(MAX_CHUNK, self.shard(level))

    def tier_levels(self, tier: int) -> range:
        """Levels whose shards the tasks of a tier write."""
        first = 0 if tier == 0 else tier * self.depth + 1
        return range(first, min((tier + 1) * self.depth + 1, self.n_levels))

    def grid(self, tier: int) -> tuple[int, int]:
        """(rows, columns) of tasks of a tier."""
        height, width = self.level_size(tier * self.depth)
        return ceil_div(height, self.block), ceil_div(width, self.block)

    def task_box(self, tier: int, row: int, column: int) -> Box:
        """Box of a task in px of level tier * depth, cut at the level's end."""
        height, width = self.level_size(tier * self.depth)
        box = Box.at(row * self.block, column * self.block, self.block, self.block)
        return box.intersect(Box(0, 0, height, width))

    def children(self, tier: int, row: int, column: int) -> Iterator[tuple[int, int]]:
        """Tasks (row, column) of tier - 1 that a task of `tier` >= 1 reads from."""
        rows, columns = self.grid(tier - 1)
        span = 1 << self.depth
        for y in range(row * span, min((row + 1) * span, rows)):
            for x in range(column * span, min((column + 1) * span, columns)):
                yield y, x
