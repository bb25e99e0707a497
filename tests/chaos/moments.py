"""Random moments of a run's life, spread over its phases on purpose: most of a short run's time is its start."""

from __future__ import annotations

import time
from random import Random

from tests.chaos.scene import Attempt, Job, Undisturbed, Wrong, wait_until

PHASES = {"preparation": 2, "blocks": 4, "pyramid": 2, "commit": 3}
"""Phase -> weight."""


def wait_for_a_moment(chance: Random, attempt: Attempt, job: Job, usual: Undisturbed) -> str:
    """Wait for a moment of a random phase; answers which, and in words when. The job may have ended before it."""
    phase = chance.choices(list(PHASES), list(PHASES.values()))[0]
    if phase == "preparation":
        moment = chance.uniform(0, usual.preparing)
        time.sleep(max(0.0, job.started + moment - time.time()))
        return f"{phase}, {moment:.3f} s after the start"
    begun, todo = len(attempt.trace.of("begin")), usual.n_tasks - len(attempt.trace.acknowledged())
    blocks = min(todo, usual.n_blocks)
    if phase == "commit" or todo == 0:
        more = chance.uniform(0, usual.committing)
        wait_until(lambda: len(attempt.trace.acknowledged()) >= usual.n_tasks, job)
        time.sleep(more)
        return f"commit, {more:.3f} s after the last task"
    nth = chance.randint(1, blocks) if phase == "blocks" else chance.randint(blocks, todo)
    more = chance.uniform(0, usual.working / usual.n_tasks)
    wait_until(lambda: len(attempt.trace.of("begin")) >= begun + nth, job)
    time.sleep(more)
    return f"{phase}, {more:.3f} s after task {nth} of {todo} began"


def must_live(job: Job, moment: str) -> None:
    """Raises Wrong where a job ended by itself with an error before the moment came."""
    if not job.lives and job.process.returncode:
        raise Wrong(f"{moment}: had left by itself with {job.process.returncode}: {job.said[-400:]!r}")
