"""Polygons of a result enclose its pixels and nothing else, where the slide has its marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Curve
from numpy.typing import NDArray

from tests.readers.conftest import Made
from tests.readers.fiducials import CASES, CLASSES, NA, Case
from tests.readers.seen import assert_boxes
from wsi_seg.convert import polygons
from wsi_seg.convert.geojson_file import FeatureForm, write_geojson
from wsi_seg.output.label_store import open_result

SOME = [case for case in CASES if case.name in ("plain-1.48", "leica-1", "memory-2")]


def filled(rings: list[NDArray[np.float64]], labels: NDArray[np.uint8], value: int) -> None:
    """Give px whose centres lie inside by the even-odd rule a label; rings are (n, 2) as (x, y), px of the level."""
    inside = np.zeros(labels.shape, np.bool_)
    for ring in rings:
        (x0, y0), (x1, y1) = np.floor(ring.min(axis=0)).astype(int), np.ceil(ring.max(axis=0)).astype(int)
        x, y = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        within = Curve(ring).contains_points(np.column_stack([x.ravel(), y.ravel()]))
        inside[y0:y1, x0:x1] ^= within.reshape(y1 - y0, x1 - x0)
    assert (labels[inside] == NA).all(), "two polygons cover a px"
    labels[inside] = value


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
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


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_geojson_counts_from_the_corner_of_the_scan(made: Callable[[Case], Made], case: Case, tmp_path: Path) -> None:
    """As QuPath does (decision 28); read with nothing but json."""
    result = open_result(made(case).zarr)
    form = FeatureForm(result.spec, result.run_id, 0, objects=False)
    n = write_geojson(polygons(result), form, tmp_path / "r.geojson")
    features = json.loads((tmp_path / "r.geojson").read_text())["features"]
    assert len(features) == n > 50
    boxes: dict[int, list[NDArray[np.float64]]] = {1: [], 2: []}
    areas = dict.fromkeys(CLASSES[1:], 0.0)
    for feature in features:
        name = feature["properties"]["classification"]["name"]
        assert feature["geometry"]["type"] == "Polygon"
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        x, y = rings[0].T
        corner = np.tile(case.bounds, 2)
        boxes[CLASSES.index(name)].append(np.array([y.min(), x.min(), y.max(), x.max()]) + corner)
        um2 = sum(shoelace(ring) for ring in rings) * case.l0_mpp[0] * case.l0_mpp[1]
        assert feature["properties"]["measurements"]["Area µm^2"] == pytest.approx(um2, rel=1e-5)
        areas[name] += um2
    for label, name in enumerate(CLASSES[1:], 1):
        n_px = int((case.levels[0] == label).sum())
        assert areas[name] == pytest.approx(n_px * case.mpp[0] * case.mpp[1], rel=1e-6)
    assert_boxes({label: np.array(found) for label, found in boxes.items()}, 0, case)


def shoelace(ring: NDArray[np.float64]) -> float:
    """Area of a closed ring, below 0 for a hole."""
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
