"""What a run will use at most; owns the promise of D6, made before a pixel is read.

Counts bytes of named arrays. Allocates none of them; the engine does, and its tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from wsi_seg.errors import MemoryBudgetError
from wsi_seg.geometry import MIN_SHARD, Box, PyramidLayout, ceil_div
from wsi_seg.plan.grid import TileGrid
from wsi_seg.plan.postprocessing import Crf, Postprocessing, Step, piece_side
from wsi_seg.plan.scale import Scale

LIBRARY_BYTES = 64 * 1024**2
"""Task graph, futures and zarr's buffers, at most."""
ENCODED_LABELS = 0.5
"""Encoded label shard and its copy read back for the hash, in units of the raw labels: zstd brings even noise of three
classes to a quarter."""
ENCODED_PROBABILITIES = 2.0
"""The same for probabilities, whose noise does not compress."""
UINT16, UINT32, FLOAT32, RGB = 2, 4, 4, 3
RUNS = 48
"""Bytes per px of the components of a piece of pure noise, where every px is a run of its own; tissue takes a tenth."""
PYRAMID = 4 / 3
"""A shard and all its halvings: 1 + 1/4 + 1/16 + …"""


@dataclass(frozen=True, slots=True)
class WorkShape:
    """The sizes that memory follows from."""

    grid: TileGrid
    """Tiles over the canvas."""
    scale: Scale
    """How the canvas lies on the level that is read."""
    level_tile: tuple[int, int]
    """The file's own tile (height, width) of that level, level px; (0, 0) where it has none."""
    n_channels: int
    """Channels that the model predicts."""
    label_bytes: int
    """Bytes per label."""
    batch: int
    """Tiles per batch."""
    probabilities: bool
    """True when probabilities are stored as well."""
    has_roi: bool = False
    """True when regions are drawn per block."""
    workspace_bytes: int = 0
    """What one prediction call holds inside the runtime, beyond what `resident_bytes` counts already."""
    post: Postprocessing = field(default_factory=Postprocessing)
    """What is done to labels afterwards; blocks are grown by its margin."""


@dataclass(frozen=True, slots=True)
class MemoryTerm:
    """One named part of the peak."""

    name: str
    """What holds the bytes."""
    n_bytes: int
    """Bytes, once per worker or once per process."""
    per_worker: bool
    """True when every worker holds its own."""
    remedy: str
    """The option that makes it smaller."""


@dataclass(frozen=True, slots=True)
class MemoryProjection:
    """Upper bound of the memory of one process that runs `n_workers` block tasks at a time."""

    terms: tuple[MemoryTerm, ...]
    """All parts, the edge cache included."""
    n_workers: int
    """Tasks at a time."""
    block: int
    """Side of a block."""
    budget_bytes: int
    """What may be used."""
    edge_cache_bytes: int
    """What the edge cache may hold: what it could use, cut to what the other terms leave."""

    @property
    def per_worker_bytes(self) -> int:
        """Bytes of one task."""
        return sum(term.n_bytes for term in self.terms if term.per_worker)

    @property
    def shared_bytes(self) -> int:
        """Bytes of the process, besides its tasks."""
        return sum(term.n_bytes for term in self.terms if not term.per_worker)

    @property
    def total_bytes(self) -> int:
        """The projected peak."""
        return self.shared_bytes + self.n_workers * self.per_worker_bytes

    @property
    def fits(self) -> bool:
        """True when the peak is within the budget."""
        return self.total_bytes <= self.budget_bytes

    @property
    def worst(self) -> MemoryTerm:
        """The term that holds the most, all workers together, of those that an option makes smaller if they matter."""
        optional = [term for term in self.terms if term.remedy]
        fixed = self.total_bytes - sum(map(self.bytes_of, optional))
        return max(self.terms if fixed > self.budget_bytes else optional, key=self.bytes_of)

    def bytes_of(self, term: MemoryTerm) -> int:
        """Bytes of a term, all workers together."""
        return term.n_bytes * (self.n_workers if term.per_worker else 1)

    def refuse(self) -> None:
        """Raise MemoryBudgetError, naming the worst term and what would fit, unless the peak is within the budget."""
        if self.fits:
            return
        worst = self.worst
        each = f" ({self.n_workers} workers x {format_bytes(worst.n_bytes)})" if worst.per_worker else ""
        raise MemoryBudgetError(
            f"the projected peak is {format_bytes(self.total_bytes)}; "
            f"largest part: {worst.name}, {format_bytes(self.bytes_of(worst))}{each}",
            rule=f"the budget is {format_bytes(self.budget_bytes)}",
            remedy=f"use {' or '.join(self._remedies())}",
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "total_bytes": self.total_bytes,
            "budget_bytes": self.budget_bytes,
            "n_workers": self.n_workers,
            "edge_cache_bytes": self.edge_cache_bytes,
            "terms": {term.name: self.bytes_of(term) for term in self.terms},
        }

    def _remedies(self) -> Iterator[str]:
        """Options that make the run fit, or shrink its worst term."""
        affordable = (self.budget_bytes - self.shared_bytes) // max(1, self.per_worker_bytes)
        if 1 <= affordable < self.n_workers:
            yield f"--workers {affordable}"
        if self.worst.remedy and not (self.worst.remedy == "--block" and self.block == MIN_SHARD):
            yield f"a smaller {self.worst.remedy}"
        if not self.worst.remedy and self.n_workers > 1:
            yield "fewer --workers"
        yield f"--memory {ceil(self.total_bytes / 1e8) / 10:g}GB"


