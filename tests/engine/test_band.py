"""The rolling canvas gives what one large canvas gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import accumulate, axis_window, label_argmax

from wsi_seg.engine.band import Band, Mosaic, Surface
from wsi_seg.geometry import Box


@settings(max_examples=40)
@given(st.integers(16, 90), st.integers(8, 70), st.sampled_from([16, 24, 32]), st.integers(0, 4), st.integers(0, 2**31))
def test_rolling_equals_whole(height: int, width: int, tile: int, half_overlap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlap = 2 * half_overlap
    stride = tile - overlap
    weights = axis_window(tile, overlap, "linear", first=False, last=False)
    box = Box.at(100, 40, height, width)
    whole = np.zeros((3, height, width), np.uint32)
    labels = np.full((height, width), 255, np.uint8)
    band = Band(Surface(box, labels), tile + stride, 3)
    for y in range(100 - half_overlap - stride, 100 + height, stride):
        band.finish(y)
        for x in range(40 - half_overlap - stride, 40 + width, stride):
            prediction = rng.integers(0, 65536, (3, tile, tile)).astype(np.uint16)
            band.add(prediction, (weights, weights), y, x)
            accumulate(whole, prediction, weights, weights, y - 100, x - 40)
    band.finish(100 + height)
    expected = np.empty((height, width), np.uint8)
    label_argmax(whole, expected)
    np.testing.assert_array_equal(labels, expected)
    assert band.top == 100 + height


def test_finishing_past_the_window_labels_every_row() -> None:
    labels = np.full((100, 5), 255, np.uint8)
    band = Band(Surface(Box.at(0, 0, 100, 5), labels), 24, 2)
    band.finish(100)
    assert (labels == 0).all()


def test_what_lies_below_the_block_does_not_count_however_far_the_window_has_moved() -> None:
    """A tile that pads beyond the canvas may hold anything there: that must not depend on the rows finished before."""
    weights = np.full(16, 256, np.uint32)
    prediction = np.ones((2, 16, 16), np.float32)
    prediction[:, 8:] = np.nan
    for finished in (0, 3, 9):
        band = Band(Surface(Box.at(0, 0, 20, 16), np.full((20, 16), 255, np.uint8)), 32, 2)
        band.finish(finished)
        assert band.add_prediction(prediction, (weights, weights), 12, 0)


@settings(max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 70),
    st.sampled_from([16, 24, 32]),
    st.integers(0, 4),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_mosaic_equals_band_where_tiles_do_not_blend(
    height: int, width: int, tile: int, half_overlap: int, seed: int, stores: bool
) -> None:
    rng = np.random.default_rng(seed)
    overlap = 2 * half_overlap
    stride = tile - overlap
    weights = axis_window(tile, overlap, "crop", first=False, last=False)
    box = Box.at(100, 40, height, width)
    stored = [np.zeros((3, height, width), np.uint8) if stores else None for _ in range(2)]
    surfaces = [Surface(box, np.full((height, width), 255, np.uint8), probabilities) for probabilities in stored]
    band, mosaic = Band(surfaces[0], tile + stride, 3), Mosaic(surfaces[1], tile, 3)
    for y in range(100 - half_overlap - stride, 100 + height, stride):
        band.finish(y)
        mosaic.finish(y)
        for x in range(40 - half_overlap - stride, 40 + width, stride):
            prediction = rng.random((3, tile, tile), np.float32)
            assert band.add_prediction(prediction, (weights, weights), y, x)
            assert mosaic.add_prediction(prediction, (weights, weights), y, x)
    band.finish(100 + height)
    mosaic.finish(100 + height)
    np.testing.assert_array_equal(surfaces[0].labels, surfaces[1].labels)
    if stores:
        np.testing.assert_array_equal(stored[0], stored[1])
    assert band.top == mosaic.top
