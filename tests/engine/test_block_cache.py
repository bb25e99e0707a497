"""A block is made once however many ask, what is kept stays within the budget, and small levels outlive large ones."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.engine.block_cache import Block, BlockCache

SIDE, N_LEVELS = 256, 4
WHOLE = SIDE**2 + (SIDE // 2) ** 2 + (SIDE // 4) ** 2 + (SIDE // 8) ** 2
SMALL = (SIDE // 4) ** 2 + (SIDE // 8) ** 2


def made(block: Block) -> NDArray[np.uint8]:
    """Two labels by turns, so that nothing is alike."""
    labels = np.full((SIDE, SIDE), block[0] % 99, np.uint8)
    labels[:, 1::2] = 100 + block[1]
    return labels


def quarter(labels: NDArray[Any]) -> NDArray[Any]:
    return labels[: len(labels) // 2, : len(labels) // 2].copy()


def cache(budget: int, make: Any = made) -> BlockCache:
    return BlockCache(make, quarter, N_LEVELS, budget)


def test_all_levels_are_made_at_once_and_found_again() -> None:
    makes: list[Block] = []
    kept = cache(10 * WHOLE, lambda block: makes.append(block) or made(block))  # type: ignore[func-returns-value]
    assert kept.find((1, 2), 0) is None
    for level in range(N_LEVELS):
        labels = kept.get((1, 2), level)
        np.testing.assert_array_equal(labels, made((1, 2))[: SIDE >> level, : SIDE >> level])
        assert kept.find((1, 2), level) is labels
        assert not labels.flags.writeable
    assert makes == [(1, 2)]
    assert kept.used_bytes == WHOLE
    kept.clear()
    assert kept.find((1, 2), 3) is None
    assert kept.used_bytes == 0


@given(st.integers(0, 5 * WHOLE), st.lists(st.tuples(st.integers(0, 6), st.integers(0, N_LEVELS - 1)), max_size=20))
def test_the_budget_holds_and_answers_are_right(budget: int, asked: list[tuple[int, int]]) -> None:
    kept = cache(budget)
    for row, level in asked:
        np.testing.assert_array_equal(kept.get((row, 3), level), made((row, 3))[: SIDE >> level, : SIDE >> level])
        held = [
            sum(labels.nbytes for at in range(N_LEVELS) if (labels := kept.find((n, 3), at)) is not None)
            for n in range(7)
        ]
        assert kept.used_bytes == sum(held) <= budget
        assert budget < WHOLE or kept.find((row, 3), level) is not None, "what was asked for last is kept"


def test_the_longest_unused_goes_first_and_small_levels_last() -> None:
    kept = cache(2 * WHOLE + 4 * SMALL)
    for row in (0, 1, 0, 2):
        kept.get((row, 0), 0)
    assert [kept.find((row, 0), 1) is not None for row in range(3)] == [True, False, True]
    assert all(kept.find((row, 0), level) is not None for row in range(3) for level in (2, 3))
    for row in range(3, 300):
        kept.get((row, 0), 0)
    assert kept.find((0, 0), 3) is None, "in the end they go, too"
    assert kept.used_bytes <= 2 * WHOLE + 4 * SMALL
    assert kept.find((299, 0), 0) is not None, "and leave room for what is looked at"


def test_labels_that_are_all_alike_take_no_room() -> None:
    kept = cache(SMALL, lambda _: np.full((SIDE, SIDE), 7, np.uint8))
    for row in range(100):
        assert (kept.get((row, 0), 0) == 7).all()
    assert kept.used_bytes == 100 * N_LEVELS
    assert kept.find((0, 0), 0) is not None


def test_a_view_does_not_keep_what_it_is_a_part_of() -> None:
    whole = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    assert BlockCache(lambda _: whole[:9, :9], quarter, 1, WHOLE).get((0, 0), 0).base is None


def test_threads_that_ask_for_one_block_have_it_made_once() -> None:
    makes, begun, go_on = [], threading.Event(), threading.Event()

    def slowly(block: Block) -> NDArray[np.uint8]:
        makes.append(block)
        begun.set()
        go_on.wait(60)
        return made(block)

    kept = cache(0, slowly)  # nothing is kept: the others have it from the one that makes it
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(kept.get, (1, 1), 0)]
        begun.wait(60)
        answers += [pool.submit(kept.get, (1, 1), level) for level in (0, 1, 2)]
        while pool._work_queue.qsize():
            threading.Event().wait(0.01)
        threading.Event().wait(0.1)
        go_on.set()
        assert [answer.result().shape[0] for answer in answers] == [SIDE, SIDE, SIDE // 2, SIDE // 4]
    assert makes == [(1, 1)]


def test_an_error_is_its_own_and_the_next_one_tries_again() -> None:
    begun, go_on, makes = threading.Event(), threading.Event(), []

    def first_fails(block: Block) -> NDArray[np.uint8]:
        makes.append(block)
        if len(makes) == 1:
            begun.set()
            go_on.wait(60)
            raise KeyboardInterrupt
        return made(block)

    kept = cache(WHOLE, first_fails)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, (0, 0), 0)
        begun.wait(60)
        second = pool.submit(kept.get, (0, 0), 0)
        go_on.set()
        with pytest.raises(KeyboardInterrupt):
            first.result()
        np.testing.assert_array_equal(second.result(), made((0, 0)))
    assert len(makes) == 2
