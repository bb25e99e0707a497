"""A result as one object: what it shows is what is stored."""

from __future__ import annotations

import io
import pickle
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsi_seg
from tests.output.making import NA, finished, make_spec
from wsi_seg.card import SegmentationClass, named_classes
from wsi_seg.errors import CorruptOutputError, OutputExistsError, UsageError

EVIL = "tumour <script>alert(1)</script> & $\\frac$"


@pytest.fixture
def made(tmp_path: Path):
    """(the result, the level-0 labels, the probabilities) with names that are not harmless."""
    classes = named_classes(["background", EVIL, "stroma"])
    spec = make_spec(classes=classes, probabilities=True, name="slide <b>&$\\frac$")
    _, truth = finished(tmp_path / "r.seg.zarr", spec)
    return wsi_seg.open_result(tmp_path / "r.seg.zarr"), truth


class TestValues:
    def test_plain_facts(self, made) -> None:
        result, truth = made
        assert result.shape == truth.spec.layout.size
        assert (result.mpp.y, result.mpp.x) == (0.5, 0.52)
        assert result.classes == truth.spec.classes
        assert result.not_analysed == NA
        assert result.name == truth.spec.name
        assert repr(result).startswith("<wsi_seg.Result '")

    def test_labels_of_every_level(self, made) -> None:
        result, truth = made
        assert result.n_levels == len(truth.levels)
        for level, expected in enumerate(truth.levels):
            np.testing.assert_array_equal(result.labels(level)[:], expected)
        np.testing.assert_array_equal(result.labels()[100:300, 7:9], truth.levels[0][100:300, 7:9])

    def test_probabilities(self, made) -> None:
        result, truth = made
        for level, expected in enumerate(truth.chances):
            np.testing.assert_array_equal(result.probabilities(level)[:], expected)

    @pytest.mark.parametrize("level", [-1, 3, 99, True, "0", None])
    def test_levels_that_are_not_there(self, made, level) -> None:
        result, _ = made
        for read in (result.labels, result.probabilities, result.to_dask):
            with pytest.raises(UsageError, match="the result has levels 0 to 2"):
                read(level)

    def test_no_probabilities(self, tmp_path: Path) -> None:
        finished(tmp_path / "r.seg.zarr", make_spec())
        with pytest.raises(UsageError, match="run again with probabilities=True"):
            wsi_seg.open_result(tmp_path / "r.seg.zarr").probabilities()

    def test_dask(self, made) -> None:
        result, truth = made
        lazy = result.to_dask(1)
        assert lazy.dtype == np.uint8
        assert result.to_dask(0).chunksize == (256, 256), "a chunk is a whole shard, up to 2048 px"
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), truth.levels[1])
        chances = result.to_dask(probabilities=True)
        assert chances.chunksize[0] == 3
        np.testing.assert_array_equal(chances[:, 5:600, 40:].compute(scheduler="sync"), truth.chances[0][:, 5:600, 40:])
        assert result.to_dask(0).name != result.to_dask(1).name != chances.name

    def test_pickles_by_path(self, made) -> None:
        result, truth = made
        assert len(pickle.dumps(result)) < 20_000
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(result)).labels(1)[:], truth.levels[1])

    def test_what_is_no_result(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptOutputError):
            wsi_seg.open_result(tmp_path)
        with pytest.raises(CorruptOutputError):
            wsi_seg.open_result(str(tmp_path / "absent"))


class TestAreas:
    def test_are_the_counted_pixels(self, made) -> None:
        result, truth = made
        areas, labels = result.areas(), truth.levels[0]
        pixel_mm2 = 0.5 * 0.52 * 1e-6
        n_analysed = int((labels != NA).sum())
        for index, entry in enumerate(truth.spec.classes):
            n = int((labels == index).sum())
            assert areas[entry.name].n_pixels == n
            assert areas[entry.name].mm2 == pytest.approx(n * pixel_mm2)
            assert areas[entry.name].percent == pytest.approx(100 * n / n_analysed)
        assert areas.not_analysed_mm2 == pytest.approx((labels.size - n_analysed) * pixel_mm2)
        assert areas.analysed_mm2 == pytest.approx(n_analysed * pixel_mm2)
        assert list(areas) == [entry.name for entry in truth.spec.classes]
        assert [row["class"] for row in areas.rows()] == list(areas)
        assert "not analysed" not in areas

    def test_read_no_pixel(self, made, tmp_path: Path) -> None:
        result, _ = made
        for shard in (tmp_path / "r.seg.zarr/labels/segmentation/0/c").rglob("*"):
            if shard.is_file():
                shard.unlink()
        assert result.areas().analysed_mm2 > 0

    def test_damaged(self, made) -> None:
        result, _ = made
        result._stored.attributes.pop("summary")
        with pytest.raises(CorruptOutputError, match="areas"):
            result.areas()

    def test_summary(self, made, tmp_path: Path) -> None:
        result, _ = made
        assert result.summary.classes[1].name == EVIL
        (tmp_path / "r.seg.zarr/summary.json").write_text("{")
        with pytest.raises(CorruptOutputError, match=r"summary\.json"):
            _ = wsi_seg.open_result(tmp_path / "r.seg.zarr").summary


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