def project_memory(
    work: WorkShape, block: int, n_workers: int, *, resident_bytes: int, budget_bytes: int, kept_bytes: int = 0
) -> MemoryProjection:
    """The peak of one process, part by part.

    Args:
        work: sizes of tiles, batches and channels.
        block: side of a block.
        n_workers: block tasks at a time.
        resident_bytes: interpreter, libraries and the loaded model, as measured.
        budget_bytes: what may be used.
        kept_bytes: labels of blocks that are kept after they were predicted.
    """
    kept = [MemoryTerm("labels that are kept", kept_bytes, per_worker=False, remedy="cache_bytes")]
    terms = [
        MemoryTerm("interpreter, libraries and model", resident_bytes, per_worker=False, remedy=""),
        MemoryTerm("task graph and store", LIBRARY_BYTES, per_worker=False, remedy=""),
        *_reading(work, block),
        *_predicting(work, block),
        *_writing(work, block),
        *_postprocessing(work, block),
        *(kept if kept_bytes else ()),
    ]
    rest = MemoryProjection(tuple(terms), n_workers, block, budget_bytes, 0)
    cache_bytes = max(0, min(edge_cache_wish(work, block, n_workers), budget_bytes - rest.total_bytes))
    terms.append(MemoryTerm("edge cache", cache_bytes, per_worker=False, remedy=""))
    return MemoryProjection(tuple(terms), n_workers, block, budget_bytes, cache_bytes)


def edge_cache_wish(work: WorkShape, block: int, n_workers: int) -> int:
    """Bytes of quantised tile parts, beyond a block's border, that blocks ahead can still need.

    Blocks are done row by row, in squares of 2**depth blocks where the pyramid has more than one tier. Open are
    then: the parts below the last row of blocks, along the whole canvas, and below the current one; the parts to the
    right of every block in work, and of a square. In another order a tile may be predicted twice. A margin makes the
    parts wider, and is taken to reach into the next blocks only.
    """
    margin = work.post.margin
    grid, layout = work.grid, PyramidLayout(work.grid.canvas, block)
    turned = replace(grid, canvas=grid.canvas[::-1])
    square = 1 << layout.depth if layout.n_tiers > 1 else 0
    below = _reach_over_border(grid, block, margin) * _support_length(turned) * (2 if square else 1)
    high = min(_support_length(grid), block + 2 * (margin + grid.tile))
    per_block = _reach_over_border(turned, block, margin) * high
    blocks_high = ceil_div(grid.canvas[0], block)
    return (below + per_block * min(n_workers + square, blocks_high + n_workers)) * work.n_channels * UINT16


