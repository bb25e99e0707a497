"""Annotated slides: the pixels that the engine would see, the labels that were drawn, patches where they lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_seg.annotation.polygons import LabelledPolygon, PolygonAnnotation
from wsi_seg.engine.feed import RowFeed
from wsi_seg.engine.stages import StageClock
from wsi_seg.errors import ConfigError, MissingMppError, PlanError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.plan.scale import Scale, choose_scale
from wsi_seg.sample import write_synthetic
from wsi_seg.slide import ArraySlide, open_slide
from wsi_seg.train.source.fields import count_cells
from wsi_seg.train.source.patches import PatchSet
from wsi_seg.train.source.slide_source import SlideField, SlideLabels, open_field


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> tuple[Path, Path]:
    """A synthetic slide of 1100 x 1500 px at 0.5 um/px and its label map: 0 glass, 1 tissue, 2 nucleus."""
    folder = tmp_path_factory.mktemp("annotated")
    write_synthetic(folder / "s.tif", (1100, 1500), labels=folder / "l.tif", mpp=0.5, seed=3, tissue_fraction=0.5)
    return folder / "s.tif", folder / "l.tif"


def polygon(name: str, y0: float, x0: float, y1: float, x1: float) -> dict[str, object]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    properties = {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.73, 0.3])
def test_training_sees_the_pixels_that_the_engine_sees(annotated, config_of, mpp):
    slide = open_slide(annotated[0])
    assert slide.mpp is not None
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, mpp)
    box = Box(60, 100, 260, 340)
    engine = RowFeed(slide, scale, (box.x0, box.x1), (255, 255, 255), StageClock()).rows(box.y0, box.y1)
    config = config_of({"slide": annotated[0], "annotation": annotated[1]}, mpp=mpp)
    field = open_field(config.data.train[0], config, labelled=True)
    assert field.size == scale.canvas_size
    assert np.array_equal(field.read(box)[0], engine)
    shifted = field.read(Box(50, 90, 260, 340))[0]
    assert np.array_equal(shifted[10:, 10:], engine)


def test_labels_lie_under_the_pixels(annotated, config_of):
    config = config_of({"slide": annotated[0], "annotation": annotated[1]}, mpp=1.0)
    field = open_field(config.data.train[0], config, labelled=True)
    stored = tifffile.imread(annotated[1])
    labels = field.read_labels(Box(0, 0, 550, 750))
    assert np.array_equal(labels, stored[1::2, 1::2])
    pixels = field.read(Box(0, 0, 550, 750))[0].astype(float).mean(axis=2)
    assert pixels[labels == 0].mean() > pixels[labels == 1].mean() + 20 > pixels[labels == 2].mean() + 40
    beyond = field.read_labels(Box(540, 745, 560, 760))
    assert (beyond[10:] == 255).all()
    assert (beyond[:, 5:] == 255).all()
    assert np.array_equal(beyond[:10, :5], labels[540:, 745:])


def test_polygons_lie_where_they_were_drawn(annotated, config_of, tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps([polygon("Tumor", 200, 300, 400, 500)]))
    source = {"slide": annotated[0], "annotation": tmp_path / "a.geojson", "names": {"Tumor": "tumour"}}
    config = config_of(source, mpp=1.0)
    labels = open_field(config.data.train[0], config, labelled=True).read_labels(Box(0, 0, 550, 750))
    assert (labels[100:200, 150:250] == 2).all()
    assert np.count_nonzero(labels == 2) == 100 * 100
    assert np.count_nonzero(labels == 255) == labels.size - 100 * 100


@pytest.mark.parametrize("extra", [{"unannotated": 1}, {"unannotated": 1, "glass": 0}, {"unannotated": 1, "glass": 255},
                                   {"glass": 0}], ids=str)  # fmt: skip
def test_what_nobody_drew_is_tissue_or_glass(annotated, config_of, tmp_path, extra):
    shapes = [polygon("tumour", 200, 300, 400, 500), polygon("nothing", 600, 600, 700, 700)]
    (tmp_path / "a.geojson").write_text(json.dumps(shapes))
    words = {key: ["background", "stroma", "tumour", *["ignore"] * 253][label] for key, label in extra.items()}
    source = {"slide": annotated[0], "annotation": tmp_path / "a.geojson", "names": {"nothing": "ignore"}, **words}
    config = config_of(source, mpp=0.5)
    field = open_field(config.data.train[0], config, labelled=True)
    whole = Box(0, 0, 1100, 1500)
    shown, counting = field.read(whole)[1], field.read_labels(whole)
    for labels in (shown, counting):
        assert (labels[200:400, 300:500] == 2).all()
        assert (labels[600:700, 600:700] == 255).all()
    undrawn = np.ones(whole.size, bool)
    undrawn[200:400, 300:500] = undrawn[600:700, 600:700] = False
    truth = tifffile.imread(annotated[1]) > 0
    agree = truth == (shown == extra.get("unannotated", 255))
    if extra.get("glass", extra.get("unannotated")) != extra.get("unannotated", 255):
        assert agree[undrawn].mean() > 0.97
    assert set(np.unique(shown[undrawn])) <= {extra.get("unannotated", 255), extra.get("glass", 1)}
    glass = undrawn & (counting == 255)
    assert 0.97 < glass.sum() / (undrawn & ~truth).sum() < 1.03 or "unannotated" not in extra
    assert (shown[glass] == extra.get("glass", 1))[~truth[glass]].mean() > 0.97
    index = field.index()
    assert np.array_equal(index.counts, count_cells(counting, index.side, 3))
    seen = [PatchSet.open(c.data.train, c) for c in (config_of(source, tile_size=s) for s in (128, 4096))]
    px = [sum(np.bincount(labels.ravel(), minlength=256) for _, _, labels in patches.whole()) for patches in seen]
    assert px[0][:3].tolist() == px[1][:3].tolist() == [np.count_nonzero(counting == c) for c in range(3)]


def field_of(annotation, size=(700, 900), origin=(0, 0)) -> SlideField:
    slide = ArraySlide(np.full((*size, 3), 200, np.uint8), mpp=0.5)
    part = size[0] - origin[0], size[1] - origin[1]
    scale = Scale(0, (2.0, 2.0), Mpp(1, 1), (part[0] // 2, part[1] // 2), origin, (1.0, 1.0), upsampled=False)
    return SlideField("c", slide, scale, SlideLabels(annotation, 3))


def rectangle(label: int, y0: float, x0: float, y1: float, x1: float) -> LabelledPolygon:
    return LabelledPolygon(label, (np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)], np.float64),))


SHAPES = PolygonAnnotation([rectangle(1, 33, 41, 611, 777), rectangle(2, 100, 200, 180, 300), rectangle(0, 0, 0, 9, 9)])


def test_labels_follow_the_canvas_where_it_starts_inside_the_slide():
    labels = field_of(SHAPES, origin=(33, 41)).read_labels(Box(0, 0, 330, 400))
    assert (labels[:289, :368] != 255).all()
    assert np.count_nonzero(labels != 255) == 289 * 368


@pytest.mark.parametrize("strip", [1, 1 << 22])
def test_the_index_counts_every_pixel_of_a_small_slide(monkeypatch, strip):
    monkeypatch.setattr("wsi_seg.train.source.slide_source._STRIP_SAMPLES", strip)
    field = field_of(SHAPES)
    index = field.index()
    assert np.array_equal(index.counts, count_cells(field.read_labels(Box(0, 0, 350, 450)), index.side, 3))
    assert index.px_per_count == 1


@pytest.mark.parametrize("n_samples", [20_000, 2_000, 60])
def test_the_index_of_a_large_slide_is_a_sample(monkeypatch, n_samples):
    monkeypatch.setattr("wsi_seg.train.source.slide_source._MAX_SAMPLES", n_samples)
    field = field_of(SHAPES)
    exact = count_cells(field.read_labels(Box(0, 0, 350, 450)), 16, 3)
    index = field.index()
    assert index.px_per_count > 1
    assert index.counts.shape == exact.shape
    share = index.counts.sum(axis=(1, 2)) * index.px_per_count / exact.sum(axis=(1, 2))
    assert np.abs(share[1:] - 1).max() < 0.2  # the smaller rectangle has 8 of the coarsest samples


def test_patches_of_a_slide_show_the_class_drawn(monkeypatch, config_of, annotated, tmp_path):
    monkeypatch.setattr("wsi_seg.train.source.slide_source._MAX_SAMPLES", 2_000)
    shapes = [polygon("stroma", 100, 100, 900, 900), polygon("tumour", 300, 300, 340, 340)]
    (tmp_path / "a.geojson").write_text(json.dumps(shapes))
    config = config_of({"slide": annotated[0], "annotation": tmp_path / "a.geojson"}, data={"balance": 1.0})
    patches = PatchSet.open(config.data.train, config)
    assert patches.cases == ("s",)
    batch = next(patches.epoch(0, 40))
    assert 10 <= (batch.labels[:, 16, 16] == 2).sum() <= 30
    assert (batch.labels[:, 16, 16] != 255).all()
    seen = [(name, images.shape[2:]) for name, images, _ in patches.whole()]
    assert {name for name, _ in seen} == {"s.tif"}
    assert len(seen) == 4


def test_glass_attracts_no_patch_where_nothing_was_drawn(config_of, annotated, tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps([polygon("tumour", 500, 700, 520, 720)]))
    source = {"slide": annotated[0], "annotation": tmp_path / "a.geojson", "unannotated": "stroma"}
    config = config_of(source, data={"balance": 0.0, "patches_per_epoch": 300}, patch_size=16)
    truth = tifffile.imread(annotated[1])
    glass = np.mean(truth == 0)
    assert glass > 0.3
    for labelled in (True, False):
        patches = PatchSet.open(config.data.train, config, labelled=labelled)
        images = next(patches.epoch(0, 300)).images.float().mean(dim=(1, 2, 3))
        assert (images > 225).float().mean() < 0.5 * glass


def test_what_is_missing_is_told(config_of, annotated, tmp_path):
    def opened(labelled=True, **source):
        config = config_of({"slide": annotated[0], **source}, mpp=source.pop("at", 0.5))
        return open_field(config.data.train[0], config, labelled=labelled)

    with pytest.raises(ConfigError, match=r"s\.tif has no annotation"):
        opened()
    for key in ("unannotated", "glass"):
        with pytest.raises(ConfigError, match=rf"{key} 'fat' .*classes are"):
            opened(annotation=annotated[1], **{key: "fat"})
    tifffile.imwrite(tmp_path / "n.tif", np.zeros((64, 64, 3), np.uint8), tile=(16, 16), photometric="rgb")
    with pytest.raises(MissingMppError, match=r"n\.tif does not state its resolution"):
        opened(slide=tmp_path / "n.tif", labelled=False)
    assert opened(slide=tmp_path / "n.tif", mpp=0.5, labelled=False).size == (64, 64)
    with pytest.raises(PlanError, match="nearest stored level"):
        opened(slide=tmp_path / "n.tif", mpp=5, labelled=False)


def test_a_real_slide(shared, config_of, tmp_path):
    path = shared / "slides" / "cmu-1-small-region" / "cmu-1-small-region.svs"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    (tmp_path / "a.geojson").write_text(json.dumps([polygon("tumour", 500, 500, 1500, 1200)]))
    config = config_of({"slide": path, "annotation": tmp_path / "a.geojson"}, mpp=1.0, patch_size=64)
    patches = PatchSet.open(config.data.train, config)
    images, labels = next(patches.epoch(0, 6))
    assert images.float().std() > 10
    assert (labels != 255).any(dim=(1, 2)).all()
    assert abs(patches.describe()["labelled_px"]["tumour"] - 500 * 350) < 500
