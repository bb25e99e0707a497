"""A prefix of an object store as a store: S3, Google Cloud Storage, Azure. Owns obstore.

A PUT is atomic and durable when it is answered. Credentials and endpoint are the environment's, read in each process
that opens a store; nothing of them is kept in a value that travels. Requests are tried again by obstore, for a bounded
time; a write whose answer was lost may find itself done already, and is recognised by its content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from wsi_seg.errors import UsageError
from wsi_seg.output.store.hold import Hold
from wsi_seg.output.store.location import Url
from wsi_seg.output.store.protocol import Record, T

try:
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
    from obstore.store import from_url

    from wsi_seg.output.store.refusals import answered
except ImportError:
    raise UsageError(
        "a result in an object store",
        rule="needs the package obstore, which is not installed",
        remedy="pip install 'wsi-seg[objects]'",
    ) from None

REQUEST = timedelta(seconds=60)
"""What one request may take; a shard goes over in one."""
RETRIES = timedelta(seconds=30)
"""How long a request that failed is tried again."""
AT_ONCE = 16
"""Requests at a time, where many objects are looked through."""
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_PIECE = 8 << 20

Version = dict[str, str]
"""What a store knows one state of an object by."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was when it was looked at."""

    content: bytes
    version: Version
    modified: datetime
    """By the store's clock; whole seconds, on some."""


