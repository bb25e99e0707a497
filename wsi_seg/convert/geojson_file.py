"""Polygons as GeoJSON for QuPath 0.4 and later: one feature a region, written one by one.

Owns the form of a feature, and that QuPath counts from the corner of the scanned bounds
(github.com/qupath/qupath/issues/820): the inverse of what `annotation` and `plan/roi` add when they read. Reads no
result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.new_file import new_file
from wsi_seg.convert.objects import region_id
from wsi_seg.convert.outlines import Outline
from wsi_seg.output.result_spec import ResultSpec

DECIMALS = 6
"""Of coordinates in the file, level-0 px: far below what moves a shape, and no two corners of pixels become one."""
_RINGS = 1000
"""That are written at a time."""
_HEAD, _TAIL = b'{"type":"FeatureCollection","features":[\n', b"\n]}\n"


@dataclass(frozen=True, slots=True)
class FeatureForm:
    """What features of one export have in common."""

    spec: ResultSpec
    run_id: str
    level: int
    objects: bool
    """Whether they are objects, which QuPath keeps as detections: quick to show, and not to be edited."""

    def feature(self, outline: Outline) -> Iterator[str]:
        """A feature as JSON on one line, in pieces: a tissue can have millions of corners."""
        kind = "object" if self.objects else "component"
        number = region_id(self.run_id, self.level, outline.class_index, outline.first_px, kind)
        properties = json.dumps(self._properties(outline), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        yield f'{{"type":"Feature","id":"{number}","geometry":{{"type":"{outline.geometry.geom_type}","coordinates":'
        yield from self._coordinates(outline.geometry)
        yield f'}},"properties":{properties}}}'

    def _coordinates(self, shape: Any) -> Iterator[str]:
        parts = getattr(shape, "geoms", None)
        if parts is None:
            yield from self._rings(shape)
            return
        for number, part in enumerate(parts):
            yield "," if number else "["
            yield from self._rings(part)
        yield "]"

    def _rings(self, polygon: Any) -> Iterator[str]:
        """Lists of points of a polygon's rings; GEOS writes numbers much faster than Python."""
        import shapely

        rings = shapely.get_rings(polygon)
        for start in range(0, len(rings), _RINGS):
            moved = shapely.transform(rings[start : start + _RINGS], self._as_qupath_counts)
            lists = [text[text.index("[[") : -1] for text in shapely.to_geojson(moved)]
            yield ("," if start else "[") + ",".join(lists)
        yield "]"

    def _as_qupath_counts(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        bounds_y, bounds_x = self.spec.l0_bounds
        return np.round(points - (bounds_x, bounds_y), DECIMALS)

    def _properties(self, outline: Outline) -> dict[str, Any]:
        entry = self.spec.classes[outline.class_index]
        measured = {"Area µm^2": outline.area_um2, "Perimeter µm": outline.perimeter_um}
        if outline.mean_probability is not None:
            measured["Probability"] = outline.mean_probability
        return {
            "objectType": "detection" if self.objects else "annotation",
            "name": outline.name,
            "classification": {"name": outline.name, "color": list(entry.rgb)},
            "measurements": {name: round(value, 6) for name, value in measured.items()},
        }


def write_geojson(outlines: Iterable[Outline], form: FeatureForm, out: Path, *, overwrite: bool = False) -> int:
    """Write a FeatureCollection; answers the number of features.

    Raises OutputExistsError, WriteError, and what the outlines raise.
    """
    n = 0
    with new_file(out, overwrite=overwrite) as file:
        file.write(_HEAD)
        for outline in outlines:
            file.write(b",\n" * bool(n))
            for piece in form.feature(outline):
                file.write(piece.encode())
            n += 1
        file.write(_TAIL)
    return n
