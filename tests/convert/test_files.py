"""What is written is read back, by `wsi_seg.annotation` and others: the label map comes back exactly."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from tests.output.making import finished, make_spec
from wsi_seg.annotation import IGNORE, open_annotation
from wsi_seg.convert import objects, polygons
from wsi_seg.convert.converting import SUFFIXES, ConversionRequest, convert, default_name
from wsi_seg.errors import ConversionError, OutputExistsError, UsageError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.label_store import Result

SIZE = (180, 620)
ALL = ("background", "stroma", "tumour <1 & 2>")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A result of blobs and speckles with probabilities, on a fractional grid and with scanned bounds."""
    spec = make_spec(SIZE, probabilities=True, mpp=Mpp(0.5, 0.52), l0_mpp=Mpp(0.2527, 0.25), l0_offset=(101.5, 300.25))
    result, made = finished(tmp_path_factory.mktemp("results") / "slide.seg.zarr", spec)
    return result, made.levels, made.chances


def written(result: Result, tmp_path: Path, to: str, **options: Any) -> Path:
    path = tmp_path / f"out{SUFFIXES[to]}"
    convert(result, path, ConversionRequest(to, **options))
    return path


def read_back(path: Path, result: Result, level: int, unannotated: int = IGNORE) -> Any:
    """Labels of a level, as an annotation of the slide gives them."""
    spec = result.spec
    origin = tuple(map(float, spec.l0_bounds)) if path.suffix == ".geojson" else (0.0, 0.0)
    annotation = open_annotation(path, ALL, {}, unannotated, spec.l0_size, origin)
    mpp = spec.level_mpp(level)
    box = Box(0, 0, *spec.layout.level_size(level))
    return annotation.read_labels(box, (mpp.y / spec.l0_mpp.y, mpp.x / spec.l0_mpp.x), spec.l0_offset)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


class TestPolygonFiles:
    @pytest.mark.parametrize("to", ["geojson", "annotations-xml"])
    @pytest.mark.parametrize("level", [0, 1])
    def test_the_label_map_comes_back(self, made, tmp_path, to, level):
        result, levels, _ = made
        path = written(result, tmp_path, to, level=level, classes=ALL)
        assert (read_back(path, result, level) == levels[level]).all()

    @pytest.mark.parametrize("to", ["geojson", "annotations-xml"])
    def test_the_background_is_left_out_and_not_analysed_is_never_a_class(self, made, tmp_path, to):
        result, levels, _ = made
        path = written(result, tmp_path, to)
        expected = np.where(levels[0] == 255, 0, levels[0])
        assert (read_back(path, result, 0, unannotated=0) == expected).all()
        assert "not analysed" not in path.read_text()

    def test_features_are_what_qupath_reads(self, made, tmp_path):
        result, levels, _ = made
        content = json.loads(written(result, tmp_path, "geojson").read_text())
        assert content["type"] == "FeatureCollection"
        ids = [feature["id"] for feature in content["features"]]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids)
        for feature in content["features"]:
            properties = feature["properties"]
            assert feature["type"] == "Feature"
            assert feature["geometry"]["type"] == "Polygon"
            assert properties["objectType"] == "annotation"
            classification = properties["classification"]
            entry = next(entry for entry in result.spec.classes if entry.name == classification["name"])
            assert classification["color"] == list(entry.rgb)
            assert properties["name"] == entry.name
            assert set(properties["measurements"]) == {"Area µm^2", "Perimeter µm", "Probability"}
            assert shapely.from_geojson(json.dumps(feature["geometry"])).is_valid
        area = sum(f["properties"]["measurements"]["Area µm^2"] for f in content["features"])
        assert area == pytest.approx(((levels[0] > 0) & (levels[0] < 255)).sum() * 0.5 * 0.52)

    def test_objects_are_detections(self, made, tmp_path):
        result, *_ = made
        path = written(result, tmp_path, "geojson", objects=True, classes=("stroma",))
        features = json.loads(path.read_text())["features"]
        assert {f["properties"]["objectType"] for f in features} == {"detection"}
        assert len(features) == len(list(objects(result, classes=("stroma",))))

    def test_ids_do_not_depend_on_what_else_is_written(self, made, tmp_path):
        result, *_ = made
        few = json.loads(written(result, tmp_path / "few", "geojson", classes=("stroma",)).read_text())["features"]
        many = json.loads(written(result, tmp_path / "many", "geojson", classes=ALL).read_text())["features"]
        assert {f["id"] for f in few} == {
            f["id"] for f in many if f["properties"]["classification"]["name"] == "stroma"
        }

    def test_a_simplified_file_has_fewer_corners(self, made, tmp_path):
        result, *_ = made
        sizes = [written(result, tmp_path / str(um), "geojson", simplify_um=um).stat().st_size for um in (0.0, 0.6)]
        assert sizes[1] < sizes[0]


