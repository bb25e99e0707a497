"""Reference labels of a slide from what people draw or store: polygons or label maps, asked for at any resolution.

Owns the formats. Knows no slide object, no training and no score. Tree::

    protocol.py     what an annotation answers; the ignored label
    opening.py      which reader a file needs
    naming.py       class names of a file as class indices
    polygons.py     labels drawn from polygons
    vector_file.py  GeoJSON of QuPath, XML of ASAP
    raster.py       label maps laid over the slide
    label_map.py    label maps in PNG, TIFF and OME-Zarr (the only file here with zarr)
    pixel_files.py  small image files as arrays
"""

from wsi_seg.annotation.opening import open_annotation
from wsi_seg.annotation.protocol import IGNORE, Annotation

__all__ = ["IGNORE", "Annotation", "open_annotation"]
