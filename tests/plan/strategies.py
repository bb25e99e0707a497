"""What several tests of the plan draw from: grids, scales, cards."""

from __future__ import annotations

from hypothesis import strategies as st

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.geometry import Mpp
from wsi_seg.plan import Scale, TileGrid
from wsi_seg.plan.grid import WINDOWS, overlap_step


def card(**fields: object) -> ModelCard:
    return ModelCard("example", 0.5, named_classes(["a", "b", "c"])).replaced(**fields)


def scale(
    factor: tuple[float, float] = (1.0, 1.0),
    *,
    size: tuple[int, int] = (1000, 1000),
    origin: tuple[int, int] = (0, 0),
    downsample: tuple[float, float] = (1.0, 1.0),
) -> Scale:
    return Scale(0, factor, Mpp(0.5, 0.5), size, origin, downsample, upsampled=False)


@st.composite
def grids(draw: st.DrawFn, largest: int = 200) -> TileGrid:
    """Small grids of every kind: any output stride, overlap, window, margin and canvas, down to 1 x 1 px."""
    output_stride = draw(st.sampled_from([1, 2, 3, 4, 8]))
    step = overlap_step(output_stride)
    tile = output_stride * draw(st.integers(1, 64 // output_stride))
    overlap = step * draw(st.integers(0, tile // 2 // step))
    window = draw(st.sampled_from(WINDOWS))
    margin = 0 if window == "crop" else draw(st.integers(0, overlap // 2))
    canvas = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    # A grid of 1-px tiles over a large canvas tests nothing more and takes long.
    stride = tile - overlap
    canvas = (min(canvas[0], 20 * stride), min(canvas[1], 20 * stride))
    return TileGrid(canvas, tile, overlap, output_stride, window, margin)
