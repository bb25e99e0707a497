"""Which block is predicted next while somebody looks at a slide: those in sight now, those asked for first, first.

Owns the order and the threads; blocks are predicted by a lazy mask. Knows no pixel and no network.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

from wsi_seg.engine.block_cache import Block
from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.engine.lazy_mask import LazyMask

BlockListener = Callable[[Block], None]


def ignore_block(_: Block) -> None:
    """The listener that does nothing."""


class LivePrediction:
    """Predicts the blocks of a mask that are wanted, in threads of its own, as many as the plan has workers.

    Several may look at once, each under a name of its own: their first wishes take turns. A wish that is no longer
    wanted when its turn comes is not predicted; what is under way is finished, and kept by the mask. For several
    threads. Close it before the mask.
    """

    def __init__(self, mask: LazyMask, listener: BlockListener = ignore_block) -> None:
        """`listener` hears, in a thread of this, of each block that is done or has failed; it must not wait for us."""
        self._mask, self._listener = mask, listener
        self._wishes: OrderedDict[str, deque[Block]] = OrderedDict()
        self._under_way: set[Block] = set()
        self._done: list[Block] = []
        self._failed: dict[Block, str] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        # Daemons: a process that ends need not wait for blocks that nobody will see.
        self._threads = [
            threading.Thread(target=self._work, name=f"wsi-seg-live-{n}", daemon=True)
            for n in range(mask.plan.memory.n_workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def generation(self) -> int:
        """How many blocks are done, or have failed, since this began."""
        return len(self._done)

    @property
    def n_waiting(self) -> int:
        """Blocks that are wanted and not begun, or under way."""
        with self._changed:
            return len({block for wishes in self._wishes.values() for block in wishes} | self._under_way)

    @property
    def failed(self) -> dict[Block, str]:
        """Blocks that could not be predicted at all, and why; they are tried again only after `retry`."""
        with self._changed:
            return dict(self._failed)

    def wanted(self, blocks: Iterable[Block], viewer: str = "") -> None:
        """What a viewer has in sight now, the most urgent first, in place of what it had in sight before.

        No blocks: the viewer has gone. See `LazyMask.missing`.
        """
        self._wish(viewer, deque(dict.fromkeys(blocks)))

    def sooner(self, blocks: Iterable[Block], viewer: str = "", *, at_most: int = 256) -> None:
        """Put blocks before what a viewer wants already, of which the last, beyond `at_most`, are forgotten.

        For viewers that ask tile by tile: what was asked for last is in sight.
        """
        with self._changed:
            before = self._wishes.get(viewer, ())
        self._wish(viewer, deque(list(dict.fromkeys([*blocks, *before]))[:at_most]))

    def finished_since(self, generation: int) -> list[Block]:
        """Blocks done, or failed, after a generation, in order: what a page has to load again."""
        with self._changed:
            return self._done[generation:]

    def wait(self, generation: int, timeout_s: float) -> int:
        """The generation, as soon as it is another than that, this is closed, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._done) != generation or self._is_closed, timeout_s)
            return len(self._done)

    def retry(self) -> None:
        """Forget what has failed."""
        with self._changed:
            self._failed.clear()

    def close(self) -> None:
        """Forget all wishes and wait for what is under way. May be called again, but not by the listener."""
        with self._changed:
            self._is_closed = True
            self._wishes.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wish(self, viewer: str, wishes: deque[Block]) -> None:
        with self._changed:
            if self._is_closed:
                raise UsageError("blocks wanted of a live prediction that is closed", remedy="open another")
            if wishes:
                self._wishes[viewer] = wishes
            else:
                self._wishes.pop(viewer, None)
            self._changed.notify_all()

    def _work(self) -> None:
        while (block := self._next()) is not None:
            words = ""
            try:
                self._mask.predict(block)
            except Exception as error:  # whatever it is: the next block may be well, and somebody looks on
                words = str(error) or repr(error)
            with self._changed:
                self._under_way.discard(block)
                self._done.append(block)
                if words:
                    self._failed[block] = words
                self._changed.notify_all()
            self._listener(block)

    def _next(self) -> Block | None:
        """The next block to predict, waited for; None at the end."""
        with self._changed:
            while not self._is_closed:
                if (block := self._popped()) is not None:
                    self._under_way.add(block)
                    return block
                self._changed.wait()
            return None

    def _popped(self) -> Block | None:
        """The first wish that is not fulfilled yet, of the viewer whose turn it is."""
        while self._wishes:
            viewer, wishes = self._wishes.popitem(last=False)
            block = wishes.popleft()
            if wishes:
                self._wishes[viewer] = wishes  # the last in turn now
            if not (block in self._under_way or block in self._failed or self._mask.has(block)):
                return block
        return None
