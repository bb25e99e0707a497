"""Copies of a result in other formats: polygons, object tables, DICOM, pictures.

Tree::

    converting.py      which format takes which options
    selection.py       classes, level, and where a level lies in the slide
    strips.py          a level in strips of whole rows
    regions.py         connected components, joined from strip to strip
    lines.py           outlines, joined from strip to strip
    shapes.py          rings as polygons with their holes
    simplification.py  fewer corners, within a bound
    outlines.py        `polygons`: what is known of a region, with its shape
    objects.py         `objects`: what is known of a region, without
    geojson_file.py    for QuPath
    keyhole.py         polygons with holes as single rings
    asap_file.py       for ASAP
    object_table.py    CSV
    picture.py         PNG
    dicom_seg.py       DICOM Segmentation
    new_file.py        a file that appears when it is whole
"""

from wsi_seg.convert.objects import SegmentedObject, objects
from wsi_seg.convert.outlines import Outline, polygons

__all__ = ["Outline", "SegmentedObject", "objects", "polygons"]
