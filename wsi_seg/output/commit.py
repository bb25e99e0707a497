"""The last step of a run: proves that everything is there, writes the metadata, and gives the result its name.

Owns the order (hashes checked, small arrays, group metadata, provenance, root metadata, rename), so that a result that
can be opened is complete. Knows neither pixels nor models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError
from wsi_seg.output.documents import array_documents, group_documents
from wsi_seg.output.durable import json_bytes, record_digest
from wsi_seg.output.label_store import write_small_arrays
from wsi_seg.output.result_spec import PROVENANCE_FILE, RESULT_VERSION, ROOT, STATE, ResultSpec, Thumbnail
from wsi_seg.output.run_directory import Marker, RunDirectory
from wsi_seg.output.store import Location, Store

TaskKey = tuple[int, int, int]
"""(tier, row, column)."""


def all_tasks(spec: ResultSpec) -> Iterator[TaskKey]:
    """Every task of a result."""
    for tier in range(spec.layout.n_tiers):
        rows, columns = spec.layout.grid(tier)
        yield from ((tier, row, column) for row in range(rows) for column in range(columns))


def commit_run(
    run: RunDirectory,
    spec: ResultSpec,
    *,
    tiles: NDArray[np.uint8],
    thumbnail: Thumbnail,
    facts: Mapping[str, Any],
    required: Collection[TaskKey] | None = None,
) -> Location:
    """Finish a run; may be repeated after a stop at any point. `run` is closed afterwards.

    Args:
        run: the unfinished result.
        spec: the result.
        tiles: final statuses, (rows, columns) of TileStatus.
        thumbnail: of the whole slide.
        facts: JSON-able; kept in the root metadata as `wsi_seg.summary`.
        required: tasks that must be done; None: all of the layout.

    Returns:
        Where the finished result is.

    Raises:
        CorruptOutputError: a task's marker or file is missing, or holds other bytes than recorded.
        OutputExistsError: a result appeared under the name meanwhile, or the hold on this one was lost.
        WriteError: the store refused.
    """
    markers = _checked_markers(run, spec, set(all_tasks(spec)) if required is None else set(required))
    if tiles.shape != spec.tile_grid or tiles.dtype != np.uint8:
        raise ValueError(f"tile statuses {tiles.shape} {tiles.dtype} for a grid of {spec.tile_grid} uint8")
    small = write_small_arrays(run.store, spec, tiles, thumbnail)
    attributes = {
        "version": RESULT_VERSION,
        "run_id": run.run_id,
        "spec": spec.to_mapping(),
        "thumbnail_mpp": [thumbnail.mpp.y, thumbnail.mpp.x],
        "summary": dict(facts),
    }
    groups = group_documents(spec, thumbnail.mpp, {**array_documents(spec), **small}, attributes)
    root = json_bytes(groups.pop(""))
    for key, document in groups.items():
        run.store.write(f"{key}/{ROOT}", json_bytes(document))
    provenance = _provenance(run, markers, root)
    run.confirm()
    run.store.write(PROVENANCE_FILE, json_bytes(provenance))
    return run.publish(root)


def stored_files(store: Store) -> Iterator[str]:
    """Keys of all files of a result, but for the run's state and the provenance."""
    for key in store.keys(""):
        if key != PROVENANCE_FILE and not key.startswith(f"{STATE}/"):
            yield key


def is_shard(key: str, spec: ResultSpec) -> bool:
    """Whether a key lies where the tasks write."""
    return any(key.startswith(f"{array}/c/") for array in spec.array_keys())


def refuse_lost_shards(run: RunDirectory, markers: Iterable[Marker]) -> None:
    """Raise CorruptOutputError where a shard that a task has recorded is not there: it would pass for one left out."""
    present = set(stored_files(run.store))
    lost = [key for marker in markers for key, record in marker["shards"].items() if record and key not in present]
    if lost:
        raise CorruptOutputError(
            f"{len(lost)} shards of {run.path} are gone: {', '.join(lost[:5])}",
            rule="a result is finished when every task's files are there as recorded",
            remedy="run the same command again: only these are done again",
        )


def _checked_markers(run: RunDirectory, spec: ResultSpec, required: set[TaskKey]) -> list[Marker]:
    found = {
        (tier, *place): marker
        for tier in range(spec.layout.n_tiers)
        for place, marker in run.markers.load(tier, check_hashes=True).items()
    }
    if missing := sorted(required - found.keys()):
        raise CorruptOutputError(
            f"{len(missing)} of {len(required)} tasks of {run.path} are not done or their files changed: "
            f"(tier, row, column) {', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''}",
            rule="a result is finished when every task's files are there as recorded",
            remedy="run the same command again: only these are done again",
        )
    markers = [found[key] for key in sorted(found)]
    recorded = {key for marker in markers for key in marker["shards"]}
    if strays := [key for key in stored_files(run.store) if is_shard(key, spec) and key not in recorded]:
        raise CorruptOutputError(
            f"{run.path} holds shards that no task wrote: {', '.join(strays[:5])}",
            rule="every shard has one writer",
            remedy="--restart begins anew",
        )
    return markers


def _provenance(run: RunDirectory, markers: list[Marker], root: bytes) -> dict[str, Any]:
    """Who made what: every task's receipt (statuses of tiles are in the `tiles` array) and every other file's hash."""
    shards = {key for marker in markers for key in marker["shards"]}
    others = [key for key in stored_files(run.store) if key not in shards and key != ROOT]
    provenance = {
        "version": RESULT_VERSION,
        "run_id": run.run_id,
        "identity": dict(run.identity.fields),
        "tasks": [
            {key: value for key, value in marker.items() if key not in ("statuses", "run_id")} for marker in markers
        ],
        "files": {key: run.store.record(key) for key in others} | {ROOT: (sha256(root).hexdigest(), len(root))},
    }
    return {**provenance, "sha256": record_digest(provenance)}
