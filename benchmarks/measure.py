"""Runs commands and says what they cost; owns the measuring and the log, no workload."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from benchmarks.tree_memory import TreeMemory

LOG = Path(__file__).with_name("LOG.md")
INPUTS = Path(os.environ.get("WSI_SEG_BENCH", Path.home() / ".cache" / "wsi-seg" / "bench"))
"""Where slides and models for benchmarks are made and kept."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one finished command took, its children included."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Of the largest single process, as the system counts it: on Linux never less than what this one has held."""
    tree_mb: float
    """Of all its processes together at the worst moment, sampled."""
    output: str


def cost_of(command: list[str], folder: Path | None = None) -> Cost:
    """Run a command to its end, in `folder` or here; raises CalledProcessError where it fails."""
    started = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        with TreeMemory(process.pid) as memory:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    scale = 1 if sys.platform == "darwin" else 1024
    peak_mb, tree_mb = usage.ru_maxrss * scale / 1e6, memory.peak / 1e6
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_mb, tree_mb, output)


def wsi_seg(*arguments: object) -> list[str]:
    """Command line of our own program, in this interpreter."""
    return [sys.executable, "-m", "wsi_seg.cli", *map(str, arguments)]


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]], log: Path = LOG) -> str:
    """A Markdown table with its title and the machine, also appended to `log`."""
    lines = [f"### {title}", "", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}", ""]
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = "\n".join(lines)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
    return text


def machine() -> str:
    """Processor, cores and load, in words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    load = os.getloadavg()[0]
    return f"{model}, {len(os.sched_getaffinity(0))} cores, load {load:.1f}, Python {platform.python_version()}"


def median(values: list[float]) -> float:
    """Middle value (the lower of two)."""
    return sorted(values)[(len(values) - 1) // 2]
