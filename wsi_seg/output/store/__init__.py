"""Where the bytes of results lie: a folder of a file system, or a prefix of an object store.

One contract (`protocol`), two classes that keep it (`posix`, `objects`), one function that chooses (`store_at`).
Knows no format and no run.
"""

from wsi_seg.output.store.hold import Hold
from wsi_seg.output.store.location import Location, Url, location_of, way_to
from wsi_seg.output.store.opening import store_at
from wsi_seg.output.store.protocol import Record, Store

__all__ = ["Hold", "Location", "Record", "Store", "Url", "location_of", "store_at", "way_to"]
