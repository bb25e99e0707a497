"""Polygons of a result enclose its pixels and nothing else, where the slide has its marks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from tests.readers.conftest import Made
from tests.readers.fiducials import CASES, CLASSES, NA, Case
from tests.readers.seen import assert_boxes
from wsi_seg.convert import polygons
from wsi_seg.output.label_store import open_result


def filled(rings: list[NDArray[np.float64]], labels: NDArray[np.uint8], value: int) -> None:
    """Give px whose centres lie inside by the even-odd rule a label; rings are (n, 2) as (x, y), px of the level."""
    inside = np.zeros(labels.shape, np.bool_)
    for ring in rings:
        (x0, y0), (x1, y1) = np.floor(ring.min(axis=0)).astype(int), np.ceil(ring.max(axis=0)).astype(int)
        x, y = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        within = Outline(ring).contains_points(np.column_stack([x.ravel(), y.ravel()]))
        inside[y0:y1, x0:x1] ^= within.reshape(y1 - y0, x1 - x0)
    assert (labels[inside] == NA).all(), "two polygons cover a px"
    labels[inside] = value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_polygons_are_the_pixels(made: Callable[[Case], Made], case: Case) -> None:
    result = open_result(made(case).zarr)
    for n, expected in enumerate(case.levels):
        step = [side * 2**n for side in case.l0_per_px]
        painted = np.full(expected.shape, NA, np.uint8)
        boxes: dict[int, list[tuple[float, ...]]] = {1: [], 2: []}
        areas = dict.fromkeys(range(len(CLASSES)), 0.0)
        for outline in polygons(result, level=n, classes=CLASSES):
            shape = outline.geometry
            assert shape.is_valid
            areas[outline.class_index] += shape.area
            assert outline.area_um2 == pytest.approx(shape.area * case.l0_mpp[0] * case.l0_mpp[1], rel=1e-9)
            if outline.class_index:
                x0, y0, x1, y1 = shape.bounds
                boxes[outline.class_index].append((y0, x0, y1, x1))
            rings = [np.array(ring.coords) for ring in (shape.exterior, *shape.interiors)]
            filled([(ring - case.l0_offset[::-1]) / step[::-1] for ring in rings], painted, outline.class_index)
        np.testing.assert_array_equal(painted, expected)
        for label, area in areas.items():
            assert area == pytest.approx(int((expected == label).sum()) * step[0] * step[1], rel=1e-9)
        assert_boxes({label: np.array(found) for label, found in boxes.items()}, n, case)
