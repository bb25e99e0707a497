"""Polygons as XML for ASAP (github.com/computationalpathologygroup/ASAP), written one by one.

Owns the form of the file. ASAP counts from the corner of level 0 and knows no holes: a polygon with holes becomes one
ring with slits (`keyhole`). Reads no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.convert.geojson_file import DECIMALS
from wsi_seg.convert.keyhole import keyhole_ring
from wsi_seg.convert.new_file import new_file
from wsi_seg.convert.outlines import Outline

_CORNERS = 10_000
"""That are written at a time."""


def write_asap(
    outlines: Iterable[Outline], classes: Sequence[SegmentationClass], out: Path, *, overwrite: bool = False
) -> int:
    """Write annotations, a group for each class that has any; answers the number of annotations.

    Raises OutputExistsError, WriteError, and what the outlines raise.
    """
    n, used = 0, set()
    with new_file(out, overwrite=overwrite) as file:
        file.write(b'<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>\n')
        for outline in outlines:
            for ring in _rings(outline):
                entry = classes[outline.class_index]
                for piece in _annotation(ring, entry, f"{entry.name} {n}"):
                    file.write(piece.encode())
                n += 1
            used.add(outline.class_index)
        file.write(b"</Annotations>\n<AnnotationGroups>\n")
        for entry in (classes[index] for index in sorted(used)):
            name = quoteattr(entry.name)
            line = f'<Group Name={name} PartOfGroup="None" Color="{entry.colour}"><Attributes/></Group>\n'
            file.write(line.encode())
        file.write(b"</AnnotationGroups>\n</ASAP_Annotations>\n")
    return n


def _rings(outline: Outline) -> Iterator[NDArray[np.float64]]:
    """A ring of each polygon, (n, 2) as (y, x)."""
    for part in getattr(outline.geometry, "geoms", [outline.geometry]):
        yield keyhole_ring([np.array(ring.coords)[:-1, ::-1] for ring in (part.exterior, *part.interiors)])


def _annotation(ring: NDArray[np.float64], entry: SegmentationClass, name: str) -> Iterator[str]:
    """An annotation in pieces: a tissue can have millions of corners."""
    yield (
        f'<Annotation Name={quoteattr(name)} Type="Polygon" PartOfGroup={quoteattr(entry.name)} '
        f'Color="{entry.colour}">\n<Coordinates>\n'
    )
    for start in range(0, len(ring), _CORNERS):
        points = np.round(ring[start : start + _CORNERS], DECIMALS).tolist()
        yield "".join(f'<Coordinate Order="{k}" X="{x!r}" Y="{y!r}"/>\n' for k, (y, x) in enumerate(points, start))
    yield "</Coordinates>\n</Annotation>\n"
