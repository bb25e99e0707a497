"""A process that opens, describes, plans and segments slides, one after the other, as a user's driver would.

Started by `Driver`, which asks it for one slide at a time and sees it die, hang or answer. Under a limit of memory.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import poll
from time import monotonic
from typing import Any

from tests.chaos.scene import ROOT, Wrong, environment_of_jobs

ADDRESS_SPACE = 3 << 30
"""Bytes that the driver may map beyond what it has when it is warm."""
HANG_S = 30.0
OPTIONS = (
    "--model", "identity", "--tile", "128", "--block", "256", "--overlap", "32", "--workers", "1",
    "--no-skip", "--quiet", "--memory", "2G",
)  # fmt: skip


@dataclass(slots=True)
class Answer:
    """What the driver made of one slide."""

    codes: dict[str, int] = field(default_factory=dict)
    """Exit code of each command."""
    said: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    n_lost: int = 0
    """Reader processes that died."""
    extra_bytes: int = 0
    """Resident memory at most, beyond that at the start, of the driver and its reader processes together."""


class Driver:
    """The process, started again whenever it is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.n_started = 0

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, slide: Path, options: tuple[str, ...] = (), commands: tuple[str, ...] = ("info", "run")) -> Answer:
        """Let it work on a slide. Raises Wrong where it dies or does not answer within `HANG_S` per command."""
        process = self._process or self._start()
        request = {"slide": str(slide), "options": options, "commands": commands, "folder": str(self._folder)}
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = self._line(process, HANG_S * len(commands))
        return Answer(**json.loads(line))

    def _start(self) -> subprocess.Popen[bytes]:
        self.n_started += 1
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.slide_worker"], cwd=ROOT, env=environment_of_jobs(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._process = process
        self._line(process, 120)
        return process

    def _line(self, process: subprocess.Popen[bytes], timeout: float) -> bytes:
        assert process.stdout is not None
        waiter = poll()
        waiter.register(process.stdout, 1)
        if not waiter.poll(timeout * 1000):
            self._end()
            raise Wrong(f"the driver hung: no answer within {timeout:.0f} s")
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._end()
            raise Wrong(f"the driver died: exit code {code}")
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def main() -> None:
    """Answer requests, a line each, until there are none."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from tests.chaos.warm import warm_program
    from wsi_seg.sample import write_synthetic
    from wsi_seg.slide.reading_apart import READERS, ReaderProcess

    with warm_program():
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"warm.{os.getpid()}"
        folder.mkdir()
        write_synthetic(folder / "slide.tif", (300, 300), mpp=0.5, seed=1)
        _worked_on(folder / "slide.tif", folder, (), ("info", "run"))
        shutil.rmtree(folder)
        known = _watch(ReaderProcess)
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
        answers.write("ready\n")
        for line in sys.stdin.buffer:
            asked = json.loads(line)
            _reset_peaks(_processes(READERS))
            before, floor, known.peak_bytes = len(known.lost), _peak(_processes(READERS)), 0
            answer = _worked_on(
                Path(asked["slide"]), Path(asked["folder"]), tuple(asked["options"]), tuple(asked["commands"])
            )
            answer["n_lost"] = len(known.lost) - before
            answer["extra_bytes"] = max(0, _peak(_processes(READERS)) + known.peak_bytes - floor)
            answers.write(json.dumps(answer) + "\n")


def _worked_on(slide: Path, folder: Path, options: tuple[str, ...], commands: tuple[str, ...]) -> dict[str, Any]:
    from tests.chaos.warm import wsi_seg

    answer: dict[str, Any] = {"codes": {}, "said": {}, "seconds": {}}
    out = folder / "out.seg.zarr"

    def step(name: str, *arguments: object) -> int:
        began = monotonic()
        ended = wsi_seg(*arguments)
        answer["seconds"][name] = monotonic() - began
        answer["codes"][name], answer["said"][name] = ended.code, ended.said[-3000:]
        return ended.code

    for command in commands:
        if command == "run":
            if step("run", "run", slide, "--out", out, *OPTIONS, *options) in (0, 3):
                step("verify", "verify", out)
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(out.with_name(f"{out.name}.partial"), ignore_errors=True)
        else:
            step(command, command, slide)
    return answer


@dataclass(slots=True)
class _Ended:
    """What is known of the reader processes that are gone."""

    lost: list[str] = field(default_factory=list)
    peak_bytes: int = 0


def _watch(process: type) -> _Ended:
    """Keeps the last words of dying reader processes, and the peaks of all that end."""
    known = _Ended()
    ending, end = process._ending, process.end  # type: ignore[attr-defined]

    def told(self: Any) -> str:
        known.lost.append(ending(self))
        return known.lost[-1]

    def ended(self: Any) -> None:
        known.peak_bytes = max(known.peak_bytes, _peak([self._process.pid]))
        end(self)

    process._ending, process.end = told, ended  # type: ignore[attr-defined]
    return known


def _processes(readers: Any) -> list[int]:
    return [os.getpid(), *(reader.pid for reader in readers._all)]


def _peak(processes: Sequence[int]) -> int:
    """Highest resident memory of the processes since it was last reset, bytes in all."""
    total = 0
    for pid in processes:
        with suppress(OSError, IndexError):
            total += int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10
    return total


def _reset_peaks(processes: Sequence[int]) -> None:
    for pid in processes:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
