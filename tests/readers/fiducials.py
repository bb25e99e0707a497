"""Slides with marks at known level-0 places, and what a label map of them must be: reckoned from the marks alone.

Marks are flat blue squares (class 1) and red angles (class 2) on a light ground; a model that thresholds colours labels
a canvas px by the class that covers more than 21/44 of it. The oracle measures that cover from the marks' edges and
knows nothing of the code under test: no plan, no spec, no kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tifffile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.output.making import naive_halve
from wsi_seg.card import METADATA_KEY, ModelCard, SegmentationClass
from wsi_seg.geometry import Box
from wsi_seg.slide import ArraySlide, Slide

LIGHT, DARK = 240, 20
DARKER = 105
"""Grey levels that a px must be darker than the ground to be of a mark."""
THRESHOLD = (DARKER + 0.5) / (LIGHT - DARK)
"""Cover above which that is so: means are rounded to whole grey levels."""
NA = 255
CLASSES = ("ground", "square", "angle")
Rectangle = tuple[int, int, int, int]
"""(y0, x0, y1, x1)."""


@dataclass(frozen=True)
class Mark:
    """Rectangles of one colour, level-0 px of the scanned part; the first and the last touch all sides of its box."""

    label: int
    rectangles: tuple[Rectangle, ...]

    @property
    def box(self) -> Rectangle:
        y0, x0, y1, x1 = np.array(self.rectangles).T
        return int(y0.min()), int(x0.min()), int(y1.max()), int(x1.max())


def square(y: int, x: int, side: int) -> Mark:
    return Mark(1, ((y, x, y + side, x + side),))


def angle(y: int, x: int, side: int) -> Mark:
    """An L: flips and turns change it."""
    return Mark(2, ((y, x, y + side, x + side // 3), (y + side - side // 3, x + side // 3, y + side, x + side)))


def _apart(box: Rectangle, others: list[Mark]) -> bool:
    y0, x0, y1, x1 = box
    return all(
        y1 + 24 <= other[0] or other[2] + 24 <= y0 or x1 + 24 <= other[1] or other[3] + 24 <= x0
        for other in (mark.box for mark in others)
    )


def marks_of(size: tuple[int, int], steps: tuple[float, ...] = (256.0, 512.0, 256 * 1.48)) -> list[Mark]:
    """Marks in all corners, on the borders of blocks for each of `steps` (level-0 px), and at odd places between."""
    height, width = size
    marks = [square(y, x, 32) for y in (0, height - 32) for x in (0, width - 32)]  # these touch the ends
    near = [angle(y, x, 39) for y in (61, height - 103) for x in (67, width - 107)]
    borders = [
        angle(round(y) - 21, round(x) - 19, 45)
        for step in steps
        for y in np.arange(step, height, step)
        for x in np.arange(step, width, step)
    ]
    between = [
        (square, angle)[(row + column) % 2](row * 89 + 9, column * 97 + 11, 37)
        for row in range(height // 89)
        for column in range(width // 97)
    ]
    for mark in (*near, *borders, *between):
        y0, x0, y1, x1 = mark.box
        if y0 >= 0 <= x0 and y1 <= height and x1 <= width and _apart(mark.box, marks):
            marks.append(mark)
    return marks


def drawn(size: tuple[int, int], marks: list[Mark]) -> NDArray[np.uint8]:
    """The scanned part, (h, w, 3) RGB."""
    pixels = np.full((*size, 3), LIGHT, np.uint8)
    for mark in marks:
        for y0, x0, y1, x1 in mark.rectangles:
            pixels[y0:y1, x0:x1] = (DARK, DARK, LIGHT) if mark.label == 1 else (LIGHT, DARK, DARK)
    return pixels


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 x 2 of a picture of even sides."""
    h, w = pixels.shape[:2]
    return np.asarray(pixels.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)).round(), np.uint8)


