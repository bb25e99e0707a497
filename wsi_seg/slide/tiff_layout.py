"""Where the tiles of a TIFF's levels lie and how they are stored; the only file that knows tifffile.

Owns the choice of the pages that make the slide (label, macro and thumbnail pages are never read), the checks of a
header before anybody trusts it, and the reasons for which a file is left to another reader. Reads directories only,
never a pixel.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.geometry import Box, Mpp, ceil_div
from wsi_seg.slide import tile_codec
from wsi_seg.slide.limits import MAX_TEXT_BYTES, MAX_TILE_PX, check_sides, check_tile, check_tiles
from wsi_seg.slide.resolution import aperio_mpp, is_reduction, ome_mpp, ome_planes, tag_mpp
from wsi_seg.slide.tile_codec import TileCodec, jpeg_prefix

MAX_PAGES = 4096
_GREY, _RGB, _YCBCR = 1, 2, 6
_CONTIGUOUS = 1
_MASK_PAGE = 4
_ELSEWHERE = {"ndpi": "hamamatsu", "philips": "philips", "bif": "ventana", "scn": "leica"}
"""tifffile's names of formats whose pixels are not plain tiles, and the vendor behind them."""


Place = tuple[list[int], list[int]]
"""Byte positions of a tile, and its bytes: a number per plane each, plain integers."""


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """The tiles of one level; a strip is a tile as wide as the level."""

    size: tuple[int, int]
    """(height, width) of the level, px."""
    tile: tuple[int, int]
    """(height, width) of a tile, px."""
    tiled: bool
    """False for strips, the last of which is cut at the level's end."""
    codec: TileCodec
    alpha: str
    """What a fourth sample means: `straight`, `premultiplied` or `ignored`."""
    offsets: NDArray[np.int64]
    """Byte position of each tile, (planes, rows, columns); 0 where nothing is stored."""
    counts: NDArray[np.int64]
    """Bytes of each tile, (planes, rows, columns); 0 where nothing is stored."""

    def tile_size(self, row: int) -> tuple[int, int]:
        """(height, width) of the stored tiles of a row."""
        height, width = self.tile
        return (height, width) if self.tiled else (min(height, self.size[0] - row * height), width)

    def most_bytes(self, row: int) -> int:
        """Stored bytes beyond which a tile of the row is not read."""
        return self.codec.most_bytes(self.tile_size(row))

    def pixels(self, payload: bytes, row: int, column: int) -> NDArray[np.uint8]:  # noqa: ARG002 - see `ReducedTable`
        """Pixels (height, width, samples) uint8 of the tile stored as `payload`; see `TileCodec.decode`."""
        return self.codec.decode(payload, self.tile_size(row))

    def places(self, row: int, columns: range) -> list[Place]:
        """Of each tile of a row in `columns`."""
        part = np.s_[:, row, columns.start : columns.stop]
        return list(zip(self.offsets[part].T.tolist(), self.counts[part].T.tolist(), strict=True))

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which tiles are stored, bool (rows, columns)."""
        return np.asarray(((self.offsets > 0) & (self.counts > 0)).all(axis=0))

    @property
    def scanned(self) -> Box | None:
        """Hull of the stored tiles, px of the level; None where all or none are stored."""
        present = self.present
        if present.all() or not present.any():
            return None
        rows, columns = np.flatnonzero(present.any(axis=1)), np.flatnonzero(present.any(axis=0))
        (height, width), whole = self.tile, Box(0, 0, *self.size)
        top, left = int(rows[0]) * height, int(columns[0]) * width
        return Box(top, left, int(rows[-1] + 1) * height, int(columns[-1] + 1) * width).intersect(whole)


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """What a TIFF's directories say."""

    vendor: str
    """`aperio`, `ome-tiff`, `generic-tiff`, or the vendor whose format is read elsewhere."""
    tables: tuple[TileTable, ...]
    """Levels, finest first; empty where the file is refused."""
    mpp: Mpp | None
    refusal: str = ""
    """Why its pixels cannot be read as plain tiles; empty where they can."""

    @property
    def is_overlong(self) -> bool:
        """Whether a tile says to be longer than its pixels could need: to be read by nobody who reads it whole."""
        return any((table.counts > table.codec.most_bytes(table.tile)).any() for table in self.tables)


def read_layout(path: Path) -> TiffLayout:
    """Directories of a TIFF.

    Raises SlideOpenError where the header is damaged, points beyond the file's end or exceeds the limits above; such
    a file must not be given to any reader.
    """
    import tifffile

    n_bytes = path.stat().st_size
    try:
        with _quiet(), tifffile.TiffFile(path) as tiff:
            return _layout(path, tiff, n_bytes)
    except SlideOpenError:
        raise
    except Exception as error:
        # Whatever tifffile stumbles over in a damaged header: TiffFileError, struct.error, KeyError, MemoryError, …
        raise SlideOpenError(
            f"{path} is not a readable TIFF: {error or type(error).__name__}",
            rule="its directories must be sound before anybody reads it",
            remedy="compare the file with its source",
        ) from error


