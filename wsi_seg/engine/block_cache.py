"""Labels of blocks and of the levels above them: each block is made once, and kept within a number of bytes.

Owns who makes a block where several threads ask, what is dropped first, and how bytes are counted. Knows no slide and
no model.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = tuple[int, int]
"""(row, column) of a block."""
Labels = NDArray[Any]
Levels = list[Labels]

SMALL_SIDE = 64
"""Levels on which a block is at most so many px wide are kept when the others are dropped: they are a 1/190 of a block
of 1,024 px, and a low zoom asks for those of many blocks."""


class BlockCache:
    """Blocks with the levels above them, at most `budget_bytes` of them; those not used for longest go first.

    Arrays are shared, so nobody may write to them. For several threads.
    """

    def __init__(self, make: Callable[[Block], Labels], halve: Callable[[Labels], Labels], n_levels: int, budget: int):
        """`make` answers a block's labels (h, w); `halve` those of the level above; `n_levels` >= 1 are made of both.

        `budget` is in bytes. A block that is larger than that is made whenever it is asked for.
        """
        self._make, self._halve, self._n_levels, self._budget = make, halve, n_levels, budget
        self._fine: OrderedDict[Block, Levels] = OrderedDict()
        self._small: OrderedDict[Block, Levels] = OrderedDict()  # the last levels of a block
        self._used = 0
        self._under_way: dict[Block, Future[Levels]] = {}
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What is kept now."""
        return self._used

    def find(self, block: Block, level: int) -> Labels | None:
        """The labels of a level of a block if they are here."""
        with self._lock:
            return self._found(block, level)

    def get(self, block: Block, level: int) -> Labels:
        """The labels of a level of a block, made in this thread unless another is at it. Raises what `make` raises."""
        while True:
            with self._lock:
                if (found := self._found(block, level)) is not None:
                    return found
                others = self._under_way.get(block)
                if others is None:
                    mine: Future[Levels] = Future()
                    self._under_way[block] = mine
            if others is None:
                return self._made(block, mine)[level]
            # An error there may be no error here: an interrupt, or memory that ran out at that moment.
            if others.exception() is None:
                return others.result()[level]

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._fine.clear()
            self._small.clear()
            self._used = 0

    def _made(self, block: Block, future: Future[Levels]) -> Levels:
        try:
            levels = [_kept(self._make(block))]
            while len(levels) < self._n_levels:
                levels.append(_kept(self._halve(levels[-1])))
        except BaseException as error:
            with self._lock:
                del self._under_way[block]
            future.set_exception(error)
            raise
        with self._lock:
            del self._under_way[block]
            self._keep(block, levels)
        future.set_result(levels)
        return levels

    def _found(self, block: Block, level: int) -> Labels | None:
        if (fine := self._fine.get(block)) is not None and level < len(fine):
            self._fine.move_to_end(block)
            return fine[level]
        small = self._small.get(block)
        first = self._n_levels - len(small or ())
        if small is None or level < first:
            return None
        self._small.move_to_end(block)
        return small[level - first]

    def _keep(self, block: Block, levels: Levels) -> None:
        n_fine = next((n for n, labels in enumerate(levels) if max(labels.shape) <= SMALL_SIDE), len(levels))
        for kept, part in ((self._fine, levels[:n_fine]), (self._small, levels[n_fine:])):
            self._used += _n_bytes(part) - _n_bytes(kept.pop(block, []))
            if part:
                kept[block] = part
        for kept in (self._fine, self._small):
            while kept and self._used > self._budget:
                self._used -= _n_bytes(kept.popitem(last=False)[1])


def _kept(labels: Labels) -> Labels:
    """The same labels, of a single px where all are alike, as on most glass; not to be written to."""
    if (labels == labels[0, 0]).all():
        return np.broadcast_to(labels[0, 0].copy(), labels.shape)
    if labels.base is not None:
        labels = labels.copy()  # a view keeps all of what it shows a part of
    labels.flags.writeable = False
    return labels


def _n_bytes(levels: Levels) -> int:
    return sum(labels.nbytes if any(labels.strides) else labels.itemsize for labels in levels)
