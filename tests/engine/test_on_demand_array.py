"""Basic indices pick what they pick of a NumPy array, and of the source only what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices
from numpy.typing import NDArray

from wsi_seg.engine import on_demand_array
from wsi_seg.engine.on_demand_array import OnDemandArray, cut
from wsi_seg.errors import UsageError

LABELS = np.random.default_rng(1).integers(0, 256, (37, 53), dtype=np.uint8)


class Made(OnDemandArray):
    """Takes from an array, and remembers what."""

    def __init__(self, labels: NDArray[Any] = LABELS) -> None:
        height, width = labels.shape
        super().__init__((height, width), labels.dtype, 16)
        self.labels = labels
        self.asked: list[tuple[range, range]] = []

    def _made(self, rows: range, columns: range) -> NDArray[Any]:
        assert rows
        assert columns
        assert rows.step > 0 < columns.step
        self.asked.append((rows, columns))
        return self.labels[np.ix_(rows, columns)]


@given(basic_indices(LABELS.shape, max_dims=2))
def test_an_index_picks_what_numpy_picks(key: Any) -> None:
    expected, picked = LABELS[key], Made()[key]
    assert type(picked) is type(expected)
    assert picked.shape == expected.shape
    assert picked.dtype == expected.dtype
    np.testing.assert_array_equal(picked, expected)


def test_no_more_is_made_than_is_picked() -> None:
    made = Made()
    made[5:3:1], made[4:9, ::-7], made[-1]
    assert made.asked == [(range(4, 9), range(3, 53, 7)), (range(36, 37), range(53))]


@pytest.mark.parametrize("key", [[1, 2], None, 1.5, True, np.True_, (0, 0, 0), (..., ...), 37, -38, (0, 53), "x"])
def test_what_is_no_basic_index_or_lies_outside_is_refused(key: Any) -> None:
    with pytest.raises(IndexError):
        Made()[key]


def test_rows_one_after_another() -> None:
    np.testing.assert_array_equal(np.stack(list(iter(Made()))), LABELS)
    assert len(Made()) == 37


@given(st.integers(0, 90), st.integers(1, 60), st.integers(1, 40), st.integers(1, 33))
def test_pieces_of_a_range(start: int, n: int, step: int, side: int) -> None:
    wanted = range(start, start + n * step, step)
    found = [(piece * side + px, px < side) for piece, _, places in cut(wanted, side) for px in range(500)[places]]
    assert found == [(px, True) for px in wanted]
    assert [place for _, at, _ in cut(wanted, side) for place in range(n)[at]] == list(range(n))
    pieces = [piece for piece, _, _ in cut(wanted, side)]
    assert pieces == sorted(set(pieces))


def test_as_a_numpy_array(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(np.asarray(Made()), LABELS)
    assert np.asarray(Made(), np.int32).dtype == np.int32
    with pytest.raises(ValueError, match="copy=False"):
        np.array(Made(), copy=False)
    monkeypatch.setattr(on_demand_array, "LARGEST_BY_ACCIDENT", LABELS.size - 1)
    with pytest.raises(UsageError, match="the whole of 37 x 53 labels"):
        np.asarray(Made())
    np.testing.assert_array_equal(Made()[:], LABELS)


def test_as_a_dask_array() -> None:
    made = Made()
    lazy = made.to_dask()
    assert not made.asked
    assert (lazy.shape, lazy.dtype, lazy.chunks) == (LABELS.shape, LABELS.dtype, ((16, 16, 5), (16, 16, 16, 5)))
    np.testing.assert_array_equal(lazy[20:23, 1:4].compute(), LABELS[20:23, 1:4])
    assert all(rows[0] >= 16 and columns[-1] < 16 for rows, columns in made.asked)
    np.testing.assert_array_equal(lazy.compute(), LABELS)
    assert Made().to_dask().name != lazy.name, "else Dask takes one for the other"
