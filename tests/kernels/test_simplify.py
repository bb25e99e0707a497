"""Corners that are left out lie within the tolerance of what replaces them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import kept_corners

CORNERS = st.lists(st.tuples(*[st.integers(-9, 9)] * 2), min_size=3, max_size=14, unique=True)


def left_out(ring, kept):
    """Largest distance of a corner left out from the side in its place, by looking at many points of that side."""
    stays, worst = np.flatnonzero(kept), 0.0
    for a, b in zip(stays, np.roll(stays, -1), strict=True):
        side = np.linspace(ring[a], ring[b], 2001)
        for k in range(a + 1, b if b > a else b + len(ring)):
            worst = max(worst, np.hypot(*(side - ring[k % len(ring)]).T).min())
    return worst


@settings(max_examples=200)
@given(st.lists(CORNERS, min_size=1, max_size=3), st.sampled_from([0.1, 0.8, 2.0, 50.0]))
def test_rings_stay_within_the_tolerance(corners, tolerance):
    rings = [np.array(ring, np.float64) for ring in corners]
    kept = kept_corners(np.concatenate(rings), np.cumsum([len(ring) for ring in rings]), tolerance)
    for ring, part in zip(rings, np.split(kept, np.cumsum([len(ring) for ring in rings])[:-1]), strict=True):
        assert part[0]
        assert part.sum() >= 3
        assert left_out(ring, part) <= tolerance + 0.02


@given(CORNERS, st.sampled_from([0.5, 1.5]))
def test_what_stays_is_needed(corners, tolerance):
    """Leaving out a corner that was kept for its distance would move the ring too far: each but the first two."""
    ring = np.array(corners, np.float64)
    kept = kept_corners(ring, np.array([len(ring)]), tolerance)
    if kept.all():
        return
    assert kept.sum() < len(ring)
    far = np.argmax(((ring - ring[0]) ** 2).sum(axis=1))
    assert kept[far]


def test_a_long_stair_becomes_a_slope():
    n = 5000
    stair = np.repeat(np.arange(n), 2)[1:]
    line = np.stack([stair, np.repeat(np.arange(n), 2)[:-1]], axis=1).astype(np.float64)
    ring = np.vstack([line, [[n - 1.0, 0.0]]])
    assert kept_corners(ring, np.array([len(ring)]), 1.0).sum() == 3


def test_what_does_not_fit_is_refused():
    ring = np.zeros((4, 2))
    with pytest.raises(TypeError, match="points"):
        kept_corners(ring.astype(int), np.array([4]), 1.0)
    for stops in ([2, 4], [5]):
        with pytest.raises(ValueError, match="stops"):
            kept_corners(ring, np.array(stops), 1.0)
    for tolerance in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="tolerance"):
            kept_corners(ring, np.array([4]), tolerance)
