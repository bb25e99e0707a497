"""Small objects and holes: as scipy labels the whole image, and the same however little round a pixel is shown."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import fill_holes, remove_small

from tests.kernels import naive

IGNORE = {np.uint8: 255, np.uint16: 65535}


@st.composite
def cases(draw):
    """Labels (h, w) of few classes in blobs or noise, with px that are not analysed; limits and windows per class."""
    n_classes = draw(st.integers(2, 4))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    grain = draw(st.sampled_from([1, 1, 2, 3]))
    shares = rng.dirichlet(np.full(n_classes, 0.7))
    coarse = rng.choice(n_classes, (height // grain + 1, width // grain + 1), p=shares)
    labels = coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width].astype(dtype)
    labels[rng.random(labels.shape) < draw(st.sampled_from([0, 0.02, 0.1]))] = IGNORE[dtype]
    limits = [0, *draw(st.lists(st.sampled_from([0, 2, 4, 9, 25]), min_size=n_classes - 1, max_size=n_classes - 1))]
    windows = [draw(st.sampled_from([1, 3, isqrt(16 * max(limit, 1) - 1) + 1])) for limit in limits]
    return labels, limits, windows


@st.composite
def parts(draw, shape):
    """A box (y0, x0, y1, x1), not empty, in an image."""
    y, x = (
        sorted(draw(st.tuples(*[st.integers(0, shape[0])] * 2))),
        sorted(draw(st.tuples(*[st.integers(0, shape[1])] * 2))),
    )
    y1, x1 = max(y[1], y[0] + 1), max(x[1], x[0] + 1)
    return min(y[0], shape[0] - 1), min(x[0], shape[1] - 1), min(y1, shape[0]), min(x1, shape[1])


def grown(box, n, shape):
    return max(0, box[0] - n), max(0, box[1] - n), min(shape[0], box[2] + n), min(shape[1], box[3] + n)


def cut(array, box, origin=(0, 0)):
    return array[box[0] - origin[0] : box[2] - origin[0], box[1] - origin[1] : box[3] - origin[1]]


class TestRemoveSmall:
    @settings(max_examples=200)
    @given(cases())
    def test_equals_the_oracle(self, case):
        labels, limits, windows = case
        before = labels.copy()
        out = remove_small(labels, limits, windows)
        assert out.dtype == labels.dtype
        np.testing.assert_array_equal(out, naive.remove_small(labels, limits, windows))
        np.testing.assert_array_equal(labels, before)

    @settings(max_examples=200)
    @given(cases(), st.data())
    def test_a_margin_of_two_windows_is_enough(self, case, data):
        labels, limits, windows = case
        box = data.draw(parts(labels.shape))
        seen = grown(box, 2 * max(windows), labels.shape)
        out = remove_small(cut(labels, seen), limits, windows)
        np.testing.assert_array_equal(cut(out, box, seen), cut(remove_small(labels, limits, windows), box))

    @given(cases())
    def test_what_is_not_analysed_stays_and_nothing_becomes_it(self, case):
        labels, limits, windows = case
        ignore = IGNORE[labels.dtype.type]
        np.testing.assert_array_equal(remove_small(labels, limits, windows) == ignore, labels == ignore)

    def test_a_view_and_an_empty_array(self):
        labels = np.zeros((6, 9), np.uint8)
        labels[2, 3] = 1
        assert not remove_small(labels[1:5, 1:6], [0, 2], [1, 1]).any()
        assert not remove_small(labels[:, ::2], [0, 2], [1, 1]).any()
        assert remove_small(labels[:0], [0, 2], [1, 1]).shape == (0, 9)

    def test_an_object_in_another_takes_its_class(self):
        labels = np.ones((5, 5), np.uint8)
        labels[2, 2] = 2
        assert (remove_small(labels, [0, 3, 3], [9, 9, 9]) == 1).all()

    def test_two_small_ones_do_not_change_places(self):
        labels = np.zeros((3, 6), np.uint8)
        labels[1, 1:3], labels[1, 3:5] = 1, 2
        assert not remove_small(labels, [0, 3, 3], [9, 9, 9]).any()

    def test_a_long_line_is_no_small_object(self):
        labels = np.zeros((3, 40), np.uint8)
        labels[1, 5:25] = 1
        assert remove_small(labels, [0, 21], [20, 20])[1, 5] == 0
        assert remove_small(labels, [0, 21], [19, 19])[1, 5] == 1

    @pytest.mark.parametrize(
        ("labels", "limits", "windows", "says"),
        [
            (np.zeros((3, 3), np.int64), [0, 1], [1, 1], "labels is int64"),
            (np.zeros((3, 3), np.uint8), [0, 1], [1], "windows is int64"),
            (np.zeros((3, 3), np.uint8), [0, -1], [1, 1], "one value >= 0"),
            (np.zeros((3, 3), np.uint8), [0] * 256, [1] * 256, "one value >= 0"),
        ],
    )
    def test_refusals(self, labels, limits, windows, says):
        with pytest.raises((TypeError, ValueError), match=says):
            remove_small(labels, limits, windows)


class TestFillHoles:
    @settings(max_examples=200)
    @given(cases(), st.tuples(*[st.booleans()] * 4))
    def test_equals_the_oracle(self, case, closed):
        labels, limits, windows = case
        out = fill_holes(labels, limits, windows, closed)
        assert out.dtype == labels.dtype
        np.testing.assert_array_equal(out, naive.fill_holes(labels, limits, windows, closed))

    @settings(max_examples=200)
    @given(cases(), st.data())
    def test_a_margin_of_a_window_is_enough(self, case, data):
        labels, limits, windows = case
        box = data.draw(parts(labels.shape))
        seen = grown(box, max(windows), labels.shape)
        closed = (seen[0] == 0, seen[1] == 0, seen[2] == labels.shape[0], seen[3] == labels.shape[1])
        out = fill_holes(cut(labels, seen), limits, windows, closed)
        whole = fill_holes(labels, limits, windows, (True,) * 4)
        np.testing.assert_array_equal(cut(out, box, seen), cut(whole, box))

    @pytest.mark.parametrize(("length", "margin", "enough"), [(7, 6, True), (6, 6, True), (7, 5, False)])
    def test_no_smaller_margin_would_do(self, length, margin, enough):
        """A slit of 7 px does not fit into a window of 6; seen from 5 px away it seems to."""
        labels = np.ones((3, 30), np.uint8)
        labels[1, 10 : 10 + length] = 0
        whole = fill_holes(labels, [0, 99], [6, 6], (True,) * 4)
        right = [
            fill_holes(labels[:, x - margin : x + margin + 1], [0, 99], [6, 6], (True, False, True, False))[1, margin]
            == whole[1, x]
            for x in range(8, 20)
        ]
        assert all(right) == enough

    @given(cases())
    def test_what_is_not_analysed_stays_and_nothing_becomes_it(self, case):
        labels, limits, windows = case
        ignore = IGNORE[labels.dtype.type]
        filled = fill_holes(labels, limits, windows, (True,) * 4)
        np.testing.assert_array_equal(filled == ignore, labels == ignore)

    def test_a_hole_that_reaches_the_unknown_stays(self):
        labels = np.ones((5, 6), np.uint8)
        labels[2, 2:4] = 0
        assert fill_holes(labels, [0, 5], [9, 9], (True,) * 4).all()
        labels[2, 4] = 255
        np.testing.assert_array_equal(fill_holes(labels, [0, 5], [9, 9], (True,) * 4), labels)
        labels[2, 2:5] = 0
        labels[:2, 3] = 0  # and one that leaves the canvas
        np.testing.assert_array_equal(fill_holes(labels, [0, 9], [9, 9], (True,) * 4), labels)

    def test_the_outer_of_two_rings_decides(self):
        labels = np.zeros((9, 9), np.uint8)
        labels[1:8, 1:8] = 1
        labels[2:7, 2:7] = 2
        labels[3:6, 3:6] = 0
        filled = fill_holes(labels, [0, 30, 30], [9, 9, 9], (True,) * 4)
        assert (filled[1:8, 1:8] == 1).all()
        only_inner = fill_holes(labels, [0, 20, 30], [9, 9, 9], (True,) * 4)
        assert (only_inner[2:7, 2:7] == 2).all()

    def test_a_diagonal_line_encloses(self):
        labels = np.pad(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8), 1)
        assert fill_holes(labels, [0, 2], [1, 1], (True,) * 4)[2, 2] == 1

    def test_largest_array(self):
        with pytest.raises(ValueError, match="px at a time"):
            fill_holes(np.broadcast_to(np.uint8(0), (50_000, 50_000)), [0, 1], [1, 1], (True,) * 4)
