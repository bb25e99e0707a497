"""What the folder of a batch says at any time, also while somebody works on it or after a crash.

Reads only; never asks a scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wsi_seg.batch.folder import STATE, BatchFolder
from wsi_seg.batch.record import SlideRecord
from wsi_seg.errors import BatchError, CorruptOutputError
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import STATE as RUN_STATE
from wsi_seg.output.site import unfinished_below
from wsi_seg.output.store import Location, location_of, store_at, way_to


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A slide that was begun."""

    name: str
    n_done: int
    """Tasks that left a marker."""
    n_tasks: int
    """0 where it is not known yet."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What is known of a batch."""

    folder: Location
    owner: str
    """Host and pid of whoever works on it; empty where nobody does."""
    records: tuple[SlideRecord, ...]
    unfinished: tuple[Unfinished, ...]

    @property
    def count(self) -> Counter[str]:
        """Slides by state."""
        return Counter(record.state for record in self.records)

    def to_mapping(self) -> Mapping[str, Any]:
        """JSON-able form."""
        return {
            "folder": str(self.folder),
            "owner": self.owner,
            "done": self.count["done"],
            "failed": self.count["failed"],
            "unfinished": [asdict(slide) for slide in self.unfinished],
            "slides": [record.told() for record in self.records],
        }

    def describe(self) -> str:
        """For people."""
        n_failed_tiles = sum(1 for record in self.records if record.n_failed_tiles)
        parts = f", {n_failed_tiles} of them with failed parts" if n_failed_tiles else ""
        lines = [
            f"{self.folder}: {f'{self.owner} works on it' if self.owner else 'nobody works on it'}",
            f"  {self.count['done']} done{parts}, {self.count['failed']} failed, {len(self.unfinished)} begun",
        ]
        for slide in self.unfinished:
            whole = f" of {slide.n_tasks}" if slide.n_tasks else ""
            lines.append(f"  {slide.name}: {slide.n_done}{whole} tasks done")
        lines += [f"  {r.name}: {r.error}: {r.what}" for r in self.records if r.state == "failed"]
        return "\n".join(lines)


def batch_status(path: str | Location) -> BatchStatus:
    """Look at the folder of a batch. Raises BatchError where it is none."""
    folder = BatchFolder(location_of(path))
    if not folder.exists:
        raise BatchError(f"{path} is no folder of a batch", rule=f"it holds {STATE}/batch.json")
    begun = [_unfinished(folder.path, partial) for partial in unfinished_below(folder.path)]
    return BatchStatus(folder.path, folder.owner(), tuple(folder.records()), tuple(begun))


def _unfinished(folder: Location, partial: Location) -> Unfinished:
    name = way_to(partial, folder).as_posix().removesuffix(".partial").removesuffix(".seg.zarr")
    n_done = sum(1 for key in store_at(partial).keys(f"{RUN_STATE}/done") if key.endswith(".json"))
    try:
        layout = open_result(partial, partial=True).spec.layout
    except CorruptOutputError:
        return Unfinished(name, n_done, 0)
    grids = [layout.grid(tier) for tier in range(layout.n_tiers)]
    return Unfinished(name, n_done, sum(rows * columns for rows, columns in grids))
