"""Quantising and accumulating equal their oracles, and the blend stays within the bound proven in kernels/DESIGN.md."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import accumulate, accumulate_probabilities, axis_window, quantise
from wsi_kernels.blend import FULL, ONE
from wsi_kernels.window import KINDS

from tests.kernels import naive

SEEDS = st.integers(0, 2**32 - 1)


class TestQuantise:
    @settings(max_examples=50)
    @given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(1, 70))
    def test_equals_the_oracle(self, seed, n_classes, height, width):
        p = np.random.default_rng(seed).uniform(-0.01, 1.01, (n_classes, height, width)).astype(np.float32)
        out = np.empty(p.shape, np.uint16)
        assert quantise(p, out)
        assert (out == naive.quantise(p)).all()

    def test_every_exact_half_goes_to_even(self):
        halves = ((np.arange(65535) + 0.5) / 65535).astype(np.float32)
        out = np.empty((1, 1, 65535), np.uint16)
        assert quantise(halves[None, None], out)
        assert (out == naive.quantise(halves)).all()

    def test_error_is_at_most_half_a_step_in_float64(self):
        p = np.random.default_rng(1).random((1, 1000, 1000), np.float32)
        out = np.empty(p.shape, np.uint16)
        quantise(p, out)
        assert abs(out.astype(np.float64) - p.astype(np.float64) * ONE).max() <= 0.5

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0101, 1.0101, 2.0, 1e30])
    @pytest.mark.parametrize("place", [0, 16, 36])
    def test_one_bad_value_is_found(self, value, place):
        p = np.full((2, 3, 37), 0.5, np.float32)
        p[1, 2, place] = value
        assert not quantise(p, np.empty(p.shape, np.uint16))

    @pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.0009, 1.0009, 1e-40])
    def test_tolerated_values_are_clipped(self, value):
        out = np.empty((1, 1, 1), np.uint16)
        assert quantise(np.full((1, 1, 1), value, np.float32), out)
        assert out.item() == round(min(max(value, 0), 1)) * ONE

    def test_channels_last_input_and_view_output(self):
        p = np.random.default_rng(2).random((5, 7, 3), np.float32)
        parent = np.zeros((3, 9, 20), np.uint16)
        assert quantise(p.transpose(2, 0, 1), parent[:, 2:7, 4:11])
        assert (parent[:, 2:7, 4:11] == naive.quantise(p.transpose(2, 0, 1))).all()
        parent[:, 2:7, 4:11] = 0
        assert not parent.any()

    def test_refusals_name_the_value(self):
        p, out = np.zeros((1, 2, 3), np.float32), np.empty((1, 2, 3), np.uint16)
        with pytest.raises(TypeError, match=r"probabilities is float64 \(1, 2, 3\); expected float32 \(C, H, W\)"):
            quantise(p.astype(np.float64), out)
        with pytest.raises(ValueError, match=r"out is uint16 \(1, 2, 2\)"):
            quantise(p, out[:, :, :2])
        with pytest.raises(ValueError, match="contiguous last axis"):
            quantise(p, np.empty((1, 2, 6), np.uint16)[:, :, ::2])


class TestAccumulate:
    @settings(max_examples=80)
    @given(SEEDS, st.integers(1, 3), st.integers(-9, 9), st.integers(-40, 40), st.booleans())
    def test_equals_the_oracle_wherever_the_tile_lies(self, seed, n_classes, y, x, views):
        rng = np.random.default_rng(seed)
        parent = rng.integers(0, 65536, (n_classes, 8, 40), dtype=np.uint32)  # with any tile below 2**32
        source = rng.integers(0, 65536, (n_classes, 9, 50), dtype=np.uint16)
        canvas, tile = (parent[:, 1:7, 3:33], source[:, 2:8, 5:41]) if views else (parent, source)
        weights = [rng.integers(0, 257, size, dtype=np.uint32) * (rng.random(size) < 0.7) for size in tile.shape[1:]]
        weights_y, weights_x = (weight.astype(np.uint32) for weight in weights)
        expected = parent.copy()
        naive.accumulate(expected[:, 1:7, 3:33] if views else expected, tile, weights_y, weights_x, y, x)
        accumulate(canvas, tile, weights_y, weights_x, y, x)
        assert (parent == expected).all()

    def test_the_largest_sum_fits(self):
        canvas = np.zeros((1, 1, 64), np.uint32)
        full = np.full(64, 256, np.uint32)
        accumulate(canvas, np.full((1, 1, 64), ONE, np.uint16), full[:1], full, 0, 0)
        assert (canvas == ONE * FULL).all()

    def test_zero_weights_leave_the_canvas_alone(self):
        canvas = np.full((1, 4, 4), 7, np.uint32)
        accumulate(canvas, np.ones((1, 4, 4), np.uint16), np.zeros(4, np.uint32), np.ones(4, np.uint32), 0, 0)
        accumulate(canvas, np.ones((1, 4, 4), np.uint16), np.ones(4, np.uint32), np.zeros(4, np.uint32), 0, 0)
        assert (canvas == 7).all()

    def test_refusals_name_the_value(self):
        canvas, tile, ones = np.zeros((2, 4, 4), np.uint32), np.zeros((2, 3, 3), np.uint16), np.ones(3, np.uint32)
        with pytest.raises(ValueError, match=r"tile is uint16 \(1, 3, 3\); expected uint16 \(2, H, W\)"):
            accumulate(canvas, tile[:1], ones, ones, 0, 0)
        with pytest.raises(ValueError, match=r"weights_x reach 257; they must lie in 0 … 256"):
            accumulate(canvas, tile, ones, ones * 257, 0, 0)
        with pytest.raises(ValueError, match=r"weights_y is uint32 \(2,\)"):
            accumulate(canvas, tile, ones[:2], ones, 0, 0)
        with pytest.raises(TypeError, match="weights_y is int64"):
            accumulate(canvas, tile, ones.astype(np.int64), ones, 0, 0)
        canvas.flags.writeable = False
        with pytest.raises(ValueError, match="canvas is read-only"):
            accumulate(canvas, tile, ones, ones, 0, 0)


class TestAccumulateProbabilities:
    @settings(max_examples=80)
    @given(SEEDS, st.integers(1, 3), st.integers(-9, 9), st.integers(-40, 40))
    def test_equals_quantise_then_accumulate(self, seed, n_classes, y, x):
        rng = np.random.default_rng(seed)
        canvas = rng.integers(0, 65536, (n_classes, 8, 40), dtype=np.uint32)
        p = rng.uniform(-0.01, 1.01, (n_classes, 9, 50)).astype(np.float32)
        weights_y, weights_x = (
            (rng.integers(0, 257, size) * (rng.random(size) < 0.7)).astype(np.uint32) for size in p.shape[1:]
        )
        expected = canvas.copy()
        naive.accumulate(expected, naive.quantise(p), weights_y, weights_x, y, x)
        assert accumulate_probabilities(canvas, p, weights_y, weights_x, y, x)
        assert (canvas == expected).all()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0101, 1.0101, 1e30])
    @pytest.mark.parametrize("place", [(0, 0, 0), (1, 2, 36)])
    def test_one_bad_value_leaves_the_canvas_as_it_was(self, value, place):
        canvas = np.random.default_rng(3).integers(0, 2**32, (2, 5, 40), dtype=np.uint32)
        before = canvas.copy()
        p = np.full((2, 3, 37), 0.5, np.float32)
        p[place] = value
        full = np.full(37, 256, np.uint32)
        assert not accumulate_probabilities(canvas, p, full[:3], full, 1, 2)
        assert (canvas == before).all()

    def test_a_bad_value_without_weight_does_not_matter(self):
        canvas, p = np.zeros((1, 2, 4), np.uint32), np.full((1, 2, 4), 0.5, np.float32)
        p[0, 0, 0] = np.nan
        weights = np.array([0, 256, 256, 0], np.uint32)
        assert accumulate_probabilities(canvas, p, weights[1:3], weights, 0, 0)
        assert canvas[0, 0].tolist() == [0, 32768 * 65536, 32768 * 65536, 0]


@st.composite
def grids(draw):
    tile = draw(st.integers(4, 40))
    overlap = draw(st.integers(0, tile // 2))
    return tile, overlap, draw(st.sampled_from(KINDS)), draw(st.integers(0, overlap // 2)), draw(st.integers(1, 3))


def _blend(grid, probabilities, order):
    """Canvas of n x n tiles, each with its own probabilities, and the float64 mean of the *unquantised* ones."""
    tile, overlap, kind, margin, n = grid
    stride = tile - overlap
    side = stride * (n - 1) + tile
    canvas = np.zeros((probabilities.shape[1], side, side), np.uint32)
    exact = np.zeros(canvas.shape, np.float64)
    windows = [axis_window(tile, overlap, kind, margin, first=k == 0, last=k == n - 1) for k in range(n)]
    for k in order:
        y, x = k // n * stride, k % n * stride
        quantised = np.empty(probabilities[k].shape, np.uint16)
        assert quantise(probabilities[k], quantised)
        accumulate(canvas, quantised, windows[k // n], windows[k % n], y, x)
        weights = np.outer(windows[k // n], windows[k % n]) / FULL
        exact[:, y : y + tile, x : x + tile] += weights * probabilities[k].astype(np.float64)
    return canvas, exact


class TestBound:
    @settings(max_examples=60)
    @given(grids(), SEEDS)
    def test_canvas_is_within_half_a_step_of_the_exact_mean(self, grid, seed):
        rng = np.random.default_rng(seed)
        n_tiles = grid[-1] ** 2
        probabilities = rng.random((n_tiles, 2, grid[0], grid[0]), np.float32)
        canvas, exact = _blend(grid, probabilities, range(n_tiles))
        error = abs(canvas.astype(np.float64) / (ONE * FULL) - exact).max()
        assert error <= 0.5 / ONE + 1e-12

    @settings(max_examples=30)
    @given(grids(), SEEDS)
    def test_any_order_gives_the_same_bits(self, grid, seed):
        rng = np.random.default_rng(seed)
        n_tiles = grid[-1] ** 2
        probabilities = rng.random((n_tiles, 2, grid[0], grid[0]), np.float32)
        assert (
            _blend(grid, probabilities, range(n_tiles))[0] == _blend(grid, probabilities, rng.permutation(n_tiles))[0]
        ).all()

    @settings(max_examples=30)
    @given(grids(), st.floats(0, 1, width=32))
    def test_a_constant_comes_back_exactly(self, grid, p):
        n_tiles = grid[-1] ** 2
        probabilities = np.full((n_tiles, 1, grid[0], grid[0]), p, np.float32)
        canvas, _ = _blend(grid, probabilities, range(n_tiles))
        assert (canvas == int(naive.quantise(np.float32(p))) * FULL).all()


def test_every_value_beside_a_rounding_border_is_quantised_as_in_double_precision():
    borders = ((np.arange(65535) + 0.5) / 65535).astype(np.float32)
    values = [borders]
    for _ in range(3):
        values += [np.nextafter(values[-1], np.float32(2))]
        values = [np.nextafter(values[0], np.float32(-1)), *values]
    special = np.array([0, -0.0, 1, 0.5, 1e-45, -1e-45, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    p = np.concatenate([*values, special])[None, None]
    out = np.empty(p.shape, np.uint16)
    assert quantise(p, out)
    assert np.array_equal(out, np.rint(p.astype(np.float64).clip(0, 1) * 65535))


@pytest.mark.parametrize("n", [1, 3, 8, 31, 32, 33, 100])
def test_a_value_is_quantised_alike_in_a_vector_and_after_its_end(n):
    p = np.random.default_rng(n).random((1, 1, n), np.float32)
    whole, alone = np.empty(p.shape, np.uint16), np.empty((1, 1, 1), np.uint16)
    assert quantise(p, whole)
    for j in range(n):
        assert quantise(p[..., j : j + 1], alone)
        assert alone[0, 0, 0] == whole[0, 0, j]
