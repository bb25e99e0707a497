"""Pairs of image and label files: how they are found, what their values mean, how they are brought to scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsi_seg.errors import AnnotationError, ConfigError
from wsi_seg.geometry import Box
from wsi_seg.plan.scale import choose_scale
from wsi_seg.slide import ArraySlide
from wsi_seg.slide.canvas import read_canvas
from wsi_seg.train.source.image_source import Entry, PixelCache, Reading, carve_borders, load_pair, open_images


def opened(config, *, labelled=True, limit_bytes=1 << 20):
    cache = PixelCache(limit_bytes)
    return [f for s in config.data.train for f in open_images(s, config, cache, labelled=labelled)]


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


GREY = np.full((20, 30, 3), 90, np.uint8)
PLAIN = {"encoding": "classes", "n_classes": 3, "mpp": 0.5, "image_mpp": 0.5, "border": 0, "labelled": True}


def labels_of(folder: Path, stored: np.ndarray, ignore: np.ndarray | None = None, value: int = 1, **how) -> np.ndarray:
    image = save(folder / "i.png", np.zeros((*stored.shape, 3), np.uint8))
    hidden = None if ignore is None else save(folder / "h.png", ignore)
    return load_pair(Entry(image, save(folder / "l.png", stored), hidden, "c", value), Reading(**{**PLAIN, **how}))[1]


def test_folders_are_paired_by_stem(image_folder, config_of):
    folder = image_folder([(40, 50), (33, 20)])
    (folder / "images" / "notes.txt").write_text("not an image")
    fields = opened(config_of({"images": folder / "images", "labels": folder / "labels"}))
    assert [(f.name, f.case, f.size) for f in fields] == [("p0_0", "p0_0", (40, 50)), ("p0_1", "p0_1", (33, 20))]
    pixels, labels = fields[1].read(Box(-2, 5, 3, 9))
    assert (pixels[:2] == 255).all()
    assert (labels[:2] == 255).all()
    assert pixels[2:, :, 0].tolist() == [[1] * 4] * 3
    assert pixels[2, :, 2].tolist() == [5, 6, 7, 8]
    assert labels[2].tolist() == [1, 1, 1, 2]


def test_cases_by_pattern(image_folder, config_of):
    folder = image_folder([(20, 20)] * 4)
    source = {"images": folder / "images", "labels": folder / "labels"}
    assert [f.case for f in opened(config_of({**source, "case_pattern": r"^p(\d)_"}))] == ["0", "0", "1", "1"]
    with pytest.raises(ConfigError, match="finds no case in p0_0"):
        opened(config_of({**source, "case_pattern": "^q(.)"}))
    with pytest.raises(ConfigError, match="case_pattern"):
        opened(config_of({**source, "case_pattern": "p"}))


def test_a_table_names_files_cases_and_classes(image_folder, config_of):
    folder = image_folder([(20, 20)] * 3)
    rows = ["image,label,case,split,kind"]
    rows += [f"images/p{n // 2}_{n}.png,labels/p{n // 2}_{n}.png,K{n},{'ab'[n % 2]},{'tumour'}" for n in range(3)]
    (folder / "t.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    config = config_of(
        {"table": folder / "t.csv", "where": {"split": "a"}, "encoding": "binary", "value_column": "kind"}
    )
    assert [(f.name, f.case) for f in opened(config)] == [("p0_0", "K0"), ("p1_2", "K2")]
    save(folder / "labels" / "p0_0.png", np.eye(20, dtype=np.uint8) * 200)
    assert np.array_equal(opened(config)[0].read_labels(Box(0, 0, 20, 20)), np.eye(20) * 2)
    with pytest.raises(ConfigError, match=r"no column 'fold'.*image, label, case, split, kind"):
        opened(config_of({"table": folder / "t.csv", "where": {"fold": "1"}}))
    with pytest.raises(ConfigError, match="names no image where"):
        opened(config_of({"table": folder / "t.csv", "where": {"split": "c"}}))
    with pytest.raises(ConfigError, match="says 'K0' in column 'case'"):
        opened(config_of({"table": folder / "t.csv", "encoding": "binary", "value_column": "case"}))


def test_a_table_beside_folders_tells_attributes(image_folder, config_of):
    folder = image_folder([(20, 20)] * 3)
    (folder / "t.csv").write_text("id,group,case\np0_0,pink,A\np0_1.png,blue,A\np1_2,pink,B\n")
    source = {"images": folder / "images", "labels": folder / "labels", "table": folder / "t.csv"}
    found = opened(config_of({**source, "where": {"group": "pink"}}))
    assert [(f.name, f.case) for f in found] == [("p0_0", "A"), ("p1_2", "B")]
    assert len(opened(config_of(source))) == 3
    (folder / "t.csv").write_text("id,group\nother,pink\n")
    with pytest.raises(ConfigError, match="names 'other'"):
        opened(config_of(source))


def test_what_is_missing_is_told(image_folder, config_of, tmp_path):
    folder = image_folder([(20, 20)])
    with pytest.raises(ConfigError, match=r"p0_0\.png has no label image"):
        opened(config_of({"images": folder / "images"}))
    assert len(opened(config_of({"images": folder / "images"}), labelled=False)) == 1
    with pytest.raises(ConfigError, match="is not a folder"):
        opened(config_of({"images": tmp_path / "no"}))
    (folder / "labels" / "p0_0.png").rename(folder / "labels" / "q.png")
    with pytest.raises(ConfigError, match=r"no label image in .*\(1 of 1 have none\)"):
        opened(config_of({"images": folder / "images", "labels": folder / "labels"}))
    save(folder / "images" / "p0_0.bmp", GREY)
    with pytest.raises(ConfigError, match="one stem"):
        opened(config_of({"images": folder / "images"}), labelled=False)
    with pytest.raises(ConfigError, match=r"`value: 3` of .*1 … 2 \(background, stroma, tumour\)"):
        opened(config_of({"images": folder / "labels", "labels": folder / "labels", "encoding": "binary", "value": 3}))


def test_encodings(tmp_path):
    stored = np.array([[0, 1, 2, 255]], np.uint8)
    assert labels_of(tmp_path, stored).tolist() == [[0, 1, 2, 255]]
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    assert labels_of(tmp_path, grey, encoding="binary", value=2).tolist() == [[0, 0, 2, 2]]
    with pytest.raises(AnnotationError, match=r"largest value in .*l\.png is 2.*128 and above.*encoding: classes"):
        labels_of(tmp_path, np.array([[0, 2]], np.uint8), encoding="binary")
    assert labels_of(tmp_path, np.zeros((1, 2), np.uint8), encoding="binary").tolist() == [[0, 0]]
    numbers = np.array([[0, 7, 300, 65535]], np.uint16)
    assert labels_of(tmp_path, numbers, encoding="instances").tolist() == [[0, 1, 1, 1]]
    assert labels_of(tmp_path, stored > 0, encoding="binary").tolist() == [[0, 1, 1, 1]]
    hidden = np.array([[0, 0, 9, 0]], np.uint8)
    assert labels_of(tmp_path, stored, hidden).tolist() == [[0, 1, 255, 255]]


@pytest.mark.parametrize("value", [3, 254])
def test_a_value_beyond_the_classes_is_told_with_its_file(tmp_path, value):
    with pytest.raises(AnnotationError, match=rf"l\.png holds the value {value}.*0 … 2"):
        labels_of(tmp_path, np.array([[0, value]], np.uint8))


def test_files_that_do_not_fit_are_told(tmp_path):
    image = save(tmp_path / "i.png", GREY)
    reading = Reading(**PLAIN)
    with pytest.raises(AnnotationError, match=r"l\.png is 4 x 5 px, .*i\.png is 20 x 30"):
        load_pair(Entry(image, save(tmp_path / "l.png", np.zeros((4, 5), np.uint8)), None, "c", 1), reading)
    rainbow = np.arange(1800, dtype=np.uint8).reshape(20, 30, 3)
    with pytest.raises(AnnotationError, match="colour picture"):
        load_pair(Entry(image, save(tmp_path / "l.png", rainbow), None, "c", 1), reading)
    (tmp_path / "b.png").write_bytes(image.read_bytes()[:60])
    with pytest.raises(AnnotationError, match=r"b\.png cannot be read"):
        load_pair(Entry(tmp_path / "b.png", None, None, "c", 1), reading)
    with pytest.raises(ConfigError, match=r"images of 1.5 um/px for a model of 0.5"):
        load_pair(Entry(image, None, None, "c", 1), Reading(**{**PLAIN, "image_mpp": 1.5}))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_images(tmp_path, planar):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 32, 3), dtype=np.uint8)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "i.tif", stored, photometric="rgb", planarconfig=planar)
    assert np.array_equal(load_pair(Entry(tmp_path / "i.tif", None, None, "c", 1), Reading(**PLAIN))[0], pixels)


@pytest.mark.parametrize(("photometric", "shape"), [("miniswhite", (6, 5)), ("separated", (6, 5, 4))])
def test_tiff_images_of_other_colours_are_refused(tmp_path, photometric, shape):
    tifffile.imwrite(tmp_path / "i.tif", np.zeros(shape, np.uint8), photometric=photometric)
    with pytest.raises(AnnotationError, match=f"holds {photometric.upper()} colours"):
        load_pair(Entry(tmp_path / "i.tif", None, None, "c", 1), Reading(**PLAIN))


def test_masks_of_which_none_has_the_stem_of_an_image_are_told(image_folder, config_of):
    folder = image_folder([(20, 20)])
    save(folder / "hidden" / "p0_0_mask.png", np.ones((20, 20), np.uint8))
    source = {"images": folder / "images", "labels": folder / "labels", "ignore": folder / "hidden"}
    with pytest.raises(ConfigError, match=r"no mask in .*hidden has the stem of an image"):
        opened(config_of(source))


def test_an_image_named_twice_in_a_table_is_told(image_folder, config_of):
    folder = image_folder([(20, 20)])
    (folder / "t.csv").write_text("name,tissue\np0_0.png,liver\np0_0,lung\n")
    source = {"images": folder / "images", "labels": folder / "labels", "table": folder / "t.csv"}
    with pytest.raises(ConfigError, match="names p0_0 twice"):
        opened(config_of(source))
    assert len(opened(config_of({**source, "where": {"tissue": "lung"}}))) == 1


def test_labels_in_jpeg_are_refused_unless_bright_and_dark_is_all_they_tell(tmp_path):
    image = save(tmp_path / "i.png", np.zeros((16, 16, 3), np.uint8))
    mask = save(tmp_path / "l.jpg", np.kron(np.array([[0, 255]], np.uint8), np.ones((16, 8), np.uint8)))
    reading = Reading(**{**PLAIN, "encoding": "binary"})
    assert load_pair(Entry(image, mask, None, "c", 2), reading)[1][0, ::8].tolist() == [
        0,
        2,
    ]
    for how in ("classes", "instances"):
        with pytest.raises(AnnotationError, match=r"l\.jpg is a JPEG"):
            load_pair(Entry(image, mask, None, "c", 1), Reading(**{**PLAIN, "encoding": how}))


def test_a_binary_mask_with_a_palette_tells_by_its_colours(tmp_path):
    image = save(tmp_path / "i.png", np.zeros((2, 2, 3), np.uint8))
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "l.png")
    entry = Entry(image, tmp_path / "l.png", None, "c", 2)
    assert load_pair(entry, Reading(**{**PLAIN, "encoding": "binary"}))[1].tolist() == [[0, 2], [2, 0]]
    assert load_pair(entry, Reading(**PLAIN))[1].tolist() == [[0, 1], [1, 0]]


def test_a_finer_image_is_reduced_by_area_and_its_labels_by_their_centre(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 32, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 3, (21, 32), dtype=np.uint8)
    entry = Entry(save(tmp_path / "i.png", pixels), save(tmp_path / "l.png", labels), None, "c", 1)
    shrunk, marked = load_pair(entry, Reading(**{**PLAIN, "image_mpp": 0.25}))
    assert shrunk.shape == (10, 16, 3)
    means = pixels[:20].reshape(10, 2, 16, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(shrunk - means).max() <= 0.5
    assert np.array_equal(marked, labels[1::2, 1::2])
    third, marked = load_pair(entry, Reading(**{**PLAIN, "image_mpp": 0.35}))
    assert third.shape == (14, 22, 3)
    assert marked[3, 4] == labels[int(3.5 * 0.5 / 0.35), int(4.5 * 0.5 / 0.35)]


@pytest.mark.parametrize("mpp", [0.25, 0.35, 0.8, 1.0])
def test_an_image_looks_in_training_as_the_engine_shows_it(tmp_path, mpp):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 32, 3), dtype=np.uint8)
    entry = Entry(save(tmp_path / "i.png", pixels), None, None, "c", 1)
    read = load_pair(entry, Reading(**{**PLAIN, "image_mpp": mpp, "labelled": False}))[0]
    slide = ArraySlide(pixels, mpp=mpp)
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, 0.5)
    shown = read_canvas(slide, scale, Box(0, 0, *read.shape[:2]), (255, 255, 255))
    assert np.array_equal(read, shown)


def test_labels_of_a_coarser_image_are_repeated(tmp_path):
    labels = np.arange(240, dtype=np.uint8).reshape(12, 20) % 3
    image = save(tmp_path / "i.png", np.zeros((12, 20, 3), np.uint8))
    entry = Entry(image, save(tmp_path / "l.png", labels), None, "c", 1)
    marked = load_pair(entry, Reading(**{**PLAIN, "image_mpp": 1.0}))[1]
    assert np.array_equal(marked, np.kron(labels, np.ones((2, 2), np.uint8)))


def test_a_resolution_within_the_tolerance_is_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    entry = Entry(save(tmp_path / "i.png", pixels), None, None, "c", 1)
    assert np.array_equal(load_pair(entry, Reading(**{**PLAIN, "image_mpp": 0.49}))[0], pixels)


@settings(max_examples=50)
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)), st.integers(0, 3)
)
def test_carving_parts_objects_and_nothing_else(objects, border):
    kept = carve_borders(objects, border)
    places = np.argwhere(objects > 0)
    for y, x in np.ndindex(objects.shape):
        others = [p for p in places if objects[tuple(p)] != objects[y, x]]
        near = any((p[0] - y) ** 2 + (p[1] - x) ** 2 <= border * (border + 1) for p in others)
        assert kept[y, x] == (objects[y, x] > 0 and not near)


def test_carved_objects_are_separate_components():
    from scipy import ndimage

    objects = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((7, 6), int))
    assert ndimage.label(objects > 0, np.ones((3, 3)))[1] == 1
    assert ndimage.label(carve_borders(objects, 1), np.ones((3, 3)))[1] == 12


def test_instances_are_carved_at_the_resolution_of_the_model(tmp_path):
    objects = np.kron(np.array([[1, 2]], np.uint16), np.ones((8, 8), np.uint16))
    image = save(tmp_path / "i.png", np.zeros((8, 16, 3), np.uint8))
    entry = Entry(image, save(tmp_path / "l.png", objects), None, "c", 1)
    reading = Reading(**{**PLAIN, "encoding": "instances", "border": 1, "image_mpp": 0.25})
    assert load_pair(entry, reading)[1][0].tolist() == [1, 1, 1, 0, 0, 1, 1, 1]


def test_an_image_in_two_sources_has_the_labels_of_each(image_folder, config_of):
    folder = image_folder([(20, 20)])
    save(folder / "others" / "p0_0.png", np.full((20, 20), 2, np.uint8))
    plain, other, coarse = (
        {"images": folder / "images", "labels": folder / "labels"},
        {"images": folder / "images", "labels": folder / "others"},
        {"images": folder / "images", "labels": folder / "labels", "mpp": 0.25},
    )
    fields = opened(config_of(plain, other, coarse))
    assert [f.size for f in fields] == [(20, 20), (20, 20), (10, 10)]
    assert [np.unique(f.read_labels(Box(0, 0, 10, 10))).tolist() for f in fields[:2]] == [[0, 1, 2], [2]]


def test_the_cache_keeps_what_fits_and_changes_nothing(image_folder, config_of, monkeypatch):
    folder = image_folder([(20, 20)] * 3)
    config = config_of({"images": folder / "images", "labels": folder / "labels"})
    loads = []
    original = load_pair
    monkeypatch.setattr(
        "wsi_seg.train.source.image_source.load_pair", lambda e, r: loads.append(e.image.stem) or original(e, r)
    )
    fields = opened(config, limit_bytes=2 * 20 * 20 * 4)
    for _ in range(3):
        for number, field in enumerate(fields):
            assert (field.read(Box(0, 0, 20, 20))[0][..., 0] == number).all()
    assert sorted(loads) == ["p0_0", "p0_1", *["p1_2"] * 3]
