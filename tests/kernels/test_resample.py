"""Area resampling equals the exact area mean, from whichever cut it is computed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import area_resample, area_source_box

from tests.kernels import naive

SEEDS = st.integers(0, 2**32 - 1)
FACTORS = st.one_of(
    st.fractions(Fraction(1, 4), 6, max_denominator=40),
    st.sampled_from([Fraction(1), Fraction(2), Fraction(4), Fraction(1, 2), Fraction(3), Fraction(19992, 10000)]),
)


@st.composite
def boxes(draw, side=9):
    y, x = draw(st.integers(-20, 300)), draw(st.integers(-20, 300))
    return y, x, y + draw(st.integers(1, side)), x + draw(st.integers(1, side))


def _source(seed, needed, extra=0):
    """Random level px covering `needed`, and their origin."""
    y0, x0, y1, x1 = needed
    size = y1 - y0 + 2 * extra, x1 - x0 + 3 * extra, 3
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8), (y0 - extra, x0 - 2 * extra)


class TestArea:
    @settings(max_examples=150)
    @given(SEEDS, boxes(), FACTORS, FACTORS, st.integers(0, 3))
    def test_equals_the_exact_mean(self, seed, box, fy, fx, extra):
        factor = float(fy), float(fx)
        source, origin = _source(seed, area_source_box(box, factor), extra)
        exact = naive.area_mean(source, origin, (fy, fx), box)
        out = area_resample(source, origin, factor, box)
        assert out.dtype == np.uint8
        bound = 255 * (factor[0] + factor[1] + 8) / 2**24 + 1e-3  # 1e-3: ends of footprints snapped by 1e-6 px
        assert abs(out - exact).max() <= 0.5 + bound

    @settings(max_examples=40)
    @given(SEEDS, boxes(), st.sampled_from([1, 2, 4, 8, 0.5, 0.25]), st.sampled_from([1, 2, 4, 16, 0.5]))
    def test_powers_of_two_are_exact_half_up(self, seed, box, fy, fx):
        source, origin = _source(seed, area_source_box(box, (fy, fx)))
        source //= 64  # few values: many exact halves
        exact = naive.area_mean(source, origin, (Fraction(fy), Fraction(fx)), box)
        assert (area_resample(source, origin, (fy, fx), box) == np.floor(exact + 0.5)).all()

    @settings(max_examples=100)
    @given(SEEDS, boxes(side=40), FACTORS, FACTORS, st.data())
    def test_any_cut_gives_the_same_bits(self, seed, box, fy, fx, cuts):
        factor = float(fy), float(fx)
        source, origin = _source(seed, area_source_box(box, factor))
        whole = area_resample(source, origin, factor, box)
        y0, x0 = cuts.draw(st.integers(box[0], box[2] - 1)), cuts.draw(st.integers(box[1], box[3] - 1))
        part = y0, x0, cuts.draw(st.integers(y0 + 1, box[2])), cuts.draw(st.integers(x0 + 1, box[3]))
        needed = area_source_box(part, factor)
        own = source[needed[0] - origin[0] : needed[2] - origin[0], needed[1] - origin[1] : needed[3] - origin[1]]
        expected = whole[part[0] - box[0] : part[2] - box[0], part[1] - box[1] : part[3] - box[1]]
        assert (area_resample(source, origin, factor, part) == expected).all()
        assert (area_resample(own.copy(), needed[:2], factor, part) == expected).all()

    @settings(max_examples=40)
    @given(boxes(side=40), st.integers(0, 255), st.floats(0.2, 30), st.floats(0.2, 30))
    def test_a_constant_comes_back(self, box, value, fy, fx):
        y0, x0, y1, x1 = area_source_box(box, (fy, fx))
        source = np.full((y1 - y0, x1 - x0, 3), value, np.uint8)
        assert (area_resample(source, (y0, x0), (fy, fx), box) == value).all()

    def test_far_from_the_origin(self):
        box, factor = (1_000_000, 2_000_000, 1_000_007, 2_000_009), (1.9992, 2.0008)
        source, origin = _source(3, area_source_box(box, factor))
        exact = naive.area_mean(source, origin, (Fraction(19992, 10000), Fraction(20008, 10000)), box)
        assert abs(area_resample(source, origin, factor, box) - exact).max() <= 0.502

    @pytest.mark.parametrize("factor", [(1, 1), (2, 2), (1.5, 1.5)])
    def test_views(self, factor):
        parent = np.random.default_rng(0).integers(0, 256, (12, 14, 4), dtype=np.uint8)
        view, box = parent[2:11, 3:12, :3], (0, 0, 4, 4)
        expected = area_resample(view.copy(), (0, 0), factor, box)
        assert (area_resample(view, (0, 0), factor, box) == expected).all()
        assert (
            area_resample(view[:, ::-1], (0, 0), factor, box)
            == area_resample(view[:, ::-1].copy(), (0, 0), factor, box)
        ).all()

    def test_empty_box(self):
        assert area_resample(np.zeros((4, 4, 3), np.uint8), (0, 0), (2, 2), (1, 1, 1, 2)).shape == (0, 1, 3)

    def test_result_of_factor_1_is_the_callers_own(self):
        source = np.ones((4, 4, 3), np.uint8)
        area_resample(source, (0, 0), (1, 1), (0, 0, 4, 4))[:] = 9
        assert (source == 1).all()


class TestSourceBox:
    @pytest.mark.parametrize(
        ("box", "factor", "expected"),
        [
            ((0, 0, 3, 3), (2, 4), (0, 0, 6, 12)),
            ((1, 1, 2, 2), (1.5, 0.5), (1, 0, 3, 1)),
            ((-1, 0, 1, 1), (2.5, 1), (-3, 0, 3, 1)),
            ((0, 0, 3, 3), (10 / 3, 10 / 3), (0, 0, 10, 10)),
            ((0, 0, 33333, 1), (100000 / 33333, 1), (0, 0, 100000, 1)),
            ((0, 0, 3, 50), (1, 1.1), (0, 0, 3, 55)),  # 50 * 1.1 is 55.00000000000001
        ],
    )
    def test_literal(self, box, factor, expected):
        assert area_source_box(box, factor) == expected

    @settings(max_examples=60)
    @given(boxes(), FACTORS, FACTORS)
    def test_one_pixel_less_is_refused_with_values(self, box, fy, fx):
        factor = float(fy), float(fx)
        y0, x0, y1, x1 = area_source_box(box, factor)
        for cut in ((y0 + 1, x0, y1, x1), (y0, x0 + 1, y1, x1), (y0, x0, y1 - 1, x1), (y0, x0, y1, x1 - 1)):
            source = np.zeros((cut[2] - cut[0], cut[3] - cut[1], 3), np.uint8)
            with pytest.raises(ValueError, match=r"source covers level px .* needs"):
                area_resample(source, cut[:2], factor, box)


@pytest.mark.parametrize("factor", [(0, 1), (1, float("nan")), (1, 257), (-2, 1), (float("inf"), 1)])
def test_refuses_a_factor_out_of_range(factor):
    with pytest.raises(ValueError, match="factor"):
        area_source_box((0, 0, 1, 1), factor)