def _layout(path: Path, tiff: Any, n_bytes: int) -> TiffLayout:
    pages = _top_pages(path, tiff)
    for page in chain(pages, *(_sub_pages(path, page) for page in pages)):
        _check_page(path, page, n_bytes)
    vendor = _vendor(tiff)
    if vendor in _ELSEWHERE.values():
        return TiffLayout(vendor, (), None, f"{vendor} files do not store plain tiles")
    main = _main_page(pages)
    _check_samples(path, main)
    if refusal := _refusal(main, pages, vendor):
        return TiffLayout(vendor, (), None, refusal)
    levels = _level_pages(path, main, pages)
    return TiffLayout(vendor, tuple(_table(path, page) for page in levels), _mpp(main, vendor))


def _top_pages(path: Path, tiff: Any) -> list[Any]:
    pages = []
    for index, page in enumerate(tiff.pages):
        if index == MAX_PAGES:
            raise SlideOpenError(
                f"{path} has more than {MAX_PAGES} pages",
                rule="a slide has at most that many",
                remedy="compare the file with its source",
            )
        pages.append(page.aspage())
    if not pages:
        raise SlideOpenError(
            f"{path} holds no image", rule="a TIFF has at least one page", remedy="compare the file with its source"
        )
    return pages


def _sub_pages(path: Path, page: Any) -> list[Any]:
    if not page.subifds:
        return []
    if len(page.subifds) > MAX_PAGES:
        raise SlideOpenError(
            f"{path} has a page with {len(page.subifds)} SubIFDs",
            rule=f"at most {MAX_PAGES}",
            remedy="compare the file with its source",
        )
    return [sub.aspage() for sub in page.pages]


def _vendor(tiff: Any) -> str:
    for flag, vendor in _ELSEWHERE.items():
        if getattr(tiff, f"is_{flag}"):
            return vendor
    if tiff.is_svs:
        return "aperio"
    return "ome-tiff" if tiff.is_ome else "generic-tiff"


def _check_page(path: Path, page: Any, n_bytes: int) -> None:
    """Refuse what no reader should be given: absurd sizes, directories that point beyond the file."""
    check_sides(path, int(page.imagelength), int(page.imagewidth))
    if page.is_tiled or "TileWidth" in page.tags:  # tiles without a width are taken for strips, and are none
        check_tile(path, (int(page.tilelength), int(page.tilewidth)))
    _check_description(path, page)
    offsets, counts = page.dataoffsets, page.databytecounts
    check_tiles(path, len(offsets))
    if len(offsets) != len(counts):
        return  # refused where the page is used, see `_table`
    ends = np.asarray(offsets, np.int64) + np.asarray(counts, np.int64)
    needed = int(ends[np.asarray(counts) > 0].max(initial=0))
    if needed > n_bytes:
        raise SlideOpenError(
            f"{path} ends at byte {n_bytes}, its directory needs {needed}",
            rule="the copy is incomplete",
            remedy="copy the file again",
        )


def _check_description(path: Path, page: Any) -> None:
    """Texts are parsed by whoever reads the file: here, and again by OpenSlide."""
    tag = page.tags.get("ImageDescription")
    if tag is None:
        return
    if tag.count > MAX_TEXT_BYTES:
        raise SlideOpenError(
            f"{path} describes itself in {tag.count} bytes",
            rule=f"at most {MAX_TEXT_BYTES}",
            remedy="compare the file with its source",
        )
    if "<!DOCTYPE" in page.description or "<!ENTITY" in page.description:
        raise SlideOpenError(
            f"{path} defines entities in its description",
            rule="descriptions of slides are plain text, or XML without a DTD",
            remedy="compare the file with its source",
        )


def _main_page(pages: list[Any]) -> Any:
    """Level 0: the largest tiled page, else the first page."""
    tiled = [page for page in pages if page.is_tiled and not page.subfiletype & _MASK_PAGE]
    return max(tiled, key=lambda page: page.imagelength * page.imagewidth, default=pages[0])


def _check_samples(path: Path, page: Any) -> None:
    bits = page.bitspersample
    if bits != 8 or page.sampleformat not in (None, 1):
        raise SlideOpenError(
            f"{path} has samples of {bits} bits, format {page.sampleformat}",
            rule="slides have 8-bit unsigned samples",
            remedy="convert it to 8 bits with the display range you want to analyse",
        )
    if not page.is_tiled and _strip_rows(page) * page.imagewidth > MAX_TILE_PX:
        raise SlideOpenError(
            f"{path} stores {_strip_rows(page)} x {page.imagewidth} px in one piece",
            rule=f"at most {MAX_TILE_PX} px can be decoded at once",
            remedy="convert it to a tiled TIFF, e.g. `vips tiffsave in.tif out.tif --tile --pyramid --bigtiff`",
        )