@dataclass(frozen=True)
class Case:
    """A slide, a resolution of the model, and where the canvas must lie."""

    name: str
    slide: str
    """Name of its maker in `SLIDES`."""
    model_mpp: float
    l0_mpp: tuple[float, float]
    """µm per level-0 px, (y, x), as the file states it."""
    l0_per_px: tuple[float, float]
    """Level-0 px per canvas px."""
    size: tuple[int, int] = (1402, 1254)
    """Of the scanned part, level-0 px."""
    bounds: tuple[int, int] = (0, 0)
    """Corner of the scanned part, level-0 px."""
    offset: tuple[int, int] | None = None
    """Corner of the canvas, level-0 px; None: that of the scanned part."""
    px: tuple[int, int] | None = None
    """(height, width) of the canvas; None: that of the scanned part in canvas px, rounded."""
    hole: tuple[float, float, float, float] | None = None
    """Not in the region of interest: level-0 px from the corner of the scanned part, as QuPath counts."""
    marks: list[Mark] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        # what rounding errors could decide is nobody's fault, and not drawn
        self.marks.extend(mark for mark in marks_of(self.size) if abs(self._cover(mark)[1] - THRESHOLD).min() > 1e-4)

    @property
    def l0_offset(self) -> tuple[int, int]:
        return self.offset or self.bounds

    @property
    def mpp(self) -> tuple[float, float]:
        return self.l0_mpp[0] * self.l0_per_px[0], self.l0_mpp[1] * self.l0_per_px[1]

    @cached_property
    def levels(self) -> list[NDArray[np.uint8]]:
        """The labels that a result must hold, level by level."""
        levels = [self._labels()]
        while max(levels[-1].shape) > 512:
            levels.append(naive_halve(levels[-1], NA, len(CLASSES)))
        return levels

    def marks_seen(self) -> Iterator[Mark]:
        """Marks in level-0 px of the slide that no hole touches."""
        for mark in self.marks:
            y0, x0, y1, x1 = mark.box
            hole = self.hole
            if not hole or y1 + 9 <= hole[0] or hole[2] + 9 <= y0 or x1 + 9 <= hole[1] or hole[3] + 9 <= x0:
                (dy, dx), moved = self.bounds, []
                for y0, x0, y1, x1 in mark.rectangles:
                    moved.append((y0 + dy, x0 + dx, y1 + dy, x1 + dx))
                yield Mark(mark.label, tuple(moved))

    @cached_property
    def _edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges of rows and of columns of the canvas, level-0 px from the corner of the scanned part."""
        shift = [o - b for o, b in zip(self.l0_offset, self.bounds, strict=True)]
        px = self.px or [round(side / step) for side, step in zip(self.size, self.l0_per_px, strict=True)]
        y, x = (start + np.arange(n + 1) * step for start, n, step in zip(shift, px, self.l0_per_px, strict=True))
        return y, x

    def _cover(self, mark: Mark) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
        """The canvas px that a mark touches, and how much of each it covers."""
        edges = self._edges
        y0, x0, y1, x1 = mark.box
        first = [int(np.searchsorted(e, low, "right")) - 1 for e, low in zip(edges, (y0, x0), strict=True)]
        last = [int(np.searchsorted(e, high, "left")) for e, high in zip(edges, (y1, x1), strict=True)]
        rows, columns = (e[max(0, a) : b + 1] for e, a, b in zip(edges, first, last, strict=True))
        parts = [_share(rows, a, c)[:, None] * _share(columns, b, d) for a, b, c, d in mark.rectangles]
        touched = slice(max(0, first[0]), last[0]), slice(max(0, first[1]), last[1])
        return touched, np.asarray(sum(parts))

    def _labels(self) -> NDArray[np.uint8]:
        rows, columns = self._edges
        labels = np.zeros((len(rows) - 1, len(columns) - 1), np.uint8)
        for mark in self.marks:
            touched, cover = self._cover(mark)
            labels[touched][cover > THRESHOLD] = mark.label
        if self.hole:
            y0, x0, y1, x1 = self.hole
            y, x = ((edges[:-1] + edges[1:]) / 2 for edges in self._edges)
            labels[((y > y0) & (y < y1))[:, None] & (x > x0) & (x < x1)] = NA
        return labels


def _share(edges: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """How much of each px [edges[n], edges[n + 1]) lies in [start, end)."""
    inside = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
    return np.asarray(inside.clip(0) / np.diff(edges))


def write_model(path: Path, mpp: float) -> Path:
    """A 1 x 1 convolution: class 1 lacks red, class 2 lacks blue, by more than `DARKER` grey levels."""
    weights = np.zeros((3, 3), np.float32)
    weights[1, 0] = weights[2, 2] = -64
    bias = np.array([0, 1, 1], np.float32) * 64 * (LIGHT - DARKER) / 255
    card = ModelCard(
        "fiducials",
        mpp,
        tuple(SegmentationClass(n, c) for n, c in zip(CLASSES, ("#d9d9d9", "#377eb8", "#e41a1c"), strict=True)),
        128,
        halo=0,
        activation="softmax",
    )
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("image", "y")]
    held = [numpy_helper.from_array(weights[:, :, None, None], "w"), numpy_helper.from_array(bias, "b")]
    node = helper.make_node("Conv", ["image", "w", "b"], ["y"], kernel_shape=[1, 1])
    graph = helper.make_graph([node], "fiducials", ports[:1], ports[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def plain_tiff(path: Path, case: Case, **first: Any) -> Path:
    """Two levels as pages, lossless, with resolution tags per axis."""
    pixels = drawn(case.size, case.marks)
    with tifffile.TiffWriter(path) as tiff:
        for n, level in enumerate((pixels, halved(pixels))):
            tiff.write(level, subfiletype=min(n, 1), **_page(case, n), **(first if n == 0 else {}))
    return path


def aperio_tiff(path: Path, case: Case) -> Path:
    """The same as Aperio's software describes it."""
    size = f"{case.size[1]}x{case.size[0]}"
    text = f"Aperio Image Library v12.0.0 \r\n{size} [0,0 {size}] (256x256)|AppMag = 40|MPP = {case.l0_mpp[0]}"
    return plain_tiff(path, case, description=text)


