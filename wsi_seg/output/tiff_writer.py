"""A result's labels as a tiled, lossless TIFF pyramid.

Owns tifffile and the two shapes of the file. OME (the default): one image whose levels are SubIFDs, as QuPath and
Bio-Formats read them. Flat: one directory per level in the main chain, as OpenSlide, ASAP and libvips read them. Labels
are stored as grey values (`minisblack`), without a palette, in both: OpenSlide and libvips turn palettes into colours,
and the class index would be lost; the colours are in the description. OpenSlide shows 8 bits: in a uint16 map it sees
the high byte only, and nothing right in tiles that end beyond the image. Memory is bounded by one row of tiles. Where
tiles come from is the business of `tiff_tiles`. Knows no slide.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import tifffile

from wsi_seg.errors import CorruptOutputError, OutputExistsError, UsageError
from wsi_seg.geometry import ceil_div
from wsi_seg.output.durable import make_folder, mapped_errors, publish, sync_file, temporary_beside
from wsi_seg.output.label_store import Result
from wsi_seg.output.result_spec import NOT_ANALYSED, ResultSpec
from wsi_seg.output.tiff_tiles import BUFFER_BYTES, Tiles, tiles_of

COMPRESSIONS = ("zlib", "lzw", "zstd", "none")
"""Lossless, all; older readers know zlib and lzw only."""

_TAGS = {"zlib": 8, "lzw": 5, "zstd": 50000, "none": 1}
"""What the tag `Compression` says."""
_NAMESPACE = "wsi-seg/labels"
_CLASSIC_LIMIT = 2**31
"""Uncompressed bytes above which the file is a BigTIFF; classic offsets end at 2^32."""

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

    Chunks that are compressed alike are taken over as they are (`zlib` from the working store of a TIFF result, `zstd`
    from any other), and tiles are as large as they; else tiles of 512 px are compressed anew.

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
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, n_steps)

    tiles = tiles_of(result, compression, step)
    n_steps = 2 * sum(_grid(result.spec, tiles, level)[0] for level in range(result.n_levels))
    with mapped_errors(out, 0):
        make_folder(out.parent)
        with temporary_beside(out) as temp:
            _write(result, temp, tiles, compression, flat=flat)
            sync_file(temp)
            _check(result, temp, tiles, compression, flat=flat)
            publish(temp, out)


def is_label_tiff(path: Path) -> bool:
    """Whether a file is a label map that `write_ome_tiff` made."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return page.software == "wsi-seg" and NOT_ANALYSED in page.description
    except Exception:  # tifffile raises many kinds for what is no TIFF
        return False


def _write(result: Result, path: Path, tiles: Tiles, compression: str, *, flat: bool) -> None:
    spec, layout = result.spec, result.spec.layout
    n_bytes = sum(_padded_bytes(spec, tiles, level) for level in range(result.n_levels))
    # Chunks are little-endian on every machine.
    with tifffile.TiffWriter(path, bigtiff=n_bytes > _CLASSIC_LIMIT, byteorder="<", ome=not flat) as writer:
        for level in range(result.n_levels):
            mpp = spec.level_mpp(level)
            writer.write(
                tiles.written(level),
                shape=layout.level_size(level),
                dtype=spec.dtype,
                tile=(tiles.side(level),) * 2,
                photometric="minisblack",
                compression=None if compression == "none" else compression,
                resolution=(1e4 / mpp.x, 1e4 / mpp.y),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                software="wsi-seg",
                buffersize=BUFFER_BYTES,
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


def _check(result: Result, path: Path, tiles: Tiles, compression: str, *, flat: bool) -> None:
    """Read the file back: its directory, then every tile. Raises CorruptOutputError."""
    spec, levels = result.spec, range(result.n_levels)
    with tifffile.TiffFile(path) as file:
        pages = list(file.pages) if flat else [file.pages[0], *(file.pages[0].pages or ())]
        sides = [(tiles.side(level),) * 2 for level in levels]
        written = [(spec.layout.level_size(level), side, spec.dtype) for level, side in zip(levels, sides, strict=True)]
        found = [(page.shape, page.tile, page.dtype) for page in pages]
        if found != written:
            raise CorruptOutputError(f"{path} has levels {found}", rule=f"{written} were written")
        for level, page in enumerate(pages):
            # What turns the bytes of a tile into pixels.
            decoding = file.byteorder, int(page.compression), int(page.predictor)
            if decoding != ("<", _TAGS[compression], 1):
                raise CorruptOutputError(f"level {level} of {path} is to be decoded as {decoding}", rule=compression)
            tiles.check(page, level)


def _grid(spec: ResultSpec, tiles: Tiles, level: int) -> tuple[int, int]:
    """(rows, columns) of tiles of a level."""
    height, width = spec.layout.level_size(level)
    return ceil_div(height, tiles.side(level)), ceil_div(width, tiles.side(level))


def _padded_bytes(spec: ResultSpec, tiles: Tiles, level: int) -> int:
    rows, columns = _grid(spec, tiles, level)
    return rows * columns * tiles.side(level) ** 2 * spec.dtype.itemsize