@pytest.mark.parametrize("block", [256, 512])
def test_the_blocks_of_a_result_change_nothing(made, tmp_path, block):
    result, *_ = made
    spec = make_spec(
        SIZE, block, probabilities=True, mpp=Mpp(0.5, 0.52), l0_mpp=Mpp(0.2527, 0.25), l0_offset=(101.5, 300.25)
    )
    other, _ = finished(tmp_path / "slide.seg.zarr", spec)
    for to in ("geojson", "csv", "annotations-xml"):
        one, two = written(result, tmp_path / "a", to), written(other, tmp_path / "b", to)
        assert one.read_bytes() == two.read_bytes()


def test_polygons_of_a_result_have_its_areas(made):
    result, levels, _ = made
    for level in range(result.n_levels):
        px = dict.fromkeys(ALL, 0)
        for outline in polygons(result, level=level, classes=ALL):
            px[outline.name] += outline.n_px
        assert list(px.values()) == [(levels[level] == k).sum() for k in range(3)]


class TestTable:
    def test_rows_are_the_components_of_the_whole_map(self, made, tmp_path):
        result, levels, chances = made
        rows = rows_of(written(result, tmp_path, "csv"))
        expected = []
        for index in (1, 2):
            ids, n = ndimage.label(levels[0] == index, np.ones((3, 3)))
            expected += [self.row(ids == k, index, chances[0][index]) for k in range(1, n + 1)]
        found = [{key: value for key, value in row.items() if key not in ("id", "perimeter_um")} for row in rows]
        assert sorted(map(str, found)) == sorted(map(str, expected))
        assert len({row["id"] for row in rows}) == len(rows)

    def row(self, mask, index, chances):
        y, x = np.nonzero(mask)
        step, offset, l0_mpp = (0.5 / 0.2527, 0.52 / 0.25), (101.5, 300.25), (0.2527, 0.25)
        cy, cx = (offset[a] + (v.mean() + 0.5) * step[a] for a, v in enumerate((y, x)))
        numbers = {
            "centroid_x_um": cx * l0_mpp[1],
            "centroid_y_um": cy * l0_mpp[0],
            "centroid_x_px": cx,
            "centroid_y_px": cy,
            "area_um2": mask.sum() * 0.5 * 0.52,
            "x0_px": offset[1] + x.min() * step[1],
            "y0_px": offset[0] + y.min() * step[0],
            "x1_px": offset[1] + (x.max() + 1) * step[1],
            "y1_px": offset[0] + (y.max() + 1) * step[0],
        }
        shown = {"class": ALL[index]} | {name: f"{value:.3f}" for name, value in numbers.items()}
        return shown | {"mean_probability": f"{chances[mask].sum(dtype=int) / (255 * mask.sum()):.4f}"}

    def test_ids_are_those_of_detections(self, made, tmp_path):
        result, *_ = made
        rows = rows_of(written(result, tmp_path, "csv"))
        features = json.loads(written(result, tmp_path, "geojson", objects=True).read_text())["features"]
        assert [row["id"] for row in rows] == [feature["id"] for feature in features]

    def test_no_probability_without_stored_ones(self, tmp_path):
        result, _ = finished(tmp_path / "slide.seg.zarr", make_spec((64, 64)))
        rows = rows_of(written(result, tmp_path, "csv"))
        assert {row["mean_probability"] for row in rows} == {""}

    def test_a_single_channel_is_the_probability_of_class_1(self, tmp_path):
        spec = make_spec((64, 64), probabilities=True, n_channels=1, classes=make_spec().classes[:2])
        result, made = finished(tmp_path / "slide.seg.zarr", spec)
        labels, chances = made.levels[0], made.chances[0][0].astype(int)
        for name, own in (("background", 255 - chances), ("stroma", chances)):
            (index,) = [k for k, entry in enumerate(spec.classes) if entry.name == name]
            found = list(objects(result, classes=(name,)))
            total = sum(entry.mean_probability * entry.n_px * 255 for entry in found)
            assert total == pytest.approx(own[labels == index].sum())


