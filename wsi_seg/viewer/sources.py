"""Where the labels of a view come from; here a result, finished or still being made (`live` predicts them on demand).

Owns what a source answers, and how a run is followed that has not ended. Knows no colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import SPEC_FILE, Result, open_result
from wsi_seg.output.result_spec import ROOT, ResultSpec
from wsi_seg.output.run_directory import Markers, partial_path, stored_identity
from wsi_seg.output.store import Location, location_of, store_at

_RUN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class SourceState:
    """How far a source is."""

    version: str
    """Changes whenever pixels may have; `LabelSource.run`, then what that run has done. Never one of before."""
    finished: bool
    n_done: int = 0
    """Tasks, of `n_tasks`."""
    n_tasks: int = 0
    counts: tuple[int, ...] | None = None
    """Level-0 px per class so far, then those that were looked at and not analysed; None where nobody counts."""
    areas: dict[str, Any] | None = None
    """What a finished result counted: see `areas_of`."""


class LabelSource(Protocol):
    """A label pyramid; callable from several threads."""

    @property
    def spec(self) -> ResultSpec:
        """Grid, frames, classes."""

    @property
    def n_levels(self) -> int:
        """Levels that can be read now."""

    @property
    def run(self) -> str:
        """Whose labels are read now, short; another one where the result was replaced."""

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """Labels of a box of a level, (h, w) of the spec's dtype. Raises CorruptOutputError."""

    def read_probability(self, level: int, box: Box, channel: int, /) -> NDArray[np.uint8]:
        """Probabilities (h, w) in 1/255, where the spec says that they are stored."""

    def state(self) -> SourceState:
        """How far it is; what was finished since the last call is read from here on."""


class _Opened(NamedTuple):
    """A result as it was found; one value, so that threads see all of it or none."""

    result: Result
    finished: bool
    run: str
    stamp: tuple[int, ...] | None
    """Of the file that describes it; None where there is no such thing."""


class StoredLabels:
    """A result on disk or in an object store, finished or not; follows the run that makes it."""

    def __init__(self, place: str | Path) -> None:
        """Raises CorruptOutputError where neither a result nor the beginning of one is there."""
        location = location_of(place)
        if location.name.endswith(".partial"):
            location = location.with_name(location.name.removesuffix(".partial"))
        self._out, self._lock = location, Lock()
        self._open = self._opened()

    @property
    def result(self) -> Result:
        """The result as it is open now."""
        return self._open.result

    @property
    def run(self) -> str:
        """See `LabelSource`."""
        return self._open.run

    @property
    def spec(self) -> ResultSpec:
        """See `LabelSource`."""
        return self._open.result.spec

    @property
    def n_levels(self) -> int:
        """All of a finished result; of an unfinished one those that blocks write: the others come at the end."""
        opened = self._open
        layout = opened.result.spec.layout
        return layout.n_levels if opened.finished else layout.tier_levels(0).stop

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """See `LabelSource`."""
        return self._following(lambda result: result.read_labels(level, box))

    def read_probability(self, level: int, box: Box, channel: int, /) -> NDArray[np.uint8]:
        """See `LabelSource`."""
        return self._following(lambda result: result.read_probability(level, channel, box))

    def state(self) -> SourceState:
        """See `LabelSource`."""
        opened = self._reopened()
        if opened.finished:
            summary = areas_of(opened.result.attributes.get("summary"))
            return SourceState(opened.run, finished=True, areas=summary)
        return _progress(opened)

    def _reopened(self) -> _Opened:
        """What is there now."""
        with self._lock:
            if not self._is_as_opened(self._open):
                self._open = self._opened()
            return self._open

    def _following(self, read: Any) -> NDArray[Any]:
        """What `read` answers; once more from the finished result, where it got its name in the meantime.

        Raises CorruptOutputError, also where another result has taken its place: px of one mean nothing in the other.
        """
        opened = self._open
        try:
            answer: NDArray[Any] = read(opened.result)
        except CorruptOutputError:
            if self._is_as_opened(opened):
                raise
        else:
            # The folder may have been renamed in the middle: files that are gone read as nothing.
            if opened.stamp is None or self._is_as_opened(opened):
                return answer
        now = self._reopened()
        if (now.run, now.result.spec) != (opened.run, opened.result.spec):
            raise CorruptOutputError(f"{self._out} was replaced by another result", remedy="load the page again")
        again: NDArray[Any] = read(now.result)
        return again

    def _is_as_opened(self, opened: _Opened) -> bool:
        """Whether the same files are still there; in an object store nobody can tell."""
        return opened.stamp is not None and opened.stamp == _stamp(opened.result.path, finished=opened.finished)

    def _opened(self) -> _Opened:
        """The finished result, else the unfinished one. The stamp first: what changes later is noticed."""
        stamp = _stamp(self._out, finished=True)
        if store_at(self._out).has(ROOT):
            result = open_result(self._out)
            return _Opened(result, True, result.run_id[:_RUN_DIGITS], stamp)
        unfinished = _unfinished(self._out)
        stamp = _stamp(unfinished, finished=False)
        try:
            result, identity = open_result(unfinished, partial=True), stored_identity(unfinished)
        except CorruptOutputError as error:
            if store_at(self._out).has(ROOT):  # renamed between the two looks
                return self._opened()
            raise CorruptOutputError(
                f"{self._out} is no result of wsi-seg",
                rule="a folder NAME.seg.zarr, or NAME.seg.zarr.partial while a run makes it",
                remedy="check the path",
            ) from error
        return _Opened(result, False, identity.run_id[:_RUN_DIGITS] if identity else "", stamp)


def areas_of(summary: Any) -> dict[str, Any] | None:
    """Of a result's summary the areas, and nothing else: what a run had to say may name files. None if it has none."""
    try:
        classes = [{key: float(area[key]) for key in ("mm2", "percent")} for area in summary["classes"]]
        totals = {key: float(summary[key]) for key in ("analysed_mm2", "not_analysed_mm2")}
    except (KeyError, TypeError, ValueError):
        return None
    sound = all(isfinite(value) for each in (*classes, totals) for value in each.values())
    return {"classes": classes, **totals} if sound else None


def _progress(opened: _Opened) -> SourceState:
    result, layout = opened.result, opened.result.spec.layout
    done: list[dict[str, Any]] = []
    if (identity := stored_identity(result.path)) is not None:
        markers = Markers(result.path, identity.run_id)
        done = [marker for tier in range(layout.n_tiers) for marker in markers.load(tier).values()]
    n_tasks = sum(rows * columns for rows, columns in map(layout.grid, range(layout.n_tiers)))
    counted: list[Sequence[int]] = [marker["counts"] for marker in done if marker["tier"] == 0]
    counts = tuple(map(sum, zip(*counted, strict=True))) or None
    version = f"{opened.run}-{len(done)}-{_digest(done)}"
    return SourceState(version, finished=False, n_done=len(done), n_tasks=n_tasks, counts=counts)


def _digest(markers: Iterable[Mapping[str, Any]]) -> str:
    """Short, of which tasks are done: begun anew, a run has as many done again, but others."""
    places = sorted((marker["tier"], marker["row"], marker["column"]) for marker in markers)
    return sha256(repr(places).encode()).hexdigest()[:_RUN_DIGITS]


def _stamp(place: Location, *, finished: bool) -> tuple[int, ...] | None:
    """Tells the file that describes a result from one that replaces it."""
    if not isinstance(place, Path):
        return None
    try:
        found = (place / (ROOT if finished else SPEC_FILE)).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _unfinished(out: Location) -> Location:
    return partial_path(out) if isinstance(out, Path) else out
