"""R18: the network between two hosts is cut in the middle of a run; the run completes, and nothing counts twice.

The hosts are network namespaces with a cable between them: scheduler and driver on one, two workers on the other.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.chaos.cluster import end_with_children
from tests.chaos.fault import Fault, Figures, Skipped
from tests.chaos.scene import Attempt, Job, Scene, Wrong, wait_until
from tests.chaos.tracing import LOG

PORT = 8786
CUTS_S = (5, 30, 60)
"""Seconds without a network; attempts take these in turn."""
N_WORKERS = 2
PATIENCE = 300.0
PATIENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "120s"}
"""As the guide on clusters says: Dask gives a connection up after 30 s, and then its workers leave for good."""


class Hosts:
    """Two hosts, `here` and `there`, and the cable between them."""

    def __init__(self, name: str) -> None:
        self.here, self.there = f"{name}h", f"{name}t"
        self.addresses = {self.here: "10.213.77.1", self.there: "10.213.77.2"}

    def __enter__(self) -> Hosts:
        try:
            for host in self.addresses:
                _ip("netns", "add", host)
            _ip(
                "link", "add", "cable", "netns", self.here, "type", "veth", "peer", "name", "cable", "netns", self.there
            )
            for host, address in self.addresses.items():
                _ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", host, "link", "set", "lo", "up")
                _ip("-n", host, "link", "set", "cable", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise Skipped(f"network namespaces: {said}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.addresses:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """No packet passes while this is entered."""
        _ip("-n", self.there, "link", "set", "cable", "down")
        try:
            yield
        finally:
            _ip("-n", self.there, "link", "set", "cable", "up")

    def start(self, host: str, arguments: Sequence[str], said: Path, **environment: str) -> Job:
        """A program on a host."""
        return Job(arguments, said, prefix=("ip", "netns", "exec", host), **environment)


def cut_the_network(scene: Scene, chance: Random, number: int) -> Figures:
    """Once, at a random task; longer cuts than the patience of Dask, and of the run, are among them."""
    if shutil.which("ip") is None:
        raise Skipped("network namespaces: there is no program `ip`")
    seconds = CUTS_S[number % len(CUTS_S)]
    undisturbed = scene.undisturbed
    with Hosts(f"ws{number}") as hosts, ExitStack() as jobs, scene.attempt() as attempt:
        address = _cluster(hosts, scene, jobs, number)
        job = _driver(hosts, attempt, address, jobs)
        wanted = chance.randint(2, undisturbed.n_tasks // 2)
        if not wait_until(lambda: len(attempt.trace.of("begin")) >= wanted, job):
            raise Wrong(f"it ended before the cut: {job.said[-400:]!r}")
        with hosts.cut():
            time.sleep(seconds)
        joined = time.monotonic()
        if code := job.wait(PATIENCE):
            raise Wrong(f"cut for {seconds} s: exit code {code}: {job.said[-500:]!r}")
        attempt.judge(undisturbed.tree)
        return {"cut": seconds, "after": time.monotonic() - joined}


def _cluster(hosts: Hosts, scene: Scene, jobs: ExitStack, number: int) -> str:
    folder = scene.folder / f"network{number}"
    folder.mkdir()
    address = f"tcp://{hosts.addresses[hosts.here]}:{PORT}"
    pages = ["--dashboard-address", "127.0.0.1:0"]
    host, peer = hosts.addresses[hosts.here], hosts.addresses[hosts.there]
    scheduler = ["-m", "dask", "scheduler", "--host", host, "--port", str(PORT), *pages]
    worker = ["-m", "dask", "worker", address, "--host", peer, "--nworkers", "1", "--nthreads", "1", *pages]
    worker += ["--preload", "tests.chaos.tracing", "--death-timeout", "120"]
    started = [hosts.start(hosts.here, scheduler, folder / "scheduler.said", **PATIENT)]
    started += [
        hosts.start(
            hosts.there, [*worker, "--local-directory", str(folder / f"worker{n}")], folder / f"worker{n}.said",
            **{LOG: str(scene.folder), **PATIENT},
        )
        for n in range(N_WORKERS)
    ]  # fmt: skip
    for job in started:
        jobs.callback(end_with_children, job)
    return address


def _driver(hosts: Hosts, attempt: Attempt, address: str, jobs: ExitStack) -> Job:
    scene = attempt.scene
    arguments = [*scene.command(scene.slide, attempt.out, attempt.options, address), "--plain-tcp"]
    said = scene.folder / f"{attempt.folder.name}.driver.said"
    job = hosts.start(hosts.here, arguments, said, **{LOG: str(scene.folder)})
    jobs.callback(job.kill)
    return job


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def told_of_cuts(figures: Sequence[Figures]) -> str:
    """How long each run took to end once the network was there again."""
    each = ", ".join(f"{figure['after']:.0f} s after a cut of {figure['cut']} s" for figure in figures)
    return f"done {each}"


FAULTS = (Fault("network", "R18", "a cut between two hosts", 3, cut_the_network, told_of_cuts, waits=True),)
