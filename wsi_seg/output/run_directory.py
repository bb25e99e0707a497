"""The folder of an unfinished result: whose it is, who works on it, and what is done.

Owns `OUT.partial` and its `.wsi-seg` folder::

    OUT.partial/.wsi-seg/lock                          held (flock) by the one driver; says host and pid
                        run.json                       run id and the fields behind it; made once
                        done/<tier>/<row>.<column>.json    markers: what a finished task wrote, with hashes

A marker is written only after everything it names is on the disk, so a marker that is there and whose hashes agree,
its own included, proves its task done. Knows neither pixels nor what the fields mean.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from wsi_seg.errors import OutputExistsError, RunMismatchError
from wsi_seg.output.durable import (
    json_bytes,
    make_folder,
    mapped_errors,
    record_digest,
    remove_durably,
    sweep,
    sync_folder,
    write_durably,
)
from wsi_seg.output.result_spec import STATE
from wsi_seg.output.shard_writer import file_record

PROVENANCE_FILE = "provenance.json"

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

    path: Path
    """`OUT.partial`."""
    run_id: str

    def write(self, receipt: Mapping[str, Any]) -> None:
        """Record a finished task, whose files must be on the disk.

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
        path = self._folder(receipt["tier"]) / f"{receipt['row']}.{receipt['column']}.json"
        marker = {**receipt, "run_id": self.run_id}
        write_durably(path, json_bytes({**marker, "sha256": record_digest(marker)}))

    def forget(self, tier: int, row: int, column: int) -> None:
        """Take a task for not done, whatever its files hold. Raises WriteError."""
        remove_durably(self._folder(tier) / f"{row}.{column}.json")

    def load(self, tier: int, *, check_hashes: bool = False) -> dict[tuple[int, int], Marker]:
        """Markers of a tier by (row, column); unreadable ones and those of other runs count as not done.

        With `check_hashes` so do those whose files are missing or hold other bytes: their tasks are to be done again.
        """
        folder = self._folder(tier)
        if not folder.is_dir():
            return {}
        loaded = (_read_marker(path) for path in sorted(folder.glob("*.json")))
        sound = (m for m in loaded if m is not None and m["run_id"] == self.run_id and m["tier"] == tier)
        return {(m["row"], m["column"]): m for m in sound if not check_hashes or not broken_shards(self.path, m)}

    def _folder(self, tier: int) -> Path:
        return self.path / STATE / "done" / str(tier)


def broken_shards(path: Path, marker: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a marker whose files are not as recorded, and why."""
    broken = {}
    for key, expected in marker["shards"].items():
        found = file_record(path / key)
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


def stored_identity(partial: Path) -> RunIdentity | None:
    """The run that an unfinished result belongs to; None where none is recorded."""
    try:
        content = json.loads((partial / STATE / "run.json").read_bytes())
        return RunIdentity(content["run_id"], content["fields"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunMismatchError(
            f"{partial / STATE / 'run.json'} cannot be read: {error}",
            rule="it says which run the folder belongs to",
            remedy="--restart begins anew",
        ) from error


def partial_path(out: Path) -> Path:
    """Where the result `out` lives until it is finished."""
    return out.with_name(out.name + ".partial")


class RunDirectory:
    """An unfinished result, held by this process until closed or published; made by `open_run`."""

    def __init__(self, out: Path, identity: RunIdentity, lock: int | None, *, resumed: bool, overwrite: bool) -> None:
        self.out, self.path, self.identity, self.resumed = out, partial_path(out), identity, resumed
        self._lock = lock
        self._overwrite = overwrite

    @classmethod
    def borrowed(cls, out: Path, identity: RunIdentity, *, overwrite: bool) -> RunDirectory:
        """The folder that another process has opened and holds, for the one process that it lets write now."""
        return cls(out, identity, None, resumed=True, overwrite=overwrite)

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self.identity.run_id

    @property
    def markers(self) -> Markers:
        """What is done."""
        return Markers(self.path, self.run_id)

    def attach(self, name: str, content: bytes) -> None:
        """Put a file (`overview.png`, `summary.json`) into the result, beside the arrays. Raises WriteError."""
        write_durably(self.path / name, content)

    def publish(self) -> Path:
        """Give the complete result its name and answer it; called by `commit_run`.

        Raises OutputExistsError, WriteError.
        """
        _refuse_existing(self.out, overwrite=self._overwrite)
        old = self.out.with_name(f"{self.out.name}.replaced-{uuid4().hex[:8]}")
        with mapped_errors(self.out, 0):
            if self.out.exists():
                self.out.rename(old)
            self.path.rename(self.out)
            sync_folder(self.out.absolute().parent)
            # from here on the result is there; what is left to remove harms nobody
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(self.out / STATE, ignore_errors=True)
        self.close()
        return self.out

    def close(self) -> None:
        """Let go of the folder; it stays as it is."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_run(
    out: Path, identity: RunIdentity, difference: Difference, *, restart: bool = False, overwrite: bool = False
) -> RunDirectory:
    """Begin the result `out`, or go on with its unfinished folder.

    Args:
        out: the folder of the finished result.
        identity: the run that is asked for.
        difference: words the differing fields of two identities.
        restart: throw away an unfinished result instead of continuing it.
        overwrite: replace a finished result of wsi-seg when this one is complete; until then it stays.

    Raises:
        OutputExistsError: a result is there, or another process works on it.
        RunMismatchError: an unfinished result of another run is there.
        WriteError: the disk refused.
    """
    _refuse_existing(out, overwrite=overwrite)
    partial = partial_path(out)
    _refuse_foreign(partial)
    lock = _lock_folder(partial)
    try:
        _refuse_existing(out, overwrite=overwrite)  # another run may have published it since
        if restart:
            _empty(partial)
        sweep(partial)
        resumed = _claim(partial, identity, difference)
    except BaseException:
        os.close(lock)
        raise
    return RunDirectory(out, identity, lock, resumed=resumed, overwrite=overwrite)


