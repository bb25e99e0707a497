"""R5: SIGINT and SIGTERM at random moments: left within 10 s with the signal's code, no orphan, the same tree after."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from random import Random

import psutil

from tests.chaos.cluster import Cluster
from tests.chaos.fault import Fault, Figures
from tests.chaos.moments import must_live, wait_for_a_moment
from tests.chaos.scene import Attempt, Job, Scene, Wrong

LIMIT_S = 10.0


def interrupt(scene: Scene, chance: Random, number: int) -> Figures:
    """Threads of the driver do the work."""
    with scene.attempt(("--workers", "2")) as attempt:
        return _interrupted(scene, attempt, chance, number)


def interrupt_on_a_cluster(scene: Scene, chance: Random, number: int) -> Figures:
    """Workers of an external scheduler do the work."""
    cluster = Cluster.of(scene)
    with scene.attempt(scheduler=cluster.address) as attempt:
        return _interrupted(scene, attempt, chance, number)


def _interrupted(scene: Scene, attempt: Attempt, chance: Random, number: int) -> Figures:
    with attempt.started() as job:
        moment = wait_for_a_moment(chance, attempt, job, scene.undisturbed)
        must_live(job, moment)
        which = (signal.SIGINT, signal.SIGTERM)[number % 2]
        children = psutil.Process(job.pid).children(recursive=True) if job.lives else []
        struck, lived = time.monotonic(), job.lives
        if lived:
            job.process.send_signal(which)
        code = job.wait()
        seconds = time.monotonic() - struck
        _judged(job, code, f"{which.name} in {moment}", seconds if lived else 0.0)
        if orphans := [child for child in children if child.is_running()]:
            raise Wrong(f"{which.name} in {moment}: orphans {orphans}")
    attempt.finish()
    attempt.judge(scene.undisturbed.tree)
    return {"seconds": seconds, "code": code, "phase": moment.partition(",")[0]}


def _judged(job: Job, code: int, words: str, seconds: float) -> None:
    """The code is the signal's, or 0 where the work was over. Raises Wrong."""
    if seconds > LIMIT_S:
        raise Wrong(f"{words}: left after {seconds:.1f} s")
    # A signal that comes while the interpreter starts, or ends, finds no wsi-seg that could answer it.
    if code not in (0, 130, 143, -signal.SIGINT, -signal.SIGTERM):
        raise Wrong(f"{words}: exit code {code}: {job.said[-400:]!r}")
    if code in (130, 143) and "preparation" not in words and "Traceback" in job.said:
        raise Wrong(f"{words}: {job.said[-600:]!r}")


def told_of_signals(figures: Sequence[Figures]) -> str:
    """The slowest, and the codes."""
    codes = [figure["code"] for figure in figures]
    counts = ", ".join(f"{codes.count(code)} x {code}" for code in sorted(set(codes)))
    return f"slowest {max(figure['seconds'] for figure in figures):.1f} s; exit codes {counts}"


FAULTS = (
    Fault("signals", "R5", "SIGINT and SIGTERM", 20, interrupt, told_of_signals),
    Fault("cluster-signals", "R5", "SIGINT and SIGTERM, cluster", 4, interrupt_on_a_cluster, told_of_signals),
)
