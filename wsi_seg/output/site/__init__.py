"""Where a result is built and how it gets its name, which folders and object stores do in different ways.

One contract (`protocol`), two classes (`posix`: beside its name, then renamed; `objects`: in place, the root metadata
last), chosen in one place, here. Knows neither pixels nor what a run is.
"""

from __future__ import annotations

from pathlib import Path

from wsi_seg.output.site.protocol import Site
from wsi_seg.output.store import Location, Url, location_of

__all__ = ["Site", "site_at", "unfinished_below"]


def site_at(out: str | Path | Url) -> Site:
    """The site of the result `out`. Raises UsageError."""
    location = location_of(out)
    return _kind(location)(location)


def unfinished_below(folder: str | Path | Url) -> list[Location]:
    """Where the unfinished results of a batch lie. Raises UsageError, WriteError."""
    location = location_of(folder)
    return _kind(location).unfinished_below(location)


def _kind(location: Location) -> type[Site]:
    if isinstance(location, Url):
        from wsi_seg.output.site.objects import ObjectSite

        return ObjectSite
    from wsi_seg.output.site.posix import PosixSite

    return PosixSite
