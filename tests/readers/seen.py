"""What a reader shows of a result, in its own coordinates, and whether that is where the marks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.readers.fiducials import THRESHOLD, Case, Mark


@dataclass(frozen=True)
class Level:
    """One level, as a reader shows it."""

    labels: NDArray[Any]
    """(h, w)."""
    mpp: tuple[float, float]
    """µm per px, (y, x)."""
    corner_um: tuple[float, float]
    """Upper left corner of px (0, 0), in µm from the corner of the slide, (y, x)."""


def centre_to_corner(centre_um: tuple[float, float], mpp: tuple[float, float], case: Case) -> tuple[float, float]:
    """OME-Zarr counts centres from the centre of the slide's first px."""
    y, x = ((c - m / 2 + s / 2) for c, m, s in zip(centre_um, mpp, case.l0_mpp, strict=True))
    return y, x


def assert_aligned(levels: list[Level], case: Case) -> None:
    """Sizes, labels and resolution of every level are right, and each mark lies where it was drawn."""
    assert [level.labels.shape for level in levels] == [labels.shape for labels in case.levels[: len(levels)]]
    for n, (level, expected) in enumerate(zip(levels, case.levels, strict=False)):
        np.testing.assert_array_equal(level.labels, expected, err_msg=f"level {n}")
        assert level.mpp == pytest.approx([side * 2**n for side in case.mpp], rel=1e-6)
        assert level.corner_um == pytest.approx(
            [o * m for o, m in zip(case.l0_offset, case.l0_mpp, strict=True)], rel=1e-6, abs=1e-6
        )
        assert_boxes({label: _boxes(level, label, case) for label in (1, 2)}, n, case)


def assert_boxes(boxes: dict[int, NDArray[np.float64]], n: int, case: Case) -> None:
    """Boxes (y0, x0, y1, x1) of components by class, level-0 px, as level `n` shows them, against those of the marks.

    Edges lie within what a px of the level can tell, exactly where it can be exact; on average, nothing is shifted.
    """
    marks = list(case.marks_seen())
    step = np.tile(case.l0_per_px, 2) * 2**n
    truth = np.array([mark.box for mark in marks], float)
    error = (np.array([_nearest(boxes[mark.label], mark) for mark in marks]) - truth) / step
    # what a px can tell and, at each halving, half a px of that level for a tie
    assert abs(error).max() <= (1 - THRESHOLD if n == 0 else 1) + 1e-4, f"level {n}"
    on_grid = (abs((truth - np.tile(case.l0_offset, 2)) / step % 1) < 1e-9).all(axis=1)
    assert abs(error[on_grid]).max(initial=0) < 1e-4, f"level {n}"
    shift = (error[:, :2] + error[:, 2:]).mean(axis=0) / 2
    assert abs(shift).max() < 0.1, f"level {n} is shifted by {shift} px"


def _nearest(boxes: NDArray[np.float64], mark: Mark) -> NDArray[np.float64]:
    return boxes[abs(boxes - np.array(mark.box)).sum(axis=1).argmin()]


def _boxes(level: Level, label: int, case: Case) -> NDArray[np.float64]:
    """Boxes of the components of a class, in level-0 px of the slide, as the reader's coordinates place them."""
    found = ndimage.find_objects(ndimage.label(level.labels == label)[0])
    px = np.array([(y.start, x.start, y.stop, x.stop) for y, x in found], float)
    um = px * np.tile(level.mpp, 2) + np.tile(level.corner_um, 2)
    return np.asarray(um / np.tile(case.l0_mpp, 2))
