"""What a fault is to the harness: a name, how many points by default, and one attempt that is right or Wrong.

An attempt gets a scene to run the program in, its own random numbers, made from (seed, name, number), and that number,
so that any one can be repeated alone. It answers figures that are told at the end, and raises Wrong where a promise is
broken, Skipped where this machine cannot make the fault.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.scene import Scene, Wrong

Figures = dict[str, Any]


class Skipped(Exception):
    """This machine cannot make the fault; the text says what was refused."""


def nothing(_: Sequence[Figures]) -> str:
    """No further figures."""
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    """As given on the command line."""
    goal: str
    """Of RELIABILITY, such as `R1`."""
    title: str
    points: int
    """Attempts where no number is given."""
    attempt: Callable[[Scene, Random, int], Figures]
    told: Callable[[Sequence[Figures]], str] = nothing
    """More figures in words, from those of all attempts."""
    count: Callable[[Scene], int] | None = None
    """Where all cases there are can be tried: how many; `points` of them, evenly spread, where fewer are asked for."""
    waits: bool = False
    """Most of its time is waiting: may run beside others."""


@dataclass(slots=True)
class Outcome:
    """What came of a fault."""

    fault: Fault
    seed: int
    tried: int = 0
    wrong: list[tuple[int, str]] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """The one line that is printed."""
        name = f"{self.fault.goal} {self.fault.title}"
        if self.skipped:
            return f"{name}: skipped: {self.skipped}"
        figures = self.fault.told(self.figures) if self.figures else ""
        right = f"{self.tried} tried, {self.tried - len(self.wrong)} right"
        more = f"; {figures}" if figures else ""
        return f"{name}: {right}{more} (seed {self.seed}, {self.seconds:.0f} s)"

    def repeats(self, shown: int = 5) -> list[str]:
        """The first wrong ones and the command that repeats each."""
        return [
            f"  wrong: {why}\n    python -m tests.chaos {self.fault.name} --seed {self.seed} --only {number}"
            for number, why in self.wrong[:shown]
        ]


def carry_out(fault: Fault, scene: Scene, *, seed: int, points: int | None = None, only: int | None = None) -> Outcome:
    """Try a fault at so many points, or at that one."""
    outcome, started = Outcome(fault, seed), time.perf_counter()
    try:
        for number in _numbers(fault, scene, points, only):
            outcome.tried += 1
            try:
                outcome.figures.append(fault.attempt(scene, Random(f"{seed}/{fault.name}/{number}"), number))
            except Wrong as wrong:
                outcome.wrong.append((number, str(wrong)))
            except Skipped:
                raise
            except Exception:  # of the harness or of the program: either way the point is not right
                outcome.wrong.append((number, traceback.format_exc(limit=-4)))
    except Skipped as skipped:
        outcome.skipped = str(skipped)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _numbers(fault: Fault, scene: Scene, points: int | None, only: int | None) -> Sequence[int]:
    if only is not None:
        return [only]
    if fault.count is None:
        return range(fault.points if points is None else points)
    total = fault.count(scene)
    wanted = min(total, total if points is None else points)
    return [number * total // wanted for number in range(wanted)]
