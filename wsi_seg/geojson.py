"""Polygons of a GeoJSON file as QuPath writes it: FeatureCollection, Feature, bare geometry or a list of them.

Owns the walk through the document and the checks of its coordinates. Knows no slide and no class; the caller says which
error is raised and what the user can do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import WsiSegError


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """A Polygon or MultiPolygon."""

    name: str
    """For messages."""
    polygons: tuple[tuple[NDArray[np.float64], ...], ...]
    """Rings of each polygon: the outer one, then holes; float64 (n, 2) as (x, y), as the file has them."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Of the feature that holds the geometry; empty for a bare geometry."""


@dataclass(frozen=True, slots=True)
class GeoJson:
    """How a document is read, and what is raised about it."""

    error: type[WsiSegError]
    what: str
    """What its polygons are, in a message: `regions`."""
    remedy: str
    most_bytes: int = 1 << 32
    """Longest file that is read."""

    def read(self, path: Path) -> list[Feature]:
        """Every polygon of a file. Raises `error`: unreadable, not GeoJSON, or a geometry without area."""
        try:
            if (n_bytes := path.stat().st_size) > self.most_bytes:
                rule = f"at most {self.most_bytes} bytes of {self.what}"
                raise self.error(f"{path} has {n_bytes} bytes", rule=rule, remedy=self.remedy)
            return list(self._features(json.loads(path.read_text(encoding="utf-8-sig")), path.name, {}))
        except OSError as error:
            what = f"file of {self.what} {path} cannot be read: {error.strerror}"
            raise self.error(what, rule="a file that exists and may be read", remedy="check the path") from error
        except (ValueError, RecursionError) as error:
            rule = f"{self.what} are GeoJSON, RFC 7946"
            raise self.error(f"{path} is not JSON: {error}", rule=rule, remedy=self.remedy) from error

    def _features(self, content: Any, name: str, properties: Mapping[str, Any]) -> Iterator[Feature]:
        if isinstance(content, list):
            for index, entry in enumerate(content):
                yield from self._features(entry, f"feature {index} of {name}", properties)
            return
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "FeatureCollection":
            yield from self._features(self._list_of(content, "features", name), name, properties)
        elif kind == "Feature":
            label = f"{name} (id {content['id']})" if content.get("id") else name
            own = content.get("properties")
            yield from self._features(content.get("geometry"), label, own if isinstance(own, dict) else {})
        elif kind == "GeometryCollection":
            yield from self._features(self._list_of(content, "geometries", name), name, properties)
        elif kind in ("Polygon", "MultiPolygon"):
            yield Feature(name, tuple(self._polygons(content, name)), properties)
        else:
            what = f"a {kind}" if isinstance(kind, str) else f"a {type(content).__name__}"
            raise self.error(f"{name} is {what}", rule=f"{self.what} are Polygons or MultiPolygons", remedy=self.remedy)

    def _list_of(self, content: dict[str, Any], key: str, name: str) -> list[Any]:
        entries = content.get(key)
        if not isinstance(entries, list):
            raise self.error(f"{name} has no list of {key}", rule="GeoJSON, RFC 7946", remedy=self.remedy)
        return entries

    def _polygons(self, geometry: dict[str, Any], name: str) -> Iterator[tuple[NDArray[np.float64], ...]]:
        coordinates = geometry.get("coordinates")
        polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
        if not isinstance(polygons, list) or not all(isinstance(rings, list) and rings for rings in polygons):
            raise self.error(f"{name} has no coordinates", rule="GeoJSON, RFC 7946", remedy=self.remedy)
        for rings in polygons:
            yield tuple(self._ring(ring, name) for ring in rings)

    def _ring(self, points: Any, name: str) -> NDArray[np.float64]:
        try:
            ring = np.array([point[:2] for point in points], np.float64)
        except (TypeError, ValueError, KeyError) as error:
            rule = "GeoJSON, RFC 7946"
            raise self.error(f"{name} has malformed coordinates: {error}", rule=rule, remedy=self.remedy) from error
        if ring.ndim != 2 or ring.shape[0] < 3 or ring.shape[1] != 2 or not np.isfinite(ring).all():
            rule = "three finite points (x, y) at least"
            raise self.error(f"{name} has a ring of shape {ring.shape}", rule=rule, remedy=self.remedy)
        return ring
