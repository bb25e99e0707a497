"""Re-checks a result: every stored byte against its record, and the pixels against each other.

Owns the list of what must hold. Reads only. Works on finished results and, with their markers, on unfinished ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError, WriteError, WsiSegError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.output.commit import all_tasks, is_shard, stored_files
from wsi_seg.output.documents import array_documents
from wsi_seg.output.durable import json_bytes, record_digest
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.result_spec import LABELS, PROBABILITIES, PROVENANCE_FILE, ROOT
from wsi_seg.output.run_directory import RUN_FILE, Marker, Markers, broken_shards, stored_identity
from wsi_seg.output.status import TileStatus
from wsi_seg.output.store import Location, Store, Url, location_of, store_at

Progress = Callable[[int, int], None]
"""Told (done, total) tasks."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold: where, and what is wrong."""

    key: str
    cause: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found."""

    problems: tuple[Problem, ...]
    n_tasks: int
    """Tasks whose files were checked."""
    n_pending: int
    """Tasks not done yet; 0 in a finished result."""
    n_files: int
    """Files whose bytes were hashed."""
    n_bytes: int
    """Their bytes, as recorded."""

    @property
    def is_sound(self) -> bool:
        """True when nothing is wrong; an unfinished result may be sound."""
        return not self.problems


def verify_result(place: str | Path | Url, *, progress: Progress | None = None) -> VerifyReport:
    """Check a result, `OUT` or `OUT.partial`, or one in an object store, finished or not.

    Hashes of all files, metadata against the spec, level n + 1 against the majority of level n (and the mean of the
    probabilities), label counts against those recorded when the labels were made.

    Raises CorruptOutputError where the result cannot even be opened.
    """
    path = location_of(place)
    partial = _is_unfinished(path)
    result = open_result(path, partial=partial)
    if partial:
        identity = stored_identity(path)
        markers = Markers(path, identity.run_id if identity else "")
        tasks = [marker for tier in range(result.spec.layout.n_tiers) for marker in markers.load(tier).values()]
        provenance: Mapping[str, Any] = {"tasks": tasks, "files": {}}
    else:
        provenance = _read_provenance(result.store)
    return _report(result, provenance, partial=partial, progress=progress)


def _is_unfinished(path: Location) -> bool:
    """A result that has its name is finished, also where the process ended before it removed its state."""
    store = store_at(path)
    published = path.suffix != ".partial" and store.has(ROOT)
    return not published and store.has(RUN_FILE)


def _report(result: Result, provenance: Mapping[str, Any], *, partial: bool, progress: Progress | None) -> VerifyReport:
    tasks: list[Marker] = provenance["tasks"]
    done = {(task["tier"], task["row"], task["column"]) for task in tasks}
    pending = set(all_tasks(result.spec)) - done
    problems = [*_broken_files(result.path, provenance["files"]), *_metadata(result, partial=partial)]
    if not partial:
        problems += [*_identity(result, provenance), *_unexpected(result, provenance), *_unfinished(result, pending)]
    for n, task in enumerate(tasks, start=1):
        broken = broken_shards(result.path, task)
        problems += [Problem(key, cause) for key, cause in broken.items()]
        if not broken:
            problems += _wrong_pixels(result, task)
        if progress is not None:
            progress(n, len(tasks))
    records = [r for task in tasks for r in task["shards"].values() if r] + list(provenance["files"].values())
    return VerifyReport(tuple(problems), len(tasks), len(pending), len(records), sum(record[1] for record in records))


def _read_provenance(store: Store) -> Mapping[str, Any]:
    file = store.describe(PROVENANCE_FILE)
    try:
        content = json.loads(store.read(PROVENANCE_FILE))
        digest, tasks, files = content["sha256"], content["tasks"], content["files"]
    except FileNotFoundError as error:
        raise CorruptOutputError(f"{file} is not there", rule="it holds the hashes of all other files") from error
    except WsiSegError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptOutputError(
            f"{file} cannot be read: {error!r}", rule="it holds the hashes of all other files"
        ) from error
    if digest != record_digest(content) or not isinstance(tasks, list) or not isinstance(files, dict):
        raise CorruptOutputError(
            f"{file} was changed: its own SHA-256 differs", rule="nothing can be checked without it"
        )
    return dict(content)


def _broken_files(path: Location, files: Mapping[str, Any]) -> Iterator[Problem]:
    for key, cause in broken_shards(path, {"shards": files}).items():
        yield Problem(key, cause)


def _metadata(result: Result, *, partial: bool) -> Iterator[Problem]:
    """Array metadata must be what the spec says; in a finished result the root repeats all of it."""
    expected = array_documents(result.spec)
    for key, document in expected.items():
        try:
            stored = result.store.read(f"{key}/zarr.json")
        except WsiSegError:
            raise
        except OSError as error:
            yield Problem(f"{key}/zarr.json", f"cannot be read: {error.strerror or 'it is not there'}")
            continue
        if stored != json_bytes(document):
            yield Problem(f"{key}/zarr.json", "does not describe the array of the spec")
    if not partial:
        root = json.loads(result.store.read(ROOT))
        listed = root.get("consolidated_metadata", {}).get("metadata", {})
        if any(listed.get(key) != document for key, document in expected.items()) or "ome" not in root["attributes"]:
            yield Problem("zarr.json", "lacks OME metadata or repeats the arrays' metadata wrongly")


def _identity(result: Result, provenance: Mapping[str, Any]) -> Iterator[Problem]:
    if provenance["run_id"] != result.run_id:
        yield Problem("zarr.json", f"is of run {result.run_id[:12]}, the provenance of {provenance['run_id'][:12]}")


def _unexpected(result: Result, provenance: Mapping[str, Any]) -> Iterator[Problem]:
    recorded = {key for task in provenance["tasks"] for key in task["shards"]}
    for key in stored_files(result.store):
        if is_shard(key, result.spec) and key not in recorded:
            yield Problem(key, "was written by no task")


def _unfinished(result: Result, pending: set[tuple[int, int, int]]) -> Iterator[Problem]:
    for tier, row, column in sorted(pending):
        yield Problem(f"task {tier}/{row}.{column}", "has no record, though the result is finished")
    try:
        statuses = result.read_tiles()
    except CorruptOutputError as error:
        yield Problem("tiles", error.what)
        return
    if (statuses == TileStatus.PENDING).any() or (statuses > max(TileStatus)).any():
        yield Problem("tiles", "holds pending or unknown statuses")


def _wrong_pixels(result: Result, task: Marker) -> list[Problem]:
    """Walk up the levels that a task wrote, each from the stored one below."""
    layout, tier = result.spec.layout, task["tier"]
    try:
        box = layout.task_box(tier, task["row"], task["column"])
        level = tier * layout.depth
        labels = result.read_labels(level, box)
        problems = list(_wrong_counts(result, task, labels)) if tier == 0 else []
        chances = result.read_probabilities(level, box) if result.spec.probabilities else None
        for above in range(level + 1, min(level + layout.depth + 1, layout.n_levels)):
            box = _halved(box)
            labels, chances, wrong = _step(result, above, box, labels, chances)
            problems += wrong
    except (CorruptOutputError, WriteError) as error:
        return [Problem(f"task {tier}/{task['row']}.{task['column']}", error.what)]
    return problems


def _step(
    result: Result, level: int, box: Box, labels: NDArray[Any], chances: NDArray[np.uint8] | None
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, list[Problem]]:
    """Stored labels and probabilities of a level, and how they differ from those below."""
    from wsi_kernels import halve_majority, halve_mean

    spec, problems = result.spec, []
    stored = result.read_labels(level, box)
    if n := int(np.count_nonzero(stored != halve_majority(labels, spec.not_analysed, len(spec.classes)))):
        problems.append(Problem(f"{LABELS}/{level} {box}", f"{n} px are not the majority of the level below"))
    stored_chances = None
    if chances is not None:
        stored_chances = result.read_probabilities(level, box)
        if n := int(np.count_nonzero(stored_chances != halve_mean(chances, labels, spec.not_analysed))):
            problems.append(
                Problem(f"{PROBABILITIES}/{level} {box}", f"{n} values are not the mean of the level below")
            )
    return stored, stored_chances, problems


def _wrong_counts(result: Result, task: Marker, labels: NDArray[Any]) -> Iterator[Problem]:
    from wsi_kernels import count_labels

    spec = result.spec
    found = [int(n) for n in count_labels(labels, spec.not_analysed + 1)]
    counts = [*found[: len(spec.classes)], found[-1]]
    key = f"{LABELS}/0 task {task['row']}.{task['column']}"
    if sum(counts) != labels.size:
        yield Problem(key, f"{labels.size - sum(counts)} px hold values that are no class")
    if task.get("counts") and list(task["counts"]) != counts:
        yield Problem(key, f"label counts {counts}, recorded {list(task['counts'])}")


def _halved(box: Box) -> Box:
    """The same area one level up; the corner of a task's box is even at every level it writes."""
    return Box(box.y0 // 2, box.x0 // 2, ceil_div(box.y1, 2), ceil_div(box.x1, 2))
