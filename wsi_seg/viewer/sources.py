"""Where the labels of a view come from; here a result, finished or still being made (`live` predicts them on demand).

Owns what a source answers, and how a run is followed that has not ended. Knows no colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.result_spec import ROOT, ResultSpec
from wsi_seg.output.run_directory import Markers, partial_path, stored_identity
from wsi_seg.output.store import Location, location_of, store_at


@dataclass(frozen=True, slots=True)
class SourceState:
    """How far a source is."""

    version: str
    """Changes whenever pixels may have."""
    finished: bool
    n_done: int = 0
    """Tasks, of `n_tasks`."""
    n_tasks: int = 0
    counts: tuple[int, ...] | None = None
    """Level-0 px per class so far, then those that were looked at and not analysed; None where nobody counts."""


class LabelSource(Protocol):
    """A label pyramid; callable from several threads."""

    @property
    def spec(self) -> ResultSpec:
        """Grid, frames, classes."""

    @property
    def n_levels(self) -> int:
        """Levels that can be read now."""

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """Labels of a box of a level, (h, w) of the spec's dtype. Raises CorruptOutputError."""

    def read_probability(self, level: int, box: Box, channel: int, /) -> NDArray[np.uint8]:
        """Probabilities (h, w) in 1/255, where the spec says that they are stored."""

    def state(self) -> SourceState:
        """How far it is; what was finished since the last call is read from here on."""


class StoredLabels:
    """A result on disk or in an object store, finished or not; follows the run that makes it."""

    def __init__(self, place: str | Path) -> None:
        """Raises CorruptOutputError where neither a result nor the beginning of one is there."""
        location = location_of(place)
        if location.name.endswith(".partial"):
            location = location.with_name(location.name.removesuffix(".partial"))
        self._out, self._lock = location, Lock()
        self._result, self._finished = self._opened()

    @property
    def result(self) -> Result:
        """The result as it is open now."""
        return self._result

    @property
    def spec(self) -> ResultSpec:
        """See `LabelSource`."""
        return self._result.spec

    @property
    def n_levels(self) -> int:
        """All of a finished result; of an unfinished one those that blocks write: the others come at the end."""
        layout = self.spec.layout
        return layout.n_levels if self._finished else layout.tier_levels(0).stop

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """See `LabelSource`."""
        return self._following(lambda result: result.read_labels(level, box))

    def read_probability(self, level: int, box: Box, channel: int, /) -> NDArray[np.uint8]:
        """See `LabelSource`."""
        y, x = box.slices()
        return self._following(lambda result: np.asarray(result.probabilities(level)[channel, y, x]))

    def state(self) -> SourceState:
        """See `LabelSource`."""
        with self._lock:
            self._result, self._finished = self._opened()
        if self._finished:
            return SourceState(self._result.run_id[:12], finished=True)
        return self._progress()

    def _following(self, read: Any) -> NDArray[Any]:
        """What `read` answers; once more from the finished result, where it got its name in the meantime."""
        result, finished = self._result, self._finished
        try:
            answer: NDArray[Any] = read(result)
        except CorruptOutputError:
            if finished:
                raise
        else:
            # The folder may have been renamed in the middle: files that are gone read as nothing.
            if finished or _is_there(result.path):
                return answer
        self.state()
        again: NDArray[Any] = read(self._result)
        return again

    def _opened(self) -> tuple[Result, bool]:
        if store_at(self._out).has(ROOT):
            return open_result(self._out), True
        unfinished = _unfinished(self._out)
        try:
            return open_result(unfinished, partial=True), False
        except CorruptOutputError as error:
            if store_at(self._out).has(ROOT):  # renamed between the two looks
                return open_result(self._out), True
            raise CorruptOutputError(
                f"{self._out} is no result of wsi-seg",
                rule="a folder NAME.seg.zarr, or NAME.seg.zarr.partial while a run makes it",
                remedy="check the path",
            ) from error

    def _progress(self) -> SourceState:
        result, layout = self._result, self.spec.layout
        identity = stored_identity(result.path)
        done: list[dict[str, Any]] = []
        if identity is not None:
            markers = Markers(result.path, identity.run_id)
            done = [marker for tier in range(layout.n_tiers) for marker in markers.load(tier).values()]
        n_tasks = sum(rows * columns for rows, columns in map(layout.grid, range(layout.n_tiers)))
        counted: list[Sequence[int]] = [marker["counts"] for marker in done if marker["tier"] == 0]
        counts = tuple(map(sum, zip(*counted, strict=True))) or None
        return SourceState(
            f"{len(done)} of {n_tasks}", finished=False, n_done=len(done), n_tasks=n_tasks, counts=counts
        )


def _unfinished(out: Location) -> Location:
    return partial_path(out) if isinstance(out, Path) else out


def _is_there(place: Location) -> bool:
    return not isinstance(place, Path) or place.is_dir()
