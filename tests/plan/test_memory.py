"""The projected peak: it grows with what it is made of, and a refusal names what would fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan.strategies import scale
from wsi_seg.errors import MemoryBudgetError
from wsi_seg.plan import Crf, FillHoles, MemoryProjection, Postprocessing, RemoveObjects, TileGrid
from wsi_seg.plan.memory import WorkShape, edge_cache_wish, project_memory

GRID = TileGrid((100_000, 80_000), 512, 128, 32, "cosine")
WORK = WorkShape(GRID, scale(size=GRID.canvas), (256, 256), n_channels=3, label_bytes=1, batch=8, probabilities=False)
GB = 10**9


def project(
    work: WorkShape = WORK, block: int = 4096, n_workers: int = 2, budget_bytes: int = 64 * GB
) -> MemoryProjection:
    return project_memory(work, block, n_workers, resident_bytes=GB // 2, budget_bytes=budget_bytes)


def bytes_of(memory: MemoryProjection, name: str) -> int:
    (term,) = (term for term in memory.terms if term.name == name)
    return term.n_bytes


def test_the_terms_are_the_arrays_of_the_engine() -> None:
    memory = project()
    tile_px, stride = 512 * 512, 384
    # A block of 4096 px touches up to 12 columns of tiles.
    columns = max(
        len(GRID.tiles_touching(box)[1])
        for box in (GRID.cell(0, 0).hull(GRID.cell(0, 9)).shift(0, x) for x in range(9))
    )
    assert bytes_of(memory, "strips of source px") >= 2 * (512 + 256) * (columns * stride + 128) * 3
    assert bytes_of(memory, "batch of tiles") == 8 * tile_px * 3 * (1 + 4)
    assert bytes_of(memory, "predictions") == 2 * 8 * 3 * tile_px * 4
    assert bytes_of(memory, "quantised tile") == 3 * tile_px * 2
    assert bytes_of(memory, "sums of tiles") == (512 + stride) * 4096 * 3 * 4
    assert bytes_of(memory, "labels and their pyramid") >= 4096 * 4096 * (1 + 1 / 4 + 1 / 16 + 1 / 64)
    assert bytes_of(memory, "interpreter, libraries and model") == GB // 2
    shared = sum(term.n_bytes for term in memory.terms if not term.per_worker)
    each = sum(term.n_bytes for term in memory.terms if term.per_worker)
    assert memory.total_bytes == shared + 2 * each
    assert memory.total_bytes == sum(memory.to_mapping()["terms"].values())


def test_the_widest_block_is_counted() -> None:
    reads = []
    for x in range(0, 80_000, 4096):
        columns = GRID.tiles_touching(replace(GRID.extent, x0=x, x1=x + 4096, y1=1))[1]
        reads.append(GRID.tile_box(0, columns[-1]).x1 - GRID.tile_box(0, columns[0]).x0)
    assert bytes_of(project(), "strips of source px") == 2 * (512 + 256) * (max(reads) + 256) * 3


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"probabilities": True}, "probabilities and their pyramid"),
        ({"has_roi": True}, "region mask"),
        ({"workspace_bytes": 12345}, "runtime workspace"),
        ({"scale": scale((2.0, 2.0), size=GRID.canvas)}, "resampled strip"),
    ],
)
def test_what_is_not_needed_is_not_counted(change: dict[str, object], name: str) -> None:
    assert name not in {term.name for term in project().terms}
    assert bytes_of(project(replace(WORK, **change)), name) > 0  # type: ignore[arg-type]


@settings(max_examples=40)
@given(st.sampled_from([256, 1024, 4096]), st.integers(1, 8), st.integers(1, 16), st.integers(1, 9), st.booleans())
def test_more_of_anything_never_takes_less(block: int, n_workers: int, batch: int, channels: int, stored: bool) -> None:
    work = replace(WORK, batch=batch, n_channels=channels, probabilities=stored)
    least = project(work, block, n_workers).total_bytes - project(work, block, n_workers).edge_cache_bytes
    for other, side, workers in (
        (replace(work, batch=batch + 1), block, n_workers),
        (replace(work, n_channels=channels + 1), block, n_workers),
        (replace(work, label_bytes=2), block, n_workers),
        (replace(work, scale=scale((2.0, 2.0), size=GRID.canvas)), block, n_workers),
        (work, 2 * block, n_workers),
        (work, block, n_workers + 1),
    ):
        more = project(other, side, workers)
        assert more.total_bytes - more.edge_cache_bytes > least


def test_a_canvas_smaller_than_a_block_takes_less() -> None:
    small = replace(WORK, grid=replace(GRID, canvas=(1000, 1000)))
    assert project(small).total_bytes < project().total_bytes / 2


def test_the_edge_cache_takes_what_is_left_and_no_more() -> None:
    wish = edge_cache_wish(WORK, 4096, 2)
    roomy = project()
    assert roomy.edge_cache_bytes == wish
    without = roomy.total_bytes - wish
    tight = project(budget_bytes=without + wish // 3)
    assert tight.edge_cache_bytes == wish // 3
    assert tight.total_bytes == tight.budget_bytes
    assert tight.fits
    none = project(budget_bytes=without - 1)
    assert none.edge_cache_bytes == 0
    assert not none.fits


def test_the_edge_cache_could_hold_the_tiles_over_a_row_of_blocks() -> None:
    border = 4096
    over = [
        (row, column)
        for row in range(GRID.shape[0])
        for column in range(GRID.shape[1])
        if GRID.support(row, column).y0 < border < GRID.support(row, column).y1
    ]
    parts = sum((GRID.support(*tile).y1 - border) * GRID.support(*tile).width for tile in over)
    assert edge_cache_wish(WORK, 4096, 1) >= parts * 3 * 2


def test_one_block_needs_no_edge_cache() -> None:
    assert edge_cache_wish(replace(WORK, grid=replace(GRID, canvas=(4000, 4000))), 4096, 2) == 0


def test_a_peak_within_the_budget_is_accepted() -> None:
    project().refuse()


@pytest.mark.parametrize(
    ("work", "worst", "option"),
    [
        pytest.param(WORK, "predictions", "a smaller --batch", id="batch"),
        pytest.param(replace(WORK, batch=1), "sums of tiles", "a smaller --block", id="block"),
        pytest.param(
            replace(WORK, batch=1, probabilities=True), "encoded shards", "a smaller --block", id="probabilities"
        ),
    ],
)
def test_a_refusal_names_the_worst_term_and_options_that_fit(work: WorkShape, worst: str, option: str) -> None:
    memory = project(work, n_workers=8, budget_bytes=GB)
    with pytest.raises(MemoryBudgetError, match=f"largest part: {worst}.*8 workers x.*budget is 1.0 GB") as refused:
        memory.refuse()
    assert option in refused.value.remedy
    if workers := re.search(r"--workers (\d+)", refused.value.remedy):
        assert project(work, n_workers=int(workers[1]), budget_bytes=GB).fits
        assert not project(work, n_workers=int(workers[1]) + 1, budget_bytes=GB).fits
    enough = re.search(r"--memory ([\d.]+)GB", refused.value.remedy)
    assert enough is not None
    assert project(work, n_workers=8, budget_bytes=round(float(enough[1]) * GB)).fits


def test_no_option_helps_where_the_libraries_alone_exceed_the_budget() -> None:
    with pytest.raises(
        MemoryBudgetError, match=r"interpreter, libraries and model, 500\.0 MB; .*; use --memory"
    ) as refused:
        project(n_workers=1, budget_bytes=10**8).refuse()
    assert "--workers" not in refused.value.remedy


STEPS = Postprocessing(
    (Crf(4, 5, 20.0, 3.0), FillHoles((0, 80, 80), (0, 36, 36)), RemoveObjects((0, 80, 0), (0, 36, 0)))
)


def test_post_processing_is_counted_with_its_margins() -> None:
    post = project(replace(WORK, post=STEPS, has_roi=True))
    margin = 20 + 36 + 72
    side = 4096 + 2 * margin
    assert bytes_of(post, "sums of tiles") == (512 + 384) * side * 3 * 4
    assert bytes_of(post, "labels with margins") == 2 * side * side
    assert bytes_of(post, "region mask") == side * side
    assert bytes_of(post, "probabilities for the CRF") == 2 * 3 * side * side
    assert bytes_of(post, "strips of source px") > bytes_of(project(), "strips of source px")
    assert bytes_of(post, "labels and their pyramid") == bytes_of(project(), "labels and their pyramid")
    padded = (512 + 2 * 20 + 2 * 4) ** 2
    assert bytes_of(post, "a step of post-processing") > padded * (40 + 6 * 4 * 3)
    without_crf = project(replace(WORK, post=Postprocessing(STEPS.steps[1:])))
    assert bytes_of(without_crf, "a step of post-processing") == (512 + 2 * 72) ** 2 * 50
    assert "probabilities for the CRF" not in {term.name for term in without_crf.terms}


def test_the_edge_cache_could_hold_the_tiles_that_margins_share() -> None:
    """Every tile that blocks on both sides of a border need, from where the margin of the lower ones begins."""
    border, margin = 4096, STEPS.margin
    supports = [GRID.support(row, column) for row in range(GRID.shape[0]) for column in range(GRID.shape[1])]
    shared = [s for s in supports if s.y0 < border + margin and border - margin < s.y1]
    parts = sum((s.y1 - max(s.y0, border - margin)) * s.width for s in shared)
    wish = edge_cache_wish(replace(WORK, post=STEPS), 4096, 1)
    assert wish >= parts * 3 * 2
    assert wish > edge_cache_wish(WORK, 4096, 1)