class ObjectStore:
    """The objects below a URL; see `Store`."""

    def __init__(self, root: Url, *, request: timedelta | None = None, retries: timedelta | None = None) -> None:
        self.root = root
        self._objects = _opened(root, request or REQUEST, retries or RETRIES)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore, (self.root,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.root})"

    def describe(self, key: str = "") -> str:
        """The URL."""
        return str(self.root / key) if key else str(self.root)

    def read(self, key: str) -> bytes:
        """The bytes of an object. Raises FileNotFoundError, WriteError."""
        return answered("read", self.describe(key), lambda: bytes(self._objects.get(key).bytes()))

    def write(self, key: str, content: bytes, *, exclusive: bool = False) -> None:
        """Put a whole object. Raises FileExistsError, WriteError."""
        if not exclusive:
            # In one request: an upload in parts, stopped half-way, leaves parts that cost money and nobody sees.
            answered("write", self.describe(key), lambda: self._objects.put(key, content, use_multipart=False))
        elif self.create(key, content) is None and self.read(key) != content:
            raise FileExistsError(f"{self.describe(key)} exists")

    def remove(self, key: str) -> None:
        """Remove an object if it is there. Raises WriteError."""
        self.remove_all([key])

    def remove_all(self, keys: list[str]) -> None:
        """Remove objects, a thousand in a request where the store can. Raises WriteError."""
        if keys:
            answered("remove", self.describe(keys[0]), lambda: self._objects.delete(keys))

    def record(self, key: str) -> Record | None:
        """Hash and size of an object, read back in pieces; None where there is none. Raises WriteError."""

        def hashed() -> Record:
            digest, n_bytes = sha256(), 0
            for piece in self._objects.get(key).stream(min_chunk_size=_PIECE):
                digest.update(piece)
                n_bytes += len(piece)
            return digest.hexdigest(), n_bytes

        try:
            return answered("read", self.describe(key), hashed)
        except FileNotFoundError:
            return None

    def has(self, key: str) -> bool:
        """Whether there is such an object. Raises WriteError."""
        try:
            answered("read", self.describe(key), lambda: self._objects.head(key))
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str = "") -> list[str]:
        """Below a prefix, sorted. Raises WriteError."""

        def listed() -> list[str]:
            return sorted(entry["path"] for page in self._objects.list(prefix or None) for entry in page)

        return answered("list", self.describe(prefix), listed)

    def children(self, prefix: str = "") -> tuple[list[str], list[str]]:
        """Keys of the objects right below a prefix, and of the prefixes there. Raises WriteError."""
        place = self.describe(prefix)
        found = answered("list", place, lambda: self._objects.list_with_delimiter(prefix or None))
        return sorted(entry["path"] for entry in found["objects"]), sorted(found["common_prefixes"])

    def each(self, work: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        """Several at a time: what takes time is the way to the store and back."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects") as threads:
            return list(threads.map(work, keys))

    def zarr(self) -> Any:
        """The prefix, for zarr."""
        from wsi_seg.output.store.zarr_objects import ReadableObjects

        return ReadableObjects(self._objects, self.describe())

    def hold(self, key: str, subject: str) -> Hold:
        """Take a lease. Raises OutputExistsError, WriteError."""
        from wsi_seg.output.store.lease import Lease

        return Lease.take(self.root, key, subject)

    def holder(self, key: str) -> str:
        """Host and pid of whoever holds a lease. Raises WriteError."""
        from wsi_seg.output.store.lease import lease_holder

        return lease_holder(self, key)

    def confirm(self, key: str, token: str) -> None:
        """Read whose lease it is. Raises OutputExistsError, WriteError."""
        from wsi_seg.output.store.lease import confirm_lease

        confirm_lease(self, key, token)

    def create(self, key: str, content: bytes) -> Version | None:
        """Put an object that is not there yet; None where it is. Raises WriteError."""
        return self._put_if(key, content, "create")

    def replace(self, key: str, content: bytes, version: Version) -> Version | None:
        """Put an object where it is still in the state `version`; None where it is not. Raises WriteError."""
        try:
            return self._put_if(key, content, version)
        except FileNotFoundError:
            return None

    def _put_if(self, key: str, content: bytes, condition: Any) -> Version | None:
        def put() -> Version | None:
            try:
                return _version(self._objects.put(key, content, mode=condition))
            except (AlreadyExistsError, PreconditionError):
                return None

        return answered("write", self.describe(key), put)

    def look(self, key: str) -> Seen | None:
        """An object with its version and time; None where there is none. Raises WriteError."""

        def seen() -> Seen:
            answer = self._objects.get(key)
            return Seen(bytes(answer.bytes()), _version(answer.meta), answer.meta["last_modified"])

        try:
            return answered("read", self.describe(key), seen)
        except FileNotFoundError:
            return None

    def now(self, key: str) -> datetime:
        """The store's clock: the time of an object written for that beside `key`. Raises WriteError."""
        mine = f"{key}.clock-{uuid4().hex}"
        self.write(mine, b"")
        seen = self.look(mine)
        self.remove(mine)
        # Removed by whoever has just finished the result: then asking again tells the time, or that all is over.
        return self.now(key) if seen is None else seen.modified


def _opened(root: Url, request: timedelta, retries: timedelta) -> Any:
    """Obstore's own store. Raises UsageError where the name or the environment does not allow one."""
    try:
        return from_url(
            f"{root.scheme}://{root.bucket}/{quote(root.path)}",
            client_options={
                "timeout": request,
                # Options given here hide the environment's.
                "allow_http": any(os.environ.get(name, "").lower() in ("true", "1") for name in _ALLOW_HTTP),
            },
            retry_config={
                "max_retries": 100,  # the time decides
                "retry_timeout": retries,
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError):
        refused = str(root).encode(errors="backslashreplace").decode()
    # Outside the handler: what obstore says may repeat what a variable holds.
    raise UsageError(
        f"{refused} cannot be opened",
        rule="a name is UTF-8, and the environment holds what the service needs (account, credentials, endpoint)",
        remedy="check both; AZURE_STORAGE_ACCOUNT_NAME for az://, GOOGLE_APPLICATION_CREDENTIALS for gs://",
    )


def walk(store: ObjectStore, prefix: str = "", *, into: str) -> Iterator[str]:
    """Prefixes below `prefix` whose name ends in `into`, at any depth; what lies in these is not looked through."""
    for child in store.children(prefix)[1]:
        if child.endswith(into):
            yield child
        elif not child.rpartition("/")[2].startswith("."):
            yield from walk(store, child, into=into)


def _version(told: Any) -> Version:
    return {name: told[name] for name in ("e_tag", "version") if told.get(name)}
