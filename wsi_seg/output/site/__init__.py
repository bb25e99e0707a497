"""Where a result is built and how it gets its name, which folders and object stores do in different ways.

One contract (`protocol`), two classes (`posix`: beside its name, then renamed; `objects`: in place, the root metadata
last), chosen once by `site_at`. Knows neither pixels nor what a run is.
"""

from __future__ import annotations

from pathlib import Path

from wsi_seg.output.site.protocol import Site
from wsi_seg.output.store import Url, location_of

__all__ = ["Site", "site_at"]


def site_at(out: str | Path | Url) -> Site:
    """The site of the result `out`. Raises UsageError."""
    location = location_of(out)
    if isinstance(location, Url):
        from wsi_seg.output.site.objects import ObjectSite

        return ObjectSite(location)
    from wsi_seg.output.site.posix import PosixSite

    return PosixSite(location)
