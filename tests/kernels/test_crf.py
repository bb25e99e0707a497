"""The mean field is that of a plain float64 loop, and its bits depend on a px' neighbourhood alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import FieldShape, mean_field

from tests.kernels import naive

SHAPE = FieldShape(radius=2, iterations=3, colour=20.0, weight=4.0)


def image(rng, size, n_classes=3, hidden=0.0):
    """Priors in float32, pixels of two colours with noise, and which px are valid."""
    priors = rng.dirichlet(np.full(n_classes, 0.6), size).transpose(2, 0, 1).astype(np.float32)
    two = np.where(rng.random((*size, 1)) < 0.5, (200, 120, 160), (120, 80, 150))
    pixels = (two + rng.integers(-20, 20, (*size, 3))).astype(np.uint8)
    return np.ascontiguousarray(priors), pixels, rng.random(size) >= hidden


class TestValues:
    @pytest.mark.parametrize("seed", range(6))
    def test_equal_the_oracle(self, seed):
        rng = np.random.default_rng(seed)
        size = tuple(int(side) for side in rng.integers(1, 12, 2))
        priors, pixels, valid = image(rng, size, int(rng.integers(2, 5)), hidden=0.1)
        shape = FieldShape(
            int(rng.integers(1, 5)), int(rng.integers(1, 4)), float(rng.uniform(3, 80)), rng.uniform(0.5, 8)
        )
        out = mean_field(priors, pixels, valid, shape)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, naive.mean_field(priors, pixels, valid, shape), rtol=0, atol=2e-3)
        np.testing.assert_allclose(out.sum(0), valid, rtol=0, atol=1e-5)

    def test_the_greatest_weight_is_finite(self):
        priors = np.zeros((2, 9, 9), np.float32)
        priors[1] = 1
        pixels, valid = np.full((9, 9, 3), 77, np.uint8), np.ones((9, 9), bool)
        out = mean_field(priors, pixels, valid, replace(SHAPE, weight=32.0, iterations=9))
        assert np.isfinite(out).all()
        assert (out[1] > 0.999).all()

    def test_a_speck_takes_the_class_of_its_like_and_an_edge_stays(self):
        pixels = np.full((20, 20, 3), 220, np.uint8)
        pixels[:, 10:] = 90
        priors = np.full((2, 20, 20), 0.8, np.float32)
        priors[1, :, :10] = priors[0, :, 10:] = 0.2
        priors[:, 10, 4] = 0.45, 0.55
        priors[:, 10, 15] = 0.55, 0.45
        labels = mean_field(priors, pixels, np.ones((20, 20), bool), SHAPE).argmax(0)
        assert (labels == (np.arange(20) >= 10)).all()

    def test_not_valid_px_say_nothing(self):
        rng = np.random.default_rng(1)
        priors, pixels, valid = image(rng, (30, 31), hidden=0.3)
        out = mean_field(priors, pixels, valid, SHAPE)
        priors[:, ~valid] = np.float32(0.5)
        pixels[~valid] = 3
        np.testing.assert_array_equal(mean_field(priors, pixels, valid, SHAPE), out)
        assert not out[:, ~valid].any()


class TestBits:
    @settings(max_examples=40)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.data())
    def test_depend_on_the_neighbourhood_alone(self, seed, radius, iterations, data):
        """Any cut with the margin radius x iterations gives the bits of the whole, at any place in the array."""
        rng = np.random.default_rng(seed)
        size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 90))
        priors, pixels, valid = image(
            rng, size, data.draw(st.integers(2, 3)), hidden=data.draw(st.sampled_from([0, 0.2]))
        )
        shape = replace(SHAPE, radius=radius, iterations=iterations)
        whole = mean_field(priors, pixels, valid, shape)
        y, x = (data.draw(st.integers(0, side - 1)) for side in size)
        height, width = data.draw(st.integers(1, size[0] - y)), data.draw(st.integers(1, size[1] - x))
        reach = radius * iterations
        top, left = max(0, y - reach), max(0, x - reach)
        seen = np.s_[..., top : y + height + reach, left : x + width + reach]
        part = mean_field(priors[seen], pixels.transpose(2, 0, 1)[seen].transpose(1, 2, 0), valid[seen], shape)
        cut = part[:, y - top : y - top + height, x - left : x - left + width]
        np.testing.assert_array_equal(cut.view(np.uint32), whole[:, y : y + height, x : x + width].view(np.uint32))

    def test_a_smaller_margin_is_seen(self):
        priors, pixels, valid = image(np.random.default_rng(2), (20, 60))
        whole = mean_field(priors, pixels, valid, SHAPE)
        assert (mean_field(priors[:, :, 5:], pixels[:, 5:], valid[:, 5:], SHAPE)[:, :, 5:] != whole[:, :, 10:]).any()
        assert (mean_field(priors[:, :, 5:], pixels[:, 5:], valid[:, 5:], SHAPE)[:, :, 6:] == whole[:, :, 11:]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"radius": 0}, "radius 1"), ({"radius": 17}, "radius 1"), ({"iterations": 0}, "iterations at least 1"),
     ({"colour": 0.0}, "colour above 0"), ({"weight": 33.0}, "weight above 0"), ({"weight": float("nan")}, "weight")],
)  # fmt: skip
def test_refusals(change, says):
    with pytest.raises(ValueError, match=says):
        mean_field(*image(np.random.default_rng(0), (4, 4)), replace(SHAPE, **change))


def test_shapes_are_checked():
    priors, pixels, valid = image(np.random.default_rng(0), (4, 4))
    with pytest.raises(ValueError, match="at least two"):
        mean_field(priors[:1], pixels, valid, SHAPE)
    with pytest.raises(ValueError, match="pixels is uint8"):
        mean_field(priors, pixels[:3], valid, SHAPE)
    with pytest.raises(TypeError, match="valid is uint8"):
        mean_field(priors, pixels, valid.view(np.uint8), SHAPE)
