"""A result's labels as a tiled, lossless TIFF pyramid.

Owns tifffile and the two shapes of the file. OME (the default): one image whose levels are SubIFDs, as QuPath and
Bio-Formats read them. Flat: one directory per level in the main chain, as OpenSlide, ASAP and libvips read them. Labels
are stored as grey values (`minisblack`), without a palette, in both: OpenSlide and libvips turn palettes into colours,
and the class index would be lost; the colours are in the description. OpenSlide shows 8 bits: in a uint16 map it sees
the high byte only. Memory is bounded by one row of tiles. Knows no slide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_seg.errors import CorruptOutputError, OutputExistsError, UsageError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.output.durable import make_folder, mapped_errors, publish, sync_file, temporary_beside
from wsi_seg.output.label_store import Result
from wsi_seg.output.result_spec import NOT_ANALYSED, ResultSpec

TIFF_TILE = 512
"""Side of a tile of the file, px."""
COMPRESSIONS = ("zlib", "lzw", "zstd", "none")
"""Lossless, all; older readers know zlib and lzw only."""

_NAMESPACE = "wsi-seg/labels"
_CLASSIC_LIMIT = 2**31
"""Uncompressed bytes above which the file is a BigTIFF; classic offsets end at 2^32."""
_BUFFER_BYTES = 32 << 20

Progress = Callable[[int, int], None]
"""Told (done, total) rows of tiles; every row is written, then read back."""


def write_ome_tiff(
    result: Result,
    out: Path,
    *,
    flat: bool = False,
    compression: str = "zlib",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Copy the label pyramid of a result into a TIFF file; the file appears when every tile was read back right.

    Args:
        result: a finished result.
        out: the file, `.tif` or `.ome.tif`.
        flat: levels in the main chain of directories, for OpenSlide and its like, instead of SubIFDs and OME-XML.
        compression: one of `COMPRESSIONS`.
        overwrite: replace an existing file.
        progress: told (done, total).

    Raises:
        UsageError: an unknown compression. OutputExistsError: the file is there. WriteError: the disk refused.
        CorruptOutputError: the result cannot be read, or the file does not hold what was written.
    """
    if compression not in COMPRESSIONS:
        raise UsageError(f"compression {compression!r}", rule=f"one of {', '.join(COMPRESSIONS)}")
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputExistsError(
            f"{out} exists", rule="files are not written over", remedy="choose another, or --overwrite"
        )
    step = _counter(result, progress)
    with mapped_errors(out, 0):
        make_folder(out.parent)
        with temporary_beside(out) as temp:
            _write(result, temp, compression, step, flat=flat)
            sync_file(temp)
            _compare(result, temp, step, flat=flat)
            publish(temp, out)


