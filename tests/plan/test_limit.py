"""The memory limit is the smallest of machine and control groups, in both versions of the kernel's interface."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from wsi_seg.plan import default_budget, memory_limit

MACHINE = psutil.virtual_memory().total
HUGE = 2**63 - 4096


def system(root: Path, group: str, **limits: object) -> Path:
    """A file system with /proc/self/cgroup and limit files; in `limits`, `__` stands for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, value in limits.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


V2 = "0::/user/job\n"
V1 = "9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n"
CASES = [
    pytest.param(V2, {"user__job__memory.max": 10**6}, 10**6, id="v2 own group"),
    pytest.param(V2, {"user__job__memory.max": "max", "user__memory.max": 10**6}, 10**6, id="v2 group above"),
    pytest.param(V2, {"user__job__memory.max": 10**7, "user__memory.max": 10**6}, 10**6, id="v2 smallest counts"),
    pytest.param("0::/\n", {"memory.max": 10**6}, 10**6, id="v2 in a container"),
    pytest.param(V2, {"user__job__memory.max": "max"}, MACHINE, id="v2 no limit"),
    pytest.param(V1, {"memory__docker__abc__memory.limit_in_bytes": 10**6}, 10**6, id="v1 own group"),
    pytest.param(V1, {"memory__memory.limit_in_bytes": 10**6}, 10**6, id="v1 in a container, path of the host"),
    pytest.param(V1, {"memory__memory.limit_in_bytes": HUGE}, MACHINE, id="v1 no limit"),
    pytest.param("", {"memory.max": 10**6}, MACHINE, id="no groups"),
]


@pytest.mark.parametrize(("group", "limits", "expected"), CASES)
def test_limit(group: str, limits: dict[str, object], expected: int, tmp_path: Path) -> None:
    assert memory_limit(system(tmp_path, group, **limits)) == expected


def test_a_system_without_control_groups_has_the_machines_memory(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == MACHINE


def test_the_default_budget_leaves_room() -> None:
    assert default_budget() == int(0.8 * memory_limit())
    assert 0 < default_budget() < MACHINE
