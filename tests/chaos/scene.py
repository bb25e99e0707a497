"""Where faults happen: a slide of many small blocks, the program as its own process, and what it gives undisturbed.

Owns the command under test. To try another command, add it to COMMANDS: a function that answers the arguments, and
the place of the finished result.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.tracing import LOG, Trace, log_of
from tests.chaos.trees import contents, differences
from wsi_seg.output.run_directory import partial_path
from wsi_seg.output.verify import verify_result

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--model", "he-stain", "--tile", "128", "--block", "256", "--no-skip", "--overlap", "32")
"""Options that cut a small slide into many tiles and blocks."""
PATIENCE = 120.0
"""Seconds after which a run that should have ended is a wrong one."""

Kept = TypeVar("Kept")


class Wrong(Exception):
    """A promise that was not kept."""


def wsi_seg_run(slide: Path, out: Path, options: Sequence[str], scheduler: str | None) -> list[str]:
    """`wsi-seg run`, traced."""
    where = [] if scheduler is None else ["--scheduler", scheduler]
    return ["-m", "tests.chaos.traced", "run", str(slide), "--out", str(out), "--quiet", *options, *where]


COMMANDS: dict[str, Callable[[Path, Path, Sequence[str], str | None], list[str]]] = {"run": wsi_seg_run}
"""By name: the arguments after `python` that segment a slide into `out` (the finished result's own path)."""


class Job:
    """A started program. It is killed at the end, if it still lives. `prefix` starts it, and becomes it (`exec`)."""

    def __init__(self, arguments: Sequence[str], said: Path, prefix: Sequence[str] = (), **environment: str) -> None:
        self._said = said
        self.started = time.time()
        with said.open("wb") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *arguments],
                cwd=ROOT,
                env=environment_of_jobs(**environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        """Both streams."""
        return self._said.read_text(errors="replace")

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code. Raises Wrong where it does not end."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Wrong(f"still running after {timeout:.0f} s, having said {self.said[-400:]!r}") from None

    def kill(self) -> None:
        """`kill -9`, and the end of it."""
        self.process.kill()
        self.process.wait()


def environment_of_jobs(**more: str) -> dict[str, str]:
    """What subprocesses are started with: this checkout's code, one thread per library."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", **more}


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run that nothing happened to."""

    tree: dict[str, bytes]
    trace: Trace
    seconds: float
    """Of the whole process."""
    preparing: float
    """Until the first task begins."""
    working: float
    """From there to the last marker."""

    @property
    def committing(self) -> float:
        """From the last marker to the end of the process."""
        return self.seconds - self.preparing - self.working

    @property
    def n_blocks(self) -> int:
        return len(self.trace.of("begin", lambda tier: tier == 0))

    @property
    def n_tasks(self) -> int:
        return len(self.trace.begun())


class Attempt:
    """One result under attack: its own folder, log and name."""

    def __init__(self, scene: Scene, folder: Path, options: Sequence[str], scheduler: str | None = None) -> None:
        self.scene, self.folder, self.options, self.scheduler = scene, folder, options, scheduler
        self.out = folder / "x.seg.zarr"
        self.log = log_of(self.out, scene.folder)
        self._numbers = itertools.count()

    @property
    def partial(self) -> Path:
        return partial_path(self.out)

    @property
    def trace(self) -> Trace:
        return Trace.read(self.log)

    @contextmanager
    def started(self, **environment: str) -> Iterator[Job]:
        """The command, running."""
        arguments = self.scene.command(self.scene.slide, self.out, self.options, self.scheduler)
        said = self.scene.folder / f"{self.folder.name}.{next(self._numbers)}.said"
        job = Job(arguments, said, **{LOG: str(self.scene.folder), **environment})
        try:
            yield job
        finally:
            job.kill()

    def run(self, **environment: str) -> Job:
        """The command, to its end."""
        with self.started(**environment) as job:
            job.wait()
        return job

    def start_anew(self) -> None:
        """Throw away what there is."""
        for path in (self.out, self.partial):
            shutil.rmtree(path, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def finish(self) -> Job | None:
        """The same command again, which must succeed; None where the result is there already."""
        if self.out.exists():
            return None
        job = self.run()
        if self.out.exists() and "rule: results are never replaced unasked" in job.said:
            return None  # a worker whose driver had died was about to commit it
        if job.process.returncode:
            raise Wrong(f"the same command again: exit code {job.process.returncode}, {job.said[-600:]!r}")
        return job

    def judge(self, expected: dict[str, bytes]) -> None:
        """See `judge_result`."""
        judge_result(self.out, expected)


def judge_result(out: Path, expected: dict[str, bytes]) -> None:
    """The finished result is the undisturbed one, sound, and alone in its folder. Raises Wrong."""
    if not out.is_dir():
        raise Wrong("there is no result")
    if found := differences(expected, contents(out)):
        raise Wrong(f"{len(found)} differences: {'; '.join(found[:4])}")
    report = verify_result(out)
    if not report.is_sound or report.n_pending:
        raise Wrong(f"verify: {report.n_pending} pending, {[f'{p.key}: {p.cause}' for p in report.problems[:3]]}")
    if others := sorted(path.name for path in out.parent.iterdir() if path != out):
        raise Wrong(f"left behind: {', '.join(others)}")


class Scene:
    """A folder to work in, the slide, the command, and what is kept from attempt to attempt."""

    def __init__(self, folder: Path, command: str = "run", options: Sequence[str] = SMALL) -> None:
        self.folder, self.options, self.command = folder, tuple(options), COMMANDS[command]
        self._numbers = itertools.count()
        self._kept: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def slide(self) -> Path:
        """1500 x 1100 px (width x height): 30 blocks of 256 px and 9 tasks above them."""
        from wsi_seg.sample import write_synthetic

        path = self.folder / "slide.tif"
        write_synthetic(path, (1100, 1500), mpp=0.5, seed=3, tissue_fraction=0.7)
        return path

    @cached_property
    def undisturbed(self) -> Undisturbed:
        """The second of two runs: the first may compile."""
        self.watched()
        return self.watched()

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` answered the first time; a context manager is entered, and left at the end."""
        if name not in self._kept:
            made = make()
            self._kept[name] = (
                self._stack.enter_context(made) if hasattr(made, "__exit__") and not isinstance(made, Path) else made
            )
        return self._kept[name]

    @contextmanager
    def attempt(
        self, options: Sequence[str] = (), scheduler: str | None = None, folder: Path | None = None
    ) -> Iterator[Attempt]:
        """A result of its own in a new folder, removed at the end; `folder`: where to make that, if not here."""
        place = (folder or self.folder) / f"attempt{next(self._numbers)}"
        attempt = Attempt(self, place, (*self.options, *options), scheduler)
        place.mkdir()
        try:
            yield attempt
        finally:
            shutil.rmtree(place, ignore_errors=True)
            for path in self.folder.glob(f"{place.name}.*"):
                path.unlink()

    def watched(self, scheduler: str | None = None, options: Sequence[str] = ()) -> Undisturbed:
        """Let the command run undisturbed."""
        with self.attempt(options, scheduler=scheduler) as attempt:
            began = time.time()
            job = attempt.run()
            seconds = time.time() - began
            if job.process.returncode:
                raise RuntimeError(f"the undisturbed run failed: {job.said}")
            events = attempt.trace.events
            first, last = events[0].at, events[-1].at
            tree = contents(attempt.out)
            return Undisturbed(tree, attempt.trace, seconds, first - began, last - first)


def wait_until(true: Callable[[], bool], job: Job, timeout: float = PATIENCE, every: float = 0.001) -> bool:
    """Wait for something of a running job; False where the job ended first."""
    end = time.monotonic() + timeout
    while not true():
        if not job.lives:
            return False
        if time.monotonic() > end:
            raise Wrong(f"waited {timeout:.0f} s in vain, having heard {job.said[-400:]!r}")
        time.sleep(every)
    return True
