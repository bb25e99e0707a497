"""Lines run along every side of every pixel once, and rings are simple."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from wsi_kernels import simple_rings, trace_outlines
from wsi_kernels.outline import ABOVE, BELOW, CLOSED
from wsi_kernels.slit import slit_ends

from tests.kernels import naive
from tests.kernels.test_regions import WANTED, bands


def unit_sides(corners):
    """Sides of pixels along a path of corners."""
    for (y, x), (v, u) in pairwise(corners):
        if (n := max(abs(v - y), abs(u - x))) == 0:
            continue  # a line that turns where it is cut
        assert v == y or u == x
        step = (v - y) // n, (u - x) // n
        for k in range(n):
            yield (y + k * step[0], x + k * step[1]), (y + (k + 1) * step[0], x + (k + 1) * step[1])


def paths(points, lines, height):
    """Corners of each line with its ends, and the line."""
    start = 0
    for line in lines.tolist():
        begin, begin_column, end, end_column, stop, _, _ = line
        path = list(map(tuple, points[start:stop].tolist()))
        begins = {ABOVE: [(0, begin_column + 1)], BELOW: [(height, begin_column)], CLOSED: path[-1:]}
        ends = {ABOVE: [(0, end_column)], BELOW: [(height, end_column + 1)], CLOSED: []}
        yield begins[begin] + path + ends[end], line
        start = stop


@settings(max_examples=300)
@given(bands())
def test_every_side_is_gone_along_once(band):
    labels, above, _ = band
    wanted = WANTED[labels.dtype.type]
    points, pinches, lines = trace_outlines(labels, above, wanted)
    rows = np.vstack([labels, above])  # row -1 is the one above
    found = []
    for path, line in paths(points, lines, len(labels)):
        found += [(rows[line[5], line[6]], a, b) for a, b in unit_sides(path)]
    assert sorted(found) == sorted(naive.sides(labels, above, wanted))
    assert len(pinches) == len(points)


def closed_lines(labels):
    rows = np.vstack([labels, np.zeros_like(labels[:1])])
    points, pinches, lines = trace_outlines(rows, np.zeros_like(labels[0]), WANTED[labels.dtype.type])
    assert (lines[:, [0, 2]] == CLOSED).all()
    return points, pinches, lines[:, 4].astype(np.int64)


@settings(max_examples=200)
@given(bands())
def test_rings_are_simple_and_keep_every_side(band):
    points, pinches, stops = closed_lines(band[0])
    corners, ends, line, areas = simple_rings(points, pinches, stops)
    before, after = [], []
    for start, stop in pairwise([0, *stops]):
        before += unit_sides([tuple(p) for p in [points[stop - 1], *points[start:stop]]])
    for start, stop, area in zip([0, *ends], ends, areas, strict=False):
        ring = [tuple(p) for p in corners[start:stop].tolist()]
        assert len(set(ring)) == len(ring)
        assert ring[0] == min(ring)
        assert area == sum(a[1] * b[0] - b[1] * a[0] for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
        after += unit_sides([ring[-1], *ring])
    assert sorted(before) == sorted(after)
    for k in range(len(stops)):
        assert (areas[line == k] > 0).sum() <= 1


def test_a_pinch_parts_a_hole():
    labels = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)
    *_, areas = simple_rings(*closed_lines(labels))
    assert sorted(areas.tolist()) == [-2, -2, 32]


def test_a_pinch_makes_an_outer_ring_and_a_hole():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    *_, areas = simple_rings(*closed_lines(labels))
    assert sorted(areas.tolist()) == [-2, 16]


def test_what_does_not_fit_is_refused():
    labels, above, wanted = np.ones((2, 3), np.uint8), np.ones(3, np.uint8), WANTED[np.uint8]
    with pytest.raises(TypeError, match="labels"):
        trace_outlines(labels.astype(int), above, wanted)
    with pytest.raises(ValueError, match="above"):
        trace_outlines(labels, above[:2], wanted)
    with pytest.raises(ValueError, match="no rows"):
        trace_outlines(labels[:0], above, wanted)
    points, pinches = np.zeros((4, 2), np.int32), np.zeros(4, np.bool_)
    for stops in ([3], [2, 2, 4], [5]):
        with pytest.raises(ValueError, match="ascending"):
            simple_rings(points, pinches, np.array(stops))
    with pytest.raises(ValueError, match="3 corners"):
        slit_ends(points.astype(float), np.array([2, 4]))
