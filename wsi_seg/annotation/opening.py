"""Opens an annotation and decides which reader it needs; owns that choice, knows no format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wsi_seg.annotation.naming import Naming, checked_names
from wsi_seg.annotation.pixel_files import SUFFIXES
from wsi_seg.annotation.polygons import LabelledPolygon, PolygonAnnotation
from wsi_seg.annotation.protocol import IGNORE, Annotation
from wsi_seg.annotation.vector_file import read_asap, read_geojson
from wsi_seg.errors import AnnotationError

_GEOJSON = (".geojson", ".json")
_TIFF = (".tif", ".tiff")


def open_annotation(
    path: Path | str,
    classes: Sequence[str],
    names: Mapping[str, str],
    unannotated: int = IGNORE,
    l0_size: tuple[int, int] | None = None,
    l0_origin: tuple[float, float] = (0.0, 0.0),
) -> Annotation:
    """Open reference labels of a slide.

    Args:
        path: GeoJSON (`.geojson`, `.json`), ASAP XML (`.xml`), a label PNG or TIFF, or an OME-Zarr folder.
        classes: names in index order.
        names: class name in the file -> name in `classes`, or `ignore` for what is left out. Names that are
            classes need no entry.
        unannotated: label outside every polygon. Label maps say themselves what is not annotated.
        l0_size: (height, width) of the slide's level 0, which a label map covers unless it says where it lies itself.
        l0_origin: level-0 point (y, x) that QuPath counts from: the corner of the scanned bounds
            (github.com/qupath/qupath/issues/820). ASAP counts from the corner of level 0.

    Raises:
        AnnotationError: unreadable, without an area, of an unknown class, or not of the slide's shape.
    """
    path = Path(path)
    naming = checked_names(names, classes, path.name)
    suffix = path.suffix.lower()
    if not path.exists():
        raise AnnotationError(f"annotation {path} does not exist", remedy="check the path")
    if suffix in _GEOJSON:
        return _drawn(path, read_geojson(path, naming, l0_origin), unannotated)
    if suffix == ".xml":
        return _drawn(path, read_asap(path, naming), unannotated)
    return _raster(path, naming, l0_size)


def _drawn(path: Path, polygons: list[LabelledPolygon], unannotated: int) -> Annotation:
    if not polygons:
        raise AnnotationError(f"{path} holds no polygon", remedy="draw regions, or leave the annotation away")
    return PolygonAnnotation(polygons, unannotated)


def _raster(path: Path, naming: Naming, l0_size: tuple[int, int] | None) -> Annotation:
    from wsi_seg.annotation import label_map, raster

    read: Callable[[Path, Naming], raster.LabelMap]
    if path.is_dir():
        read = label_map.read_zarr
    elif path.suffix.lower() in _TIFF:
        read = label_map.read_tiff
    elif path.suffix.lower() in SUFFIXES:
        read = label_map.read_picture
    else:
        raise AnnotationError(
            f"annotation {path} is of an unknown kind",
            rule="GeoJSON, ASAP XML, PNG, TIFF or an OME-Zarr folder",
        )
    return raster.RasterAnnotation(read(path, naming), l0_size)