def _refusal(page: Any, pages: list[Any], vendor: str) -> str:
    """Why the page's pixels are not read here; empty where they are."""
    compression, samples = int(page.compression), page.samplesperpixel
    if compression not in tile_codec.SUPPORTED:
        return f"TIFF compression {compression} is not supported"
    reasons = (
        (samples not in (1, 3, 4), f"{samples} samples per pixel; grey, RGB and RGBA are supported"),
        (not _has_known_colours(page), f"photometric interpretation {int(page.photometric)} is not supported"),
        (page.predictor not in (1, 2), f"TIFF predictor {int(page.predictor)} is not supported"),
        (page.fillorder not in (None, 1), "its bits are stored in reverse order"),
        (
            page.planarconfig != _CONTIGUOUS and (samples != 3 or compression == tile_codec.JPEG),
            "its colours are stored apart",
        ),
        (_n_planes(page, pages, vendor) > 1, "it holds several channels, planes or time points"),
    )
    return next((text for refused, text in reasons if refused), "")


def _has_known_colours(page: Any) -> bool:
    photometric, samples = int(page.photometric), page.samplesperpixel
    if photometric == _YCBCR:
        return int(page.compression) == tile_codec.JPEG and samples == 3
    if int(page.compression) == tile_codec.JPEG and samples == 4:
        return False
    return photometric == (_GREY if samples == 1 else _RGB)


def _n_planes(page: Any, pages: list[Any], vendor: str) -> int:
    """Images of level 0's size that belong together; a stack of grey pages is channels, not a slide."""
    size = (int(page.imagelength), int(page.imagewidth))
    planes = ome_planes(page.description, size) if vendor == "ome-tiff" else 1
    if page.samplesperpixel == 1:
        planes = max(planes, sum((p.imagelength, p.imagewidth) == size and not p.subfiletype for p in pages))
    return planes


def _level_pages(path: Path, main: Any, pages: list[Any]) -> list[Any]:
    """Level 0 and its reductions, finest first, one page per size.

    Only tiled pages of level 0's shape (and its own SubIFDs) count: labels, macros and thumbnails never do.
    """
    l0_size = (main.imagelength, main.imagewidth)
    by_size = {l0_size: main}
    for page in [page for page in pages if page.is_tiled] + _sub_pages(path, main):
        size = (page.imagelength, page.imagewidth)
        readable = not page.subfiletype & _MASK_PAGE and not _refusal(page, [], "")
        same_kind = (page.samplesperpixel, page.bitspersample) == (main.samplesperpixel, main.bitspersample)
        if readable and same_kind and is_reduction(l0_size, size):
            by_size.setdefault(size, page)
    return [by_size[size] for size in sorted(by_size, reverse=True)]


def _table(path: Path, page: Any) -> TileTable:
    size = (int(page.imagelength), int(page.imagewidth))
    tile = (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else (_strip_rows(page), size[1])
    planes = 1 if page.planarconfig == _CONTIGUOUS else page.samplesperpixel
    shape = (planes, ceil_div(size[0], tile[0]), ceil_div(size[1], tile[1]))
    offsets, counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    if not offsets.size == counts.size == shape[0] * shape[1] * shape[2]:
        raise SlideOpenError(
            f"{path} lists {offsets.size} tiles with {counts.size} sizes on a level of {size[0]} x {size[1]} px",
            rule=f"{shape[0]} x {shape[1]} x {shape[2]} (planes, rows, columns) of each",
            remedy="compare the file with its source",
        )
    codec = TileCodec(
        compression=int(page.compression),
        samples=page.samplesperpixel if planes == 1 else 1,
        difference=page.predictor == 2,
        jpeg_prefix=jpeg_prefix(page.jpegtables, is_ycbcr=int(page.photometric) == _YCBCR),
    )
    return TileTable(
        size, tile, bool(page.is_tiled), codec, _alpha(page), offsets.reshape(shape), counts.reshape(shape)
    )


def _alpha(page: Any) -> str:
    extra = [int(sample) for sample in page.extrasamples or ()]
    return {1: "premultiplied", 2: "straight"}.get(extra[0], "ignored") if extra else "ignored"


def _strip_rows(page: Any) -> int:
    rows = int(page.rowsperstrip or page.imagelength)
    return min(rows, int(page.imagelength)) or int(page.imagelength)


def _mpp(page: Any, vendor: str) -> Mpp | None:
    if vendor == "aperio":
        return aperio_mpp(page.description)
    if vendor == "ome-tiff" and (found := ome_mpp(page.description, (page.imagelength, page.imagewidth))):
        return found
    unit, y, x = (page.tags.valueof(name) for name in ("ResolutionUnit", "YResolution", "XResolution"))
    per_unit = [value[0] / value[1] if value and value[1] else 0.0 for value in (y, x)]
    return tag_mpp(int(unit or 1), *per_unit)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence: tifffile logs what it forgives; what matters is raised or refused here."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