class TestPicture:
    @pytest.mark.parametrize("level", [0, 1])
    @pytest.mark.parametrize("coloured", [False, True])
    def test_px_are_class_indices(self, tmp_path, level, coloured):
        result, made = finished(tmp_path / "slide.seg.zarr", make_spec((700, 1100)))
        path = written(result, tmp_path, "png", level=level, coloured=coloured)
        with Image.open(path) as picture:
            assert picture.mode == ("P" if coloured else "L")
            assert (np.array(picture) == made.levels[level]).all()
            shown = np.array(picture.convert("RGBA"))
        if coloured:
            classes = result.spec.classes
            assert (shown[made.levels[level] == 1] == [*classes[1].rgb, 255]).all()
            assert (shown[made.levels[level] == 255][:, 3] == 0).all()

    def test_more_than_255_classes_are_16_bit(self, tmp_path):
        from wsi_seg.card import named_classes

        spec = make_spec((64, 80), classes=named_classes([f"c{k}" for k in range(300)]), not_analysed=65535)
        result, made = finished(tmp_path / "slide.seg.zarr", spec)
        with Image.open(written(result, tmp_path, "png")) as picture:
            assert picture.mode.startswith("I;16")
            assert (np.array(picture) == made.levels[0]).all()
        with pytest.raises(ConversionError, match="256 colours"):
            written(result, tmp_path / "b", "png", coloured=True)

    def test_what_is_too_large_is_refused(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr("wsi_seg.convert.picture.MOST_PX", 180 * 620 - 1)
        with pytest.raises(ConversionError, match="--level"):
            written(made[0], tmp_path, "png")
        assert not list(tmp_path.iterdir())

    def test_annotations_read_it(self, made, tmp_path):
        result, levels, _ = made
        annotation = open_annotation(written(result, tmp_path, "png"), ALL, {}, l0_size=SIZE)
        assert (annotation.read_labels(Box(0, 0, *SIZE), (1.0, 1.0)) == levels[0]).all()


class TestConverting:
    def test_a_tiff_holds_the_pyramid(self, made, tmp_path):
        result, levels, _ = made
        path = written(result, tmp_path, "ome-tiff")
        assert (read_back(path, result, 0) == levels[0]).all()

    @pytest.mark.parametrize(
        ("to", "options", "said"),
        [
            ("svg", {}, "--to 'svg'"),
            ("png", {"classes": ("stroma",)}, "--classes"),
            ("ome-tiff", {"level": 1}, "--level"),
            ("csv", {"objects": True}, "--objects"),
            ("png", {"simplify_um": 1.0}, "--simplify"),
            ("geojson", {"coloured": True}, "--coloured"),
            ("geojson", {"slide": Path("a.dcm")}, "--slide"),
            ("geojson", {"classes": ("mitosis",)}, "mitosis"),
            ("geojson", {"classes": ()}, "no class"),
            ("geojson", {"level": 9}, "level 9"),
            ("geojson", {"simplify_um": -1.0}, "0 or more"),
        ],
    )
    def test_what_a_format_does_not_have_is_refused(self, made, tmp_path, to, options, said):
        with pytest.raises(UsageError, match=re.escape(said)):
            convert(made[0], tmp_path / "out", ConversionRequest(to, **options))
        assert not list(tmp_path.iterdir())

    def test_nothing_is_written_over_unasked(self, made, tmp_path):
        path = tmp_path / "out.csv"
        path.write_text("mine")
        with pytest.raises(OutputExistsError):
            convert(made[0], path, ConversionRequest("csv"))
        assert path.read_text() == "mine"
        convert(made[0], path, ConversionRequest("csv"), overwrite=True)
        assert path.read_text() != "mine"
        with pytest.raises(OutputExistsError):
            convert(made[0], tmp_path, ConversionRequest("csv"), overwrite=True)

    def test_a_failure_leaves_nothing_behind(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "wsi_seg.convert.geojson_file.FeatureForm.feature", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(OSError, match="full"):
            written(made[0], tmp_path, "geojson")
        assert not list(tmp_path.iterdir())

    def test_the_default_name_lies_beside_the_result(self, made):
        result, *_ = made
        assert default_name(result, "geojson") == result.path.with_name("slide.geojson")
