"""Halving equals its oracles at odd ends, with ties and with pixels that were not analysed."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import count_labels, halve_majority, halve_mean

from tests.kernels import naive

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(0, 9), st.integers(0, 75))
DTYPES = st.sampled_from([np.uint8, np.uint16])


def _labels(seed, size, n_classes, ignore, dtype):
    labels = np.random.default_rng(seed).integers(0, n_classes + 1, size).astype(dtype)
    labels[labels == n_classes] = ignore
    return labels


class TestMajority:
    @pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535), (np.uint8, 4)])
    def test_every_square_of_four_classes_and_ignore(self, dtype, ignore):
        squares = np.array(list(product([0, 1, 2, 3, ignore], repeat=4)), dtype)
        labels = squares.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
        assert (halve_majority(labels, ignore, 4) == naive.halve_majority(labels, ignore)).all()

    @settings(max_examples=60)
    @given(SEEDS, SIZES, st.integers(1, 4), DTYPES)
    def test_equals_the_oracle_at_odd_ends(self, seed, size, n_classes, dtype):
        ignore = int(np.iinfo(dtype).max)
        labels = _labels(seed, size, n_classes, ignore, dtype)
        halved = halve_majority(labels, ignore, n_classes)
        assert halved.dtype == dtype
        assert (halved == naive.halve_majority(labels, ignore)).all()

    @settings(max_examples=30)
    @given(SEEDS, SIZES, st.integers(1, 4))
    def test_no_class_appears_that_is_absent_below(self, seed, size, n_classes):
        labels = _labels(seed, size, n_classes, 255, np.uint8)
        halved = halve_majority(labels[1:, 3:], 255, n_classes)
        assert set(np.unique(halved)) <= set(np.unique(labels[1:, 3:]))
        assert not ((count_labels(halved, n_classes) > 0) & (count_labels(labels[1:, 3:], n_classes) == 0)).any()

    def test_refuses_an_ignore_that_is_a_class(self):
        with pytest.raises(ValueError, match="3 classes with ignore 2"):
            halve_majority(np.zeros((2, 2), np.uint8), 2, 3)
        with pytest.raises(ValueError, match="ignore 65535"):
            halve_majority(np.zeros((2, 2), np.uint8), 65535, 3)
        with pytest.raises(TypeError, match="labels is int64"):
            halve_majority(np.zeros((2, 2), np.int64), 255, 3)


class TestMean:
    @settings(max_examples=60)
    @given(SEEDS, SIZES, st.integers(1, 3), DTYPES)
    def test_equals_the_oracle(self, seed, size, n_classes, dtype):
        ignore = int(np.iinfo(dtype).max)
        labels = _labels(seed, size, 1, ignore, dtype)
        probabilities = np.random.default_rng(seed + 1).integers(0, 256, (n_classes, *size), dtype=np.uint8)
        expected = naive.halve_mean(probabilities, labels, ignore)
        assert (halve_mean(probabilities, labels, ignore) == expected).all()

    def test_every_sum_and_count(self):
        sums = np.arange(4 * 255 + 1)
        values = np.stack([np.clip(sums - 255 * k, 0, 255) for k in range(4)], 1).astype(
            np.uint8
        )  # four that sum to it
        for n in range(5):
            probabilities = values.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(1, 2, -1)
            labels = np.tile(np.array([0] * n + [255] * (4 - n), np.uint8).reshape(2, 2), len(sums))
            assert (halve_mean(probabilities, labels, 255) == naive.halve_mean(probabilities, labels, 255)).all()

    def test_views(self):
        rng = np.random.default_rng(0)
        probabilities = rng.integers(0, 256, (2, 9, 40), dtype=np.uint8)[:, 1:8, 2:37]
        labels = _labels(1, (9, 50), 2, 255, np.uint8)[1:8, 3:38]
        assert (halve_mean(probabilities, labels, 255) == naive.halve_mean(probabilities, labels, 255)).all()

    def test_refusals_name_the_value(self):
        probabilities = np.zeros((1, 2, 2), np.uint8)
        with pytest.raises(ValueError, match="ignore 65535"):
            halve_mean(probabilities, probabilities[0], 65535)
        with pytest.raises(ValueError, match=r"labels is uint8 \(1, 2\)"):
            halve_mean(probabilities, probabilities[0, :1], 255)
