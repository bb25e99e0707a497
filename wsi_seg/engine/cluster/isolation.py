"""One step in a process of its own, for steps that end the process they run in.

A worker's death says which steps it was at, and no more. Here the guilty one dies alone, and within a task each tile is
announced before it is tried, so that the one that ends the process (a decoder or a runtime that crashes, memory that
runs away, a read that never returns) is known, left out, and everything else of the block is kept. Owns the child's
life and what it is told; not what a step does.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from time import monotonic
from typing import IO, Any, TypeVar

from wsi_seg.engine.cluster.isolated import LENGTH_BYTES
from wsi_seg.engine.cluster.messages import SealedJob, TileKey
from wsi_seg.engine.cluster.watch import SLOWER
from wsi_seg.engine.events import ignore
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.models import Models
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.session import Trial, run_task, session_for
from wsi_seg.errors import ClusterError
from wsi_seg.output.status import TileStatus

T = TypeVar("T")
MAX_TRIES = 24
"""Children for one task. Tiles beyond these are given up together, with the whole block."""
STARTING_S = 300.0
"""Seconds until a child announces its first tile, or answers."""
LOOK_S = 0.25
"""Seconds between two looks at a child's memory and clock."""
_STATUS = {"read": TileStatus.UNREADABLE, "predict": TileStatus.MODEL_FAILED}
Condemned = Mapping[TileKey, TileStatus]


def call_apart(function: Callable[..., T], *arguments: Any, step: str, memory_bytes: int | None) -> T:
    """The value of `function` in a process of its own, called with `arguments` and a `Trial` it may leave alone.

    `memory_bytes` is what the process may hold. All have to pickle. Raises whatever the function raises, and
    ClusterError, naming the `step`, where the process ended without an answer.
    """
    outcome = _Child(function, arguments, memory_bytes, STARTING_S).outcome()
    if isinstance(outcome, _Ended):
        raise ClusterError(
            f"{step} ends its process: {outcome.how}",
            rule="a file or model that crashes a library, needs more memory than a worker has, or never answers",
            remedy="the other slides are unharmed; look at this one alone with `wsi-seg info` and `wsi-seg plan`",
        )
    value: T = outcome
    return value


def run_apart(
    job: SealedJob, key: TaskKey, condemned: Condemned, memory_bytes: int | None
) -> tuple[Receipt, dict[TileKey, TileStatus]]:
    """Run a task in child processes until one survives; answer its receipt and the tiles found to be deadly.

    `memory_bytes` is what a child may hold. Raises whatever the task raises, and ClusterError where children die
    without having tried a tile.
    """
    found: dict[TileKey, TileStatus] = {}
    for _ in range(MAX_TRIES):
        outcome = _Child(_carry_out, (job, key, {**condemned, **found}), memory_bytes, job.orders.stall_s).outcome()
        if isinstance(outcome, Receipt):
            return outcome, found
        assert isinstance(outcome, _Ended)
        if not outcome.trying:
            raise ClusterError(
                f"task {key.tier}, {key.row}, {key.column} ended its process before it tried a tile: {outcome.how}",
                rule="a task that ends every process it runs in cannot be carried out",
                remedy="see the log of the worker; look for missing memory first",
            )
        found.update(dict.fromkeys(outcome.trying, _STATUS[outcome.doing]))
    raise ClusterError(
        f"task {key.tier}, {key.row}, {key.column} has ended {MAX_TRIES} processes",
        rule="a tile that ends its process is left out; that many in one block are the fault of something else",
        remedy="see the log of the worker",
    )


def _carry_out(job: SealedJob, key: TaskKey, condemned: dict[TileKey, TileStatus], trial: Trial) -> Receipt:
    """A task, in the child."""
    session = session_for(job.content.open(), Models(), ignore, threading.Event())
    session.condemn(condemned)
    session.try_singly(trial)
    return run_task(session, key)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended without an answer."""

    how: str
    doing: str
    trying: tuple[TileKey, ...]
    """Tiles it was at; none where it had tried none."""


class _Child:
    """A process that makes one call and tells what it is about to try."""

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], memory_bytes: int | None, stall_s: float
    ) -> None:
        self._doing, self._trying = "read", tuple[TileKey, ...]()
        self._stall_s, self._memory = stall_s, memory_bytes
        self._longest = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wsi_seg.engine.cluster.isolated"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._heard: Queue[dict[str, Any] | None] = Queue()
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        with suppress(BrokenPipeError):  # it died at once: `outcome` says how
            assert self._process.stdin is not None
            asked = pickle.dumps((function, arguments))
            self._process.stdin.write(len(asked).to_bytes(LENGTH_BYTES, "big") + asked)
            self._process.stdin.flush()  # and left open: when this process dies, the child notices

    def outcome(self) -> Any:
        """The value of the call, or an `_Ended`. Raises what the call raised."""
        limit, last = STARTING_S, monotonic()
        try:
            while True:
                try:
                    said = self._heard.get(timeout=LOOK_S)
                except Empty:
                    if over := self._overdue(limit, monotonic() - last):
                        return _Ended(over, self._doing, self._trying)
                    continue
                if said is None:
                    return _Ended(self._ending(), self._doing, self._trying)
                if "value" in said:
                    return pickle.loads(bytes.fromhex(said["value"]))
                if "error" in said:
                    raise pickle.loads(bytes.fromhex(said["error"]))
                if self._trying:
                    self._longest = max(self._longest, monotonic() - last)
                self._doing, self._trying = said["doing"], tuple((y, x) for y, x in said["tiles"])
                limit, last = max(self._stall_s, SLOWER * self._longest), monotonic()
        finally:
            self._process.kill()
            self._process.communicate()

    def _overdue(self, limit: float, waited: float) -> str:
        """Why the process is to be ended now, or nothing."""
        import psutil

        if waited > limit:
            return f"no progress for {waited:.0f} s"
        with suppress(psutil.NoSuchProcess):
            held = psutil.Process(self._process.pid).memory_info().rss
            if self._memory is not None and held > self._memory:
                return f"it held {held / 1e9:.1f} GB of memory, {self._memory / 1e9:.1f} GB are allowed"
        return ""

    def _ending(self) -> str:
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _listen(self, out: IO[bytes]) -> None:
        for line in out:
            with suppress(ValueError):  # a library that prints
                said = json.loads(line)
                if isinstance(said, dict) and said.keys() & {"doing", "value", "error"}:
                    self._heard.put(said)
        self._heard.put(None)
