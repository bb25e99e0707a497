"""A label map laid over a slide: owns where its pixels lie and what its values mean; opens no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import AnnotationError
from wsi_seg.geometry import Box

_MAX_READ_PX = 1 << 24
"""Stored px that one read takes at a time where a few of them are looked up."""


class LabelArray(Protocol):
    """Stored labels, read by slices; `numpy` and `zarr` arrays are some."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w)."""

    def __getitem__(self, index: tuple[slice, slice], /) -> Any:
        """Labels of a part."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """Stored labels and what they mean."""

    array: LabelArray
    source: str
    """The file, for messages."""
    meanings: dict[int, int] = field(default_factory=dict)
    """Stored value -> class index or `IGNORE`; any other value is an error."""
    l0_per_px: tuple[float, float] | None = None
    """Level-0 px per stored px (y, x), where the file says; else it covers level 0."""
    l0_offset: tuple[float, float] = (0.0, 0.0)
    """Level-0 point (y, x) of the upper left corner."""


class RasterAnnotation:
    """Labels looked up in a label map, nearest at pixel centres; what it does not cover is ignored."""

    def __init__(self, stored: LabelMap, l0_size: tuple[int, int] | None) -> None:
        """`l0_size` is (height, width) of the slide's level 0. Raises AnnotationError where the shapes disagree."""
        self._stored = stored
        self._l0_per_px = stored.l0_per_px or _ratio(stored, l0_size)

    def read_labels(
        self, box: Box, downsample: tuple[float, float], l0_origin: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint8]:
        """Labels of a box, as `Annotation` says. Raises AnnotationError."""
        rows = self._positions(0, (box.y0, box.y1), l0_origin[0], downsample[0])
        columns = self._positions(1, (box.x0, box.x1), l0_origin[1], downsample[1])
        labels = np.full(box.size, IGNORE, np.uint8)
        if not (rows >= 0).any() or not (columns >= 0).any():
            return labels
        inside_columns = np.flatnonzero(columns >= 0)
        for part in _strips(np.flatnonzero(rows >= 0), rows, columns[inside_columns]):
            stored = self._read(rows[part], columns[inside_columns])
            labels[np.ix_(part, inside_columns)] = self._meant(stored)
        return labels

    def _positions(self, axis: int, span: tuple[int, int], l0_origin: float, step: float) -> NDArray[np.int64]:
        """Stored px under the centre of each px of a span of the grid; -1 where there is none."""
        l0_centres = l0_origin + (np.arange(*span) + 0.5) * step
        stored_centres = (l0_centres - self._stored.l0_offset[axis]) / self._l0_per_px[axis]
        positions: NDArray[np.int64] = np.floor(stored_centres).astype(np.int64)
        positions[(positions < 0) | (positions >= self._stored.array.shape[axis])] = -1
        return positions

    def _read(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        y, x = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        try:
            stored = np.asarray(self._stored.array[y, x])
        except Exception as error:
            # zarr, codecs and tifffile raise RuntimeError, ValueError, OSError, zlib.error, … for damaged parts.
            raise AnnotationError(
                f"{self._stored.source} cannot be read at y {y.start}, x {x.start}: {error}", remedy="check the file"
            ) from error
        return stored[np.ix_(rows - y.start, columns - x.start)]

    def _meant(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        values, inverse = np.unique(stored, return_inverse=True)
        meanings = self._stored.meanings
        if unknown := [int(value) for value in values if int(value) not in meanings]:
            raise AnnotationError(
                f"{self._stored.source} holds the value {unknown[0]}",
                rule=f"it means classes by {', '.join(map(str, sorted(meanings)))}",
                remedy="store class indices in the order of `classes`, 255 for what is ignored",
            )
        table = np.array([meanings[int(value)] for value in values], np.uint8)
        return table[inverse].reshape(stored.shape)


def _ratio(stored: LabelMap, l0_size: tuple[int, int] | None) -> tuple[float, float]:
    """Level-0 px per stored px: the label map covers level 0, its sides rounded to whole px."""
    if l0_size is None:
        raise AnnotationError(f"{stored.source} does not say where it lies", remedy="give the size of its slide")
    height, width = stored.array.shape
    ratio = covering_ratio((height, width), l0_size)
    if ratio is None:
        raise AnnotationError(
            f"{stored.source} is {height} x {width} px, the slide {l0_size[0]} x {l0_size[1]} (height x width)",
            rule="a label map covers the whole slide, at any scale",
        )
    return ratio


def covering_ratio(size: tuple[int, int], l0_size: tuple[int, int]) -> tuple[float, float] | None:
    """Level-0 px per px (y, x) of a map (height, width) that covers level 0; None where it has another shape.

    >>> covering_ratio((50, 75), (101, 151)), covering_ratio((50, 75), (100, 100))
    ((2.0, 2.0), None)
    """
    height, width = size
    y, x = l0_size[0] / height, l0_size[1] / width
    # A side that was rounded is off by one px at most; beyond that, it is a picture of something else.
    if abs(width * y - l0_size[1]) > max(x, y) * 1.5 and abs(height * x - l0_size[0]) > max(x, y) * 1.5:
        return None
    for whole in {round(y), round(x)}:
        if whole and abs(height * whole - l0_size[0]) < whole and abs(width * whole - l0_size[1]) < whole:
            return float(whole), float(whole)
    return y, x


def _strips(wanted: NDArray[np.intp], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """The wanted rows in parts that read at most `_MAX_READ_PX` stored px each, or one row."""
    n_rows = max(1, _MAX_READ_PX // int(columns[-1] - columns[0] + 1))
    strip = (rows[wanted] - rows[wanted[0]]) // n_rows
    return np.split(wanted, np.flatnonzero(np.diff(strip)) + 1)