def is_label_tiff(path: Path) -> bool:
    """Whether a file is a label map that `write_ome_tiff` made."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return page.software == "wsi-seg" and NOT_ANALYSED in page.description
    except Exception:  # tifffile raises many kinds for what is no TIFF
        return False


def _write(result: Result, path: Path, compression: str, step: Callable[[], None], *, flat: bool) -> None:
    spec, layout = result.spec, result.spec.layout
    n_bytes = sum(_padded_bytes(spec, level) for level in range(result.n_levels))
    with tifffile.TiffWriter(path, bigtiff=n_bytes > _CLASSIC_LIMIT, ome=not flat) as writer:
        for level in range(result.n_levels):
            mpp = spec.level_mpp(level)
            writer.write(
                _tiles(result, level, step),
                shape=layout.level_size(level),
                dtype=spec.dtype,
                tile=(TIFF_TILE, TIFF_TILE),
                photometric="minisblack",
                compression=None if compression == "none" else compression,
                resolution=(1e4 / mpp.x, 1e4 / mpp.y),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                software="wsi-seg",
                buffersize=_BUFFER_BYTES,
                **_description(spec, result.run_id, level, flat=flat),
            )


def _description(spec: ResultSpec, run_id: str, level: int, *, flat: bool) -> dict[str, Any]:
    """What is said about the file, with its first level only."""
    if flat:
        return {"metadata": None, "description": json.dumps(_facts(spec)) if level == 0 else None}
    n_below = spec.layout.n_levels - 1
    return {"metadata": _ome(spec, run_id), "subifds": n_below} if level == 0 else {"metadata": None}


def _facts(spec: ResultSpec) -> dict[str, str]:
    """Classes, colours and place in the slide, as flat text: `label 2` is the name of label 2."""
    facts = {f"label {value}": entry.name for value, entry in enumerate(spec.classes)}
    facts |= {f"colour {value}": entry.colour for value, entry in enumerate(spec.classes)}
    facts[f"label {spec.not_analysed}"] = NOT_ANALYSED
    facts["slide mpp (x, y)"] = f"{spec.l0_mpp.x:.9g}, {spec.l0_mpp.y:.9g}"
    facts["origin in slide level-0 px (x, y)"] = f"{spec.l0_offset[1]:.9g}, {spec.l0_offset[0]:.9g}"
    facts["slide size (width, height)"] = f"{spec.l0_size[1]}, {spec.l0_size[0]}"
    facts["corner of the scanned bounds (x, y)"] = f"{spec.l0_bounds[1]}, {spec.l0_bounds[0]}"
    return facts


def _ome(spec: ResultSpec, run_id: str) -> dict[str, Any]:
    offset_um = spec.l0_offset[0] * spec.l0_mpp.y, spec.l0_offset[1] * spec.l0_mpp.x
    return {
        "axes": "YX",
        "Name": spec.name,
        # tifffile's own would hold this machine's network address and make every copy differ
        "UUID": str(uuid5(NAMESPACE_URL, f"{_NAMESPACE}/{run_id}")),
        "PhysicalSizeX": spec.mpp.x,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": spec.mpp.y,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": "label"},
        "Plane": {
            "PositionX": offset_um[1],
            "PositionXUnit": "µm",
            "PositionY": offset_um[0],
            "PositionYUnit": "µm",
        },
        "MapAnnotation": {"Namespace": _NAMESPACE, **_facts(spec)},
    }


def _compare(result: Result, path: Path, step: Callable[[], None], *, flat: bool) -> None:
    """Decode every tile of the file and hold it against the result."""
    with tifffile.TiffFile(path) as file:
        pages = list(file.pages) if flat else [file.pages[0], *(file.pages[0].pages or ())]
        sizes = [result.spec.layout.level_size(level) for level in range(result.n_levels)]
        if [page.shape for page in pages] != sizes:
            raise CorruptOutputError(
                f"{path} has levels {[page.shape for page in pages]}", rule=f"{sizes} were written"
            )
        for level, page in enumerate(pages):
            written = (segment for segment, _, _ in page.segments(buffersize=_BUFFER_BYTES))
            for n, expected in enumerate(_tiles(result, level, step)):
                try:
                    cause = "" if _equal(next(written, None), expected) else "differs from the result"
                except Exception as error:  # tifffile and its codecs raise many kinds
                    cause = f"cannot be decoded ({error})"
                if cause:
                    raise CorruptOutputError(
                        f"tile {n} of level {level} of {path} {cause} right after writing",
                        rule="the disk must return the bytes it was given",
                        remedy="check the disk, then export again",
                    )


def _equal(segment: NDArray[Any] | None, expected: NDArray[Any]) -> bool:
    """A decoded tile may come padded, or with axes of length 1."""
    if segment is None:
        return False
    pixels = segment.reshape(segment.shape[-3:-1])[: expected.shape[0], : expected.shape[1]]
    return np.array_equal(pixels, expected)


def _tiles(result: Result, level: int, step: Callable[[], None]) -> Iterator[NDArray[Any]]:
    """Tiles of a level in row-major order, cut at the level's end; reads one row of tiles at a time."""
    height, width = result.spec.layout.level_size(level)

    def row(y: int) -> Iterator[NDArray[Any]]:
        band = result.read_labels(level, Box(y, 0, min(y + TIFF_TILE, height), width))
        step()
        return (band[:, x : x + TIFF_TILE] for x in range(0, width, TIFF_TILE))

    return chain.from_iterable(map(row, range(0, height, TIFF_TILE)))


def _counter(result: Result, progress: Progress | None) -> Callable[[], None]:
    levels = range(result.n_levels)
    total = 2 * sum(ceil_div(result.spec.layout.level_size(level)[0], TIFF_TILE) for level in levels)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step


def _padded_bytes(spec: ResultSpec, level: int) -> int:
    height, width = spec.layout.level_size(level)
    tiles = ceil_div(height, TIFF_TILE) * ceil_div(width, TIFF_TILE)
    return tiles * TIFF_TILE**2 * spec.dtype.itemsize
