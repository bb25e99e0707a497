"""Thumbnails against an area average written in plain floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.geometry import Box, Level
from wsi_seg.slide import ArraySlide
from wsi_seg.slide.thumbnail import area_thumbnail, thumbnail_size


def naive_axis(values: NDArray[np.float64], target: int) -> NDArray[np.float64]:
    """Area average along the first axis, one target pixel and one overlap at a time."""
    size = len(values)
    out = np.zeros((target, *values.shape[1:]))
    for j in range(target):
        start, end = j * size / target, (j + 1) * size / target
        for i in range(int(start), min(size, int(np.ceil(end)))):
            out[j] += values[i] * (min(end, i + 1) - max(start, i))
    return out / (size / target)


def naive_thumbnail(pixels: NDArray[np.uint8], target: tuple[int, int]) -> NDArray[np.float64]:
    rows = naive_axis(pixels.astype(np.float64), target[0])
    return naive_axis(rows.transpose(1, 0, 2), target[1]).transpose(1, 0, 2)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100), st.integers(0, 2**32))
def test_it_is_the_area_average(height: int, width: int, side: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = ArraySlide(pixels).thumbnail(side)
    target = thumbnail_size((height, width), side)
    assert found.shape == (*target, 3)
    assert max(target) == min(side, max(height, width))
    np.testing.assert_allclose(found, naive_thumbnail(pixels, target), atol=0.5 + 1e-6)


@pytest.mark.parametrize("side", [1, 64, 333])
@pytest.mark.parametrize("block", [90, 333])
def test_it_does_not_depend_on_the_blocks_in_which_it_is_made(
    side: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1300, 1100, 3), np.uint8)
    at_once = ArraySlide(pixels).thumbnail(side)
    monkeypatch.setattr("wsi_seg.slide.thumbnail._BLOCK_SIDE", block)
    np.testing.assert_array_equal(ArraySlide(pixels).thumbnail(side), at_once)


def test_wide_strips_are_read_once() -> None:
    asked = []

    def read(box: Box, index: int) -> NDArray[np.uint8]:
        asked.append(box)
        return np.zeros((*box.size, 3), np.uint8)

    area_thumbnail((Level((200, 9000), (1.0, 1.0), (8, 9000)),), read, 500)
    assert all(box.width == 9000 for box in asked)
    assert sum(box.height for box in asked) <= 200 + len(asked)


def test_a_reduction_beyond_one_step_is_made_in_two() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1300, 40, 3), np.uint8)
    found = ArraySlide(pixels).thumbnail(3)
    np.testing.assert_allclose(found, naive_thumbnail(pixels, (3, 1)), atol=1.01)


@pytest.mark.parametrize(("side", "level"), [(10, 2), (25, 2), (26, 1), (50, 1), (51, 0), (100, 0), (1000, 0)])
def test_it_reads_the_coarsest_level_that_is_at_least_as_large(side: int, level: int) -> None:
    slide = ArraySlide(*(np.full((s, s, 3), s, np.uint8) for s in (100, 50, 25)))
    asked = []

    def read(box: Box, index: int) -> NDArray[np.uint8]:
        asked.append(index)
        return slide.read_region(box, index)

    area_thumbnail(slide.levels, read, side)
    assert set(asked) == {level}
