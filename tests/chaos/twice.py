"""R12: at least a quarter of the tasks are run twice, half of these at the same time; the tree is the same."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.chaos.cluster import Cluster
from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong
from tests.chaos.tracing import TWICE

SHARES = ("0.5", "1")
LEAST = 0.25


def run_tasks_twice(scene: Scene, _: Random, number: int) -> Figures:
    """On threads, or on every third attempt on a cluster whose workers repeat tasks."""
    share, address = SHARES[number % 2], None
    if number % 3 == 2:
        cluster = scene.kept(
            "repeating cluster", lambda: Cluster(scene.folder / "repeating", scene.folder, **{TWICE: "0.5"})
        )
        address = cluster.address
    with scene.attempt(scheduler=address) as attempt:
        job = attempt.run(**{TWICE: share})
        if job.process.returncode:
            raise Wrong(f"exit code {job.process.returncode}: {job.said[-400:]!r}")
        begun = attempt.trace.begun()
        repeated = sum(1 for n in begun.values() if n > 1) / len(begun)
        if repeated < LEAST:
            raise Wrong(f"only {repeated:.0%} of the tasks ran twice")
        attempt.judge(scene.undisturbed.tree)
    return {"share": repeated}


def told_of_shares(figures: Sequence[Figures]) -> str:
    """How many ran twice."""
    shares = [figure["share"] for figure in figures]
    return f"{min(shares):.0%} to {max(shares):.0%} of the tasks ran twice"


FAULTS = (Fault("twice", "R12", "tasks run twice", 6, run_tasks_twice, told_of_shares),)
