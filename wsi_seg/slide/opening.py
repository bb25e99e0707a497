"""Opens a slide and decides which reader delivers its pixels.

Owns that choice and the comparison of our fast TIFF path with OpenSlide that precedes it. Knows the readers, no format.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_seg.errors import RegionReadError, SlideOpenError, UsageError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide.resolution import as_mpp

if TYPE_CHECKING:
    from wsi_seg.slide.protocol import Slide
    from wsi_seg.slide.tiff_layout import TiffLayout

READERS = ("auto", "tiff", "openslide", "zarr")
"""Values of `reader`; `auto` takes the fastest that is right for the file."""
DECODINGS = ("exact", "fast")
"""Values of `decode`."""
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAME_PIXELS = ("aperio", "generic-tiff")
"""OpenSlide's names of the formats that are plain tiles, so that both readers must agree."""
_MAX_DIFFERENCE = 8
"""Grey levels by which sound JPEG decoders may differ; a wrong colour space or tile differs by far more."""
_N_COMPARED = 2
_COMPARED_SIDE = 512

_log = logging.getLogger(__name__)


def open_slide(
    path: Path | str, *, mpp: Mpp | float | None = None, reader: str = "auto", decode: str = "exact"
) -> Slide:
    """Open a slide for lazy reading.

    Args:
        path: a slide file, one file of a DICOM series, a `.mrxs` file, or a Zarr folder.
        mpp: µm per px of level 0; wins over what the file says.
        reader: one of `READERS`.
        decode: one of `DECODINGS`; `fast` offers levels that are made by decoding JPEG tiles at a part of their sides,
            where our own TIFF reader reads the file. Other slides open as with `exact`.

    Raises:
        SlideOpenError: the file is missing, damaged, incomplete or of an unsupported kind.
        UsageError: `mpp`, `reader` or `decode` is wrong.
    """
    given, path = as_mpp(mpp), Path(path)
    if reader not in READERS:
        raise UsageError(f"reader {reader!r}", rule=f"one of {', '.join(READERS)}", remedy="leave it at auto")
    if decode not in DECODINGS:
        raise UsageError(f"decode {decode!r}", rule=f"one of {', '.join(DECODINGS)}", remedy="leave it at exact")
    kind = _kind(path)
    if kind == "zarr":
        _expect(reader, ("auto", "zarr"), path, "a folder")
        from wsi_seg.slide.zarr_reader import ZarrSlide

        return ZarrSlide(path, given)
    _expect(reader, ("auto", "openslide", "tiff") if kind == "tiff" else ("auto", "openslide"), path, "this file")
    return _open_tiff(path, given, reader, decode) if kind == "tiff" else _open_vendor(path, given)


def _kind(path: Path) -> str:
    """`zarr`, `tiff` or `other`, from the first bytes. Raises SlideOpenError where there is nothing to open."""
    try:
        if path.is_dir():
            return _folder_kind(path)
        with path.open("rb") as file:
            magic = file.read(4)
    except SlideOpenError:  # an OSError, too
        raise
    except OSError as error:
        raise SlideOpenError(
            f"{path} cannot be opened: {error.strerror or error}",
            rule="a slide is a file or folder that exists and may be read",
            remedy="check the path",
        ) from error
    if not magic:
        raise SlideOpenError(f"{path} is empty (0 bytes)", rule="the copy is incomplete", remedy="copy the file again")
    return "tiff" if magic in _TIFF_MAGIC else "other"


def _folder_kind(path: Path) -> str:
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs")):
        return "zarr"
    raise SlideOpenError(
        f"{path} is a folder without Zarr metadata",
        rule="a slide is a file or a Zarr folder",
        remedy="give the .mrxs file, or one .dcm file of the series",
    )


def _expect(reader: str, possible: tuple[str, ...], path: Path, what: str) -> None:
    if reader not in possible:
        raise UsageError(f"reader {reader!r} for {path}", rule=f"{what} needs one of {', '.join(possible)}")


def _open_vendor(path: Path, mpp: Mpp | None) -> Slide:
    from wsi_seg.slide.openslide_reader import VendorSlide

    return VendorSlide(path, mpp)


