"""A hold by a lease: an object that says who works here, and that its owner renews while he lives.

Created only where there is none (If-None-Match), renewed and taken over only in the state last seen (If-Match), so that
of two who try one succeeds. It is over when it was not renewed for its life, by the clock of the store alone: clocks of
machines differ. Where its owner was a process of this very machine, since its last start, and is gone, nobody waits.

Every renewal changes the content: an equal one would have an equal ETag, and a lease that was just renewed could be
taken over by who had read the one before.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from wsi_seg.errors import OutputExistsError, WriteError
from wsi_seg.output.durable import json_bytes
from wsi_seg.output.store.hold import held_by_another
from wsi_seg.output.store.location import Url
from wsi_seg.output.store.objects import ObjectStore, Seen, Version

LIFE_S = 60.0
"""Seconds after its last renewal at which a lease is over."""
PATIENCE_S = LIFE_S / 6
"""Seconds that a request about a lease may take, and be tried again: a renewal that takes a life is none."""
_TRIES = 3
_COARSE_S = 1.0
"""Stores tell times in whole seconds."""


class Lease:
    """A lease that this process holds and renews, in a thread; made by `take`."""

    def __init__(self, store: ObjectStore, key: str, subject: str) -> None:
        self._store, self._key, self._subject = store, key, subject
        self._record = {**_this_process(), "token": uuid4().hex, "life_s": LIFE_S}
        self._beat = 0
        self._version: Version = {}
        self._renewed = monotonic()
        self._changing = threading.Lock()
        self._ended, self._lost = threading.Event(), threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._keep, name=f"lease of {subject}", daemon=True)

    @classmethod
    def take(cls, root: Url, key: str, subject: str) -> Lease:
        """Be who works on `subject`. Raises OutputExistsError, naming who does, where somebody else is; WriteError."""
        patience = timedelta(seconds=PATIENCE_S)
        lease = cls(ObjectStore(root, request=patience, retries=patience), key, subject)
        lease._acquire()
        lease._try_conditions()
        lease._thread.start()
        return lease

    @property
    def token(self) -> str:
        """What the lease knows its owner by."""
        return str(self._record["token"])

    def on_loss(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the lease is lost; at once where it is."""
        self._listeners.append(tell)
        if self._lost.is_set():
            tell()

    def confirm(self) -> None:
        """Renew it now. Raises OutputExistsError where it was lost; WriteError where the store does not answer."""
        self._renew()
        if self._lost.is_set():
            raise _lost(self._subject)

    def release(self) -> None:
        """Let others in; where the store does not answer, the lease ends by itself."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(WriteError):
            self._renew()  # whoever holds it freshly renewed has a life's time to remove it
            if not self._lost.is_set():
                self._store.remove(self._key)

    def _acquire(self) -> None:
        for _ in range(_TRIES):
            self._renewed = monotonic()
            there = None
            version = self._store.create(self._key, self._content())
            if version is None and (there := self._store.look(self._key)) is not None:
                record = _record(there)
                if record.get("token") == self.token:  # ours: the answer was lost
                    version = there.version
                elif _is_over(self._store, self._key, there):
                    version = self._store.replace(self._key, self._content(), there.version)
                else:
                    raise held_by_another(self._subject, _words(record))
            if version is not None:
                self._version = version
                return
        raise held_by_another(self._subject, "it was faster")

    def _try_conditions(self) -> None:
        """See that the store refuses what it must: one that ignores conditions would let two processes in.

        Raises WriteError.
        """
        overwrites = self._store.create(self._key, self._content()) is not None
        before = self._version
        if not overwrites:
            self._renew()
            overwrites = self._store.replace(self._key, self._content(), before) is not None
        if overwrites:
            self._store.remove(self._key)
            raise WriteError(
                f"cannot hold {self._subject}: the store ignores the conditions of a write",
                rule="it must honour If-None-Match and If-Match, or two processes could write one result",
                remedy="another service, or a later version of this one; or an --out in a folder",
            )

    def _content(self) -> bytes:
        return json_bytes({**self._record, "beat": self._beat})

    def _keep(self) -> None:
        """Renew, three times in a life; where the store does not answer, try more often until the life is over."""
        pause = LIFE_S / 3
        while not self._ended.wait(pause) and not self._lost.is_set():
            pause = LIFE_S / 3
            try:
                self._renew()
            except WriteError:
                pause = LIFE_S / 20
                if monotonic() - self._renewed > 0.9 * LIFE_S:
                    self._lose()

    def _renew(self) -> None:
        with self._changing:
            if self._lost.is_set():
                return
            self._beat += 1
            began = monotonic()
            version = self._store.replace(self._key, self._content(), self._version)
            if version is None:
                there = self._store.look(self._key)
                if there is not None and _record(there).get("token") == self.token:
                    version = there.version  # the answer to an earlier renewal was lost
            if version is not None:
                self._version, self._renewed = version, began
        if version is None:
            self._lose()

    def _lose(self) -> None:
        self._lost.set()
        for tell in list(self._listeners):
            tell()


def lease_holder(store: ObjectStore, key: str) -> str:
    """Who holds a lease, in words; empty where nobody does. Raises WriteError where it cannot be read."""
    if (there := store.look(key)) is None:
        return ""
    words = _words(_record(there))
    try:
        return "" if _is_over(store, key, there) else words
    except WriteError:  # who may only read cannot ask the store for the time
        return f"{words}, as of {there.modified:%Y-%m-%d %H:%M:%S} UTC,"


def confirm_lease(store: ObjectStore, key: str, token: str) -> None:
    """Raises OutputExistsError where the lease is not, or no more, the one with that token; WriteError."""
    there = store.look(key)
    if there is None or _record(there).get("token") != token:
        raise _lost(store.describe())


def _lost(subject: str) -> OutputExistsError:
    return OutputExistsError(
        f"the lease of {subject} was lost",
        rule=f"a process that is not heard of for {LIFE_S:.0f} s is taken for dead, and another may go on",
        remedy="nothing was published by this one; run the same command again, when no other does",
    )


def _is_over(store: ObjectStore, key: str, there: Seen) -> bool:
    record = _record(there)
    if _is_dead(record):
        return True
    life = record.get("life_s")
    allowed = float(life) if isinstance(life, int | float) else LIFE_S
    return (store.now(key) - there.modified).total_seconds() > allowed + _COARSE_S


def _is_dead(record: Mapping[str, Any]) -> bool:
    """Whether a lease's owner was a process of this machine, since its start, and is gone."""
    here, pid = _this_process(), record.get("pid")
    if any(not here[name] or record.get(name) != here[name] for name in ("boot", "namespace")):
        return False
    if not isinstance(pid, int) or not 0 < pid < 1 << 31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's
    state, born = _state(pid)
    return state in ("Z", "X") or (born != "" and born != record.get("born"))


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _state(os.getpid())[1],
        "boot": _text_of(Path("/proc/sys/kernel/random/boot_id")),
        "namespace": _namespace(),
    }


def _state(pid: int) -> tuple[str, str]:
    """What a process does, in a letter, and when it began, in ticks since the machine did; empty where that is hidden.

    By its beginning it is known from another one that has its pid later.
    """
    state, *fields = _text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() or [""]
    return state, fields[18] if fields else ""


def _text_of(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _record(there: Seen) -> dict[str, Any]:
    with suppress(ValueError):
        content = json.loads(there.content)
        if isinstance(content, dict):
            return content
    return {}


def _words(record: Mapping[str, Any]) -> str:
    if "pid" in record and "host" in record:
        return f"pid {record['pid']} on host {record['host']}"
    return "it has not said who it is"
