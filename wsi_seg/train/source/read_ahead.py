"""Work done ahead of its reader by threads, in the order it was asked for; owns the threads, knows not the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_AHEAD = 2
"""Answers per thread that may wait for their reader."""


def read_ahead(work: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    """`work` of every item, in the order of the items, by `workers` threads; 0: when asked for, without threads.

    At most `_AHEAD` answers per thread exist at a time. An exception of `work` comes out in its item's turn.
    Closing the iterator, or dropping it, ends the threads.

    >>> list(read_ahead(abs, [-1, 2, -3], workers=2))
    [1, 2, 3]
    """
    if workers == 0:
        yield from map(work, items)
        return
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="wsi-seg-read")
    try:
        waiting: deque[Future[Answer]] = deque(pool.submit(work, item) for item in islice(source, _AHEAD * workers))
        while waiting:
            answer = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(source, 1))
            yield answer
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
