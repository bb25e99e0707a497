"""Polygons from GeoJSON of QuPath and XML of ASAP.

Owns both formats: where the class of a polygon stands, and in which order polygons are painted (as in the file).
QuPath: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html; ASAP:
https://github.com/computationalpathologygroup/ASAP. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.naming import Naming
from wsi_seg.annotation.polygons import LabelledPolygon
from wsi_seg.errors import AnnotationError
from wsi_seg.geojson import GeoJson

_WITH_AREA = ("Polygon", "Rectangle", "Spline")
_REMEDY = "export the annotations from QuPath as GeoJSON, or from ASAP as XML, in full-resolution px"


def read_geojson(path: Path, naming: Naming, l0_origin: tuple[float, float]) -> list[LabelledPolygon]:
    """Polygons of a GeoJSON file in level-0 px, in the order of the file.

    The class is `properties.classification.name` (or `names`, joined by ": ", as QuPath shows derived classes).
    `l0_origin` is the level-0 point (y, x) that coordinates are counted from. Raises AnnotationError.
    """
    polygons = []
    for feature in GeoJson(AnnotationError, "annotations", _REMEDY).read(path):
        label = naming.index(_classification(feature.properties), feature.name)
        for rings in feature.polygons:
            moved = tuple(np.ascontiguousarray(ring[:, ::-1]) + np.array(l0_origin) for ring in rings)
            polygons.append(LabelledPolygon(label, moved))
    return polygons


def read_asap(path: Path, naming: Naming) -> list[LabelledPolygon]:
    """Polygons of an ASAP XML file in level-0 px, in the order of the file.

    The class is the group (`PartOfGroup`) or the nearest group around it that has a meaning. Splines count as polygons
    of their points. Raises AnnotationError.
    """
    root = _parse(path)
    around = {group.get("Name", ""): group.get("PartOfGroup", "None") for group in root.iter("Group")}
    polygons = []
    for element in root.iter("Annotation"):
        where = f"annotation {element.get('Name', '')!r}"
        if element.get("Type") not in _WITH_AREA:
            raise AnnotationError(
                f"{where} of {path} is a {element.get('Type')}",
                rule=f"annotations have an area: {', '.join(_WITH_AREA)}",
                remedy="delete it in ASAP",
            )
        group = _known_group(element.get("PartOfGroup", "None"), around, naming)
        polygons.append(LabelledPolygon(naming.index(group, where), (_points(element, f"{where} of {path}"),)))
    return polygons


def _classification(properties: Mapping[str, Any]) -> str:
    found = properties.get("classification")
    if not isinstance(found, Mapping):
        return ""
    names = found.get("names")
    return str(found.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else ""))


def _parse(path: Path) -> ElementTree.Element:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8: {error}", remedy=_REMEDY) from error
    # Entities are refused unread: expanding them is the way to make a small file large.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AnnotationError(f"{path} declares a document type", rule="ASAP writes none", remedy=_REMEDY)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise AnnotationError(f"{path} is not XML: {error}", remedy=_REMEDY) from error
    if root.tag != "ASAP_Annotations":
        raise AnnotationError(f"{path} begins with <{root.tag}>", rule="ASAP begins with <ASAP_Annotations>")
    return root


def _known_group(group: str, around: Mapping[str, str], naming: Naming) -> str:
    """The group, or the nearest one around it that has a meaning; the group itself where none has."""
    for candidate in _upwards(group, around):
        if naming.knows(candidate):
            return candidate
    return group


def _upwards(group: str, around: Mapping[str, str]) -> Iterator[str]:
    seen = set()
    while group not in seen:
        yield group
        seen.add(group)
        group = around.get(group, group)


def _points(element: ElementTree.Element, where: str) -> NDArray[np.float64]:
    """Ring (n, 2) as (y, x); two points are corners of a rectangle."""
    found = list(element.iter("Coordinate"))
    try:
        found.sort(key=lambda point: float(point.get("Order", "0")))
        ring = np.array([(float(point.get("Y", "")), float(point.get("X", ""))) for point in found], np.float64)
    except ValueError as error:
        raise AnnotationError(f"{where} has a malformed coordinate: {error}", remedy=_REMEDY) from error
    if element.get("Type") == "Rectangle" and len(ring) == 2:
        (y0, x0), (y1, x1) = ring
        ring = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise AnnotationError(f"{where} has {len(ring)} points", rule="three finite points at least")
    return ring
