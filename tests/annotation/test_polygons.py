"""Labels drawn from polygons against the crossing rule, point by point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.annotation import IGNORE
from wsi_seg.annotation.polygons import LabelledPolygon, PolygonAnnotation
from wsi_seg.geometry import Box


def encloses(ring: NDArray[np.float64], y: float, x: float) -> bool:
    """Crossings of a ray to the left of the point, edge by edge."""
    inside = False
    for (ya, xa), (yb, xb) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (ya > y) != (yb > y) and xa + (y - ya) / (yb - ya) * (xb - xa) < x:
            inside = not inside
    return inside


def naive(polygons, box, downsample, origin, unannotated):
    labels = np.full(box.size, unannotated, np.uint8)
    for i in range(box.height):
        for j in range(box.width):
            y = origin[0] + (box.y0 + i + 0.5) * downsample[0]
            x = origin[1] + (box.x0 + j + 0.5) * downsample[1]
            for polygon in polygons:
                if sum(encloses(ring, y, x) for ring in polygon.rings) % 2:
                    labels[i, j] = polygon.label
    return labels


def square(side: float, y: float = 0, x: float = 0) -> NDArray[np.float64]:
    return np.array([(y, x), (y, x + side), (y + side, x + side), (y + side, x)], np.float64)


# Irrational-looking coordinates: a centre exactly on an edge is the kernel's business, tested there.
coordinate = st.integers(-300, 900).map(lambda n: n / 7 + 0.0137)
ring = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7).map(lambda p: np.array(p, np.float64))
polygon = st.builds(LabelledPolygon, st.integers(0, 3), st.tuples(ring))
grid = st.builds(Box.at, st.integers(-9, 20), st.integers(-9, 20), st.integers(0, 14), st.integers(0, 14))
steps = st.tuples(st.floats(0.7, 9), st.floats(0.7, 9))
origins = st.tuples(st.floats(-20, 20), st.floats(-20, 20))


@settings(max_examples=60)
@given(st.lists(polygon, max_size=4), grid, steps, origins, st.sampled_from([0, IGNORE]))
def test_every_pixel_has_the_last_polygon_around_its_centre(polygons, box, downsample, origin, unannotated):
    found = PolygonAnnotation(polygons, unannotated).read_labels(box, downsample, origin)
    assert found.dtype == np.uint8
    assert found.tolist() == naive(polygons, box, downsample, origin, unannotated).tolist()


@settings(max_examples=60)
@given(st.lists(polygon, min_size=1, max_size=4), grid, steps, origins, st.data())
def test_two_boxes_side_by_side_are_the_box_around_them(polygons, box, downsample, origin, data):
    annotation = PolygonAnnotation(polygons)
    cut = data.draw(st.integers(box.x0, box.x1))
    parts = [Box(box.y0, box.x0, box.y1, cut), Box(box.y0, cut, box.y1, box.x1)]
    found = [annotation.read_labels(part, downsample, origin) for part in parts]
    assert np.array_equal(np.hstack(found), annotation.read_labels(box, downsample, origin))


def test_a_hole_shows_what_is_below_it():
    below = LabelledPolygon(1, (square(10),))
    ring = LabelledPolygon(2, (square(8, 1, 1), square(4, 3, 3)))
    labels = PolygonAnnotation([below, ring]).read_labels(Box(0, 0, 12, 12), (1, 1))
    assert (labels[0, :10] == 1).all()
    assert labels[2, 2] == 2
    assert (labels[3:7, 3:7] == 1).all()
    assert (labels[10:] == IGNORE).all()


@pytest.mark.parametrize(("order", "middle"), [((1, 2), 2), ((2, 1), 1)])
def test_the_later_polygon_covers_the_earlier(order, middle):
    shapes = {1: square(6), 2: square(6, 3, 3)}
    annotation = PolygonAnnotation([LabelledPolygon(n, (shapes[n],)) for n in order])
    assert annotation.read_labels(Box(4, 4, 5, 5), (1, 1)).tolist() == [[middle]]


def test_an_ignored_polygon_takes_away_what_lies_below():
    annotation = PolygonAnnotation([LabelledPolygon(1, (square(6),)), LabelledPolygon(IGNORE, (square(2),))], 0)
    assert annotation.read_labels(Box(0, 0, 3, 3), (1, 1)).tolist() == [[255, 255, 1], [255, 255, 1], [1, 1, 1]]
