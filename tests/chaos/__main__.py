"""Runs the faults: `python -m tests.chaos [NAME ...] [--points N] [--seed S] [--only NUMBER]`.

A name is a fault's (`driver`) or a goal's (`R1`). Several faults run side by side, each in a process of its own: as
many as there are cores, and beside them those that mostly wait. Leaves with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from random import SystemRandom

from tests.chaos.catalogue import FAULTS
from tests.chaos.fault import Fault, carry_out
from tests.chaos.scene import COMMANDS, ROOT, Scene, environment_of_jobs
from tests.whole_runs import folder_in_memory


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = _parser().parse_args(arguments)
    faults = [fault for fault in FAULTS if not asked.names or {fault.name, fault.goal} & set(asked.names)]
    if unknown := set(asked.names) - {word for fault in FAULTS for word in (fault.name, fault.goal)}:
        print(f"no such fault: {', '.join(sorted(unknown))}\nthere are: {', '.join(f.name for f in FAULTS)}")
        return 2
    seed = SystemRandom().randrange(10_000) if asked.seed is None else asked.seed
    return _one(faults[0], asked, seed) if len(faults) == 1 else _many(faults, asked, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults, and what became of the result.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults or goals; default: all")
    parser.add_argument("--points", type=int, help="attempts per fault; default: as the fault says")
    parser.add_argument("--seed", type=int, help="of the random numbers; default: another one each time")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this attempt alone")
    parser.add_argument("--command", choices=sorted(COMMANDS), default="run", help="what is under test")
    return parser


def _one(fault: Fault, asked: argparse.Namespace, seed: int) -> int:
    with (
        tempfile.TemporaryDirectory() as otherwise,
        folder_in_memory(Path(otherwise)) as folder,
        Scene(folder, asked.command) as scene,
    ):
        outcome = carry_out(fault, scene, seed=seed, points=asked.points, only=asked.only)
    print("\n".join([outcome.line(), *outcome.repeats()]), flush=True)
    return int(bool(outcome.wrong))


def _many(faults: Sequence[Fault], asked: argparse.Namespace, seed: int) -> int:
    """Each in a process of its own; prints each one's lines when it is through."""
    options = ["--seed", str(seed), "--command", asked.command]
    options += [] if asked.points is None else ["--points", str(asked.points)]
    options += [] if asked.only is None else ["--only", str(asked.only)]
    started, codes = time.perf_counter(), []
    waiting = [fault for fault in faults if fault.waits]
    working = [fault for fault in faults if not fault.waits]
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers, ThreadPoolExecutor(max(1, len(waiting))) as waiters:
        running = [waiters.submit(_apart, fault.name, options) for fault in waiting]
        running += [workers.submit(_apart, fault.name, options) for fault in working]
        for future in as_completed(running):
            code, said = future.result()
            codes.append(code)
            print(said.rstrip(), flush=True)
    n_wrong = sum(1 for code in codes if code)
    print(f"{len(faults)} faults, {n_wrong} with something wrong, {time.perf_counter() - started:.0f} s", flush=True)
    return int(n_wrong > 0)


def _apart(name: str, options: Sequence[str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.chaos", name, *options]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_of_jobs(), check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
