"""What a command costs: its children count too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import cost_of

HOLD = "import time; held = bytearray(b'x') * 80_000_000; time.sleep(1.2)"
PARENT = f"""
import subprocess, sys
children = [subprocess.Popen([sys.executable, '-c', {HOLD!r}]) for _ in range(3)]
print(sum(child.wait() for child in children))
"""


def test_memory_of_the_tree_is_the_sum_of_its_processes() -> None:
    cost = cost_of([sys.executable, "-c", PARENT])
    assert cost.output == "0\n"
    assert cost.wall_s > 1.2
    assert 240 < cost.tree_mb < 340


def test_a_lone_process_is_its_own_tree() -> None:
    cost = cost_of([sys.executable, "-c", HOLD])
    assert 80 < cost.tree_mb < 120


def test_a_command_runs_where_it_is_told_and_its_failure_is_raised(tmp_path: Path) -> None:
    assert cost_of([sys.executable, "-c", "import os; print(os.getcwd())"], tmp_path).output.strip() == str(tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        cost_of([sys.executable, "-c", "raise SystemExit(3)"])
