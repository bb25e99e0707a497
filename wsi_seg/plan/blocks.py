"""How large a block is where the user did not say; knows the canvas and the worker count only."""

from __future__ import annotations

from wsi_seg.errors import GridError
from wsi_seg.geometry import MIN_SHARD, ceil_div

LARGEST = 4096
"""Aim: large enough that block borders cost little, small enough that one task is short."""
SMALLEST = 512
"""Smaller blocks are made only when asked for."""
LARGEST_ASKED = 16384
"""Limit of `--block`."""
BLOCKS_PER_WORKER = 3
"""Fewer, and workers wait for the last block."""
LAZY = 1024
"""Aim where blocks are predicted as somebody looks at them: a view is there soon, and few tiles cross a border."""
BLOCK_PER_MARGIN = 4
"""How many times its margin such a block measures, so that at most 5/9 of the work lies in margins."""


def choose_block(canvas: tuple[int, int], n_workers: int) -> int:
    """Side of a block, a power of two from `SMALLEST` to `LARGEST`, that gives each worker enough blocks if it can.

    >>> choose_block((100_000, 100_000), 8), choose_block((6144, 6144), 2), choose_block((300, 200), 4)
    (4096, 2048, 512)
    """
    block = LARGEST
    while block > SMALLEST and n_blocks(canvas, block) < BLOCKS_PER_WORKER * n_workers:
        block //= 2
    return block


def choose_lazy_block(margin: int) -> int:
    """Side of a block that is predicted on its own: `LAZY`, or as much larger as post-processing with a margin asks.

    >>> choose_lazy_block(0), choose_lazy_block(300), choose_lazy_block(2048)
    (1024, 2048, 4096)
    """
    block = LAZY
    while block < min(LARGEST, BLOCK_PER_MARGIN * margin):
        block *= 2
    return block


def check_block(block: int) -> None:
    """Raise GridError, with the nearest valid sides, unless `block` is a power of two that a shard can have.

    >>> check_block(1000)
    Traceback (most recent call last):
        ...
    wsi_seg.errors.GridError: block size 1000; a power of two from 256 to 16384; use 512 or 1024
    """
    if MIN_SHARD <= block <= LARGEST_ASKED and block & (block - 1) == 0:
        return
    below = min(max(MIN_SHARD, 1 << max(block, 1).bit_length() - 1), LARGEST_ASKED)
    near = sorted({below, min(2 * below, LARGEST_ASKED)} if block > MIN_SHARD else {MIN_SHARD})
    rule = f"a power of two from {MIN_SHARD} to {LARGEST_ASKED}"
    raise GridError(f"block size {block}", rule=rule, remedy=f"use {' or '.join(map(str, near))}")


def n_blocks(canvas: tuple[int, int], block: int) -> int:
    """Blocks that cover a canvas (height, width)."""
    return ceil_div(canvas[0], block) * ceil_div(canvas[1], block)
