"""What a run may use and what it will use at most; owns the promise of D6, made before a pixel is read.

Counts bytes of named arrays. Allocates none of them; the engine does, and its tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from wsi_seg.errors import MemoryBudgetError
from wsi_seg.geometry import MIN_SHARD, ceil_div
from wsi_seg.plan.grid import TileGrid
from wsi_seg.plan.scale import Scale

BUDGET_SHARE = 0.8
"""Share of the limit that a run plans with, where the user did not say; the rest is for other programs."""
LIBRARY_BYTES = 64 * 1024**2
"""Task graph, futures and zarr's buffers, at most."""
ENCODED_LABELS = 0.5
"""Encoded label shard and its copy read back for the hash, in units of the raw labels: zstd brings even noise of three
classes to a quarter."""
ENCODED_PROBABILITIES = 2.0
"""The same for probabilities, whose noise does not compress."""
UINT16, FLOAT32, RGB = 2, 4, 3
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
        """The term that holds the most, all workers together."""
        return max(self.terms, key=self.bytes_of)

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
        if self.worst.remedy == "--block" and self.block > MIN_SHARD:
            yield f"--block {self.block // 2}"
        elif self.worst.remedy not in ("", "--block"):
            yield f"a smaller {self.worst.remedy}"
        yield f"--memory {ceil(self.total_bytes / 1e8) / 10:g}GB"


def project_memory(
    work: WorkShape, block: int, n_workers: int, *, resident_bytes: int, budget_bytes: int
) -> MemoryProjection:
    """The peak of one process, part by part.

    Args:
        work: sizes of tiles, batches and channels.
        block: side of a block.
        n_workers: block tasks at a time.
        resident_bytes: interpreter, libraries and the loaded model, as measured.
        budget_bytes: what may be used.
    """
    terms = [
        MemoryTerm("interpreter, libraries and model", resident_bytes, per_worker=False, remedy=""),
        MemoryTerm("task graph and store", LIBRARY_BYTES, per_worker=False, remedy=""),
        *_reading(work, block),
        *_predicting(work, block),
        *_writing(work, block),
    ]
    rest = MemoryProjection(tuple(terms), n_workers, block, budget_bytes, 0)
    cache_bytes = max(0, min(edge_cache_wish(work, block, n_workers), budget_bytes - rest.total_bytes))
    terms.append(MemoryTerm("edge cache", cache_bytes, per_worker=False, remedy=""))
    return MemoryProjection(tuple(terms), n_workers, block, budget_bytes, cache_bytes)


def edge_cache_wish(work: WorkShape, block: int, n_workers: int) -> int:
    """Bytes of quantised tiles that blocks done in row order can still need: those over a block border ahead.

    Along the border below a row of blocks that is every tile of a tile row (of two where tiles blend), along the
    border to the right of a block those of its own rows, once per worker.
    """
    grid = work.grid
    rows, columns = grid.shape
    across = 2 if grid.blends else 1
    below = across * columns if rows * grid.stride > block else 0
    beside = across * min(rows, ceil_div(block, grid.stride) + across) if columns * grid.stride > block else 0
    return (below + n_workers * beside) * work.n_channels * grid.tile**2 * UINT16


def default_budget() -> int:
    """Bytes a run plans with, where the user did not say."""
    return int(BUDGET_SHARE * memory_limit())


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes this process may use: the smallest limit of its control groups (v2 or v1), or the machine's memory.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    import psutil

    machine = int(psutil.virtual_memory().total)
    return min([machine, *_cgroup_limits(root)])


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
    """Strips of source pixels: two rows of tiles and the file's own tiles that they cut, as wide as a block."""
    grid, (fy, fx) = work.grid, work.scale.factor
    width = _width(work, block) + 2 * grid.overlap
    level_rows = 2 * grid.tile * fy + work.level_tile[0]
    level_columns = width * fx + work.level_tile[1]
    yield MemoryTerm("strips of source px", ceil(level_rows * level_columns * RGB), per_worker=True, remedy="--block")
    if not work.scale.is_native:
        yield MemoryTerm("resampled strips", 2 * grid.tile * width * RGB, per_worker=True, remedy="--block")


def _predicting(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """Batches in and out, one tile quantised, and the band of the canvas that tiles are summed into."""
    grid, channels = work.grid, work.n_channels
    batch_px = work.batch * grid.tile**2
    band = (grid.tile + grid.stride) * _width(work, block) * channels * FLOAT32
    yield MemoryTerm("batches of tiles", 2 * batch_px * RGB, per_worker=True, remedy="--batch")
    yield MemoryTerm("predictions", 2 * batch_px * channels * FLOAT32, per_worker=True, remedy="--batch")
    yield MemoryTerm("quantised tile", channels * grid.tile**2 * UINT16, per_worker=True, remedy="--tile")
    yield MemoryTerm("canvas band", band, per_worker=True, remedy="--block")


def _writing(work: WorkShape, block: int) -> Iterator[MemoryTerm]:
    """The block's labels (and probabilities) with all their halvings, and their encoded shards."""
    block_px = min(block, work.grid.canvas[0]) * _width(work, block)
    labels = block_px * work.label_bytes
    stored = block_px * work.n_channels if work.probabilities else 0
    encoded = ceil(ENCODED_LABELS * labels + ENCODED_PROBABILITIES * stored)
    yield MemoryTerm("labels and their pyramid", ceil(PYRAMID * labels), per_worker=True, remedy="--block")
    if stored:
        yield MemoryTerm("probabilities and their pyramid", ceil(PYRAMID * stored), per_worker=True, remedy="--block")
    yield MemoryTerm("encoded shards", encoded, per_worker=True, remedy="--block")


def _width(work: WorkShape, block: int) -> int:
    return min(block, work.grid.canvas[1])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Limits of this process' control group and of all groups above it; nothing where there are none."""
    for group, mount, name in _cgroups(root):
        # A container sees its own group as the root of the mount, under a path that only the host has: walk up to it.
        for folder in (group, *group.parents):
            text = _read(mount / folder / name)
            if text.isdigit():
                yield int(text)


def _cgroups(root: Path) -> Iterator[tuple[Path, Path, str]]:
    """(group, mount, file with the limit) for v2 (`0::/group`) and v1 (`4:memory:/group`)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        relative = Path(group.lstrip("/"))
        if not controllers:
            yield relative, root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            yield relative, root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
