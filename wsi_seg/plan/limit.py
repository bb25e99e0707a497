"""How much memory this process may use: the limit of its container or job, or the machine's memory.

Reads the control groups of Linux; elsewhere the machine's memory is the limit. Knows nothing of what will use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

BUDGET_SHARE = 0.8
"""Share of the limit that a run plans with, where the user did not say; the rest is for other programs."""


def default_budget() -> int:
    """Bytes a run plans with, where the user did not say."""
    return int(BUDGET_SHARE * memory_limit())


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes this process may use: the smallest limit of its control groups (v2 or v1), or the machine's memory.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    import psutil

    machine = int(psutil.virtual_memory().total)
    return min([machine, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Limits of this process' control group and of all groups above it; nothing where there are none."""
    for group, mount, name in _cgroups(root):
        # A container sees its own group as the root of the mount, under a path that only the host has: walk up to it.
        for folder in (group, *group.parents):
            text = _read(mount / folder / name)
            if text.isdigit():
                yield int(text)


def _cgroups(root: Path) -> Iterator[tuple[Path, Path, str]]:
    """(group, mount, file with the limit) for v2 (`0::/group`) and v1 (`4:memory:/group`)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        relative = Path(group.lstrip("/"))
        if not controllers:
            yield relative, root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            yield relative, root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
