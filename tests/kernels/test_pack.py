"""Packing equals NumPy bit for bit, in both layouts and channel orders, from views as well."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import pack_nchw, pack_nhwc

from tests.kernels import naive


@st.composite
def batches(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 70))
    parent = rng.integers(0, 256, (n + 1, height + 2, width + 3, 3), dtype=np.uint8)
    kind = draw(st.sampled_from(["whole", "view", "channels"]))
    batch = parent if kind == "whole" else parent[1:, 1:-1, 2:-1]
    batch = np.repeat(batch, 2, axis=3)[..., :3] if kind == "channels" else batch
    return batch, *rng.normal(0, 2, (2, 3)).astype(np.float32)


class TestPack:
    @settings(max_examples=60)
    @given(batches(), st.booleans())
    def test_nchw_equals_numpy(self, arguments, reverse):
        batch, scale, shift = arguments
        n, height, width, _ = batch.shape
        parent = np.zeros((n, 3, height + 1, width + 5), np.float32)
        out = parent[:, :, 1:, 2 : width + 2]
        pack_nchw(batch, scale, shift, reverse, out)
        assert (out == naive.pack_nhwc(batch, scale, shift, reverse).transpose(0, 3, 1, 2)).all()
        out[:] = 0
        assert not parent.any()

    @settings(max_examples=60)
    @given(batches(), st.booleans())
    def test_nhwc_equals_numpy(self, arguments, reverse):
        batch, scale, shift = arguments
        out = np.empty(batch.shape, np.float32)
        pack_nhwc(batch, scale, shift, reverse, out)
        assert (out == naive.pack_nhwc(batch, scale, shift, reverse)).all()

    def test_reversed_output_is_bgr_and_scales_follow_the_output(self):
        batch = np.array([10, 20, 30], np.uint8).reshape(1, 1, 1, 3)
        out = np.empty((1, 3, 1, 1), np.float32)
        pack_nchw(batch, np.float32([1, 2, 3]), np.float32([0.5, 0, 0]), True, out)
        assert out.ravel().tolist() == [30.5, 40, 30]

    def test_refusals_name_the_value(self):
        batch, ones, out = np.zeros((1, 2, 2, 3), np.uint8), np.ones(3, np.float32), np.zeros((1, 3, 2, 2), np.float32)
        with pytest.raises(ValueError, match=r"out is float32 \(1, 3, 2, 2\); expected float32 \(1, 2, 2, 3\)"):
            pack_nhwc(batch, ones, ones, False, out)
        with pytest.raises(ValueError, match=r"batch is uint8 \(2, 2, 3\)"):
            pack_nchw(batch[0], ones, ones, False, out)
        with pytest.raises(TypeError, match="scale is float64"):
            pack_nchw(batch, np.ones(3), ones, False, out)
        with pytest.raises(ValueError, match="C-contiguous"):
            pack_nhwc(batch, ones, ones, False, np.zeros((1, 2, 4, 3), np.float32)[:, :, ::2])