def format_bytes(n_bytes: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> format_bytes(1_572_864), format_bytes(2e9), format_bytes(12)
    ('1.6 MB', '2.0 GB', '12 B')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def _reading(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """A strip of source px, a row of tiles high and with the file's own tiles that it cuts; two while it moves down."""
    grid, (fy, fx) = work.grid, work.scale.factor
    width = _widest_read(grid, block, work.post.margin)
    level_rows = 2 * (ceil(grid.tile * fy) + work.level_tile[0])
    level_columns = ceil(width * fx) + work.level_tile[1]
    yield MemoryTerm("strips of source px", level_rows * level_columns * RGB, per_worker=True, remedy="--block")
    if not work.scale.is_native:
        yield MemoryTerm("resampled strip", grid.tile * width * RGB, per_worker=True, remedy="--block")


def _predicting(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """A batch as read and as floats, what comes back and a copy, one quantised tile, and what tiles are summed in."""
    grid, channels = work.grid, work.n_channels
    batch_px = work.batch * grid.tile**2
    sums_px = (grid.tile + grid.stride) * _width(work, block) if grid.blends else grid.tile**2
    yield MemoryTerm("batch of tiles", batch_px * RGB * (1 + FLOAT32), per_worker=True, remedy="--batch")
    yield MemoryTerm("predictions", 2 * batch_px * channels * FLOAT32, per_worker=True, remedy="--batch")
    if work.workspace_bytes:
        yield MemoryTerm("runtime workspace", work.workspace_bytes, per_worker=True, remedy="--batch")
    yield MemoryTerm("quantised tile", channels * grid.tile**2 * UINT16, per_worker=True, remedy="--tile")
    remedy = "--block" if grid.blends else "--tile"
    yield MemoryTerm("sums of tiles", sums_px * channels * UINT32, per_worker=True, remedy=remedy)


def _writing(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """The block's labels (and probabilities) with all their halvings, and their encoded shards."""
    block_px = min(block, work.grid.canvas[0]) * min(block, work.grid.canvas[1])
    labels = block_px * work.label_bytes
    stored = block_px * work.n_channels if work.probabilities else 0
    encoded = ceil(ENCODED_LABELS * labels + ENCODED_PROBABILITIES * stored)
    yield MemoryTerm("labels and their pyramid", ceil(PYRAMID * labels), per_worker=True, remedy="--block")
    if stored:
        yield MemoryTerm("probabilities and their pyramid", ceil(PYRAMID * stored), per_worker=True, remedy="--block")
    if work.has_roi:
        yield MemoryTerm("region mask", _window_px(work, block), per_worker=True, remedy="--block")
    yield MemoryTerm("encoded shards", encoded, per_worker=True, remedy="--block")


def _postprocessing(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """Labels of the grown block before and after a step, and what a step holds for one piece."""
    if not work.post.steps:
        return
    window_px = _window_px(work, block)
    yield MemoryTerm("labels with margins", 2 * window_px * work.label_bytes, per_worker=True, remedy="--block")
    if work.post.crf is not None:
        kept = window_px * work.n_channels * UINT16
        yield MemoryTerm("probabilities for the CRF", kept, per_worker=True, remedy="--block")
    most = max(_piece_bytes(work, block, step) for step in work.post.steps)
    yield MemoryTerm("a step of post-processing", most, per_worker=True, remedy="--block")


def _piece_bytes(work: WorkShape, block: int, step: Step) -> int:
    """What a step holds for a piece, and the CRF for a row of pieces."""
    side = piece_side(step) + 2 * step.reach
    height, width = min(side, _window_height(work, block)), _width(work, block)
    piece_px = height * min(side, width)
    if not isinstance(step, Crf):
        return piece_px * (RUNS + 2 * work.label_bytes)
    (fy, fx), radius = work.scale.factor, step.radius
    level_rows, level_columns = 2 * (ceil(height * fy) + work.level_tile[0]), ceil(width * fx) + work.level_tile[1]
    strips = (level_rows * level_columns + height * width) * RGB
    padded_px = (height + 2 * radius) * (min(side, width) + 2 * radius)
    taps = ((2 * radius + 1) ** 2 - 1) // 2
    return strips + padded_px * (taps + FLOAT32 * (6 * max(2, work.n_channels) + 3) + 2 * RGB + 2)


def _width(work: WorkShape, block: int) -> int:
    """Columns that a block's task labels, its margins included."""
    return min(block + 2 * work.post.margin, work.grid.canvas[1])


def _window_height(work: WorkShape, block: int) -> int:
    return min(block + 2 * work.post.margin, work.grid.canvas[0])


def _window_px(work: WorkShape, block: int) -> int:
    return _window_height(work, block) * _width(work, block)


def _widest_read(grid: TileGrid, block: int, margin: int) -> int:
    """Columns under the tiles of a block and its margins, for the block where they are the most."""
    starts = range(0, grid.canvas[1], block)
    return max(_tile_span(grid, Box(0, x, 1, x + block).grown(margin).intersect(grid.extent)) for x in starts)


def _tile_span(grid: TileGrid, box: Box) -> int:
    columns = grid.tiles_touching(box)[1]
    return (len(columns) - 1) * grid.stride + grid.tile


def _reach_over_border(grid: TileGrid, block: int, margin: int) -> int:
    """Rows that blocks below a border need of tiles that those above it need too, summed; the most of any border."""
    return max((_reach_over(grid, border, margin) for border in range(block, grid.canvas[0], block)), default=0)


def _reach_over(grid: TileGrid, border: int, margin: int) -> int:
    above = grid.tiles_touching(Box(0, 0, border + margin, 1))[0]
    below = grid.tiles_touching(Box(border - margin, 0, grid.canvas[0], 1))[0]
    supports = [grid.support(row, 0) for row in range(below.start, above.stop)]
    return sum(support.y1 - max(support.y0, border - margin) for support in supports)


def _support_length(grid: TileGrid) -> int:
    """Rows of all tiles' supports together: those of the canvas, and again where tiles share them."""
    return sum(grid.support(row, 0).height for row in range(grid.shape[0]))
