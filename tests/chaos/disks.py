"""R2 and R4: a disk that loses its power, and one that is really full.

Both need a file system of their own: a tmpfs of a few MB, an ext4 in a file on a loop device, shut down by
FS_IOC_SHUTDOWN without flushing its log. Where mounting is refused they are skipped, saying what was refused.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.chaos.fault import Fault, Figures, Skipped
from tests.chaos.killing import is_a_clear_error
from tests.chaos.moments import wait_for_a_moment
from tests.chaos.scene import Scene, Wrong
from wsi_seg.output.run_directory import Markers, stored_identity

FS_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32), of the Linux kernel's uapi for ext4 and XFS."""
NO_LOG_FLUSH = 2
FREE = (30_000, 90_000, 200_000, 400_000, 700_000)
"""Bytes that are free on the full disk."""


def _must(*command: str | Path) -> None:
    """Run a command of the system; Skipped with its own words where it is refused."""
    try:
        done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True)
    except OSError as error:
        raise Skipped(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Skipped(f"`{' '.join(map(str, command))}` was refused: {done.stderr.strip()}")


@contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    """A file system, while it lasts."""
    folder.mkdir(exist_ok=True)
    _must("mount", *arguments, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def fill_the_disk(scene: Scene, _: Random, number: int) -> Figures:
    """The run meets a full tmpfs; room is made; the same command again."""
    free = FREE[number % len(FREE)]
    with (
        mounted(scene.folder / f"tmpfs{number}", "-t", "tmpfs", "-o", "size=16m", "none") as disk,
        scene.attempt(folder=disk) as attempt,
    ):
        ballast = disk / "ballast"
        ballast.write_bytes(bytes((16 << 20) - free))
        first = attempt.run()
        if first.process.returncode:
            is_a_clear_error(first, f"{free} bytes free")
            if first.process.returncode != 1 or "bytes are free" not in first.said or attempt.out.exists():
                raise Wrong(f"{free} bytes free: {first.process.returncode}, {first.said[-400:]!r}")
        ballast.unlink()
        attempt.finish()
        attempt.judge(scene.undisturbed.tree)
    return {"refused": bool(first.process.returncode)}


def cut_the_power(scene: Scene, chance: Random, number: int) -> Figures:
    """At a random moment all that was not flushed is lost; the disk is mounted again; the same command again."""
    image, place = scene.folder / f"disk{number}", scene.folder / f"ext4-{number}"
    with image.open("wb") as file:
        file.truncate(48 << 20)
    _must("mkfs.ext4", "-q", image)
    with mounted(place, "-o", "loop", image) as disk, scene.attempt(folder=disk) as attempt:
        os.sync()
        with attempt.started() as job:
            moment = wait_for_a_moment(chance, attempt, job, scene.undisturbed)
            acknowledged = attempt.trace.acknowledged()  # before the cut: what comes after it cannot be told apart
            _shut_down(disk)
            job.kill()
    with mounted(place, "-o", "loop", image):
        before = len(attempt.trace.events)
        lost = _lost(attempt.partial, acknowledged) if not attempt.out.exists() else set()
        if lost:
            raise Wrong(f"{moment}: {len(lost)} of {len(acknowledged)} acknowledged tasks are lost: {sorted(lost)[:4]}")
        attempt.folder.mkdir(exist_ok=True)
        attempt.finish()
        again = acknowledged & {event.task for event in attempt.trace.events[before:] if event.kind == "begin"}
        if again:
            raise Wrong(f"{moment}: {sorted(again)[:4]} were done again")
        attempt.judge(scene.undisturbed.tree)
    image.unlink()
    attempt.log.unlink(missing_ok=True)
    return {"acknowledged": len(acknowledged)}


def _shut_down(disk: Path) -> None:
    handle = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    except OSError as error:
        raise Skipped(f"FS_IOC_SHUTDOWN was refused: {error}") from error
    finally:
        os.close(handle)


def _lost(partial: Path, acknowledged: set[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    """Acknowledged tasks without a sound marker whose shards hold what it says."""
    identity = stored_identity(partial)
    markers = Markers(partial, identity.run_id if identity else "")
    tiers = {tier for tier, _, _ in acknowledged}
    return acknowledged - {(tier, *place) for tier in tiers for place in markers.load(tier, check_hashes=True)}


def told_of_power(figures: Sequence[Figures]) -> str:
    """How much was at stake."""
    return f"0 of {sum(figure['acknowledged'] for figure in figures)} acknowledged tasks lost"


FAULTS = (
    Fault("power", "R2", "power loss on ext4", 20, cut_the_power, told_of_power),
    Fault(
        "full-disk", "R4", "a full disk", 5, fill_the_disk,
        lambda figures: f"{sum(figure['refused'] for figure in figures)} runs met the end of the disk",
    ),
)  # fmt: skip
