"""The window is an exact, monotone partition of 256 for every shape, size and margin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsi_kernels import axis_window
from wsi_kernels.window import KINDS


@st.composite
def ramps(draw):
    tile = draw(st.integers(1, 300))
    overlap = draw(st.integers(0, tile // 2))
    return tile, overlap, draw(st.sampled_from(KINDS)), draw(st.integers(0, overlap // 2))


class TestPartition:
    @given(ramps())
    def test_neighbours_sum_to_256_in_every_pixel(self, ramp):
        tile, overlap, kind, margin = ramp
        weights = axis_window(tile, overlap, kind, margin, first=False, last=False)
        assert weights.dtype == np.uint32
        assert weights.shape == (tile,)
        leading, trailing = weights[:overlap], weights[tile - overlap :]
        assert (leading + trailing == 256).all()
        assert (weights[overlap : tile - overlap] == 256).all()

    @given(ramps())
    def test_ramps_are_monotone_and_symmetric(self, ramp):
        tile, overlap, kind, margin = ramp
        leading = axis_window(tile, overlap, kind, margin, first=False, last=True)[:overlap].astype(int)
        assert (np.diff(leading) >= 0).all()
        assert (leading[:margin] == 0).all()
        assert (leading[overlap - margin :] == 256).all()
        if kind != "crop" or overlap % 2 == 0:
            assert (leading + leading[::-1] == 256).all()

    @given(ramps(), st.integers(1, 5))
    def test_a_row_of_tiles_weighs_256_from_end_to_end(self, ramp, n):
        tile, overlap, kind, margin = ramp
        stride = tile - overlap
        total = np.zeros(stride * (n - 1) + tile, int)
        for k in range(n):
            weights = axis_window(tile, overlap, kind, margin, first=k == 0, last=k == n - 1)
            total[k * stride : k * stride + tile] += weights.astype(int)
        assert (total == 256).all()


class TestLiteral:
    @pytest.mark.parametrize(
        ("kind", "margin", "ramp"),
        [
            ("linear", 0, [21, 64, 107, 149, 192, 235]),
            ("linear", 1, [0, 32, 96, 160, 224, 256]),
            ("cosine", 0, [4, 37, 95, 161, 219, 252]),
            ("crop", 0, [0, 0, 0, 256, 256, 256]),
            ("crop", 3, [0, 0, 0, 256, 256, 256]),
            ("linear", 3, [0, 0, 0, 256, 256, 256]),
        ],
    )
    def test_ramp(self, kind, margin, ramp):
        assert axis_window(20, 6, kind, margin, first=False, last=True)[:6].tolist() == ramp

    def test_gaussian_is_the_normalised_pair_of_gaussians(self):
        tile, overlap = 64, 24
        weights = axis_window(tile, overlap, "gaussian", first=False, last=False)
        at = np.arange(tile) + 0.5
        bell = np.exp(-(((at - tile / 2) / (tile / 8)) ** 2) / 2)
        expected = 256 * bell[:overlap] / (bell[:overlap] + bell[tile - overlap :])
        assert abs(weights[:overlap] - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 5, "linear"), "overlap 5 of tile 8"),
        ((8, -1, "linear"), "overlap -1 of tile 8"),
        ((0, 0, "linear"), "overlap 0 of tile 0"),
        ((8, 4, "linear", 3), "margin 3 of overlap 4"),
        ((8, 4, "linear", -1), "margin -1 of overlap 4"),
        ((8, 4, "square"), "window 'square'"),
    ],
)
def test_refusals_name_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        axis_window(*arguments, first=False, last=False)
