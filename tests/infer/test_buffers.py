"""Memory of predictions: never shared by two arrays in use, and used again when it is not."""

from __future__ import annotations

import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.infer.runtime.buffers import Buffers


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take((2, 3, 4))
    address = _address(first)
    other = buffers.take((2, 3, 4))
    assert _address(other) != address
    del first
    assert _address(buffers.take((4, 3, 2))) == address  # as many bytes


def test_a_view_of_a_view_keeps_it() -> None:
    buffers = Buffers()
    array = buffers.take((1, 3, 8, 8))
    array[...] = 7
    part = array[0][:, 2:5][1:2, :, 3:]
    del array
    gc.collect()
    buffers.take((1, 3, 8, 8))[...] = 1
    assert (part == 7).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=30))
def test_arrays_in_use_never_share_memory(steps: list[tuple[bool, int]]) -> None:
    buffers, held = Buffers(), []
    for number, (takes, size) in enumerate(steps):
        if takes or not held:
            array = buffers.take((size, 16))
            array[...] = number
            held.append((number, array))
        else:
            held.pop(size % len(held))
    assert all((array == number).all() for number, array in held)


def test_what_was_handed_out_survives_clearing() -> None:
    buffers = Buffers()
    array = buffers.take((4,))
    array[...] = 3
    buffers.clear()
    buffers.take((4,))[...] = 1
    assert (array == 3).all()
