"""The label map of a slide that nobody has run: blocks are predicted when somebody looks at them.

Owns how windows and levels are put together from blocks. What a block's labels are is `block.py`'s, as in a run; which
block is wanted next is `live_prediction.py`'s. Writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.block_cache import Block, BlockCache
from wsi_seg.engine.block_source import BlockSource
from wsi_seg.engine.on_demand_array import OnDemandArray, cut
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box

if TYPE_CHECKING:
    from wsi_seg.engine.prepare import Prepared
    from wsi_seg.output.result_spec import ResultSpec
    from wsi_seg.plan import Plan
    from wsi_seg.slide import Slide

CACHE_BYTES = 256 << 20
"""Memory for labels of blocks, where nobody says: 190 blocks of 1,024 px that are all tissue."""

Labels = NDArray[Any]
Fetch = Callable[[Iterable[Block], int], Iterator[tuple[Block, Labels]]]
"""(blocks, level) -> each of these blocks with its labels on that level, in any order."""


def open_mask(source: Path | Slide, options: RunOptions | None = None, *, cache_bytes: int = CACHE_BYTES) -> LazyMask:
    """The labels of a slide as an array that predicts what is read of it.

    `cache_bytes` is the memory for labels that were predicted already, and part of the plan's promise. Of the options,
    those that say where and how a result is stored count for nothing. Runtime and precision `auto` are the preferred
    ones: a run measures them on a large slide, which takes longer than a first view may. So the labels are those of a
    run with the same options byte for byte where these are named, or the run has taken the preferred ones, too. Close
    it, or use it in a `with`.

    Raises the leaves of SlideError, ModelError and PlanError; UsageError.

    >>> import numpy as np
    >>> from wsi_seg.slide import ArraySlide
    >>> slide = ArraySlide(np.full((700, 900, 3), 180, np.uint8), mpp=0.5)
    >>> with open_mask(slide, RunOptions(model="constant:1/3", skip_background=False)) as mask:
    ...     mask.shape, mask[10:12, -3:].tolist()
    ((700, 900), [[1, 1, 1], [1, 1, 1]])
    """
    options = options or RunOptions()
    if options.scheduler is not None:
        raise UsageError("a lazy mask on a scheduler", rule="it predicts in this process", remedy="leave it out")
    if cache_bytes < 0:
        raise UsageError(f"cache_bytes {cache_bytes}", rule="0 or more")
    prepared = prepare(source, replace(options, lazy_bytes=cache_bytes, probabilities=False, full_hash=False))
    return LazyMask(prepared, cache_bytes, owns_slide=isinstance(source, str | Path))


class LazyMask(OnDemandArray):
    """Labels of the canvas, (h, w) of class indices or `not_analysed`, predicted where they are looked at.

    Px for px those of a run with the same options. Boxes are in px of the level asked for and must lie inside it.
    For several threads, which predict no block twice at the same time; does not pickle.
    """

    def __init__(self, prepared: Prepared, cache_bytes: int, *, owns_slide: bool) -> None:
        """The predictor of `prepared` is closed with this; its slide where `owns_slide`."""
        from wsi_kernels import halve_majority

        self._source = BlockSource(prepared, owns_slide=owns_slide)
        self.spec: ResultSpec = self._source.spec
        """What a result of it is: classes, resolution, frames, layout."""
        self.plan: Plan = prepared.plan
        """What was decided before the first block, the peak of memory included."""
        layout = self.spec.layout
        super().__init__(layout.size, self.spec.dtype, layout.block)
        self._halve = partial(halve_majority, ignore=self.spec.not_analysed, n_classes=len(self.spec.classes))
        self._top = min(layout.n_levels, layout.block.bit_length()) - 1  # where a block is a single px, or the last
        self._cache = BlockCache(self._source.labels, self._halve, self._top + 1, cache_bytes)

    @property
    def n_levels(self) -> int:
        """Levels of the pyramid, this one included."""
        return self.spec.layout.n_levels

    @property
    def block(self) -> int:
        """Side of a block on level 0, px."""
        return self.spec.layout.block

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong with single tiles, in words: their px are not analysed."""
        return self._source.problems

    @property
    def notes(self) -> tuple[str, ...]:
        """What one should know of it, in words."""
        return self._source.notes

    @property
    def used_bytes(self) -> int:
        """Memory of the labels that are kept now."""
        return self._cache.used_bytes

    def level(self, n: int) -> OnDemandArray:
        """The labels at 1 / 2**n of the resolution, as a run's pyramid has them: predicted where they are looked at."""
        self._check_level(n)
        return self if n == 0 else LazyLevel(self, n)

    def levels(self) -> tuple[OnDemandArray, ...]:
        """All levels, the finest first: what napari calls multiscale."""
        return tuple(self.level(n) for n in range(self.n_levels))

    def to_dask(self, level: int = 0) -> Any:
        """A dask.array.Array of a level; one chunk per block on level 0. For schedulers of this process."""
        return super().to_dask() if level == 0 else self.level(level).to_dask()

    def read_labels(self, level: int, box: Box) -> Labels:
        """Labels (h, w) of a box of a level; predicts what is missing. Raises ValueError, UsageError once closed."""
        self._check_box(level, box)
        return self.take(level, range(box.y0, box.y1), range(box.x0, box.x1))

    def read_available(self, level: int, box: Box) -> tuple[Labels, bool]:
        """As `read_labels`, without predicting: what is missing is `not_analysed`; and whether nothing is missing."""
        self._check_box(level, box)
        missing = []

        def found(blocks: Iterable[Block], from_level: int) -> Iterator[tuple[Block, Labels]]:
            for block in blocks:
                if (labels := self._cache.find(block, from_level)) is not None:
                    yield block, labels
                elif not self._source.is_blank(block):
                    missing.append(block)

        labels = self._put_together(level, range(box.y0, box.y1), range(box.x0, box.x1), found)
        return labels, not missing

    def cached(self, box: Box) -> Labels | None:
        """Labels (h, w) of a box of level 0 where all of them are here already, else None."""
        labels, complete = self.read_available(0, box)
        return labels if complete else None

    def blocks(self, level: int, box: Box) -> list[Block]:
        """(row, column) of the blocks under a box of a level, those near its centre first."""
        self._check_box(level, box)
        side = self.block / 2**level
        cy, cx = (box.y0 + box.y1) / 2 / side - 0.5, (box.x0 + box.x1) / 2 / side - 0.5
        return sorted(self._under(level, box), key=lambda at: (at[0] - cy) ** 2 + (at[1] - cx) ** 2)

    def missing(self, level: int, box: Box) -> list[Block]:
        """Those of `blocks` that have to be predicted before a box of a level is complete."""
        return [block for block in self.blocks(level, box) if not self.has(block, min(level, self._top))]

    def has(self, block: Block, level: int = 0) -> bool:
        """Whether the labels of a level of a block are here, or need no prediction."""
        return self._cache.find(block, level) is not None or self._source.is_blank(block)

    def block_box(self, block: Block) -> Box:
        """Canvas px of a block."""
        return self.spec.layout.task_box(0, *block)

    def predict(self, block: Block) -> Labels:
        """Labels (h, w) of a block, not to be written to; predicted in this thread where they are not here."""
        rows, columns = self.spec.layout.grid(0)
        if not (0 <= block[0] < rows and 0 <= block[1] < columns):
            raise ValueError(f"block {block}; there are {rows} rows and {columns} columns of them")
        self._source.check_open()
        return self._cache.get(block, 0)

    def take(self, level: int, rows: range, columns: range) -> Labels:
        """Labels (len(rows), len(columns)) of px of a level, which lie on it; both ranges ascend."""
        self._source.check_open()
        return self._put_together(level, rows, columns, self._fetched)

    def close(self) -> None:
        """End what is under way and free model, slide and labels. May be called again."""
        self._source.close()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.shape
        return (
            f"<LazyMask of {self.spec.name} by {self.plan.card.name}: {height} x {width} px (height x width) at "
            f"{self.spec.mpp.y:.4g} um/px, {len(self.spec.classes)} classes, {self.n_levels} levels, "
            f"blocks of {self.block} px>"
        )

    def _made(self, rows: range, columns: range) -> Labels:
        return self.take(0, rows, columns)

    def _put_together(self, level: int, rows: range, columns: range, fetch: Fetch) -> Labels:
        """Labels of a level from those of its blocks; where a block is less than a px, from the level below."""
        if level > self._top and rows and columns:
            fine = [
                range(2 * axis[0], min(2 * axis[-1] + 2, length))
                for axis, length in zip((rows, columns), self.spec.layout.level_size(level - 1), strict=True)
            ]
            return self._halve(self._put_together(level - 1, fine[0], fine[1], fetch))[:: rows.step, :: columns.step]
        side = self.block >> min(level, self._top)
        labels = np.full((len(rows), len(columns)), self.spec.not_analysed, self.dtype)
        from_rows = {piece: places for piece, *places in cut(rows, side)}
        from_columns = {piece: places for piece, *places in cut(columns, side)}
        blocks = ((row, column) for row in from_rows for column in from_columns)
        for (row, column), block in fetch(blocks, level):
            (to_y, y), (to_x, x) = from_rows[row], from_columns[column]
            labels[to_y, to_x] = block[y, x]
        return labels

    def _fetched(self, blocks: Iterable[Block], level: int) -> Iterator[tuple[Block, Labels]]:
        """Blocks and their labels on a level; several that have to be predicted are, side by side."""
        wanted = list(blocks)
        if len(wanted) == 1:  # in this thread, and others help
            yield wanted[0], self._cache.get(wanted[0], level)
            return
        ahead: deque[tuple[Block, Future[Labels]]] = deque()
        try:
            for block in wanted:
                if (found := self._cache.find(block, level)) is not None:
                    yield block, found
                    continue
                ahead.append((block, self._source.submit(self._cache.get, block, level)))
                if len(ahead) > self._source.hands.n_threads:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            for _, future in ahead:
                future.cancel()

    def _under(self, level: int, box: Box) -> Iterator[Block]:
        """Blocks with px under a box of a level."""
        height, width = self.shape
        scale = 1 << level
        l0 = Box(box.y0 * scale, box.x0 * scale, box.y1 * scale, box.x1 * scale).intersect(Box(0, 0, height, width))
        if l0.is_empty:
            return
        for row in range(l0.y0 // self.block, -(-l0.y1 // self.block)):
            for column in range(l0.x0 // self.block, -(-l0.x1 // self.block)):
                yield row, column

    def _check_level(self, level: int) -> None:
        if level not in range(self.n_levels):
            raise ValueError(f"level {level}; the pyramid has levels 0 to {self.n_levels - 1}")

    def _check_box(self, level: int, box: Box) -> None:
        self._check_level(level)
        size = self.spec.layout.level_size(level)
        if not Box(0, 0, *size).contains(box):
            raise ValueError(f"{box} leaves level {level} of {size} px")


class LazyLevel(OnDemandArray):
    """A coarser level of a lazy mask; lives as long as the mask does."""

    SMALLEST_CHUNK = 256
    """Side of a chunk, where blocks are smaller than that on a level: px."""

    def __init__(self, mask: LazyMask, level: int) -> None:
        side = max(self.SMALLEST_CHUNK, mask.block >> level)
        super().__init__(mask.spec.layout.level_size(level), mask.dtype, side)
        self._mask, self._level = mask, level

    def __repr__(self) -> str:
        return f"<level {self._level}, {self.shape[0]} x {self.shape[1]} px, of {self._mask!r}>"

    def _made(self, rows: range, columns: range) -> Labels:
        return self._mask.take(self._level, rows, columns)
