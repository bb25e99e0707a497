"""Predictions of tiles that lie across a block border, kept so that the neighbour need not predict them again.

Owns sharing between the blocks of one process. Correctness never depends on it (DESIGN D3): what is missing, evicted or
abandoned is predicted again and gives the same bits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box
from wsi_seg.output.status import TileStatus

Key = tuple[int, int]
"""(row, column) of a tile in the grid."""
_NOTHING = Box(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Edge:
    """The part of a tile's prediction that other blocks need, or why there is none."""

    status: TileStatus
    box: Box
    """Canvas px that `pixels` covers."""
    pixels: NDArray[np.uint16] | None
    """Quantised probabilities (C, h, w) of `box`; None when the tile failed."""

    @property
    def n_bytes(self) -> int:
        """Memory it holds."""
        return 0 if self.pixels is None else self.pixels.nbytes


class EdgeCache:
    """Edges by tile, bounded by `budget_bytes`; the oldest go first. For several threads.

    A tile is *claimed* by the block that will predict it. Whoever claims must `publish` or `abandon` before it waits
    for another's tile: then no two blocks can wait for each other. An edge that lacks some of what the caller needs is
    none to it: a block that is run twice finds what it has left for its neighbours, which need not be its own part.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._edges: OrderedDict[Key, Edge] = OrderedDict()
        self._uses: dict[Key, int] = {}
        self._claimed: set[Key] = set()
        self._changed = threading.Condition()

    def claim(self, key: Key, needed: Box = _NOTHING) -> Edge | bool:
        """The edge if it is here, all of `needed` (canvas px); True when the caller is to predict the tile now.

        False while another block predicts it.
        """
        with self._changed:
            if (edge := self._edges.get(key)) is not None and edge.box.contains(needed):
                self._use(key)
                return edge
            if key in self._claimed:
                return False
            self._claimed.add(key)
            return True

    def wait(self, key: Key, needed: Box = _NOTHING) -> Edge | bool:
        """As `claim`, but waits while another block predicts the tile; never answers False."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._claimed)
        answer = self.claim(key, needed)
        return answer if answer is not False else self.wait(key, needed)

    def publish(self, key: Key, edge: Edge, n_uses: int) -> None:
        """Hand a claimed tile to the `n_uses` other blocks that need it."""
        with self._changed:
            self._claimed.discard(key)
            if key in self._edges:
                self._drop(key)
            if n_uses > 0 and edge.n_bytes <= self._budget:
                self._edges[key], self._uses[key] = edge, n_uses
                self._used += edge.n_bytes
                while self._used > self._budget:
                    self._drop(next(iter(self._edges)))
            self._changed.notify_all()

    def abandon(self, keys: set[Key]) -> None:
        """Give back claims that will not be predicted (an error, a stop)."""
        with self._changed:
            self._claimed -= keys
            self._changed.notify_all()

    def _use(self, key: Key) -> None:
        self._uses[key] -= 1
        if self._uses[key] <= 0:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._used -= self._edges.pop(key).n_bytes
        del self._uses[key]
