"""A predicted or reference map, read by box whatever it is stored as.

Owns what a file says of itself: size, resolution, classes, place in the slide. Values are as stored; what they mean is
`classes.py`'s business. Results and TIFFs are read lazily, PNGs are decoded whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.errors import EvaluationError
from wsi_seg.geometry import Box, Mpp

Values = NDArray[np.integer]

IMAGES = (".png", ".bmp", ".gif")
TIFFS = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Frame:
    """Place of a map in its slide."""

    l0_mpp: Mpp
    offset: tuple[float, float]
    """Corner of the map, level-0 px (y, x)."""
    downsample: tuple[float, float]
    """Level-0 px per px of the map, (y, x)."""
    l0_size: tuple[int, int]
    """(height, width) of the slide's level 0."""
    l0_bounds: tuple[int, int]
    """Corner of the scanned bounds, level-0 px (y, x), where QuPath counts from."""


class LabelMap(Protocol):
    """Integers of a map, lazily."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""

    @property
    def mpp(self) -> Mpp | None:
        """Resolution, where it is known."""

    @property
    def frame(self) -> Frame | None:
        """Place in the slide, where it is known."""

    @property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """What the values 0 … n - 1 mean; empty where the file does not say."""

    @property
    def not_analysed(self) -> int | None:
        """Value that is no class, where the file says."""

    def read(self, box: Box) -> Values:
        """Values of a box inside the map, (h, w). Raises EvaluationError, CorruptOutputError."""


@dataclass(frozen=True, slots=True)
class ArrayMap:
    """A map in memory."""

    values: Values
    mpp: Mpp | None = None
    frame: Frame | None = None
    classes: tuple[SegmentationClass, ...] = ()
    not_analysed: int | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype.kind not in "bui" or not self.values.size:
            raise EvaluationError(
                f"a mask of {self.values.shape} {self.values.dtype}",
                rule="a label map is (height, width) of whole numbers, not empty",
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""
        height, width = self.values.shape
        return height, width

    def read(self, box: Box) -> Values:
        """Values of a box inside the map."""
        return self.values[box.slices()]


class ResultMap:
    """Level 0 of a `.seg.zarr` result."""

    def __init__(self, path: Path) -> None:
        from wsi_seg.output.label_store import open_result

        self._result: Any = open_result(path)
        spec = self._result.spec
        downsample = spec.mpp.y / spec.l0_mpp.y, spec.mpp.x / spec.l0_mpp.x
        self.size: tuple[int, int] = spec.layout.size
        self.mpp: Mpp | None = spec.mpp
        self.frame: Frame | None = Frame(spec.l0_mpp, spec.l0_offset, downsample, spec.l0_size, spec.l0_bounds)
        self.classes: tuple[SegmentationClass, ...] = spec.classes
        self.not_analysed: int | None = spec.not_analysed

    def read(self, box: Box) -> Values:
        """Labels of a box inside the map. Raises CorruptOutputError."""
        labels: Values = self._result.read_labels(0, box)
        return labels


class TiffMap:
    """A label TIFF, of ours or of others."""

    def __init__(self, path: Path) -> None:
        from wsi_seg.evaluate.tiff_labels import TiffLabels

        self._labels = TiffLabels(path)
        self.size = self._labels.size
        self.mpp = self._labels.mpp
        spec = self._labels.spec
        self.classes = tuple(SegmentationClass(**entry) for entry in spec.get("classes", ()))
        self.not_analysed = (255 if len(self.classes) <= 255 else 65535) if self.classes else None
        self.frame: Frame | None = None
        if spec:
            (y, x), (y_um, x_um) = spec["mpp"], spec["l0_mpp"]
            (l0_y, l0_x), (height, width), (top, left) = spec["l0_offset"], spec["l0_size"], spec["l0_bounds"]
            downsample = y / y_um, x / x_um
            self.frame = Frame(Mpp(y_um, x_um), (l0_y, l0_x), downsample, (height, width), (top, left))

    def read(self, box: Box) -> Values:
        """Values of a box inside the map. Raises EvaluationError."""
        return self._labels.read(box)


def open_label_map(path: Path) -> LabelMap:
    """Open a result (`.seg.zarr`), a TIFF or a PNG of labels.

    Raises EvaluationError, AnnotationError, CorruptOutputError.
    """
    if path.is_dir():
        return ResultMap(path)
    if not path.exists():
        raise EvaluationError(f"{path} is not there", remedy="check the path")
    suffix = path.suffix.lower()
    if suffix in TIFFS:
        return TiffMap(path)
    if suffix in IMAGES:
        from wsi_seg.annotation.pixel_files import read_index

        return ArrayMap(read_index(path))
    raise EvaluationError(
        f"{path} is no label map", rule=f"a result folder, or a file ending in {', '.join((*TIFFS, *IMAGES))}"
    )