def _claim(partial: Path, identity: RunIdentity, difference: Difference) -> bool:
    """Record whose folder it is, or check that it is this run's; True where it is continued."""
    fields = json.loads(json.dumps(identity.fields))  # as it reads back: tuples are lists
    stored = stored_identity(partial)
    if stored is None:
        content = {"run_id": identity.run_id, "fields": fields}
        write_durably(partial / STATE / "run.json", json_bytes(content), exclusive=True)
        return False
    if stored.run_id != identity.run_id or stored.fields != fields:
        words = difference(stored.fields, fields) or [f"run id {stored.run_id[:12]} and {identity.run_id[:12]}"]
        raise RunMismatchError(
            f"{partial} was begun with other settings: {'; '.join(words)}",
            rule="an unfinished result is continued by the same run only",
            remedy="use the same settings, another --out, or --restart to throw the unfinished result away",
        )
    return True


def _lock_folder(partial: Path) -> int:
    path = partial / STATE / "lock"
    with mapped_errors(path, 0):
        make_folder(path.parent)
    return lock_file(path, partial)


def lock_file(path: Path, folder: Path) -> int:
    """Handle of a lock file, held, with host and pid in it. The kernel lets go of it when the process ends, however.

    Raises OutputExistsError, naming who works on `folder`, where it is held already; WriteError.
    """
    with mapped_errors(path, 0):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(handle)
            # the holder may have published (renamed) the folder between the two calls
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                raise BlockingIOError
            os.ftruncate(handle, 0)
            os.write(handle, json_bytes({"host": socket.gethostname(), "pid": os.getpid()}))
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise _held(folder, owner) from None
        except OSError:
            os.close(handle)
            raise
    return handle


def refuse_held(out: Path) -> None:
    """Raise OutputExistsError where another process works on `out`, before anything is prepared for it.

    The question is asked again when the folder is claimed.
    """
    partial = partial_path(out)
    if owner := lock_owner(partial / STATE / "lock"):
        raise _held(partial, owner)


def _held(folder: Path, owner: str) -> OutputExistsError:
    return OutputExistsError(
        f"another process works on {folder}: {owner}",
        rule="one run writes a result",
        remedy="wait for it, stop it, or choose another --out",
    )


def _flock(handle: int) -> None:
    """Take the lock. Raises BlockingIOError after a few tries: who only asks whether it is held, holds it for that."""
    for pause in (0.02, 0.1, 0.2):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        sleep(pause)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_owner(path: Path) -> str:
    """Who holds a lock file, in words; empty where nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(handle)
    except OSError:
        return ""
    finally:
        os.close(handle)
    return ""


def _owner(handle: int) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(os.pread(handle, 4096, 0))
        return f"pid {record['pid']} on host {record['host']}"
    return "it has not said who it is"


def _refuse_existing(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{out} exists",
            rule="a result is never written over by itself",
            remedy="choose another --out, or --overwrite",
        )
    if out.is_symlink() or not (out / PROVENANCE_FILE).is_file() or not (out / "zarr.json").is_file():
        raise OutputExistsError(
            f"{out} exists and is no result of wsi-seg",
            rule="--overwrite replaces results only",
            remedy="choose another --out, or remove it yourself",
        )


def _refuse_foreign(partial: Path) -> None:
    """A folder of somebody else's that happens to bear the name."""
    if os.path.lexists(partial) and not (partial / STATE).is_dir() and (not partial.is_dir() or any(partial.iterdir())):
        raise OutputExistsError(
            f"{partial} exists and is no unfinished result of wsi-seg",
            rule="the result is built there",
            remedy="choose another --out, or remove it yourself",
        )


def _empty(partial: Path) -> None:
    """Remove everything but the held lock; the identity goes first, so that a stop half-way leaves no false claim."""
    with mapped_errors(partial, 0):
        (partial / STATE / "run.json").unlink(missing_ok=True)
        sync_folder(partial / STATE)
        for folder, kept in ((partial, STATE), (partial / STATE, "lock")):
            for path in folder.iterdir():
                if path.name == kept:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            sync_folder(folder)


def _read_marker(path: Path) -> Marker | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    # What is in no need of a hash to be noticed, such as a lost file, is noticed by others; a wrong count is not.
    if not isinstance(content, dict) or content.pop("sha256", None) != record_digest(content):
        return None
    needed = {"tier", "row", "column", "shards", "run_id"}
    return content if needed <= content.keys() else None
