"""The edge cache saves work and never decides a result."""

from __future__ import annotations

import threading

import numpy as np

from wsi_seg.engine.edge_cache import Edge, EdgeCache
from wsi_seg.geometry import Box
from wsi_seg.output import TileStatus


def edge(value: int = 1, side: int = 4) -> Edge:
    return Edge(TileStatus.DONE, Box(0, 0, side, side), np.full((1, side, side), value, np.uint16))


def test_first_claim_predicts_second_waits_third_gets_the_edge() -> None:
    cache = EdgeCache(1000)
    assert cache.claim((0, 0)) is True
    assert cache.claim((0, 0)) is False
    cache.publish((0, 0), edge(7), n_uses=1)
    answer = cache.claim((0, 0))
    assert isinstance(answer, Edge)
    assert answer.pixels is not None
    assert (answer.pixels == 7).all()


def test_an_edge_leaves_after_its_last_use() -> None:
    cache = EdgeCache(1000)
    cache.claim((0, 0))
    cache.publish((0, 0), edge(), n_uses=2)
    assert isinstance(cache.claim((0, 0)), Edge)
    assert isinstance(cache.claim((0, 0)), Edge)
    assert cache.claim((0, 0)) is True


def test_an_edge_that_lacks_what_is_needed_is_predicted_anew() -> None:
    """A block that runs a second time finds what it left for others, which lacks the block's own part."""
    cache, needed = EdgeCache(1000), Box(2, 2, 6, 6)
    cache.claim((0, 0))
    cache.publish((0, 0), edge(1), n_uses=1)
    assert cache.claim((0, 0), needed) is True
    assert cache.wait((0, 1), needed) is True
    cache.publish((0, 0), edge(2, side=8), n_uses=1)
    answer = cache.claim((0, 0), needed)
    assert isinstance(answer, Edge)
    assert answer.pixels is not None
    assert (answer.pixels == 2).all()
    assert cache.claim((0, 0), needed) is True, "it was used as often as was said, and is gone"


def test_an_edge_that_is_replaced_takes_no_room() -> None:
    cache = EdgeCache(2 * edge().n_bytes)
    for key in ((0, 0), (0, 1), (0, 0)):
        cache.claim(key)
        cache.publish(key, edge(), n_uses=1)
    assert isinstance(cache.claim((0, 0)), Edge)
    assert isinstance(cache.claim((0, 1)), Edge)


def test_the_oldest_edge_makes_room() -> None:
    cache = EdgeCache(2 * edge().n_bytes)
    for column in range(3):
        cache.claim((0, column))
        cache.publish((0, column), edge(), n_uses=1)
    assert cache.claim((0, 0)) is True
    assert isinstance(cache.claim((0, 1)), Edge)
    assert isinstance(cache.claim((0, 2)), Edge)


def test_an_edge_larger_than_the_budget_is_not_kept() -> None:
    cache = EdgeCache(3)
    cache.claim((0, 0))
    cache.publish((0, 0), edge(), n_uses=1)
    assert cache.claim((0, 0)) is True


def test_a_waiter_takes_over_an_abandoned_tile() -> None:
    cache = EdgeCache(1000)
    assert cache.claim((0, 0)) is True
    answers: list[object] = []
    waiter = threading.Thread(target=lambda: answers.append(cache.wait((0, 0))))
    waiter.start()
    cache.abandon({(0, 0)})
    waiter.join(10)
    assert answers == [True]
