"""Copies of a result in other formats: polygons, object tables, DICOM, pictures."""
