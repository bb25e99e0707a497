"""What is in sight is predicted first, what has left sight is not, and one bad block stops nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.engine.runs import SMALL
from wsi_seg.engine.lazy_mask import LazyMask, open_mask
from wsi_seg.engine.live_prediction import LivePrediction
from wsi_seg.engine.options import RunOptions
from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box

Block = tuple[int, int]


class Mask:
    """Predicts nothing; each block waits to be let through."""

    def __init__(self, n_workers: int = 1) -> None:
        self.plan = SimpleNamespace(memory=SimpleNamespace(n_workers=n_workers))
        self.begun: list[Block] = []
        self.there: set[Block] = set()
        self.bad: set[Block] = set()
        self.gate = threading.Semaphore(0)
        self.begins = threading.Semaphore(0)

    def has(self, block: Block) -> bool:
        return block in self.there

    def predict(self, block: Block) -> None:
        self.begun.append(block)
        self.begins.release()
        assert self.gate.acquire(timeout=60)
        if block in self.bad:
            raise MemoryError("no room")
        self.there.add(block)


def live(mask: Mask, **options: Any) -> LivePrediction:
    return LivePrediction(cast(LazyMask, mask), **options)


def blocks(*columns: int) -> list[Block]:
    return [(0, column) for column in columns]


def finish(prediction: LivePrediction, mask: Mask, n: int) -> None:
    """Let `n` blocks through, and wait until all that is wanted is done."""
    for _ in range(n):
        mask.gate.release()
    generation = prediction.generation
    while prediction.n_waiting:
        generation = prediction.wait(generation, 60)


@pytest.fixture
def mask() -> Iterator[Mask]:
    mask = Mask()
    yield mask
    mask.gate.release()


def test_in_the_order_asked_for_and_each_once(mask: Mask) -> None:
    heard: list[Block] = []
    with live(mask, listener=heard.append) as prediction:
        prediction.wanted(blocks(3, 1, 3, 2))
        assert prediction.n_waiting == 3
        finish(prediction, mask, 3)
        assert prediction.generation == 3
        assert prediction.finished_since(1) == blocks(1, 2)
        assert prediction.finished_since(3) == []
    assert mask.begun == heard == blocks(3, 1, 2)


def test_what_has_left_sight_is_not_predicted(mask: Mask) -> None:
    with live(mask) as prediction:
        prediction.wanted(blocks(1, 2, 3))
        mask.begins.acquire()
        prediction.wanted(blocks(9, 3))
        finish(prediction, mask, 3)
        prediction.wanted([])
        assert prediction.n_waiting == 0
    assert mask.begun == blocks(1, 9, 3)


def test_a_block_that_is_there_or_under_way_is_not_begun_again() -> None:
    mask = Mask(n_workers=2)
    mask.there = {(0, 5)}
    with live(mask) as prediction:
        prediction.wanted(blocks(1))
        mask.begins.acquire()
        prediction.wanted(blocks(5, 1, 2))
        mask.begins.acquire()
        assert mask.begun == blocks(1, 2)
        finish(prediction, mask, 2)
    assert mask.begun == blocks(1, 2)


def test_viewers_take_turns(mask: Mask) -> None:
    with live(mask) as prediction:
        prediction.wanted(blocks(0))
        mask.begins.acquire()
        prediction.wanted(blocks(1, 2, 3), "left")
        prediction.wanted(blocks(11, 12), "right")
        finish(prediction, mask, 6)
    assert mask.begun == blocks(0, 1, 11, 2, 12, 3)


def test_tile_by_tile_the_last_comes_first_and_the_oldest_is_forgotten(mask: Mask) -> None:
    with live(mask) as prediction:
        prediction.wanted(blocks(0))
        mask.begins.acquire()
        for column in (1, 2, 3, 1):
            prediction.sooner(blocks(column), at_most=2)
        finish(prediction, mask, 3)
    assert mask.begun == blocks(0, 1, 3)


def test_a_block_that_fails_is_told_and_left_until_retried(mask: Mask) -> None:
    mask.bad = {(0, 1)}
    with live(mask) as prediction:
        prediction.wanted(blocks(1, 2))
        finish(prediction, mask, 2)
        assert prediction.failed == {(0, 1): "no room"}
        assert prediction.finished_since(0) == blocks(1, 2), "a page need not wait for it"
        prediction.wanted(blocks(1, 3))
        finish(prediction, mask, 1)
        mask.bad = set()
        prediction.retry()
        prediction.wanted(blocks(1))
        finish(prediction, mask, 1)
        assert prediction.failed == {}
    assert mask.begun == blocks(1, 2, 3, 1)


def test_after_the_end_nothing_is_begun(mask: Mask) -> None:
    prediction = live(mask)
    prediction.wanted(blocks(1, 2))
    mask.begins.acquire()
    mask.gate.release()
    prediction.close()
    prediction.close()
    assert mask.begun == blocks(1)
    assert prediction.n_waiting == 0
    assert prediction.wait(1, 60) == 1, "whoever waits is told at once"
    with pytest.raises(UsageError, match="closed"):
        prediction.wanted(blocks(3))


def test_a_listener_that_fails_stops_nobody(mask: Mask) -> None:
    def angry(_: Block) -> None:
        raise RuntimeError("the page has gone")

    with live(mask, listener=angry) as prediction:
        prediction.wanted(blocks(1, 2))
        finish(prediction, mask, 2)
    assert mask.begun == blocks(1, 2)


def test_a_real_mask_fills_in(small_slide: Path) -> None:
    seen: list[bool] = []
    with open_mask(small_slide, RunOptions(**SMALL)) as mask:
        box = Box(100, 100, 900, 900)

        def look(_: Block) -> None:
            seen.append(mask.read_available(0, box)[1])

        with LivePrediction(mask, look) as prediction:
            wanted = mask.missing(0, box)
            assert len(wanted) == 16
            prediction.wanted(wanted)
            while prediction.n_waiting:
                prediction.wait(prediction.generation, 1)
        labels, complete = mask.read_available(0, box)
        assert complete
        assert not seen[0]
        assert seen[-1]
        assert mask.missing(0, box) == []
        np.testing.assert_array_equal(labels, mask[100:900, 100:900])
