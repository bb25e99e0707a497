"""R1: `kill -9` at random moments; the same command again gives the same tree.

Counted from the trace: how many finished tasks are done again, and that no more is lost than each worker thread of the
victim had in hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from tests.chaos.cluster import Cluster, kill_process, worker_pids_of
from tests.chaos.fault import Fault, Figures
from tests.chaos.moments import must_live, wait_for_a_moment
from tests.chaos.scene import Attempt, Job, Scene, Undisturbed, Wrong
from tests.chaos.tracing import Task, Trace

THREADS = 2
TRIES = 4
"""How often a moment that came too late is chosen anew."""
Kill = Callable[[Cluster, Random, Job], set[int]]
"""Kills some process of a cluster or the driver; answers the pids of the workers that died."""


def kill_the_driver(scene: Scene, chance: Random, _: int) -> Figures:
    """Threads of the driver do the work. One attempt in three is killed twice."""
    with scene.attempt(("--workers", str(THREADS))) as attempt:
        moments: list[str] = []
        wanted = chance.choice((1, 1, 2))
        for _ in range(TRIES):
            if len(moments) == wanted or attempt.out.exists():
                break
            moments += _killed_driver(chance, scene, attempt)
        attempt.finish()
        attempt.judge(scene.undisturbed.tree)
        lost = attempt.trace.in_flight()
        return {"kills": len(moments), **lost_work(attempt.trace, lost, THREADS, moments)}


def _killed_driver(chance: Random, scene: Scene, attempt: Attempt) -> list[str]:
    """When the driver was killed; nothing where it had finished by then."""
    with attempt.started() as job:
        moment = wait_for_a_moment(chance, attempt, job, scene.undisturbed)
        must_live(job, moment)
        return [moment] if job.lives else []


def kill_in_a_cluster(kill: Kill) -> Callable[[Scene, Random, int], Figures]:
    """An attempt on an external scheduler with two nannies; `kill` says who dies.

    Where the driver lives on it must finish by itself, unless the scheduler died: then it must say so and leave.
    """

    def attempt_it(scene: Scene, chance: Random, _: int) -> Figures:
        cluster = Cluster.of(scene)
        cluster.heal()
        usual: Undisturbed = scene.kept("usual", lambda: scene.watched(cluster.address))
        with scene.attempt(scheduler=cluster.address) as attempt:
            for _ in range(TRIES):
                if killed := _killed(kill, cluster, chance, attempt, usual):
                    break
                attempt.start_anew()
            else:
                raise Wrong("every moment came too late")
            moment, victims = killed
            attempt.finish()
            attempt.judge(scene.undisturbed.tree)
            lost = attempt.trace.in_flight(victims)
            return {"kills": 1, **lost_work(attempt.trace, lost, 1, [moment])}

    return attempt_it


def _killed(
    kill: Kill, cluster: Cluster, chance: Random, attempt: Attempt, usual: Undisturbed
) -> tuple[str, set[int]] | None:
    """The moment, and the workers that died; None where the run had finished by then."""
    with attempt.started() as job:
        moment = wait_for_a_moment(chance, attempt, job, usual)
        must_live(job, moment)
        if not job.lives:
            return None
        victims = kill(cluster, chance, job)
        struck = time.monotonic()
        code = job.wait()
        ended = time.monotonic() - struck
    if code == -9:
        return moment, victims
    if cluster.scheduler.lives and code:
        raise Wrong(f"{moment}: the driver left with {code} after {ended:.1f} s: {job.said[-600:]!r}")
    if code:
        is_a_clear_error(job, f"{moment}: after {ended:.1f} s")
    cluster.heal()
    return moment, victims


def is_a_clear_error(job: Job, moment: str) -> None:
    """What failed, the rule and the remedy; no traceback."""
    if "Traceback" in job.said or any(word not in job.said for word in ("error: ", "  rule: ", "  try:  ")):
        raise Wrong(f"{moment}: no clear error: {job.said[-700:]!r}")


def driver(_: Cluster, __: Random, job: Job) -> set[int]:
    """The driver dies; its cluster does not."""
    job.kill()
    return set()


def worker(cluster: Cluster, chance: Random, _: Job) -> set[int]:
    """A worker dies; its nanny starts another."""
    pid = chance.choice(cluster.worker_pids())
    kill_process(pid)
    return {pid}


def nanny(cluster: Cluster, chance: Random, _: Job) -> set[int]:
    """A nanny dies, and its worker with it."""
    victim = chance.choice(cluster.nannies)
    pids = worker_pids_of(victim)
    victim.kill()
    for pid in pids:
        kill_process(pid)
    return set(pids)


def scheduler(cluster: Cluster, _: Random, __: Job) -> set[int]:
    """The scheduler dies; workers end their tasks and leave."""
    cluster.scheduler.kill()
    return set(cluster.worker_pids())


def lost_work(trace: Trace, lost: dict[int, int], threads: int, moments: Sequence[str]) -> Figures:
    """Tasks in hand that were lost, per thread of the victim; and tasks done again though they were finished.

    Raises Wrong where a victim lost more than its threads had in hand.
    """
    if lost and max(lost.values()) > threads:
        raise Wrong(f"{'; '.join(moments)}: {lost} tasks in hand by process, of {threads} threads")
    again = acknowledged_again(trace)
    return {
        "lost": max(lost.values(), default=0) / threads,
        "again": len(again),
        "moments": [moment.partition(",")[0] for moment in moments],
    }


def acknowledged_again(trace: Trace) -> list[Task]:
    """Tasks that were entered although their marker was written."""
    done: set[Task] = set()
    again = []
    for event in trace.events:
        if event.kind == "done":
            done.add(event.task)
        elif event.task in done:
            again.append(event.task)
    return again


def told_of_kills(figures: Sequence[Figures]) -> str:
    """How many kills, and the most that was lost."""
    phases = [phase for figure in figures for phase in figure["moments"]]
    spread = ", ".join(f"{phases.count(phase)} in {phase}" for phase in dict.fromkeys(phases))
    lost, again = max(figure["lost"] for figure in figures), max(figure["again"] for figure in figures)
    return (
        f"{len(phases)} kills ({spread}); lost per thread of a victim: at most {lost:g} tasks in hand; "
        f"finished tasks done again: at most {again}"
    )


def _on_cluster(name: str, title: str, points: int, kill: Kill) -> Fault:
    return Fault(name, "R1", f"kill -9 of {title}", points, kill_in_a_cluster(kill), told_of_kills)


FAULTS = (
    Fault("driver", "R1", "kill -9 of the driver", 22, kill_the_driver, told_of_kills),
    _on_cluster("cluster-driver", "the driver of a cluster", 6, driver),
    _on_cluster("worker", "a worker", 8, worker),
    _on_cluster("nanny", "a nanny with its worker", 7, nanny),
    _on_cluster("scheduler", "the scheduler", 7, scheduler),
)
