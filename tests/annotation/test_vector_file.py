"""GeoJSON of QuPath and XML of ASAP: classes, order, holes, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsi_seg.annotation import IGNORE, Annotation, open_annotation
from wsi_seg.errors import AnnotationError
from wsi_seg.geometry import Box

CLASSES = ["background", "stroma", "tumour"]


def corners(y0: float, x0: float, y1: float, x1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(name: str | None, *rings: list[list[float]], **classification: object) -> dict[str, object]:
    said = {"name": name, "color": [200, 0, 0]} if name is not None else classification
    return {
        "type": "Feature",
        "id": "7d1b",
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": {"objectType": "annotation", **({"classification": said} if said else {})},
    }


def opened(path: Path, content: object, **options: object) -> Annotation:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return open_annotation(path, CLASSES, **{"names": {}, "l0_size": (100, 100), **options})


def labels(annotation: Annotation, size: int = 8) -> np.ndarray:
    return annotation.read_labels(Box(0, 0, size, size), (1.0, 1.0))


def test_qupath_classes_holes_and_order(tmp_path):
    content = {
        "type": "FeatureCollection",
        "features": [
            feature("Stroma", corners(0, 0, 8, 8), corners(2, 2, 4, 4)),
            feature("tumour", corners(5, 5, 8, 8)),
        ],
    }
    annotation = opened(tmp_path / "a.geojson", content, names={"Stroma": "stroma"})
    assert isinstance(annotation, Annotation)
    found = labels(annotation, 9)
    assert found[0, 0] == 1
    assert (found[2:4, 2:4] == IGNORE).all()
    assert (found[5:8, 5:8] == 2).all()
    assert (found[8] == IGNORE).all()


def test_outside_every_polygon_is_what_the_caller_says(tmp_path):
    annotation = opened(tmp_path / "a.geojson", [feature("tumour", corners(0, 0, 2, 2))], unannotated=0)
    assert labels(annotation, 3).tolist() == [[2, 2, 0], [2, 2, 0], [0, 0, 0]]


def test_qupath_counts_from_the_scanned_bounds(tmp_path):
    annotation = opened(tmp_path / "a.geojson", [feature("tumour", corners(0, 0, 2, 2))], l0_origin=(3.0, 5.0))
    assert np.argwhere(labels(annotation) == 2).min(axis=0).tolist() == [3, 5]


def test_derived_classes_and_multipolygons(tmp_path):
    entry = feature(None, names=["Tumor", "Positive"])
    entry["geometry"] = {"type": "MultiPolygon", "coordinates": [[corners(0, 0, 1, 1)], [corners(2, 2, 3, 3)]]}
    found = labels(opened(tmp_path / "a.json", entry, names={"Tumor: Positive": "tumour"}), 3)
    assert found.tolist() == [[2, 255, 255], [255, 255, 255], [255, 255, 2]]


def test_unnamed_polygons_can_be_named_or_left_out(tmp_path):
    content = [feature("tumour", corners(0, 0, 3, 3)), feature(None, corners(0, 0, 1, 3))]
    with pytest.raises(AnnotationError, match=r"feature 1 of a.geojson .*has no class"):
        opened(tmp_path / "a.geojson", content)
    assert (labels(opened(tmp_path / "a.geojson", content, names={"": "ignore"}), 3)[0] == IGNORE).all()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ([], "holds no polygon"),
        ([feature("Necrosis", corners(0, 0, 1, 1))], "class 'Necrosis'.*classes are background, stroma, tumour"),
        ([feature("tumour", [[0, 0], [1, 1]])], "ring of shape"),
        ([{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}], "is a Point"),
        ({"type": "FeatureCollection"}, "no list of features"),
    ],
)
def test_what_is_wrong_in_geojson_is_told(tmp_path, content, told):
    with pytest.raises(AnnotationError, match=told):
        opened(tmp_path / "a.geojson", content)


def test_a_name_must_mean_a_class(tmp_path):
    with pytest.raises(AnnotationError, match=r"'tumor'.*classes are"):
        opened(tmp_path / "a.geojson", [feature("Tumor", corners(0, 0, 1, 1))], names={"Tumor": "tumor"})


def test_a_missing_file_and_an_unknown_kind(tmp_path):
    with pytest.raises(AnnotationError, match="does not exist"):
        open_annotation(tmp_path / "no.xml", CLASSES, {})
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AnnotationError, match="unknown kind"):
        open_annotation(tmp_path / "a.txt", CLASSES, {})


def asap(*annotations: str, groups: str = "") -> str:
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>'
        + "".join(annotations)
        + f"</Annotations><AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


def drawn(kind: str, group: str, points: list[tuple[float, float]]) -> str:
    """Coordinates are written out of order: `Order` counts, not the place in the file."""
    entries = [f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (y, x) in enumerate(points)]
    return (
        f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{''.join(entries[1::2] + entries[::2])}</Coordinates></Annotation>"
    )


BOX = [(0, 0), (0, 4), (4, 4), (4, 0)]


def test_asap_groups_rectangles_and_order(tmp_path):
    text = asap(
        drawn("Polygon", "tumour", BOX), drawn("Rectangle", "Holes", [(1, 1), (3, 3)]), drawn("Spline", "s", BOX[:3])
    )
    found = labels(opened(tmp_path / "a.xml", text, names={"Holes": "ignore", "s": "stroma"}), 5)
    # the spline, painted last, is the triangle above the diagonal
    expected = np.full((5, 5), 255)
    for i in range(4):
        for j in range(4):
            expected[i, j] = 1 if j > i else 255 if 1 <= i < 3 and 1 <= j < 3 else 2
    off_diagonal = ~np.eye(5, dtype=bool)
    assert found[off_diagonal].tolist() == expected[off_diagonal].tolist()


def test_asap_coordinates_do_not_move_with_the_bounds(tmp_path):
    annotation = opened(tmp_path / "a.xml", asap(drawn("Polygon", "tumour", BOX)), l0_origin=(3.0, 5.0))
    assert np.argwhere(labels(annotation) == 2).min(axis=0).tolist() == [0, 0]


def test_an_asap_group_without_a_meaning_takes_that_of_the_group_around_it(tmp_path):
    groups = '<Group Name="G3" PartOfGroup="grade" /><Group Name="grade" PartOfGroup="tumour" />'
    annotation = opened(tmp_path / "a.xml", asap(drawn("Polygon", "G3", BOX), groups=groups))
    assert labels(annotation)[0, 0] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<a>", "is not XML"),
        ("<a/>", "begins with <a>"),
        (asap(), "holds no polygon"),
        (asap(drawn("Dot", "tumour", BOX[:1])), "is a Dot"),
        (asap(drawn("Polygon", "None", BOX)), "class 'None'"),
        (asap(drawn("Polygon", "tumour", BOX[:2])), "has 2 points"),
        (asap(drawn("Polygon", "tumour", [*BOX, (float("nan"), 1)])), "finite"),
        (asap(drawn("Polygon", "tumour", BOX)).replace('Y="4"', 'Y="four"'), "malformed"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]>' + asap(drawn("Polygon", "tumour", BOX)), "document type"),
    ],
)
def test_what_is_wrong_in_asap_xml_is_told(tmp_path, text, told):
    with pytest.raises(AnnotationError, match=told):
        opened(tmp_path / "a.xml", text)


def test_entities_are_refused_in_another_encoding_too(tmp_path):
    bomb = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "bbbb">]><ASAP_Annotations/>'
    (tmp_path / "a.xml").write_bytes(bomb.encode("utf-16"))
    with pytest.raises(AnnotationError, match="not UTF-8"):
        open_annotation(tmp_path / "a.xml", CLASSES, {})
