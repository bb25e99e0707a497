"""Regions of interest: polygons of a GeoJSON file, in level-0 px; the one file that imports shapely.

Owns the repair and the test whether a box meets them. Knows no slide object and draws no pixels: the
engine rasterises `CanvasRoi.rings` by the even-odd rule, for which the polygons are merged here so that none overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import RoiError
from wsi_seg.geojson import GeoJson
from wsi_seg.geometry import Box
from wsi_seg.plan.scale import Scale

MAX_ROI_BYTES = 32 << 20
"""Of a file of regions: half a million points, or more."""
MAX_AREA_CHANGE = 0.01
"""A repair that changes a polygon's area by more than this share is refused: the drawing is ambiguous."""

Rings = tuple[NDArray[np.float64], ...]
"""Outer ring, then holes; float64 (n, 2) as (y, x), not closed."""

_REMEDY = "export the annotations from QuPath as GeoJSON, in full-resolution px"


@dataclass(frozen=True, slots=True, eq=False)
class CanvasRoi:
    """Polygons in canvas px; none overlap."""

    polygons: tuple[Rings, ...]
    """One tuple of rings per polygon."""

    @property
    def rings(self) -> list[NDArray[np.float64]]:
        """All rings, float64 (n, 2) as (y, x): inside by the even-odd rule over all of them."""
        return [ring for polygon in self.polygons for ring in polygon]

    def meets(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True per box that shares a point with a polygon; boxes (n, 4) as (y0, x0, y1, x1), canvas px."""
        import shapely

        shape = shapely.MultiPolygon([_polygon(rings) for rings in self.polygons])
        shapely.prepare(shape)
        y0, x0, y1, x1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
        met: NDArray[np.bool_] = shapely.intersects(shape, shapely.box(x0, y0, x1, y1))
        return met


@dataclass(frozen=True, slots=True, eq=False)
class Roi:
    """Polygons in level-0 px of the slide; none overlap."""

    l0_polygons: tuple[Rings, ...]
    """One tuple of rings per polygon."""
    l0_area: float
    """Area in level-0 px."""
    n_features: int
    """Polygons in the file, before merging."""
    notes: tuple[str, ...]
    """What was repaired or lies off the slide, in words."""

    @property
    def sha256(self) -> str:
        """Hash of the coordinates."""
        digest = sha256()
        for rings in self.l0_polygons:
            for ring in rings:
                digest.update(len(ring).to_bytes(8, "little") + ring.astype("<f8").tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    def in_canvas(self, scale: Scale) -> CanvasRoi:
        """The same polygons in canvas px."""
        return CanvasRoi(tuple(tuple(scale.canvas_points(ring) for ring in rings) for rings in self.l0_polygons))

    def rings_in_canvas(self, scale: Scale) -> list[NDArray[np.float64]]:
        """All rings in canvas px, float64 (n, 2) as (y, x): inside by the even-odd rule over all of them."""
        return self.in_canvas(scale).rings


def read_roi(path: Path, l0_bounds: Box, l0_origin: tuple[float, float] | None = None) -> Roi:
    """Read regions from GeoJSON: FeatureCollection, Feature, bare geometry or a list of them, as QuPath writes.

    Polygons and MultiPolygons, holes kept; coordinates are (x, y) in level-0 px. Overlapping polygons are merged, and a
    self-crossing one is repaired where that leaves its area within `MAX_AREA_CHANGE`; each repair is a note.

    Args:
        path: the file.
        l0_bounds: scanned box of the slide, level-0 px.
        l0_origin: level-0 px (y, x) of the coordinates' origin; None: the corner of the bounds, as QuPath counts
            (github.com/qupath/qupath/issues/820). The two differ only for formats with bounds, such as MIRAX.

    Raises:
        RoiError: unreadable, no polygon, another kind of geometry, no area, ambiguous, or off the slide.
    """
    import shapely

    origin = (float(l0_bounds.y0), float(l0_bounds.x0)) if l0_origin is None else l0_origin
    notes: list[str] = []
    shapes = []
    for feature in GeoJson(RoiError, "regions", _REMEDY, MAX_ROI_BYTES).read(path):
        for rings in feature.polygons:
            shapes.append(_sound(feature.name, rings, notes))
    if not shapes:
        raise RoiError(f"{path} holds no polygon", rule="a region of interest has an area", remedy=_REMEDY)
    try:
        merged = shapely.transform(shapely.union_all(shapes), lambda points: points + np.array(origin[::-1]))
        notes += _off_slide(path, merged, l0_bounds)
    except shapely.errors.ShapelyError as error:
        raise RoiError(f"the polygons of {path} cannot be merged: {error}", remedy=_REMEDY) from error
    return Roi(tuple(_merged_rings(merged)), float(merged.area), len(shapes), tuple(notes))


def _sound(name: str, rings: Rings, notes: list[str]) -> Any:
    """A valid shapely polygon or multi-polygon of the rings (x, y); a repair is noted."""
    import shapely

    try:
        drawn = shapely.Polygon(rings[0], rings[1:])
        shape = drawn if drawn.is_valid else shapely.make_valid(drawn)
    except (shapely.errors.ShapelyError, ValueError) as error:
        raise RoiError(f"{name} is no polygon: {error}", remedy=_REMEDY) from error
    if not shape.area > 0:
        raise RoiError(f"{name} has no area", rule="a region of interest has an area", remedy="delete or redraw it")
    if shape is not drawn:
        reason = shapely.is_valid_reason(drawn)
        if abs(shape.area - drawn.area) > MAX_AREA_CHANGE * shape.area:
            raise RoiError(
                f"{name} crosses itself ({reason}): {drawn.area:.0f} px as drawn, {shape.area:.0f} px repaired",
                rule=f"a repair may change the area by {MAX_AREA_CHANGE:.0%}",
                remedy="redraw it",
            )
        notes.append(f"{name} was repaired ({reason})")
    return shape


def _off_slide(path: Path, shape: Any, l0_bounds: Box) -> list[str]:
    """Raise RoiError where nothing lies on the slide; a note where part of it does not."""
    import shapely

    slide = shapely.box(l0_bounds.x0, l0_bounds.y0, l0_bounds.x1, l0_bounds.y1)
    inside = shape.intersection(slide).area / shape.area
    if not inside > 0:
        x0, y0, x1, y1 = shape.bounds
        raise RoiError(
            f"the regions of {path} span y {y0:.0f} … {y1:.0f}, x {x0:.0f} … {x1:.0f}, all off the slide",
            rule=f"the slide spans y {l0_bounds.y0} … {l0_bounds.y1}, x {l0_bounds.x0} … {l0_bounds.x1} in level-0 px",
            remedy="give coordinates in full-resolution px of this slide",
        )
    return [] if inside > 0.99 else [f"{1 - inside:.1%} of the regions' area lies off the slide"]


def _merged_rings(shape: Any) -> Iterator[Rings]:
    """Rings (y, x), not closed, of each polygon; lines and points that a repair left have no area and are dropped."""
    for part in getattr(shape, "geoms", [shape]):
        if part.geom_type == "MultiPolygon":
            yield from _merged_rings(part)
        elif part.geom_type == "Polygon" and part.area > 0:
            yield tuple(np.array(ring.coords)[:-1, ::-1].copy() for ring in (part.exterior, *part.interiors))


def _polygon(rings: Rings) -> Any:
    import shapely

    return shapely.Polygon(rings[0][:, ::-1], [hole[:, ::-1] for hole in rings[1:]])