def sparse_tiff(path: Path, case: Case) -> Path:
    """A TIFF of whose tiles only those of the scanned part are stored: readers take their hull for the bounds."""
    tile = 256
    (top, left), (height, width) = case.bounds, case.size
    rows, columns = -(-(top + height) // tile) + 1, -(-(left + width) // tile) + 1
    pixels = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    pixels[top : top + height, left : left + width] = drawn(case.size, case.marks)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, **_page(case, 0))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        spots = [(row, column) for row in range(rows) for column in range(columns)]
        stored = [top <= r * tile < top + height and left <= c * tile < left + width for r, c in spots]
        tags = [(page.tags[name], getattr(page, values)) for name, values in _TABLES.items()]
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag, values in tags:
            tiff.pages.first.tags[tag.name].overwrite(
                [value * kept for value, kept in zip(values, stored, strict=True)]
            )
    return path


_TABLES = {"TileOffsets": "dataoffsets", "TileByteCounts": "databytecounts"}
_MARGINS = 300, 500
"""What a Leica collection has below and to the right of the scan, level-0 px."""


def leica_scn(path: Path, case: Case) -> Path:
    """A Leica SCN file: the scan lies somewhere on the glass, the file says where, in nm."""
    from tests.readers.leica import scn_xml

    pixels = drawn(case.size, case.marks)
    nm = round(case.l0_mpp[0] * 1000)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        macro = np.full((96, 64, 3), 200, np.uint8)
        xml = scn_xml(case.size, case.bounds, _MARGINS, nm)
        tiff.write(macro, description=xml, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
        for n, level in enumerate((pixels, halved(pixels))):
            tiff.write(level, **_page(case, n))
    return path


def _page(case: Case, level: int) -> dict[str, Any]:
    y, x = (1e4 / (side * 2**level) for side in case.l0_mpp)
    return {
        "photometric": "rgb",
        "tile": (256, 256),
        "compression": "zlib",
        "resolution": (x, y),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }


def in_memory(_: Path, case: Case) -> Slide:
    """A slide that states bounds at odd places, so that they lie between the px of its second level."""
    (top, left), (height, width) = case.bounds, case.size
    pixels = np.full((2 * ((top + height) // 2) + 40, 2 * ((left + width) // 2) + 60, 3), LIGHT, np.uint8)
    pixels[top : top + height, left : left + width] = drawn(case.size, case.marks)
    slide = ArraySlide(pixels, halved(pixels), mpp=case.l0_mpp[0])
    slide.bounds = Box.at(*case.bounds, *case.size)
    return slide


SLIDES = {
    "plain.tif": plain_tiff,
    "aperio.svs": aperio_tiff,
    "sparse.tif": sparse_tiff,
    "leica.scn": leica_scn,
    "memory": in_memory,
}

_HOLE = (300.3, 411.7, 520.3, 700.7)
CASES = [
    Case("plain-1", "plain.tif", 0.25, (0.25, 0.24), (1.0, 1.0), hole=_HOLE),
    Case("plain-2", "plain.tif", 0.5, (0.25, 0.24), (2.0, 2.0)),
    Case("plain-1.48", "plain.tif", 0.37, (0.25, 0.24), (0.37 / 0.25, 0.37 / 0.24)),
    Case("aperio-2", "aperio.svs", 0.5, (0.2527, 0.2527), (2.0, 2.0)),
    Case("leica-1", "leica.scn", 0.25, (0.25, 0.25), (1.0, 1.0), bounds=(406, 302), hole=_HOLE),
    Case("leica-2", "leica.scn", 0.5, (0.25, 0.25), (2.0, 2.0), bounds=(406, 302)),
    Case("leica-1.48", "leica.scn", 0.37, (0.25, 0.25), (1.48, 1.48), bounds=(406, 302), hole=_HOLE),
    Case("sparse-1.48", "sparse.tif", 0.37, (0.25, 0.25), (1.48, 1.48), size=(1280, 1280), bounds=(512, 256)),
    # The corner lies in the middle of a px of level 1, as does the end, and the canvas covers both px.
    Case(
        "memory-2",
        "memory",
        0.5,
        (0.25, 0.25),
        (2.0, 2.0),
        bounds=(53, 101),
        offset=(52, 100),
        px=(702, 628),
        hole=_HOLE,
    ),
]
