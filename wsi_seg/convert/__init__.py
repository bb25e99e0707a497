"""Copies of a result in other formats: polygons, object tables, DICOM, pictures."""

from wsi_seg.convert.outlines import Outline, polygons

__all__ = ["Outline", "polygons"]
