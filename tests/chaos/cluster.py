"""A Dask cluster of processes of its own: a scheduler and nannies, each with one worker, as a user would start them.

Owns the processes and their pids. Every address is of this machine alone.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos.scene import Job, Scene, Wrong
from tests.chaos.tracing import LOG

TTL = "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"
"""Environment variable: after how long without a sign a worker counts as dead, such as `60 s`."""


class Cluster:
    """A scheduler and its nannies. `logs` is the folder where workers tell what they do."""

    def __init__(self, folder: Path, logs: Path, *, workers: int = 2, threads: int = 1, **environment: str) -> None:
        self.folder, self._logs, self._threads, self._environment = folder, logs, threads, environment
        self._numbers = itertools.count()
        folder.mkdir()
        self.scheduler, self.address = self._scheduler("0")
        self.nannies: list[Job] = []
        self.wanted = workers

    def __enter__(self) -> Cluster:
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        for nanny in self.nannies:
            end_with_children(nanny)
        end_with_children(self.scheduler)

    @classmethod
    def of(cls, scene: Scene) -> Cluster:
        """The cluster that a scene keeps: two nannies with a worker of one thread each."""
        cluster: Cluster = scene.kept("cluster", lambda: cls(scene.folder / "cluster", scene.folder))
        return cluster

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def heal(self) -> None:
        """Start what is missing: a scheduler at the same address, nannies; and wait until every worker is there."""
        if not self.scheduler.lives:
            self.scheduler, self.address = self._scheduler(self.port)
            for nanny in self.nannies:  # they gave up, or are about to
                end_with_children(nanny)
        self.nannies = [nanny for nanny in self.nannies if nanny.lives]
        while len(self.nannies) < self.wanted:
            self.nannies.append(self._nanny())
        self._wait_for_workers()

    def worker_pids(self) -> list[int]:
        """Of the worker of each nanny, as far as they run."""
        return [pid for nanny in self.nannies if nanny.lives for pid in worker_pids_of(nanny)]

    def _scheduler(self, port: str) -> tuple[Job, str]:
        number = next(self._numbers)
        file = self.folder / f"scheduler{number}.json"
        job = Job(
            ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0",
             "--scheduler-file", str(file)],
            self.folder / f"scheduler{number}.said",
            **self._environment,
        )  # fmt: skip
        return job, _address(file, job)

    def _nanny(self) -> Job:
        number = next(self._numbers)
        return Job(
            ["-m", "dask", "worker", self.address, "--host", "127.0.0.1", "--nworkers", "1", "--nthreads",
             str(self._threads), "--dashboard-address", "127.0.0.1:0", "--preload", "tests.chaos.tracing",
             "--local-directory", str(self.folder / f"worker{number}"), "--death-timeout", "30"],
            self.folder / f"nanny{number}.said",
            **{LOG: str(self._logs), **self._environment},
        )  # fmt: skip

    def _wait_for_workers(self, timeout: float = 60.0) -> None:
        from distributed import Client

        with Client(self.address, timeout=20, set_as_default=False) as client:
            end = time.monotonic() + timeout
            while len(client.nthreads()) != self.wanted:
                if time.monotonic() > end:
                    raise Wrong(f"{len(client.nthreads())} of {self.wanted} workers after {timeout:.0f} s")
                time.sleep(0.05)


def worker_pids_of(nanny: Job) -> list[int]:
    """The worker's process; none while it is being started again."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(nanny.pid).children()
        return [child.pid for child in children if "spawn_main" in " ".join(_command_line(child))]
    return []


def kill_process(pid: int) -> None:
    """`kill -9` of a process that a job of ours has started."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_with_children(job: Job) -> None:
    """`kill -9` of a job and all that it has started."""
    children = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _address(file: Path, job: Job, timeout: float = 30.0) -> str:
    end = time.monotonic() + timeout
    while time.monotonic() < end and job.lives:
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.02)
    raise Wrong(f"no scheduler: {job.said[-400:]!r}")
