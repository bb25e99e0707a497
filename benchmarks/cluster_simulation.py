"""The real scheduling loop over workers that sleep like GPUs: `python -m benchmarks.cluster_simulation`.

A real scheduler in a process of its own; real Dask workers of one thread each, many to a process; the loop in this one.
Only the steps are simulated. `--shrink 20` makes every slide a twentieth as large, so that what a slide costs besides
its blocks counts twenty times as much as in truth; a block that sleeps for less than it takes counts likewise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import simulated_steps as simulated
from benchmarks.simulated_steps import Pace, SimulatedSlide
from wsi_seg.engine.cluster.connecting import SETTINGS, Connection
from wsi_seg.engine.cluster.events import ClusterEvent, Phase, SlideChanged, TaskEnded
from wsi_seg.engine.cluster.loop import Loop, Steps
from wsi_seg.engine.cluster.messages import Orders

STEPS = Steps(
    prepare=simulated.prepare,
    outline=simulated.outline,
    job=simulated.job,
    begin=simulated.begin,
    work=simulated.work,
    finish=simulated.finish,
    prepare_apart=simulated.prepare,
    work_apart=simulated.work,
    finish_apart=simulated.finish,
    claim=simulated.claim,
)


def sizes(n: int, shrink: float, seed: int = 0) -> list[int]:
    """Blocks of each slide: 60 % large (log-normal, median 600, sigma 0.4), 40 % small (median 40, sigma 0.7)."""
    chance = random.Random(seed)
    drawn = [(600, 0.4) if chance.random() < 0.6 else (40, 0.7) for _ in range(n)]
    return [max(1, round(chance.lognormvariate(math.log(median / shrink), sigma))) for median, sigma in drawn]


async def be_scheduler(file: Path) -> None:
    """A scheduler as our own clusters have it, until it is ended."""
    from distributed import Scheduler

    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, scheduler_file=str(file)) as scheduler:
        await scheduler.finished()


async def be_workers(file: Path, slow: list[float], preempt_s: float, seed: int) -> None:
    """Workers of one thread each in one process; every `preempt_s` seconds one leaves and another comes."""
    address = json.loads(file.read_text())["address"]
    workers = [await _worker(address, f"w{seed}-{i}", x) for i, x in enumerate(slow)]
    chance = random.Random(seed)
    for n in range(1_000_000):
        await asyncio.sleep(preempt_s or 3600.0)
        if preempt_s:
            i = chance.randrange(len(workers))
            await workers[i].close(executor_wait=False)
            workers[i] = await _worker(address, f"w{seed}-{i}-{n}", slow[i])


async def _worker(address: str, name: str, slow: float) -> Any:
    from distributed import Worker

    return await Worker(address, name=f"{name}-x{slow}", nthreads=1, memory_limit=0, dashboard=False, host="127.0.0.1")


@contextmanager
def cluster(slow: list[float], n_processes: int, preempt_s: float) -> Iterator[tuple[Any, psutil.Process]]:
    """A client and the scheduler's process."""
    from distributed import Client

    me, started = [sys.executable, "-m", "benchmarks.cluster_simulation"], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        try:
            started.append(subprocess.Popen([*me, "--be-scheduler", str(file)], stderr=subprocess.DEVNULL))
            while not file.exists():
                time.sleep(0.05)
            for i in range(n_processes):
                share = ",".join(map(str, slow[i::n_processes]))
                every = preempt_s * n_processes
                words = ["--be-workers", str(file), share, "--preempt", str(every), "--seed", str(i)]
                started.append(subprocess.Popen([*me, *words], stderr=subprocess.DEVNULL))
            with Client(scheduler_file=str(file), set_as_default=False) as client:
                client.wait_for_workers(len(slow), timeout=120)
                yield client, psutil.Process(started[0].pid)
        finally:
            for process in started:
                process.kill()
                process.wait()


