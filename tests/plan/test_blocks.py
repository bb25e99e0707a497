"""Block sizes: enough blocks for every worker where the canvas allows, and only sizes a shard can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.errors import GridError
from wsi_seg.geometry import PyramidLayout
from wsi_seg.plan.blocks import check_block, choose_block, n_blocks

CANVASES = st.tuples(st.integers(1, 200_000), st.integers(1, 200_000))


@given(CANVASES, st.integers(1, 64))
def test_the_largest_block_that_keeps_all_workers_busy(canvas: tuple[int, int], n_workers: int) -> None:
    block = choose_block(canvas, n_workers)
    check_block(block)
    assert 512 <= block <= 4096
    assert n_blocks(canvas, block) >= 3 * n_workers or block == 512
    assert block == 4096 or n_blocks(canvas, 2 * block) < 3 * n_workers


@given(CANVASES, st.sampled_from([256, 512, 4096, 16384]))
def test_blocks_are_counted_as_the_layout_cuts_them(canvas: tuple[int, int], block: int) -> None:
    rows, columns = PyramidLayout(canvas, block).grid(0)
    assert n_blocks(canvas, block) == rows * columns


@given(st.integers(-10, 40_000))
def test_other_sizes_are_refused_and_those_offered_are_valid(block: int) -> None:
    if block in {256, 512, 1024, 2048, 4096, 8192, 16384}:
        check_block(block)
        return
    with pytest.raises(GridError, match=f"block size {block}") as refused:
        check_block(block)
    for offered in refused.value.remedy.removeprefix("use ").split(" or "):
        check_block(int(offered))