def _open_tiff(path: Path, mpp: Mpp | None, reader: str, decode: str) -> Slide:
    """Read the directories first: a header that is not sound must not reach any reader.

    Readers are chosen and compared by what is stored, whatever `decode` is.
    """
    from wsi_seg.slide.tiff_layout import read_layout
    from wsi_seg.slide.tiff_reader import TiffSlide

    layout = read_layout(path)
    if reader == "tiff":
        return TiffSlide(path, mpp, layout, decode)
    if reader == "openslide":
        return _open_vendor(path, mpp)
    if layout.refusal:
        return _open_refused(path, mpp, layout)
    ours = TiffSlide(path, mpp, layout)
    chosen: Slide = ours if layout.is_overlong else _better(ours, path, mpp)
    if chosen is not ours or decode == "exact":
        return chosen
    ours.close()
    return TiffSlide(path, mpp, layout, decode)


def _open_refused(path: Path, mpp: Mpp | None, layout: TiffLayout) -> Slide:
    try:
        return _open_vendor(path, mpp)
    except SlideOpenError as error:
        raise SlideOpenError(
            f"{path} cannot be read: {layout.refusal}", rule=f"OpenSlide: {error.what}", remedy=error.remedy
        ) from error


def _better(ours: Slide, path: Path, mpp: Mpp | None) -> Slide:
    """Our own reader, unless OpenSlide knows a special format in the file or the two disagree."""
    try:
        theirs = _open_vendor(path, mpp)
    except SlideOpenError:
        return ours
    if ours.vendor == "ome-tiff":
        difference = first_difference(ours, theirs) if ours.levels[0].size == theirs.levels[0].size else ""
    elif theirs.vendor not in _SAME_PIXELS:
        ours.close()
        return theirs
    else:
        difference = first_difference(ours, theirs)
    if difference:
        _log.warning("%s is read through OpenSlide, which is slower: %s", path, difference)
        ours.close()
        return theirs
    theirs.close()
    return ours


def first_difference(ours: Slide, theirs: Slide) -> str:
    """In words, where two readers of one file disagree, from two tiles; empty where they agree.

    A tile that one of them cannot read says nothing, unless ours reads none of those that the other does.
    """
    if ours.levels[0].size != theirs.levels[0].size:
        return f"level 0 is {ours.levels[0].size} px for one and {theirs.levels[0].size} px for the other"
    compared, failure = 0, ""
    for box, level in _compared(ours):
        same = [index for index, other in enumerate(theirs.levels) if other.size == ours.levels[level].size]
        if compared == _N_COMPARED or not same:
            continue
        try:
            expected = theirs.read_region(box, same[0])
        except RegionReadError:
            continue
        try:
            found = ours.read_region(box, level)
        except RegionReadError as error:
            failure = str(error)
            continue
        compared += 1
        largest = int(np.abs(found.astype(np.int16) - expected).max())
        if largest > _MAX_DIFFERENCE:
            return f"pixels of level {level} at y {box.y0}, x {box.x0} differ by {largest} grey levels"
    return "" if compared else failure


def _compared(slide: Slide) -> Iterator[tuple[Box, int]]:
    """Tiles to compare: the middle of level 0, the corner of the last level, then others of level 0."""
    (height, width), tile = slide.levels[0].size, slide.levels[0].tile or (256, 256)
    whole = Box(0, 0, height, width)

    def at(part_y: float, part_x: float) -> tuple[Box, int]:
        y, x = int(height * part_y) // tile[0] * tile[0], int(width * part_x) // tile[1] * tile[1]
        side_y, side_x = (min(side, _COMPARED_SIDE) for side in tile)
        return Box.at(y, x, side_y, side_x).intersect(whole), 0

    last = len(slide.levels) - 1
    yield at(0.5, 0.5)
    yield Box(0, 0, _COMPARED_SIDE // 2, _COMPARED_SIDE // 2).intersect(Box(0, 0, *slide.levels[last].size)), last
    for part_y, part_x in ((0.3, 0.6), (0.7, 0.4), (0.0, 0.0), (0.9, 0.9)):
        yield at(part_y, part_x)
