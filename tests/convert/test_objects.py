"""Objects are scipy's components of the whole map, whatever the strips; they are also what `evaluate` counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.convert.maps import NAMES, frame_for, label_maps, strips_of, wanted_in
from tests.convert.test_outlines import traced
from wsi_seg.convert.objects import objects_of
from wsi_seg.evaluate.objects import objects_of as evaluated_objects

PLACE = ((2.0, 3.5), (10.25, 7.0))


def found_in(labels, rows, chances=None):
    frame = frame_for(labels, *PLACE)
    return list(objects_of(strips_of(labels, rows, chances), frame, wanted_in(labels, (1, 2, 3)), NAMES, (0.25, 0.15)))


@settings(max_examples=150)
@given(label_maps(), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_objects_are_the_components_of_the_whole_map(labels, rows, seed):
    chances = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    found = {(entry.class_index, entry.first_px): entry for entry in found_in(labels, rows, chances)}
    expected = {}
    for index in (1, 2, 3):
        ids, n = ndimage.label(labels == index, np.ones((3, 3)))
        assert evaluated_objects(labels == index).max(initial=0) == n
        expected |= {(index, int(np.flatnonzero(ids.ravel() == k)[0])): ids == k for k in range(1, n + 1)}
    assert found.keys() == expected.keys()
    (step_y, step_x), (y0, x0) = PLACE
    for key, mask in expected.items():
        entry, (y, x) = found[key], np.nonzero(mask)
        assert entry.name == NAMES[key[0]]
        assert entry.n_px == mask.sum()
        assert entry.area_um2 == pytest.approx(mask.sum() * 0.5 * 0.52)
        centre = y0 + (y.mean() + 0.5) * step_y, x0 + (x.mean() + 0.5) * step_x
        assert entry.l0_centroid == pytest.approx(centre)
        assert entry.centroid_um == pytest.approx((centre[0] * 0.25, centre[1] * 0.15))
        assert entry.l0_box == (
            y0 + y.min() * step_y,
            x0 + x.min() * step_x,
            y0 + (y.max() + 1) * step_y,
            x0 + (x.max() + 1) * step_x,
        )
        assert entry.mean_probability == pytest.approx(chances[mask].mean() / 255)


@given(label_maps(), st.integers(1, 9))
def test_they_are_the_outlines_of_objects_in_the_same_order(labels, rows):
    outlines, found = traced(labels, rows, objects=True), found_in(labels, 4)
    assert [(o.class_index, o.first_px, o.n_px, o.perimeter_um) for o in outlines] == [
        (o.class_index, o.first_px, o.n_px, o.perimeter_um) for o in found
    ]