class TestHtml:
    def test_shows_names_as_text_and_fetches_nothing(self, made) -> None:
        result, truth = made
        page = _Tags()
        page.feed(result._repr_html_())
        assert set(page.tags) <= {"div", "img", "b", "br", "code", "table", "thead", "tbody", "tr", "th", "td", "span"}
        assert EVIL in page.text
        assert truth.spec.name in page.text
        assert [source.partition(",")[0] for source in page.sources] == ["data:image/png;base64"]

    def test_the_picture_is_the_overlay(self, made) -> None:
        result, _ = made
        (picture,) = re.findall(r'base64,([^"]+)"', result._repr_html_())
        pixels = np.asarray(Image.open(io.BytesIO(b64decode(picture))))
        np.testing.assert_array_equal(pixels, result.overlay(side=480))

    def test_a_colour_is_a_colour(self) -> None:
        with pytest.raises(Exception, match="colours are #rrggbb"):
            SegmentationClass("a", 'red"onload=')


class TestPictures:
    def test_overlay_has_the_colours_of_the_labels(self, made) -> None:
        result, truth = made
        pixels = result.overlay(0, side=1100, opacity=1.0)  # one px of the picture per px of the canvas, across
        height, width = truth.levels[0].shape
        assert pixels.shape[1] == width
        rows = np.arange(pixels.shape[0]) * height // pixels.shape[0]
        labels = truth.levels[0][rows]
        for index, entry in enumerate(truth.spec.classes):
            assert (pixels[labels == index] == entry.rgb).all()
        grey = pixels[labels == NA].astype(int)
        assert (grey.max(1) == grey.min(1)).all()

    def test_the_level_suits_the_side(self, made) -> None:
        result, _ = made
        np.testing.assert_array_equal(result.overlay(side=400), result.overlay(1, side=400))
        np.testing.assert_array_equal(result.overlay(side=900), result.overlay(0, side=900))
        with pytest.raises(UsageError, match="levels 0 to 2"):
            result.overlay(3)

    def test_plot(self, made) -> None:
        import matplotlib as mpl
        from matplotlib import pyplot

        mpl.use("agg")
        result, _ = made
        try:
            axes = result.plot()
            axes.figure.canvas.draw()  # names with dollars are no formulae
            entries = [text.get_text() for text in axes.get_legend().get_texts()]
            assert entries[1].startswith(EVIL)
            assert entries[-1] == "not analysed"
            assert axes.get_xlim() == (0, pytest.approx(1100 * 0.52))
            assert axes.get_ylim() == (pytest.approx(700 * 0.5), 0)
            (bar,) = {text.get_text() for text in axes.texts}
            line = axes.lines[0].get_xdata()
            assert bar == "100 µm"
            assert line[1] - line[0] == pytest.approx(100)
            _, own = pyplot.subplots()
            assert result.plot(own, level=1) is own
        finally:
            pyplot.close("all")

    def test_plot_without_matplotlib(self, made, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _ = made
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match="pip install matplotlib"):
            result.plot()

    def test_thumbnail(self, made) -> None:
        result, _ = made
        assert result.thumbnail.dtype == np.uint8
        assert result.thumbnail.shape[2] == 3


def test_write_tiff(tmp_path: Path) -> None:
    import tifffile

    _, truth = finished(tmp_path / "r.seg.zarr", make_spec())
    result = wsi_seg.open_result(tmp_path / "r.seg.zarr")
    path = result.write_tiff(tmp_path / "r.ome.tif")
    np.testing.assert_array_equal(tifffile.imread(path), truth.levels[0])
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        result.write_tiff(path)
    result.write_tiff(path, overwrite=True, flat=True)


class TestPolygons:
    def test_their_areas_are_those_of_the_labels(self, made) -> None:
        result, truth = made
        for level, labels in enumerate(truth.levels):
            areas = dict.fromkeys((entry.name for entry in result.classes), 0.0)
            for outline in result.polygons(level, classes=[EVIL, "stroma"]):
                assert outline.geometry.is_valid
                areas[outline.name] += outline.area_um2
            px_um2 = 0.5 * 0.52 * 4**level
            assert areas["background"] == 0
            for index in (1, 2):
                assert areas[result.classes[index].name] == pytest.approx(px_um2 * int((labels == index).sum()))

    def test_refusals_speak_python(self, made) -> None:
        result, _ = made
        with pytest.raises(UsageError, match="the result has levels 0 to 2"):
            result.polygons(9)
        with pytest.raises(UsageError, match="nothing"):
            list(result.polygons(classes=["nothing"]))
