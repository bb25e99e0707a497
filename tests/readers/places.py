"""Where the descriptions of our TIFF files say that they lie."""

from __future__ import annotations

import json
from xml.etree import ElementTree

OME = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


def place_in_xml(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """(µm per px, corner in µm), each (y, x), of OME-XML."""
    root = ElementTree.fromstring(text)
    pixels, plane = root.find(".//ome:Pixels", OME), root.find(".//ome:Plane", OME)
    assert pixels is not None
    assert plane is not None
    for found, name in ((pixels, "PhysicalSize"), (plane, "Position")):
        assert {found.get(f"{name}{axis}Unit") for axis in "XY"} == {"µm"}
    mpp, corner = (
        [float(e.get(n + axis)) for axis in "YX"] for e, n in ((pixels, "PhysicalSize"), (plane, "Position"))
    )
    return (mpp[0], mpp[1]), (corner[0], corner[1])


def corner_in_json(text: str) -> tuple[float, float]:
    """Corner in µm, (y, x), of the description of a flat TIFF."""
    facts = json.loads(text)
    origin, mpp = (
        [float(v) for v in facts[key].split(",")] for key in ("origin in slide level-0 px (x, y)", "slide mpp (x, y)")
    )
    return origin[1] * mpp[1], origin[0] * mpp[0]
