"""Labels, thresholds, 8-bit probabilities and counts equal their oracles, ties and rounding included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import (
    accumulate_probabilities,
    count_labels,
    label_argmax,
    label_probabilities,
    label_threshold,
    probabilities_uint8,
)
from wsi_kernels.blend import FULL, ONE

from tests.kernels import naive

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.uint8, np.uint16])


class TestArgmax:
    @settings(max_examples=60)
    @given(SEEDS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 60), DTYPES)
    def test_equals_numpy_ties_to_the_lowest(self, seed, n_classes, height, width, dtype):
        few = np.random.default_rng(seed).integers(0, 4, (n_classes, height, width)).astype(np.uint32)
        canvas = few * np.uint32(ONE * FULL // 3)  # up to the largest value, above 2**31
        out = np.empty((height, width), dtype)
        label_argmax(canvas, out)
        assert (out == canvas.argmax(axis=0)).all()

    @pytest.mark.parametrize("width", [1023, 1024, 1025, 2100])
    def test_strips_join(self, width):
        canvas = np.random.default_rng(width).integers(0, 2**32, (3, 2, width), dtype=np.uint32)
        out = np.empty((2, width), np.uint8)
        label_argmax(canvas, out)
        assert (out == canvas.argmax(axis=0)).all()

    def test_views_of_a_rolling_canvas(self):
        canvas = np.random.default_rng(0).integers(0, 2**32, (3, 9, 30), dtype=np.uint32)
        parent = np.full((12, 40), 9, np.uint8)
        label_argmax(canvas[:, :5, :20], parent[2:7, 3:23])
        assert (parent[2:7, 3:23] == canvas[:, :5, :20].argmax(axis=0)).all()
        parent[2:7, 3:23] = 9
        assert (parent == 9).all()

    def test_more_classes_than_uint8_holds(self):
        canvas = np.zeros((300, 1, 1), np.uint32)
        canvas[299] = 1
        out = np.empty((1, 1), np.uint16)
        label_argmax(canvas, out)
        assert out.item() == 299
        with pytest.raises(ValueError, match="canvas has 300 classes; uint8 labels hold 1 … 255"):
            label_argmax(canvas, out.astype(np.uint8))

    def test_refuses_another_shape(self):
        with pytest.raises(ValueError, match=r"out is uint8 \(2, 2\); expected uint8\|uint16 \(2, 3\)"):
            label_argmax(np.zeros((2, 2, 3), np.uint32), np.zeros((2, 2), np.uint8))


class TestOnePrediction:
    """One prediction per px: the bits of blending it at full weight and labelling the sums."""

    @staticmethod
    def expected(probabilities, threshold, dtype):
        canvas = np.zeros(probabilities.shape, np.uint32)
        full = [np.full(side, 256, np.uint32) for side in probabilities.shape[1:]]
        assert accumulate_probabilities(canvas, probabilities, *full, 0, 0)
        out = np.empty(probabilities.shape[1:], dtype)
        label_threshold(canvas, threshold, out) if len(canvas) == 1 else label_argmax(canvas, out)
        return out

    @settings(max_examples=100)
    @given(SEEDS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 60), st.floats(0, 1), DTYPES)
    def test_equals_sums_of_full_weight_near_ties_too(self, seed, n_classes, height, width, threshold, dtype):
        rng = np.random.default_rng(seed)
        shape = (n_classes, height, width)
        # A few levels, moved by parts of a quantisation step: many pairs round to the same level, and some do not.
        levels = rng.integers(0, 3, shape) + rng.choice([0.0, 0.1, 0.49, 0.5, 0.51, 0.9], shape)
        near = np.float32(rng.choice([0.0, threshold, 0.999])) + (levels / ONE).astype(np.float32)
        probabilities = near if seed % 2 else rng.uniform(-0.01, 1.01, shape).astype(np.float32)
        out = np.full(shape[1:], 77, dtype)
        assert label_probabilities(probabilities, threshold, out)
        assert (out == self.expected(probabilities, threshold, dtype)).all()

    @pytest.mark.parametrize("width", [1023, 1024, 1025, 2100])
    def test_strips_join(self, width):
        probabilities = np.random.default_rng(width).random((3, 2, width), dtype=np.float32)
        out = np.empty((2, width), np.uint8)
        assert label_probabilities(probabilities, 0.5, out)
        assert (out == self.expected(probabilities, 0.5, np.uint8)).all()

    def test_views(self):
        probabilities = np.random.default_rng(0).random((3, 9, 30), dtype=np.float32)
        parent = np.full((12, 40), 9, np.uint8)
        assert label_probabilities(probabilities[:, 2:7, 5:25], 0.5, parent[2:7, 3:23])
        whole = np.ascontiguousarray(probabilities[:, 2:7, 5:25])
        assert (parent[2:7, 3:23] == self.expected(whole, 0.5, np.uint8)).all()
        parent[2:7, 3:23] = 9
        assert (parent == 9).all()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.02, -0.02])
    @pytest.mark.parametrize("at", [(0, 0, 0), (2, 1, 1030), (1, 0, 1023)])
    def test_finds_what_is_no_probability(self, value, at):
        probabilities = np.full((3, 2, 1031), 0.5, np.float32)
        out = np.empty((2, 1031), np.uint8)
        assert label_probabilities(probabilities, 0.5, out)
        probabilities[at] = value
        assert not label_probabilities(probabilities, 0.5, out)

    def test_refuses_more_classes_than_the_labels_hold_and_thresholds_that_are_none(self):
        out = np.empty((1, 1), np.uint8)
        with pytest.raises(ValueError, match="300 classes; uint8 labels hold 1 … 255"):
            label_probabilities(np.zeros((300, 1, 1), np.float32), 0.5, out)
        with pytest.raises(ValueError, match=r"threshold 1\.5"):
            label_probabilities(np.zeros((1, 1, 1), np.float32), 1.5, out)


class TestThreshold:
    @settings(max_examples=200)
    @given(st.floats(0, 1, width=32), st.floats(0, 1), DTYPES)
    def test_constant_probability_against_threshold(self, p, threshold, dtype):
        canvas = np.full((1, 2, 40), int(naive.quantise(np.float32(p))) * FULL, np.uint32)
        out = np.full((2, 40), 7, dtype)
        label_threshold(canvas, threshold, out)
        assert (out == out[0, 0]).all()
        if p >= threshold:
            assert out[0, 0] == 1
        if p < threshold - 1 / ONE:
            assert out[0, 0] == 0

    def test_limit_is_the_quantised_threshold(self):
        limit = 32768 * FULL
        canvas = np.array([[[limit - 1, limit, limit + 1, 0, ONE * FULL]]], np.uint32)
        out = np.empty((1, 5), np.uint8)
        label_threshold(canvas, 0.5, out)
        assert out.tolist() == [[0, 1, 1, 0, 1]]

    def test_views(self):
        canvas = np.random.default_rng(0).integers(0, ONE * FULL, (1, 9, 30), dtype=np.uint32)
        parent = np.full((12, 40), 9, np.uint8)
        label_threshold(canvas[:, 1:5, :20], 0.25, parent[2:6, 3:23])
        assert (parent[2:6, 3:23] == (canvas[0, 1:5, :20] >= round(0.25 * ONE) * FULL)).all()
        assert (parent[:2] == 9).all()

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_refuses_what_is_no_probability(self, threshold):
        with pytest.raises(ValueError, match="threshold"):
            label_threshold(np.zeros((1, 1, 1), np.uint32), threshold, np.zeros((1, 1), np.uint8))


class TestProbabilities:
    def test_every_step_and_both_sides_of_every_half(self):
        middle = (np.arange(255, dtype=np.int64) * 2 + 1) * 257 * 32768  # k + 1/2 exactly
        values = np.concatenate([middle - 1, middle, middle + 1, np.arange(65536) * FULL - 1, np.arange(65536) * FULL])
        canvas = np.clip(values, 0, ONE * FULL).astype(np.uint32)[None, None]
        out = np.empty(canvas.shape, np.uint8)
        probabilities_uint8(canvas, out)
        assert (out == naive.probabilities_uint8(canvas)).all()

    @settings(max_examples=30)
    @given(SEEDS)
    def test_views(self, seed):
        canvas = np.random.default_rng(seed).integers(0, ONE * FULL + 1, (2, 5, 30), dtype=np.uint32)
        parent = np.zeros((2, 5, 40), np.uint8)
        probabilities_uint8(canvas[:, 1:4, 2:22], parent[:, 2:, 7:27])
        assert (parent[:, 2:, 7:27] == naive.probabilities_uint8(canvas[:, 1:4, 2:22])).all()
        assert not parent[:, :2].any()


class TestCount:
    @settings(max_examples=60)
    @given(SEEDS, st.integers(1, 6), st.integers(0, 5), st.integers(0, 19), DTYPES)
    def test_equals_the_oracle(self, seed, n, height, width, dtype):
        parent = np.random.default_rng(seed).integers(0, 8, (height + 2, width + 3)).astype(dtype)
        parent[parent == 7] = np.iinfo(dtype).max
        labels = parent[1 : height + 1, 2 : width + 2]
        counts = count_labels(labels, n)
        assert counts.dtype == np.int64
        assert (counts == naive.count_labels(labels, n)).all()

    @settings(max_examples=60)
    @given(SEEDS, st.integers(1, 3), st.integers(1, 1200), st.integers(1, 600), DTYPES)
    def test_long_runs_of_one_label(self, seed, height, width, run, dtype):
        rng = np.random.default_rng(seed)
        values = rng.choice(np.array([0, 1, 2, 6, np.iinfo(dtype).max], dtype), height * width // run + 1)
        labels = np.repeat(values, run)[: height * width].reshape(height, width)
        assert (count_labels(labels, 4) == naive.count_labels(labels, 4)).all()

    def test_refuses_no_labels(self):
        with pytest.raises(ValueError, match="n 0"):
            count_labels(np.zeros((1, 1), np.uint8), 0)
