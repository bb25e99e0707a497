"""`wsi-seg convert`: a result as polygons, a table, pictures or DICOM, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.convert.converting import Conversion

_FORMATS = "ome-tiff, geojson, dicom-seg, png, csv or annotations-xml"


def convert(
    result: Annotated[
        str, typer.Argument(metavar="RESULT", help="A finished result folder, or its URL.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help=f"{_FORMATS}.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="File to write; without, beside the result.", show_default=False)
    ] = None,
    level: Annotated[int, typer.Option(help="Of the pyramid: each has half the px of the one before.")] = 0,
    simplify: Annotated[
        float, typer.Option(help="Leave corners of outlines out that move them by this many um at most.")
    ] = 0.0,
    classes: Annotated[
        str | None, typer.Option(help="Classes to write: a,b; without, all but the first.", show_default=False)
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="GeoJSON: objects (8-connected), QuPath's detections.")
    ] = False,
    coloured: Annotated[bool, typer.Option("--coloured", help="PNG: a palette with the classes' colours.")] = False,
    slide: Annotated[
        Path | None,
        typer.Option(help="DICOM: the source to refer to, a file or its folder; its patient is copied."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a result in another format.

    geojson (QuPath) and annotations-xml (ASAP) hold polygons along the pixels' edges; csv a row for each object; png
    and ome-tiff class indices; dicom-seg a DICOM Segmentation.
    """
    from wsi_seg.convert.converting import SUFFIXES, ConversionRequest, default_name
    from wsi_seg.convert.converting import convert as write
    from wsi_seg.output.label_store import open_result
    from wsi_seg.output.store import location_of

    if to not in SUFFIXES:
        raise UsageError(f"--to {to!r}", rule=_FORMATS)
    names = None if classes is None else tuple(name.strip() for name in classes.split(",") if name.strip())
    opened = open_result(location_of(result))
    request = ConversionRequest(to, level, names, objects, simplify, coloured, slide)
    written = write(opened, out or default_name(opened, to), request, overwrite=overwrite)
    print(json.dumps(asdict(written), indent=2) if as_json else _described(written))


_ITEMS = {"geojson": "features", "annotations-xml": "annotations", "csv": "objects", "dicom-seg": "segments"}


def _described(written: Conversion) -> str:
    items = "" if written.n_items is None else f"{written.n_items:,} {_ITEMS[written.format]}, "
    return f"{written.path}: {items}{written.n_bytes / 1e6:.1f} MB"
