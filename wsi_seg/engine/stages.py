"""Where the time of a run goes: seconds by stage, of the preparation and of the work.

The stages of the work, summed over workers: decode, resample, pack (tiles into batches), predict, blend (with the
labelling, where tiles do not overlap), label, wait (for tiles that another block predicts), the steps of
post-processing, pyramid (halving and counting) and write (compressing, storing, reading back).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter


class StageClock:
    """Adds up wall seconds by stage; a stage inside another counts for the inner one only. For one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0  # seconds that stages inside the present one have taken

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the `with` for `name`."""
        started, outer, self._inner = perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            passed = perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._inner
            self._inner = outer + passed


def added(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of what several clocks counted, by stage, rounded to ms."""
    total: dict[str, float] = {}
    for stages in several:
        for name, seconds in stages.items():
            total[name] = total.get(name, 0.0) + seconds
    return {name: round(seconds, 3) for name, seconds in total.items()}


def process_age_s() -> float:
    """Seconds since this process was started, to 10 ms or so."""
    import time

    import psutil

    created: float = psutil.Process().create_time()
    return max(0.0, time.time() - created)
