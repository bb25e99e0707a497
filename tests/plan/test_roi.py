"""Regions of interest: what QuPath writes is read, the ambiguous is refused by name, nothing is dropped silently."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import fill_polygons

from tests.plan.strategies import scale
from wsi_seg.errors import RoiError
from wsi_seg.geometry import Box
from wsi_seg.plan import Roi, read_roi

SLIDE = Box(0, 0, 1000, 2000)


def ring(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: Any, name: str = "4a6b") -> dict[str, Any]:
    properties = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}
    return {"type": "Feature", "id": name, "geometry": geometry, "properties": properties}


def read(content: Any, folder: Path, **where: Any) -> Roi:
    path = folder / "roi.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_roi(path, where.pop("bounds", SLIDE), **where)


def drawn(roi: Roi, **placed: Any) -> np.ndarray:
    """The regions on a canvas, as the engine draws them."""
    return fill_polygons(roi.rings_in_canvas(scale(**placed)), (0, 0, 100, 200))


ONE = polygon(ring(20, 10, 60, 40))
TWO = {"type": "MultiPolygon", "coordinates": [[ring(20, 10, 60, 40)], [ring(100, 10, 110, 40)]]}


@pytest.mark.parametrize(
    ("content", "area"),
    [
        pytest.param(ONE, 1200, id="bare geometry"),
        pytest.param(TWO, 1500, id="bare multi-polygon"),
        pytest.param(feature(ONE), 1200, id="feature"),
        pytest.param([feature(ONE), feature(TWO)], 1500, id="list of features, as older QuPath writes"),
        pytest.param({"type": "FeatureCollection", "features": [feature(TWO)]}, 1500, id="feature collection"),
        pytest.param({"type": "GeometryCollection", "geometries": [ONE, TWO]}, 1500, id="geometry collection"),
        pytest.param(polygon(ring(20, 10, 60, 40), ring(30, 20, 40, 30)), 1100, id="hole"),
        pytest.param(polygon(ring(20, 10, 60, 40)[:-1]), 1200, id="ring not closed"),
        pytest.param(polygon([[*point, 7] for point in ring(20, 10, 60, 40)]), 1200, id="third coordinate"),
        pytest.param("\ufeff" + json.dumps(ONE), 1200, id="byte order mark"),
    ],
)
def test_every_form_is_read_and_covers_its_area(content: Any, area: float, tmp_path: Path) -> None:
    roi = read(content, tmp_path)
    assert roi.l0_area == pytest.approx(area)
    assert roi.notes == ()
    inside = drawn(roi)
    assert inside.sum() == area
    assert inside[10:20, 20:60].all()  # x is the column
    assert not inside[:10].any()


def test_overlapping_features_are_one_region_not_a_hole(tmp_path: Path) -> None:
    roi = read([feature(polygon(ring(20, 10, 60, 40))), feature(polygon(ring(40, 20, 80, 60)))], tmp_path)
    assert roi.n_features == 2
    assert drawn(roi).sum() == roi.l0_area == 40 * 30 + 40 * 40 - 20 * 20


def test_regions_are_scaled_to_the_canvas(tmp_path: Path) -> None:
    inside = drawn(read(ONE, tmp_path), factor=(2.0, 2.0), origin=(4, 10))
    assert (np.argwhere(inside).min(0).tolist(), np.argwhere(inside).max(0).tolist()) == ([3, 5], [17, 24])


def test_coordinates_count_from_the_bounds_unless_said_otherwise(tmp_path: Path) -> None:
    bounds = Box(100, 200, 1000, 2000)
    assert read(ONE, tmp_path, bounds=bounds).l0_polygons[0][0].min(0).tolist() == [110, 220]
    shifted = read(polygon(ring(220, 110, 260, 140)), tmp_path, bounds=bounds, l0_origin=(0, 0))
    assert shifted.l0_polygons[0][0].min(0).tolist() == [110, 220]


def test_a_slight_self_crossing_is_repaired_and_told(tmp_path: Path) -> None:
    spur = [[20, 10], [60, 10], [60, 40], [40, 40], [39.8, 40.2], [40, 40.2], [39.8, 40], [20, 40], [20, 10]]
    roi = read(feature(polygon(spur), "c0ffee"), tmp_path)
    assert len(roi.notes) == 1
    assert "c0ffee" in roi.notes[0]
    assert "repaired" in roi.notes[0]
    assert roi.l0_area == pytest.approx(1200, rel=0.01)


REFUSED = [
    pytest.param("{", "not JSON", id="not JSON"),
    pytest.param("[" * 100_000, "not JSON", id="nested too deep"),
    pytest.param([], "holds no polygon", id="empty list"),
    pytest.param({"type": "FeatureCollection", "features": []}, "holds no polygon", id="empty collection"),
    pytest.param({"type": "FeatureCollection"}, "no list of features", id="collection without features"),
    pytest.param(7, "is a int", id="a number"),
    pytest.param({"a": 1}, "is a dict", id="another JSON object"),
    pytest.param(feature(None), "is a NoneType", id="feature without geometry"),
    pytest.param(feature({"type": "Point", "coordinates": [1, 2]}), "id 4a6b.*is a Point.*Polygons", id="point"),
    pytest.param([ONE, {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}], "feature 1 of.*LineString", id="line"),
    pytest.param({"type": "Polygon"}, "no coordinates", id="no coordinates"),
    pytest.param(polygon(), "no coordinates", id="no rings"),
    pytest.param({"type": "MultiPolygon", "coordinates": [ring(0, 0, 9, 9)]}, "malformed", id="nesting too flat"),
    pytest.param(polygon([[0, 0], [1, 1]]), "three finite points", id="two points"),
    pytest.param(polygon([[0, 0], [1, 1], [0, 0]]), "no polygon|no area", id="two points and back"),
    pytest.param(polygon([[0, 0], [1, 1], ["a", "b"]]), "malformed", id="words for numbers"),
    pytest.param(polygon([[0, 0], [1, 1], None]), "malformed", id="null for a point"),
    pytest.param(polygon([[0, 0], [1], [5, 7]]), "malformed|ring of shape", id="a point of one number"),
    pytest.param(json.dumps(polygon(ring(0, 0, 9, 9))).replace("9", "1e999"), "finite", id="infinite"),
    pytest.param(polygon([[0, 0], [10, 10], [20, 20], [0, 0]]), "no area", id="no area"),
    pytest.param(feature(polygon([[0, 0], [9, 9], [9, 0], [0, 9]]), "bow"), "id bow.*crosses itself", id="bow tie"),
    pytest.param(polygon(ring(3000, 10, 3100, 40)), "all off the slide.*x 0 … 2000", id="off the slide"),
    pytest.param(polygon(ring(2000, 0, 2100, 1000)), "all off the slide", id="touches the slide's edge only"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_is_no_region_is_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RoiError, match=message):
        read(content, tmp_path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoiError, match="cannot be read: No such file"):
        read_roi(tmp_path / "absent.geojson", SLIDE)
    (tmp_path / "binary.geojson").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(RoiError, match="not JSON"):
        read_roi(tmp_path / "binary.geojson", SLIDE)


def test_a_region_partly_off_the_slide_is_told(tmp_path: Path) -> None:
    assert read(polygon(ring(1900, 0, 2100, 100)), tmp_path).notes == ("50.0% of the regions' area lies off the slide",)


def test_the_hash_follows_the_coordinates(tmp_path: Path) -> None:
    first, again = read(ONE, tmp_path), read(feature(ONE), tmp_path)
    other = read(polygon(ring(20, 10, 60, 41)), tmp_path)
    assert first.sha256 == again.sha256 == pickle.loads(pickle.dumps(first)).sha256
    assert first.sha256 != other.sha256


@settings(max_examples=40)
@given(
    parts=st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), min_size=1, max_size=6),
    at=st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2),
)
def test_a_box_that_meets_none_of_the_drawn_px_is_the_only_one_left_out(
    parts: list[tuple[int, int, int, int]], at: tuple[int, int, int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    roi = read([polygon(ring(x, y, x + w, y + h)) for y, x, h, w in parts], tmp_path_factory.mktemp("roi"))
    box = Box.at(*at)
    (met,) = roi.in_canvas(scale()).meets(np.array([(box.y0, box.x0, box.y1, box.x1)]))
    wider = Box(max(0, box.y0 - 1), max(0, box.x0 - 1), box.y1 + 1, box.x1 + 1)
    inside = drawn(roi)
    assert inside[box.slices()].any() <= met <= inside[wider.slices()].any()
