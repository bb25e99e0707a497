"""R17: a worker is frozen (SIGSTOP) in the middle of a run; the run completes without it.

The scheduler has Dask's usual `worker-ttl` of 5 minutes: the run itself notices. Detected is when one of its tasks
begins elsewhere.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from random import Random

from tests.chaos.cluster import Cluster
from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong, wait_until

LIMIT_S = 75.0


def freeze_a_worker(scene: Scene, chance: Random, number: int) -> Figures:
    """Of two workers; it stays frozen until the run is over."""
    with (
        Cluster(scene.folder / f"frozen{number}", scene.folder) as cluster,
        scene.attempt(scheduler=cluster.address) as attempt,
        attempt.started() as job,
    ):
        wait_until(lambda: len(attempt.trace.of("begin")) > chance.randint(1, 20), job)
        victim = chance.choice(cluster.worker_pids())
        os.kill(victim, signal.SIGSTOP)
        struck = time.time()
        in_hand = {event.task for event in attempt.trace.events if event.pid == victim}
        code = job.wait(timeout=200)
        if code:
            raise Wrong(f"exit code {code} after {time.time() - struck:.0f} s: {job.said[-400:]!r}")
        elsewhere = [e for e in attempt.trace.events if e.at > struck and e.pid != victim and e.task in in_hand]
        seconds = (elsewhere[0].at if elsewhere else time.time()) - struck
        attempt.judge(scene.undisturbed.tree)
    if seconds > LIMIT_S:
        raise Wrong(f"detected after {seconds:.0f} s")
    return {"seconds": seconds}


def told_of_frost(figures: Sequence[Figures]) -> str:
    """How long it took."""
    return f"detected after at most {max(figure['seconds'] for figure in figures):.0f} s"


FAULTS = (Fault("frozen", "R17", "a frozen worker", 3, freeze_a_worker, told_of_frost, waits=True),)
