"""Results and slides whose pixels say where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.output.making import RUN, Made, difference, make_spec
from wsi_seg.card import SegmentationClass
from wsi_seg.geometry import Mpp, PyramidLayout
from wsi_seg.output.label_store import Result, create_result
from wsi_seg.output.run_directory import open_run

CLASSES = (
    SegmentationClass("background", "#d9d9d9"),
    SegmentationClass("square", "#ff0000"),
    SegmentationClass("<b>bold</b>", "#00a000"),
)
SQUARES = ((64, 64), (320, 1664), (1216, 128), (1472, 1856), (704, 960))
"""Corners (y, x) of dark squares of 64 px, level-0 px; the fiducials."""
SIDE = 64
L0_SIZE = (1600, 2048)


def slide_pixels() -> NDArray[np.uint8]:
    """A pale slide with dark squares, (h, w, 3)."""
    pixels = np.full((*L0_SIZE, 3), 240, np.uint8)
    for y, x in SQUARES:
        pixels[y : y + SIDE, x : x + SIDE] = 20
    return pixels


def square_labels(factor: int) -> NDArray[np.uint8]:
    """1 on the squares, 0 elsewhere, on a canvas reduced by `factor`."""
    labels = np.zeros((L0_SIZE[0] // factor, L0_SIZE[1] // factor), np.uint8)
    for y, x in SQUARES:
        labels[y // factor : (y + SIDE) // factor, x // factor : (x + SIDE) // factor] = 1
    return labels


def write_slide(path: Path) -> Path:
    """The slide as a TIFF without loss, 0.25 um/px."""
    tifffile.imwrite(
        path, slide_pixels(), tile=(256, 256), compression="zlib", photometric="rgb",
        resolution=(1e4 / 0.25, 1e4 / 0.25), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def begin_squares(out: Path, factor: int = 2, **changes: Any) -> Made:
    """An unfinished result of `square_labels`, nothing written yet."""
    labels = square_labels(factor)
    spec = make_spec(
        labels.shape,
        mpp=Mpp(0.25 * factor, 0.25 * factor),
        l0_mpp=Mpp(0.25, 0.25),
        **{
            "l0_offset": (0.0, 0.0),
            "l0_size": L0_SIZE,
            "l0_bounds": (0, 0),
            "classes": CLASSES,
            "name": "squares.tif",
            **changes,
        },
    )
    run = open_run(out, RUN, difference)
    create_result(run.path, spec)
    levels = [labels]
    while len(levels) < PyramidLayout(labels.shape, 256).n_levels:
        levels.append(levels[-1][::2, ::2])
    return Made(run, spec, levels, [])


def write_squares(out: Path, factor: int = 2, **changes: Any) -> Result:
    """A finished result of `square_labels`."""
    made = begin_squares(out, factor, **changes)
    made.write_all()
    return made.finish()
