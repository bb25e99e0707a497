"""R6: two jobs at one output, started together: one works, the other is told whom it meets; the first is killed."""

from __future__ import annotations

import socket
from random import Random

from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong, wait_until


def race(scene: Scene, chance: Random, _: int) -> Figures:
    """The loser leaves first; then the winner is killed, and the same command goes on without another step."""
    with scene.attempt(("--workers", "1", "--window", "cosine")) as attempt:
        expected = scene.kept("cosine", lambda: scene.watched(options=attempt.options[len(scene.options) :])).tree
        with attempt.started() as one, attempt.started() as two:
            wait_until(lambda: not (one.lives and two.lives), one, every=0.002)
            loser, winner = (one, two) if not one.lives else (two, one)
            code, winner_lived = loser.wait(), winner.lives
            said = loser.said
            winner.kill()
        if code != 1:
            raise Wrong(f"the loser left with {code}: {said[-400:]!r}")
        named = f"pid {winner.pid} on host {socket.gethostname()}" in said
        if winner_lived and not named:
            raise Wrong(f"the holder (pid {winner.pid}) is not named: {said[-400:]!r}")
        attempt.finish()
        attempt.judge(expected)
    return {"named": named}


FAULTS = (
    Fault(
        "races", "R6", "two jobs at one output", 20, race,
        lambda figures: f"{sum(figure['named'] for figure in figures)} times host and pid named",
    ),
)  # fmt: skip
