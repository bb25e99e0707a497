"""An unfinished result: whose it is, who works on it, and what is done.

Owns the `.wsi-seg` folder beside its arrays::

    .wsi-seg/lock                          held by the one driver; says host and pid
             run.json                      run id and the fields behind it; made once
             done/<tier>/<row>.<column>.json    markers: what a finished task wrote, with hashes

A marker is written only after everything it names is stored, so a marker that is there and whose hashes agree,
its own included, proves its task done. Knows neither pixels nor what the fields mean, nor where all this lies (`site`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self

from wsi_seg.errors import RunMismatchError, RunStopped, WsiSegError
from wsi_seg.output.durable import json_bytes, record_digest
from wsi_seg.output.result_spec import LOCK, PROVENANCE_FILE, STATE
from wsi_seg.output.site import Site, site_at
from wsi_seg.output.site.posix import partial_path
from wsi_seg.output.store import Hold, Location, Store, Url, location_of, store_at
from wsi_seg.output.store.hold import held_by_another

__all__ = [
    "PROVENANCE_FILE",
    "Difference",
    "Marker",
    "Markers",
    "RunDirectory",
    "RunIdentity",
    "broken_shards",
    "open_run",
    "partial_path",
    "refuse_held",
    "stored_identity",
]

RUN_FILE = f"{STATE}/run.json"
"""Key of the run's identity."""

Marker = dict[str, Any]
"""A task's receipt as JSON: `tier`, `row`, `column`, `shards` {key: [SHA-256, bytes] or null}, `run_id`, and more."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run is: two runs of the same identity write the same bytes into the same files."""

    run_id: str
    fields: Mapping[str, Any]
    """JSON-able; everything that must agree for a half-done result to be continued."""


Difference = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
"""Lists the fields (stored, asked for) that differ, in words."""


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of an unfinished result; pickles, so that workers anywhere may write them."""

    path: Location
    """The unfinished result."""
    run_id: str

    def write(self, receipt: Mapping[str, Any]) -> None:
        """Record a finished task, whose files must be stored.

        `receipt` is JSON-able with `tier`, `row`, `column` and `shards`. Raises RunMismatchError where the folder
        belongs to another run by now, WriteError.
        """
        if (stored := stored_identity(self.path)) is None or stored.run_id != self.run_id:
            owner = stored.run_id[:12] if stored else "no run"
            raise RunMismatchError(
                f"{self.path} belongs to {owner}, this worker to run {self.run_id[:12]}",
                rule="a worker writes for its own run only",
                remedy="end this worker",
            )
        marker = {**receipt, "run_id": self.run_id}
        key = _marker_key(receipt["tier"], receipt["row"], receipt["column"])
        store_at(self.path).write(key, json_bytes({**marker, "sha256": record_digest(marker)}))

    def forget(self, tier: int, row: int, column: int) -> None:
        """Take a task for not done, whatever its files hold. Raises WriteError."""
        store_at(self.path).remove(_marker_key(tier, row, column))

    def load(self, tier: int, *, check_hashes: bool = False) -> dict[tuple[int, int], Marker]:
        """Markers of a tier by (row, column); unreadable ones and those of other runs count as not done.

        With `check_hashes` so do those whose files are missing or hold other bytes: their tasks are to be done again.
        """
        store = store_at(self.path)
        keys = [key for key in store.keys(f"{STATE}/done/{tier}") if key.endswith(".json")]

        def sound(key: str) -> Marker | None:
            marker = _read_marker(store, key)
            if marker is None or (marker["run_id"], marker["tier"]) != (self.run_id, tier):
                return None
            return None if check_hashes and broken_shards(self.path, marker) else marker

        return {(m["row"], m["column"]): m for m in store.each(sound, keys) if m is not None}


def _marker_key(tier: int, row: int, column: int) -> str:
    return f"{STATE}/done/{tier}/{row}.{column}.json"


def broken_shards(path: Location, marker: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a marker whose files are not as recorded, and why."""
    broken, store = {}, store_at(path)
    for key, expected in marker["shards"].items():
        found = store.record(key)
        if expected is None:
            if found is not None:
                broken[key] = "is there, but was recorded as empty"
        elif found is None:
            broken[key] = "is missing"
        elif found != tuple(expected):
            broken[key] = (
                f"holds {found[1]} bytes of SHA-256 {found[0][:12]}…, recorded {expected[1]}, {expected[0][:12]}…"
            )
    return broken


def stored_identity(unfinished: Location) -> RunIdentity | None:
    """The run that an unfinished result belongs to; None where none is recorded."""
    store = store_at(unfinished)
    try:
        content = json.loads(store.read(RUN_FILE))
        return RunIdentity(content["run_id"], content["fields"])
    except FileNotFoundError:
        return None
    except WsiSegError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunMismatchError(
            f"{store.describe(RUN_FILE)} cannot be read: {error}",
            rule="it says which run the folder belongs to",
            remedy="--restart begins anew",
        ) from error


