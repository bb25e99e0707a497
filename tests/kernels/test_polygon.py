"""Filled polygons equal the exact even-odd rule, and neighbours share every edge without gap or overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import fill_polygons

from tests.kernels import naive

BOX = (-3, 2, 9, 15)
QUARTERS = st.integers(-24, 72).map(lambda value: value / 4)  # many corners and edges on pixel centres
RINGS = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=7).map(np.array)


def _ring(*points):
    return np.array(points, np.float64)


class TestFill:
    @settings(max_examples=120)
    @given(st.lists(RINGS, min_size=1, max_size=3))
    def test_equals_the_oracle(self, rings):
        # with corners on quarters, a crossing on a pixel centre has no rounding error and others are far from one
        assert (fill_polygons(rings, BOX) == naive.fill_polygons(rings, BOX)).all()

    @settings(max_examples=60)
    @given(st.lists(RINGS, min_size=1, max_size=3))
    def test_direction_start_and_closing_do_not_matter(self, rings):
        out = fill_polygons(rings, BOX)
        turned = [np.roll(ring[::-1], 2, axis=0) for ring in rings][::-1]
        closed = [np.vstack([ring, ring[:1]]) for ring in turned]
        assert (fill_polygons(turned, BOX) == out).all()
        assert (fill_polygons(closed, BOX) == out).all()

    @settings(max_examples=60)
    @given(st.lists(RINGS, min_size=1, max_size=2))
    def test_any_cut_gives_the_same_pixels(self, rings):
        y0, x0, y1, x1 = BOX
        whole = fill_polygons(rings, BOX)
        assert (fill_polygons(rings, (y0 + 4, x0 + 5, y1 - 1, x1 - 2)) == whole[4:-1, 5:-2]).all()

    def test_hole_and_island(self):
        rings = [_ring((side, side), (side, 9 - side), (9 - side, 9 - side), (9 - side, side)) for side in (0, 2, 4)]
        out = fill_polygons(rings, (0, 0, 9, 9))
        assert out.sum() == 81 - 25 + 1
        assert out.dtype == np.bool_

    def test_nothing_inside(self):
        assert not fill_polygons([], BOX).any()
        assert not fill_polygons([np.empty((0, 2)), _ring((0, 3)), _ring((0, 3), (8, 14))], BOX).any()
        assert fill_polygons([_ring((0, 0), (0, 9), (9, 9))], (5, 5, 5, 9)).shape == (0, 4)


class TestPartition:
    @settings(max_examples=100)
    @given(st.integers(0, 2**32 - 1), st.integers(3, 12))
    def test_a_fan_of_triangles_partitions_the_plane(self, seed, n):
        """Triangles round one point that share edges of arbitrary slope cover each pixel at most once, together all."""
        rng = np.random.default_rng(seed)
        angle = np.sort(rng.uniform(0, 2 * np.pi, n)) + 0.1
        rim = np.stack([8 + 40 * np.sin(angle), 8 + 40 * np.cos(angle)], 1)
        centre = rng.uniform(4, 12, 2).round(1)
        triangles = [np.stack([centre, rim[k], rim[(k + 1) % n]]) for k in range(n)]
        counts = sum(fill_polygons([triangle], (0, 0, 16, 16)).astype(int) for triangle in triangles)
        together = fill_polygons([rim], (0, 0, 16, 16))
        assert ((counts % 2 == 1) == together).all()
        if (
            np.diff(np.append(angle, angle[0] + 2 * np.pi)).max() < 2.5
        ):  # the centre is well inside: no triangle folds over
            assert (counts == 1).all()

    def test_edges_through_pixel_centres(self):
        left, right = (_ring((0, x), (0, x + 4.5), (9, x + 4.5), (9, x)) for x in (0, 4.5))
        box = (0, 0, 9, 9)
        assert (fill_polygons([left], box) ^ fill_polygons([right], box)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**41])
def test_refuses_coordinates_out_of_range(value):
    with pytest.raises(ValueError, match="coordinates must be finite"):
        fill_polygons([_ring((0, 0), (0, value), (1, 1))], BOX)


def test_refuses_another_shape():
    with pytest.raises(ValueError, match=r"ring is float64 \(3, 3\); expected float64 \(n, 2\)"):
        fill_polygons([np.zeros((3, 3))], BOX)
