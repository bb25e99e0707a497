"""Which store a place has: the one decision between file systems and object stores."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from wsi_seg.output.store.location import Url, location_of
from wsi_seg.output.store.protocol import Store


def store_at(place: str | Path | Url) -> Store:
    """The store with that root. Raises UsageError where the URL, or what is installed, does not allow one."""
    location = location_of(place)
    if isinstance(location, Url):
        return _object_store(location)
    from wsi_seg.output.store.posix import PosixStore

    return PosixStore(location)


@lru_cache(maxsize=256)
def _object_store(url: Url) -> Store:
    """Kept, since it keeps connections open."""
    from wsi_seg.output.store.objects import ObjectStore

    return ObjectStore(url)


def forget_stores() -> None:
    """Make stores anew from now on, from what the environment says then."""
    _object_store.cache_clear()
