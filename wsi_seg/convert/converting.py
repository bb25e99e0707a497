"""A result in, a file in another format out: which format takes which options, and who writes it.

Owns that choice and the default name. Knows no format itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsi_seg.convert.new_file import refuse_existing
from wsi_seg.convert.objects import objects
from wsi_seg.convert.outlines import polygons
from wsi_seg.convert.selection import chosen_classes, frame_of
from wsi_seg.convert.strips import read_strips
from wsi_seg.errors import UsageError
from wsi_seg.output.label_store import Result

SUFFIXES = {
    "ome-tiff": ".ome.tif",
    "geojson": ".geojson",
    "dicom-seg": ".dcm",
    "png": ".png",
    "csv": ".csv",
    "annotations-xml": ".xml",
}
"""Of the files of each format."""
_RESULT_SUFFIX = ".seg.zarr"


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What is asked for, beside the result and the file."""

    to: str
    """One of `SUFFIXES`."""
    level: int = 0
    classes: tuple[str, ...] | None = None
    """Names; None: all but the first, the background."""
    objects: bool = False
    """Of GeoJSON: features are 8-connected objects, and QuPath's detections."""
    simplify_um: float = 0.0
    coloured: bool = False
    """Of PNG: a palette of the classes' colours."""
    slide: Path | None = None
    """Of DICOM: the source that is referred to."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written."""

    path: str
    format: str
    level: int | None
    """Of the pyramid; None where all levels are in the file."""
    n_items: int | None
    """Features, annotations, rows or segments; None where pixels were written."""
    n_bytes: int


def default_name(result: Result, to: str) -> Path:
    """Beside a result that is a folder, else here: its name with the format's suffix."""
    name = str(result.path).rstrip("/").rsplit("/", maxsplit=1)[-1]
    folder = result.path.parent if isinstance(result.path, Path) else Path()
    return folder / (name.removesuffix(_RESULT_SUFFIX) + SUFFIXES[to])


def convert(result: Result, out: Path, request: ConversionRequest, *, overwrite: bool = False) -> Conversion:
    """Write a result in another format; the file appears when it is whole.

    Raises:
        UsageError: an unknown format, class or level, or an option that the format does not have.
        ConversionError: too large for the format, a source that is not the slide's, or a library that is missing.
        OutputExistsError, WriteError: of the file. CorruptOutputError: the result cannot be read.
    """
    _check(result, request)
    refuse_existing(out, overwrite)
    n_items = _WRITERS[request.to](result, out, request, overwrite)
    level = None if request.to == "ome-tiff" else request.level
    return Conversion(str(out), request.to, level, n_items, out.stat().st_size)


def _check(result: Result, request: ConversionRequest) -> None:
    if request.to not in SUFFIXES:
        raise UsageError(f"--to {request.to!r}", rule=f"one of {', '.join(SUFFIXES)}")
    shaped = ("geojson", "annotations-xml")
    for given, option, takers in (
        (request.classes is not None, "--classes", (*shaped, "csv", "dicom-seg")),
        (request.level != 0, "--level", (*shaped, "csv", "dicom-seg", "png")),
        (request.objects, "--objects", ("geojson",)),
        (request.simplify_um != 0, "--simplify", shaped),
        (request.coloured, "--coloured", ("png",)),
        (request.slide is not None, "--slide", ("dicom-seg",)),
    ):
        if given and request.to not in takers:
            raise UsageError(f"{option} with --to {request.to}", rule=f"{option} is for {', '.join(takers)}")
    frame_of(result.spec, request.level)
    chosen_classes(result, request.classes)


def _tiff(result: Result, out: Path, _request: ConversionRequest, overwrite: bool) -> None:
    from wsi_seg.output.tiff_writer import write_ome_tiff

    write_ome_tiff(result, out, overwrite=overwrite)


def _geojson(result: Result, out: Path, request: ConversionRequest, overwrite: bool) -> int:
    from wsi_seg.convert.geojson_file import FeatureForm, write_geojson

    shapes = polygons(
        result,
        level=request.level,
        classes=request.classes,
        objects=request.objects,
        simplify_um=request.simplify_um,
    )
    form = FeatureForm(result.spec, result.run_id, request.level, request.objects)
    return write_geojson(shapes, form, out, overwrite=overwrite)


def _asap(result: Result, out: Path, request: ConversionRequest, overwrite: bool) -> int:
    from wsi_seg.convert.asap_file import write_asap

    shapes = polygons(result, level=request.level, classes=request.classes, simplify_um=request.simplify_um)
    return write_asap(shapes, result.spec.classes, out, overwrite=overwrite)


def _csv(result: Result, out: Path, request: ConversionRequest, overwrite: bool) -> int:
    from wsi_seg.convert.object_table import write_table

    found = objects(result, level=request.level, classes=request.classes)
    return write_table(found, result.run_id, request.level, out, overwrite=overwrite)


def _png(result: Result, out: Path, request: ConversionRequest, overwrite: bool) -> None:
    from wsi_seg.convert.picture import write_png

    rows = (strip.labels for strip in read_strips(result, request.level))
    write_png(rows, result.spec, request.level, out, coloured=request.coloured, overwrite=overwrite)


def _dicom(result: Result, out: Path, request: ConversionRequest, overwrite: bool) -> int:
    from wsi_seg.convert.dicom_seg import write_dicom_seg

    return write_dicom_seg(result, out, request, overwrite=overwrite)


_WRITERS: dict[str, Callable[[Result, Path, ConversionRequest, bool], int | None]] = {
    "ome-tiff": _tiff,
    "geojson": _geojson,
    "dicom-seg": _dicom,
    "png": _png,
    "csv": _csv,
    "annotations-xml": _asap,
}
