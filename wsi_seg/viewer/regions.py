"""The file that regions drawn in the page are kept in: GeoJSON as QuPath writes it.

Owns what the page may put there: polygons with a class, nothing else, in a file that the user has named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsi_seg.errors import UsageError, WriteError, WsiSegError
from wsi_seg.geojson import GeoJson
from wsi_seg.output.durable import write_durably

MAX_BYTES = 1 << 26
"""Longest text of regions that is taken."""


class RegionFile:
    """A GeoJSON file of regions."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a name that is not GeoJSON's, or a file that is there and holds something else."""
        if path.suffix.lower() not in (".geojson", ".json"):
            raise UsageError(f"--annotations {path}", rule="a file NAME.geojson", remedy=f"{path.name}.geojson")
        self.path = path
        self.load()

    def load(self) -> dict[str, Any]:
        """The FeatureCollection in the file; an empty one where there is no file yet. Raises UsageError."""
        if not self.path.exists():
            return {"type": "FeatureCollection", "features": []}
        _READER.read(self.path)
        content = json.loads(self.path.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict) and content.get("type") == "FeatureCollection":
            return content
        return {"type": "FeatureCollection", "features": content if isinstance(content, list) else [content]}

    def save(self, text: bytes) -> int:
        """Replace the file by a FeatureCollection; the number of its regions. Raises UsageError, WriteError."""
        beside = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or content.get("type") != "FeatureCollection":
                raise UsageError("regions that are no FeatureCollection", rule="GeoJSON, RFC 7946")
            plain = json.dumps(content, indent=1, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            if isinstance(error, WsiSegError):
                raise
            raise UsageError(f"regions are not JSON: {error}", rule="GeoJSON, RFC 7946") from error
        try:
            beside.write_bytes(plain)
            n = len(_READER.read(beside))
        except OSError as error:
            if isinstance(error, WsiSegError):
                raise
            raise WriteError(f"{self.path} cannot be written: {error.strerror}", remedy="check its folder") from error
        finally:
            beside.unlink(missing_ok=True)
        write_durably(self.path, plain)
        return n


_READER = GeoJson(UsageError, "regions", "draw them in the page, or export them from QuPath", MAX_BYTES)
