"""Outlines are the pixels' edges, whatever the strips: areas, holes, validity, and the map itself come back."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from wsi_kernels import fill_polygons

from tests.convert.maps import NAMES, frame_for, label_maps, strips_of, wanted_in
from wsi_seg.convert.outlines import Outline, outlines_of

CLASSES = (1, 2, 3)
STRUCTURE = {False: ndimage.generate_binary_structure(2, 1), True: ndimage.generate_binary_structure(2, 2)}


def traced(labels, rows, objects=False, simplify_um=0.0, chances=None, classes=CLASSES) -> list[Outline]:
    strips = strips_of(labels, rows, chances)
    return list(outlines_of(strips, frame_for(labels), wanted_in(labels, classes), NAMES, (objects, simplify_um)))


def parts(geometry):
    return list(getattr(geometry, "geoms", [geometry]))


def rings_of(geometry):
    """(n, 2) as (y, x), as `fill_polygons` takes them."""
    return [np.array(r.coords)[:-1, ::-1].copy() for p in parts(geometry) for r in (p.exterior, *p.interiors)]


def components(labels, objects):
    """Masks of all regions, by class and first px."""
    found = {}
    for label in CLASSES:
        ids, n = ndimage.label(labels == label, STRUCTURE[objects])
        for k in range(1, n + 1):
            found[label, int(np.flatnonzero(ids.ravel() == k)[0])] = ids == k
    return found


@settings(max_examples=150)
@given(label_maps(), st.integers(1, 9), st.booleans())
def test_each_region_is_filled_back_exactly(labels, rows, objects):
    found = {(o.class_index, o.first_px): o for o in traced(labels, rows, objects)}
    expected = components(labels, objects)
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        outline = found[key]
        assert (fill_polygons(rings_of(outline.geometry), (0, 0, *labels.shape)) == mask).all()
        assert outline.geometry.is_valid
        assert outline.geometry.area == outline.n_px == mask.sum()
        assert outline.name == NAMES[key[0]]


@settings(max_examples=80)
@given(label_maps(), st.booleans())
def test_shapes_are_those_of_the_union_of_the_pixels(labels, objects):
    expected = components(labels, objects)
    for outline in traced(labels, 5, objects):
        y, x = np.nonzero(expected[outline.class_index, outline.first_px])
        union = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
        assert outline.geometry.equals(union)
        n_holes = sum(len(part.interiors) for part in parts(outline.geometry))
        assert n_holes == sum(len(part.interiors) for part in parts(union))
        assert len(parts(outline.geometry)) == len(parts(union))
        assert all(part.exterior.is_ccw for part in parts(outline.geometry))
        assert not any(ring.is_ccw for part in parts(outline.geometry) for ring in part.interiors)


@settings(max_examples=80)
@given(label_maps(), st.integers(1, 9), st.booleans(), st.sampled_from([0.0, 0.6]))
def test_any_strips_give_the_same(labels, rows, objects, simplify_um):
    whole = traced(labels, 99, objects, simplify_um)
    cut = traced(labels, rows, objects, simplify_um)
    assert [o.geometry.wkb for o in whole] == [o.geometry.wkb for o in cut]
    assert [(o.n_px, o.first_px, o.perimeter_um) for o in whole] == [(o.n_px, o.first_px, o.perimeter_um) for o in cut]


def turns_only(ring):
    steps = np.diff(np.array(ring.coords), axis=0)
    steps = np.vstack([steps, steps[:1]])
    return bool(((steps[:-1] != 0).any(axis=1) & ((steps[:-1] == 0) != (steps[1:] == 0)).any(axis=1)).all())


@given(label_maps(), st.integers(1, 4))
def test_corners_are_where_lines_turn_and_nowhere_else(labels, rows):
    for outline in traced(labels, rows):
        assert all(turns_only(ring) for ring in (outline.geometry.exterior, *outline.geometry.interiors))


@given(label_maps(), st.integers(1, 9), st.booleans())
def test_the_perimeter_is_the_outline_in_um(labels, rows, objects):
    for outline in traced(labels, rows, objects):
        um = shapely.transform(outline.geometry, lambda points: points * [0.52, 0.5])
        assert outline.perimeter_um == pytest.approx(um.length)
        assert outline.area_um2 == pytest.approx(um.area)


@given(label_maps(), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_mean_probability_is_that_of_the_regions_px(labels, rows, objects, seed):
    chances = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    expected = components(labels, objects)
    for outline in traced(labels, rows, objects, chances=chances):
        mask = expected[outline.class_index, outline.first_px]
        assert outline.mean_probability == pytest.approx(chances[mask].mean() / 255)
    assert all(o.mean_probability is None for o in traced(labels, rows))


HOLES_LEFT_OUTSIDE = "\n".join(
    [
        "1 1 1 255 0",
        "1 1 1 255 1",
        "1 0 0 1 1",
        *(["1 1 1 1 1"] * 5),
        *(["1 1 1 1 0"] * 2),
        *(["1 1 1 1 1"] * 3),
        "1 0 1 0 255",
        "255 1 1 1 255",
        *(["1 1 1 1 1"] * 2),
        "1 0 1 0 0",
        *(["1 1 1 1 1"] * 3),
        "1 1 1 255 1",
        "1 1 1 1 1",
    ]
)
"""A map whose outline, simplified by 2.5 px, is a triangle that leaves out holes."""


@settings(max_examples=300)
@example(np.loadtxt(HOLES_LEFT_OUTSIDE.splitlines(), np.uint8), 2.5, False)
@given(label_maps(40), st.sampled_from([0.3, 0.6, 1.0, 2.5, 9.0]), st.booleans())
def test_simplified_outlines_stay_valid_and_near(labels, tolerance, objects):
    exact, fewer = traced(labels, 9, objects), traced(labels, 9, objects, tolerance)
    assert len(exact) == len(fewer)
    for before, after in zip(exact, fewer, strict=True):
        assert after.geometry.is_valid
        assert after.area_um2 == before.area_um2
        assert shapely.get_num_coordinates(after.geometry) <= shapely.get_num_coordinates(before.geometry)
        one, other = (
            shapely.transform(o.geometry, lambda points: points * [0.52, 0.5]).boundary for o in (before, after)
        )
        assert shapely.hausdorff_distance(one, other, densify=0.1) <= tolerance + 1e-9  # of points all along both


def test_simplifying_leaves_corners_out():
    y, x = np.mgrid[:60, :60]
    labels = ((y - 30) ** 2 + (x - 30) ** 2 < 25**2).astype(np.uint8)
    (exact,), (fewer,) = traced(labels, 9), traced(labels, 9, False, 0.5)
    assert shapely.get_num_coordinates(fewer.geometry) < shapely.get_num_coordinates(exact.geometry) / 3


def test_a_line_of_many_pieces_joins():
    """A comb and a spiral cross every border many times."""
    labels = np.zeros((600, 61), np.uint8)
    labels[:-1, ::2] = 1
    labels[0] = 1
    labels[300, 1::4] = 1
    (outline,) = traced(labels, 1)
    assert outline.geometry.is_valid
    assert outline.geometry.area == labels.sum()
    assert len(outline.geometry.interiors) == 15


def test_nothing_to_trace():
    assert traced(np.zeros((5, 7), np.uint8), 2) == []
    assert traced(np.full((5, 7), 255, np.uint8), 2) == []


def test_a_hole_belongs_to_the_innermost_part_around_it():
    """An object whose inner part, with a hole of its own, hangs at a corner inside the hole of its outer part."""
    labels = np.ones((11, 11), np.uint8)
    labels[1:10, 1:10] = 0
    labels[1:7, 1:7] = 1
    labels[1, 1:7] = labels[1:7, 1] = 0
    labels[1, 1] = 1
    labels[3:5, 3:5] = 0
    (outline,) = traced(labels, 3, objects=True)
    outer, inner = outline.geometry.geoms
    assert (len(outer.interiors), len(inner.interiors)) == (1, 1)
    assert outline.geometry.is_valid
    assert (outer.area, inner.area) == (11 * 11 - 9 * 9 + 1, 25 - 4)


def test_only_rings_that_do_not_fit_stay_exact():
    """A big disc with many holes, of which some are nearer to each other than the tolerance."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:400, :400]
    labels = ((y - 200) ** 2 + (x - 200) ** 2 < 190**2).astype(np.uint8)
    for cy, cx, radius in rng.uniform((20, 20, 2), (380, 380, 9), (300, 3)):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 0
    exact, fewer = traced(labels, 64), traced(labels, 64, False, 1.2)
    for before, after in zip(exact, fewer, strict=True):
        assert after.geometry.is_valid
        assert len(after.geometry.interiors) == len(before.geometry.interiors)
    corners = [sum(shapely.get_num_coordinates(o.geometry) for o in found) for found in (exact, fewer)]
    assert corners[1] < corners[0] / 2
