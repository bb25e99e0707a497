"""What a result is: its grid, frames, classes, and the names of its parts in the store.

Owns the value that every reader and writer of a result shares, and its JSON form. Knows no file and no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.errors import CorruptOutputError, WsiSegError
from wsi_seg.geometry import MIN_SHARD, Box, Mpp, PyramidLayout

RESULT_VERSION = 1
"""Version of the layout of a result; part of the run's identity."""

LABELS = "labels/segmentation"
PROBABILITIES = "probabilities"
TILES = "tiles"
THUMBNAIL = "thumbnail"
NOT_ANALYSED = "not analysed"
"""What people read for the not-analysed label."""
STATE = ".wsi-seg"
"""Folder of an unfinished result that holds the run's identity, lock and markers."""
LOCK = f"{STATE}/lock"
"""Says who works on an unfinished result."""
ROOT = "zarr.json"
"""Key of the root metadata, written last of all."""
PROVENANCE_FILE = "provenance.json"
"""Key of the record of all files and who made them."""
ZSTD = "zstd"
"""Codec of chunks in results: small and fast."""
GZIP = "gzip"
"""Codec of chunks in the working store of a TIFF result, which takes the deflate streams over as they are."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The whole slide, small; its upper left corner is the slide's."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB, 0-255."""
    mpp: Mpp
    """Of a pixel of the thumbnail."""