class RunDirectory:
    """An unfinished result, held by this process until closed or published; made by `open_run`."""

    def __init__(
        self, site: Site, identity: RunIdentity, hold: Hold | None, *, resumed: bool, overwrite: bool, permit: str = ""
    ) -> None:
        self._site, self.identity, self.resumed = site, identity, resumed
        self.out, self.path = site.out, site.unfinished
        self._hold, self._overwrite = hold, overwrite
        self._lost = Event()
        self.on_loss(self._lost.set)
        self.permit = hold.token if hold else permit
        """Lets one other process finish the result (`borrowed`) for as long as this one holds it."""

    @classmethod
    def borrowed(cls, out: Location, identity: RunIdentity, *, overwrite: bool, permit: str = "") -> RunDirectory:
        """The folder that another process has opened and holds, for the one process that it lets write now."""
        return cls(site_at(out), identity, None, resumed=True, overwrite=overwrite, permit=permit)

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.identity.run_id

    @property
    def markers(self) -> Markers:
        """What is done."""
        return Markers(self.path, self.run_id)

    @property
    def store(self) -> Store:
        """What the unfinished result is written to."""
        return self._site.store

    @property
    def is_settled(self) -> bool:
        """Whether nothing unfinished is left."""
        return self._site.is_settled()

    def on_loss(self, tell: Callable[[], None]) -> None:
        """Call `tell`, from whatever thread, when somebody else may go on with the result: this process must not."""
        if self._hold is not None:
            self._hold.on_loss(tell)

    def confirm(self) -> None:
        """Make sure that this process may still write. Raises OutputExistsError, WriteError."""
        if self._hold is not None:
            self._hold.confirm()
        elif self.permit:
            self.store.confirm(LOCK, self.permit)

    def attach(self, name: str, content: bytes) -> None:
        """Put a file (`overview.png`, `summary.json`) into the result, beside the arrays. Raises WriteError."""
        self._site.attach(name, content)

    def publish(self, root: bytes) -> Location:
        """Write the root metadata, give the complete result its name and answer it; called by `commit_run`.

        Raises OutputExistsError, WriteError.
        """
        self.confirm()
        self._site.publish(root, overwrite=self._overwrite)
        self.close()
        return self.out

    def close(self) -> None:
        """Let go of the folder; it stays as it is."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, RunStopped) and self._lost.is_set():
                self.confirm()  # stopped because of that: then that is what to tell
        finally:
            self.close()


def open_run(
    out: str | Path | Url,
    identity: RunIdentity,
    difference: Difference,
    *,
    restart: bool = False,
    overwrite: bool = False,
) -> RunDirectory:
    """Begin the result `out`, or go on with its unfinished folder.

    Args:
        out: the finished result.
        identity: the run that is asked for.
        difference: words the differing fields of two identities.
        restart: throw away an unfinished result instead of continuing it.
        overwrite: replace a finished result of wsi-seg when this one is complete; until then it stays.

    Raises:
        OutputExistsError: a result is there, or another process works on it.
        RunMismatchError: an unfinished result of another run is there.
        WriteError: the store refused.
    """
    site = site_at(location_of(out))
    site.refuse_existing(overwrite=overwrite)
    site.refuse_foreign()
    hold = site.store.hold(LOCK, str(site.unfinished))
    try:
        site.refuse_existing(overwrite=overwrite)  # another run may have published it since
        if restart:
            site.empty()
        site.sweep()
        resumed = _claim(site.store, identity, difference)
    except BaseException:
        hold.release()
        raise
    return RunDirectory(site, identity, hold, resumed=resumed, overwrite=overwrite)


def _claim(store: Store, identity: RunIdentity, difference: Difference) -> bool:
    """Record whose folder it is, or check that it is this run's; True where it is continued."""
    fields = json.loads(json.dumps(identity.fields))  # as it reads back: tuples are lists
    stored = stored_identity(store.root)
    if stored is None:
        content = {"run_id": identity.run_id, "fields": fields}
        store.write(RUN_FILE, json_bytes(content), exclusive=True)
        return False
    if stored.run_id != identity.run_id or stored.fields != fields:
        words = difference(stored.fields, fields) or [f"run id {stored.run_id[:12]} and {identity.run_id[:12]}"]
        raise RunMismatchError(
            f"{store.root} was begun with other settings: {'; '.join(words)}",
            rule="an unfinished result is continued by the same run only",
            remedy="use the same settings, another --out, or --restart to throw the unfinished result away",
        )
    return True


def refuse_held(out: Location) -> None:
    """Raise OutputExistsError where another process works on `out`, before anything is prepared for it.

    The question is asked again when the folder is claimed.
    """
    site = site_at(out)
    if owner := site.store.holder(LOCK):
        raise held_by_another(str(site.unfinished), owner)


def _read_marker(store: Store, key: str) -> Marker | None:
    try:
        content = json.loads(store.read(key))
    except FileNotFoundError:
        return None
    except WsiSegError:  # a store that does not answer has not said that the marker is bad
        raise
    except (OSError, ValueError):
        return None
    # What is in no need of a hash to be noticed, such as a lost file, is noticed by others; a wrong count is not.
    if not isinstance(content, dict) or content.pop("sha256", None) != record_digest(content):
        return None
    needed = {"tier", "row", "column", "shards", "run_id"}
    return content if needed <= content.keys() else None
