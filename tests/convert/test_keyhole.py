"""A ring with slits fills the same pixels as the polygon with its holes."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import fill_polygons

from tests.convert.maps import label_maps
from tests.convert.test_outlines import rings_of, traced
from wsi_seg.convert.keyhole import keyhole_ring


@settings(max_examples=150)
@given(label_maps(40), st.sampled_from([0.0, 0.6]))
def test_the_same_px_are_inside(labels, simplify_um):
    for outline in traced(labels, 9, simplify_um=simplify_um):
        rings = rings_of(outline.geometry)
        one = keyhole_ring(rings)
        box = (0, 0, *labels.shape)
        assert (fill_polygons([one], box) == fill_polygons(rings, box)).all()


@settings(max_examples=100)
@given(label_maps(40))
def test_slits_stay_inside_and_are_gone_both_ways(labels):
    for outline in traced(labels, 9):
        ring = keyhole_ring(rings_of(outline.geometry))[:, ::-1]
        line = shapely.LineString(np.vstack([ring, ring[:1]]))
        assert outline.geometry.covers(line)
        edges = {}
        for a, b in zip(map(tuple, ring.tolist()), map(tuple, np.roll(ring, -1, axis=0).tolist()), strict=True):
            edges[a, b] = edges.get((a, b), 0) + 1
        inside = [e for e in edges if not outline.geometry.boundary.covers(shapely.LineString(e))]
        assert all(edges[a, b] == edges.get((b, a)) for a, b in inside)


def test_many_holes_in_a_row():
    labels = np.ones((5, 4001), np.uint8)
    labels[2, 1::2] = 0
    (outline,) = traced(labels, 9)
    ring = keyhole_ring(rings_of(outline.geometry))
    assert (fill_polygons([ring], (0, 0, 5, 4001)) == (labels == 1)).all()


def test_slits_on_one_edge_are_met_in_order():
    """Down the left side and up the right side of a wall: nothing of it is gone along twice."""
    labels = np.ones((20, 16), np.uint8)
    labels[2:18:4, 3] = 0  # slits to the left edge, which runs upwards
    labels[3:19:4, 12] = 0  # past no other hole: to the left edge too
    labels[1:19, 7] = 0  # a wall, so that those end on its right side, which runs downwards as a hole's
    (outline,) = traced(labels, 9)
    ring = keyhole_ring(rings_of(outline.geometry))
    length = np.abs(ring - np.roll(ring, -1, axis=0)).sum()
    assert length == outline.geometry.length + 2 * (4 * 3 + 4 * 4 + 7)