class Measured:
    """Hears the loop, and looks at the scheduler twice a second."""

    def __init__(self, scheduler: psutil.Process) -> None:
        self._scheduler, self._end = scheduler, threading.Event()
        self.ended: list[tuple[float, float]] = []
        """(when, ordinary seconds) of every task."""
        self.n_done = self.n_failed = self.peak = 0
        self.began, self._cpu, self._theirs = time.monotonic(), time.process_time(), self._scheduler_cpu()
        threading.Thread(target=self._look, daemon=True).start()

    def __call__(self, event: ClusterEvent) -> None:
        """As a listener of the loop."""
        if isinstance(event, TaskEnded):
            self.ended.append((time.monotonic() - self.began, event.receipt.seconds))
        elif isinstance(event, SlideChanged):
            self.n_done += event.phase is Phase.DONE
            self.n_failed += event.phase is Phase.FAILED

    def stop(self) -> tuple[float, float, float]:
        """(wall, CPU of this process, CPU of the scheduler), s."""
        self._end.set()
        wall = time.monotonic() - self.began
        return wall, time.process_time() - self._cpu, self._scheduler_cpu() - self._theirs

    def _scheduler_cpu(self) -> float:
        spent = self._scheduler.cpu_times()
        return float(spent.user + spent.system)

    def _look(self) -> None:
        while not self._end.wait(0.5):
            self.peak = max(self.peak, self._scheduler.memory_info().rss)


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """Run once; figures by name."""
    orders, pace = Orders("simulation"), Pace(args.block_s)
    wanted = sorted(sizes(args.slides, args.shrink), reverse=True)
    slides = [SimulatedSlide(number, n, pace, orders) for number, n in enumerate(wanted)]
    n_slow = round(args.slow_share * args.workers)
    slow = [args.slowness] * n_slow + [1.0] * (args.workers - n_slow)
    with cluster(slow, args.processes, args.preempt) as (client, scheduler):
        heard = Measured(scheduler)
        Loop(Connection(client), slides, heard, threading.Event(), STEPS).carry_out()  # type: ignore[arg-type]
        wall, driver, theirs = heard.stop()
    work, speed, n = sum(slide.work_s() for slide in slides), sum(1 / x for x in slow), len(heard.ended)
    tail_from = heard.ended[max(0, n - args.workers)][0]
    before = sum(seconds for at, seconds in heard.ended if at <= tail_from)
    around = pace.prepare_s + pace.begin_s + pace.finish_s
    return {
        "slides": heard.n_done,
        "failed": heard.n_failed,
        "tasks": n,
        "workers": args.workers,
        "wall_s": wall,
        "efficiency": work / speed / wall,
        "efficiency_before_tail": (before + around * heard.n_done) / speed / tail_from,
        "tail_s": wall - tail_from,
        "tasks_per_s": n / wall,
        "driver_cpu_share": driver / wall,
        "driver_ms_per_task": 1000 * driver / n,
        "scheduler_cpu_share": theirs / wall,
        "scheduler_ms_per_task": 1000 * theirs / n,
        "scheduler_peak_mb": heard.peak / 1e6,
        "load_of_machine": psutil.getloadavg()[0],
        "ended": heard.ended if args.plot else [],
        "speed": speed,
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """Share of the workers' time that was work on blocks and pyramids, over the run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    bins = 60
    width = figures["wall_s"] / bins
    busy = [0.0] * bins
    for at, seconds in figures["ended"]:  # a task was under way for its seconds before its answer came
        start, end = max(0.0, at - seconds), at
        for i in range(int(start / width), min(bins - 1, int(end / width)) + 1):
            busy[i] += max(0.0, min(end, (i + 1) * width) - max(start, i * width))
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    axes.step([i * width for i in range(bins)], [100 * b / width / figures["speed"] for b in busy], where="post")
    axes.axhline(95, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="s", ylabel="busy with tasks, %", ylim=(0, 105))
    axes.set_title(f"{figures['slides']} slides, {figures['tasks']} tasks, {figures['workers']} workers", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2, help="that the workers are spread over")
    parser.add_argument("--shrink", type=float, default=1.0, help="divides the blocks of every slide")
    parser.add_argument("--block-s", type=float, default=2.0, help="s a block takes; 2.2: 8,192 px at 30 Mpx/s")
    parser.add_argument("--slow-share", type=float, default=0.0)
    parser.add_argument("--slowness", type=float, default=3.0)
    parser.add_argument("--preempt", type=float, default=0.0, help="a worker leaves and another comes every so many s")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--be-scheduler", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--be-workers", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    import dask

    # A worker that left is told of, as --lifetime and a broken connection tell; each may cost a task one try.
    with dask.config.set(SETTINGS | {"distributed.scheduler.allowed-failures": 10}):
        if args.be_scheduler:
            asyncio.run(be_scheduler(args.be_scheduler))
        elif args.be_workers:
            file, slow = args.be_workers
            asyncio.run(be_workers(Path(file), [float(x) for x in slow.split(",")], args.preempt, args.seed))
        else:
            _tell(simulate(args), args.plot)


def _tell(figures: dict[str, Any], plot: Path | None) -> None:
    if plot:
        draw(figures, plot)
    shown = {name: value for name, value in figures.items() if name not in ("ended", "speed")}
    for name, value in shown.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}", flush=True)


if __name__ == "__main__":
    main()
