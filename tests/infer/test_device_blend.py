"""Blending in torch gives the bits of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import quantise

torch = pytest.importorskip("torch")

SPECIAL = [0, 1, 0.5, -0.0, -0.01, 1.01, -0.02, 1.02, np.nan, np.inf, -np.inf, 0.25]


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(-9, 20), st.integers(-9, 20), st.integers(0, 2**31), st.integers(0, 2))
def test_same_bits(where: str, n: int, y: int, x: int, seed: int, n_special: int) -> None:
    from wsi_seg.engine.sums import HostBlend
    from wsi_seg.infer.device.device_blend import TorchBlend, TorchTile

    rng = np.random.default_rng(seed)
    host, device = HostBlend(), TorchBlend(torch.device(where))
    sums = host.zeros((n, 18, 21)), device.zeros((n, 18, 21))
    for _ in range(3):
        tile = (rng.integers(0, 5, (n, 12, 10)) / 4).astype(np.float32)  # many ties
        if rng.random() < 0.5:
            tile = rng.uniform(-0.01, 1.01, tile.shape).astype(np.float32)
        tile.flat[rng.integers(0, tile.size, n_special)] = rng.choice(SPECIAL)
        # six times 104 x 104 stays below 65536, as the weights of a grid do
        weights = tuple(rng.choice([0, 1, 80, 104], side).astype(np.uint32) for side in (12, 10))
        part = slice(2, 9), slice(1, 8)
        sound = host.is_sound(tile, *part)
        there = TorchTile(torch.from_numpy(tile).to(where))
        assert device.is_sound(there, *part) == sound
        if sound:
            np.testing.assert_array_equal(device.quantised(there, *part), host.quantised(tile, *part))
        verdict = sums[0].add_prediction(tile, weights, y, x)
        assert sums[1].add_prediction(there if rng.random() < 0.5 else tile, weights, y, x) == verdict
        levels = np.zeros(tile.shape, np.uint16)
        quantise(np.nan_to_num(tile), levels)
        for one in sums:
            one.add(levels, weights, x, y)
    for move in (False, True):
        if move:
            for one in sums:
                one.move_up(5, 16)
        _assert_same(sums, n)


def _assert_same(sums: tuple, n: int) -> None:
    for dtype in (np.uint8, np.uint16):
        labels = [np.full((18, 21), 9, dtype) for _ in sums]
        for one, out in zip(sums, labels, strict=True):
            one.label(0.25, out)
        np.testing.assert_array_equal(*labels)
    small, wide = ([np.zeros((n, 18, 21), dtype) for _ in sums] for dtype in (np.uint8, np.uint16))
    for one, out8, out16 in zip(sums, small, wide, strict=True):
        one.probabilities_uint8(out8)
        one.blended_uint16(out16)
    np.testing.assert_array_equal(*small)
    np.testing.assert_array_equal(*wide)
