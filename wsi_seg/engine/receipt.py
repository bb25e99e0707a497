"""What a task answers: small, plain, and enough for the marker, the summary and the progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsi_seg.output.status import TileStatus

TileKey = tuple[int, int]
ShardRecord = tuple[str, int] | None
"""(SHA-256, bytes) of a stored shard; None where the shard is all not-analysed and is not stored."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one task; no pixels."""

    tier: int
    row: int
    column: int
    shards: dict[str, ShardRecord]
    """By key in the store."""
    statuses: dict[TileKey, TileStatus] = field(default_factory=dict)
    """Of the tiles whose cell begins in the block."""
    counts: tuple[int, ...] = ()
    """Level-0 pixels per class, then those not analysed."""
    seconds: float = 0.0
    """Of all threads that worked at it."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall seconds by stage of the work."""
    n_predicted: int = 0
    """Tiles predicted by this task, those for its neighbours' use included."""
    failures: tuple[str, ...] = ()
    """What went wrong with single tiles, in words; the first few."""
    notes: tuple[str, ...] = ()
    """What the task had to change for the rest of the run, such as the size of batches, in words."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form, as markers keep it."""
        return {
            "tier": self.tier,
            "row": self.row,
            "column": self.column,
            "shards": {key: list(record) if record else None for key, record in self.shards.items()},
            "statuses": [[y, x, int(status)] for (y, x), status in sorted(self.statuses.items())],
            "counts": list(self.counts),
            "seconds": round(self.seconds, 4),
            "stages": {name: round(value, 4) for name, value in self.stages.items()},
            "n_predicted": self.n_predicted,
            "failures": list(self.failures),
            "notes": list(self.notes),
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Receipt:
        """The receipt that a marker holds."""
        return cls(
            tier=content["tier"],
            row=content["row"],
            column=content["column"],
            shards={key: (record[0], record[1]) if record else None for key, record in content["shards"].items()},
            statuses={(y, x): TileStatus(status) for y, x, status in content["statuses"]},
            counts=tuple(content["counts"]),
            seconds=content["seconds"],
            stages=dict(content["stages"]),
            n_predicted=content["n_predicted"],
            failures=tuple(content["failures"]),
            notes=tuple(content["notes"]),
        )


@dataclass(frozen=True, slots=True)
class WorkDone:
    """What a run's tasks answered and how long they took."""

    receipts: Sequence[Receipt]
    """Of all tasks, those of earlier runs included."""
    started: float
    """`perf_counter` at the command."""
    seconds_working: float
    """Wall time of the task graph."""
    n_resumed: int = 0
    """How many of the receipts, the first ones, are of earlier runs."""
    n_workers: int = 0
    """Threads of this process that worked; 0 where a cluster did."""

    @property
    def mpx_per_s(self) -> float:
        """Megapixels that got a label in this run, over the seconds its tasks took."""
        new = [receipt for receipt in self.receipts[self.n_resumed :] if receipt.tier == 0]
        return sum(sum(receipt.counts[:-1]) for receipt in new) / 1e6 / max(1e-9, self.seconds_working)