@dataclass(frozen=True, slots=True)
class ResultSpec:
    """Everything needed to read a result, or to write a part of it."""

    layout: PyramidLayout
    mpp: Mpp
    """Of a canvas pixel, which is a pixel of label level 0."""
    l0_mpp: Mpp
    """Of a level-0 pixel of the slide."""
    l0_offset: tuple[float, float]
    """Corner of the canvas in the slide, level-0 px (y, x)."""
    l0_size: tuple[int, int]
    """(height, width) of the slide's level 0."""
    l0_bounds: tuple[int, int]
    """Corner of the scanned bounds, level-0 px (y, x); the canvas begins at the nearest px of the level read."""
    classes: tuple[SegmentationClass, ...]
    not_analysed: int
    """Label of a pixel that was not analysed: 255, or 65535 where there are more than 255 classes."""
    probabilities: bool
    """Whether probability maps are stored."""
    n_channels: int
    """Channels of the probability maps: one per class, or 1 where the model answers a single probability."""
    name: str
    """Name of the slide as shown to people; no path."""
    tile_grid: tuple[int, int]
    """(rows, columns) of tiles."""
    codec: str = ZSTD
    """How chunks are compressed: `ZSTD` or `GZIP`. Changes no label."""

    def __post_init__(self) -> None:
        if self.not_analysed not in (255, 65535) or len(self.classes) > self.not_analysed:
            raise CorruptOutputError(
                f"not-analysed label {self.not_analysed} with {len(self.classes)} classes",
                rule="255 or 65535, and above every class index",
            )
        if self.codec not in (ZSTD, GZIP):
            raise CorruptOutputError(f"chunks compressed as {self.codec!r}", rule=f"{ZSTD} or {GZIP}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of labels: uint8, or uint16 where `not_analysed` is 65535."""
        return np.dtype(np.uint8 if self.not_analysed == 255 else np.uint16)

    @property
    def l0_box(self) -> tuple[float, float, float, float]:
        """Area of the canvas in the slide: (y0, x0, y1, x1), level-0 px."""
        (y, x), (height, width) = self.l0_offset, self.layout.size
        return y, x, y + height * self.mpp.y / self.l0_mpp.y, x + width * self.mpp.x / self.l0_mpp.x

    @property
    def pixel_mm2(self) -> float:
        """Area of a canvas pixel in mm²."""
        return self.mpp.y * self.mpp.x * 1e-6

    def level_mpp(self, level: int) -> Mpp:
        """Resolution of a label level."""
        return self.mpp.scaled(1 << level, 1 << level)

    def chunk(self, level: int) -> int:
        """Side of a chunk of a level, px; divides the shard.

        Of `GZIP` the least, since chunks become tiles of a TIFF, whose bytes must not depend on the block; smaller
        still where shards are, with blocks of the least size.
        """
        return min(MIN_SHARD, self.layout.shard(level)) if self.codec == GZIP else self.layout.chunk(level)

    def shard_row_column(self, level: int, box: Box) -> tuple[int, int]:
        """(row, column) of the shard that is exactly `box`, in px of `level`; ValueError where there is none."""
        side = self.layout.shard(level)
        if level not in range(self.layout.n_levels):
            raise ValueError(f"level {level}; the pyramid has levels 0 to {self.layout.n_levels - 1}")
        height, width = self.layout.level_size(level)
        whole = Box.at(box.y0, box.x0, side, side).intersect(Box(0, 0, height, width))
        if box.y0 % side or box.x0 % side or box.y0 < 0 or box.x0 < 0 or box.is_empty or box != whole:
            raise ValueError(
                f"box {box} of level {level} ({height} x {width}) is not one whole shard of {side} px: "
                "writing a part of a shard loses the rest of it"
            )
        return box.y0 // side, box.x0 // side

    def array_keys(self) -> Iterator[str]:
        """Keys of every label and probability array."""
        for level in range(self.layout.n_levels):
            yield f"{LABELS}/{level}"
            if self.probabilities:
                yield f"{PROBABILITIES}/{level}"

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "size": list(self.layout.size),
            "block": self.layout.block,
            "mpp": [self.mpp.y, self.mpp.x],
            "l0_mpp": [self.l0_mpp.y, self.l0_mpp.x],
            "l0_offset": list(self.l0_offset),
            "l0_size": list(self.l0_size),
            "l0_bounds": list(self.l0_bounds),
            "classes": [{"name": entry.name, "colour": entry.colour} for entry in self.classes],
            "not_analysed": self.not_analysed,
            "probabilities": self.probabilities,
            "n_channels": self.n_channels,
            "name": self.name,
            "tile_grid": list(self.tile_grid),
            # Only where it is another: specs of finished results stay what they were before there was a choice.
            **({} if self.codec == ZSTD else {"codec": self.codec}),
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], source: str) -> ResultSpec:
        """Spec from its JSON form; `source` names the file in errors. Raises CorruptOutputError."""
        try:
            return cls(
                layout=PyramidLayout(_pair(content["size"]), content["block"]),
                mpp=Mpp(*content["mpp"]),
                l0_mpp=Mpp(*content["l0_mpp"]),
                l0_offset=_finite(*_pair(content["l0_offset"])),
                l0_size=_whole(*_pair(content["l0_size"]), least=1),
                l0_bounds=_whole(*_pair(content["l0_bounds"])),
                classes=tuple(SegmentationClass(entry["name"], entry["colour"]) for entry in content["classes"]),
                not_analysed=content["not_analysed"],
                probabilities=bool(content["probabilities"]),
                n_channels=_whole(content["n_channels"], 0)[0],
                name=_text(content["name"]),
                tile_grid=_pair(content["tile_grid"]),
                codec=content.get("codec", ZSTD),
            )
        except (KeyError, TypeError, ValueError, WsiSegError) as error:
            raise CorruptOutputError(
                f"the description of the result in {source} cannot be read: {error!r}",
                rule=f"result version {RESULT_VERSION}",
            ) from error


def _pair(values: Any) -> tuple[Any, Any]:
    first, second = values
    return first, second


def _finite(first: float, second: float) -> tuple[float, float]:
    if not (isfinite(first) and isfinite(second)):
        raise ValueError(f"{first}, {second}; finite numbers")
    return first, second


def _whole(first: int, second: int, *, least: int | None = None) -> tuple[int, int]:
    for value in (first, second):
        if not isinstance(value, int) or (least is not None and value < least):
            raise ValueError(f"{value!r}; a whole number" + ("" if least is None else f" from {least}"))
    return first, second


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r}; a text")
    return value


def shard_key(array: str, *index: int) -> str:
    """Key of a shard in the store.

    >>> shard_key("labels/segmentation/0", 3, 4)
    'labels/segmentation/0/c/3/4'
    """
    return "/".join([array, "c", *map(str, index)])
