"""Regions of bands equal flooding, and what is counted of them equals counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import Count, count_regions, label_regions

from tests.kernels import naive

WANTED = {np.uint8: np.arange(256) % 255 != 0, np.uint16: np.arange(65536) % 65535 != 0}


@st.composite
def bands(draw):
    """Labels (h, w), the row above (w,), and ids of its runs, of which some belong together."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    values = draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=(height + 1) * width, max_size=(height + 1) * width))
    rows = np.array(values, dtype).reshape(height + 1, width)
    above = rows[0]
    runs = np.cumsum(np.diff(above.astype(int), prepend=-1) != 0)
    joined = np.where(WANTED[dtype][above], [draw(st.sampled_from([0, 100])) + above[j] for j in range(width)], 0)
    joined = np.array([joined[np.flatnonzero(runs == run)[0]] for run in runs])  # a run is one region
    joined = np.where(joined < 100, np.where(joined > 0, 1000 + runs, 0), joined)
    values = np.unique(joined[joined > 0])
    return rows[1:], above, np.where(joined > 0, np.searchsorted(values, joined) + 1, 0).astype(np.int32)


def same(a, b):
    """Whether two numberings part pixels alike."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)) | {(0, 0)}
    return len(pairs) == len({p for p, _ in pairs}) == len({q for _, q in pairs})


@settings(max_examples=300)
@given(bands(), st.booleans())
def test_regions_are_those_of_flooding(band, diagonal):
    labels, above, above_ids = band
    wanted = WANTED[labels.dtype.type]
    ids, became, n = label_regions(labels, above, above_ids, wanted, diagonal)
    assert same(np.vstack([became[above_ids], ids]), naive.label_regions(labels, above, above_ids, wanted, diagonal))
    assert sorted(set(ids.ravel().tolist()) | set(became.tolist()) | {0}) == list(range(n + 1))


@settings(max_examples=150)
@given(bands(), st.booleans(), st.integers(0, 2**32 - 1))
def test_counts_are_those_of_counting(band, diagonal, seed):
    labels, above, above_ids = band
    chances = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    ids, became, n = label_regions(labels, above, above_ids, WANTED[labels.dtype.type], diagonal)
    counts = count_regions(labels, ids, became[above_ids], n, 40, chances)
    for k, expected in naive.count_regions(labels, ids, became[above_ids], 40, chances).items():
        if k and len(expected) == len(Count):
            assert tuple(counts[k]) == expected
        elif k:
            assert tuple(counts[k, [Count.LEVEL_SIDES, Count.UPRIGHT_SIDES]]) == expected
            assert counts[k, Count.N_PX] == 0
    assert (count_regions(labels, ids, became[above_ids], n, 40)[:, Count.CHANCE] == 0).all()


def test_what_does_not_fit_is_refused():
    labels, above, ids = np.ones((2, 3), np.uint8), np.ones(3, np.uint8), np.ones(3, np.int32)
    wanted = WANTED[np.uint8]
    with pytest.raises(TypeError, match="labels"):
        label_regions(labels.astype(int), above, ids, wanted, False)
    with pytest.raises(TypeError, match="above"):
        label_regions(labels, above.astype(np.uint16), ids, wanted, False)
    with pytest.raises(ValueError, match="wanted"):
        label_regions(labels, above, ids, WANTED[np.uint16], False)
    with pytest.raises(ValueError, match="each of them present"):
        label_regions(labels, above, 2 * ids, wanted, False)
    band = np.ones((2, 3), np.int32)
    with pytest.raises(ValueError, match=r"leave 0 … 0"):
        count_regions(labels, band, ids, 0, 0)
    with pytest.raises(ValueError, match="chances"):
        count_regions(labels, band, ids, 1, 0, np.zeros((1, 3), np.uint8))
