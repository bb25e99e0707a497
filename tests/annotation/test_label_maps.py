"""Label maps over a slide: nearest at pixel centres, in every format, our own results with classes and place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.output.making import blobs, finished, make_spec
from wsi_seg.annotation import IGNORE, open_annotation
from wsi_seg.annotation.raster import LabelMap, RasterAnnotation
from wsi_seg.errors import AnnotationError
from wsi_seg.geometry import Box

CLASSES = ["background", "stroma", "tumour"]
RESULT_NAMES = {"tumour <1 & 2>": "tumour"}


def naive(stored, box, downsample, origin, ratio, offset):
    labels = np.full(box.size, IGNORE, np.uint8)
    for i in range(box.height):
        for j in range(box.width):
            y = (origin[0] + (box.y0 + i + 0.5) * downsample[0] - offset[0]) / ratio[0]
            x = (origin[1] + (box.x0 + j + 0.5) * downsample[1] - offset[1]) / ratio[1]
            if 0 <= y < stored.shape[0] and 0 <= x < stored.shape[1]:
                labels[i, j] = stored[int(y), int(x)]
    return labels


pairs = st.tuples(st.floats(0.3, 7), st.floats(0.3, 7))
places = st.tuples(st.floats(-30, 30), st.floats(-30, 30))
boxes = st.builds(Box.at, st.integers(-9, 30), st.integers(-9, 30), st.integers(0, 15), st.integers(0, 15))


@settings(max_examples=60)
@given(boxes, pairs, places, pairs, places, st.integers(1, 40))
def test_a_pixel_has_the_label_that_is_stored_at_its_centre(box, downsample, origin, ratio, offset, strip):
    stored = blobs((31, 47), 3, IGNORE)
    meanings = {0: 0, 1: 1, 2: 2, 255: 255}
    annotation = RasterAnnotation(LabelMap(stored, "a", meanings, ratio, offset), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_seg.annotation.raster._MAX_READ_PX", strip * 9)
        found = annotation.read_labels(box, downsample, origin)
    assert found.tolist() == naive(stored, box, downsample, origin, ratio, offset).tolist()


STORED = blobs((70, 110), 3, IGNORE)


def as_png(folder: Path) -> Path:
    Image.fromarray(STORED).save(folder / "a.png")
    return folder / "a.png"


def as_palette_png(folder: Path) -> Path:
    picture = Image.fromarray(STORED)
    picture.putpalette([(37 * n) % 256 for n in range(768)])
    picture.save(folder / "p.png")
    return folder / "p.png"


def as_tiff(folder: Path, **options: object) -> Path:
    tifffile.imwrite(folder / "a.tif", STORED, **options)
    return folder / "a.tif"


def as_tiles(folder: Path) -> Path:
    return as_tiff(folder, tile=(16, 32), compression="zlib")


def as_zarr(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=STORED.astype(np.uint16), chunks=(32, 32))
    return folder / "a.zarr"


def as_ome_zarr(folder: Path) -> Path:
    """Values 10, 11, 12 are named in the metadata."""
    group = zarr.open_group(folder / "o.zarr", mode="w")
    labels = group.create_group("labels/cells")
    labels.create_array("0", data=np.where(STORED == IGNORE, IGNORE, STORED + 10).astype(np.uint8), chunks=(64, 64))
    properties = [{"label-value": 10 + n, "name": name} for n, name in enumerate(CLASSES)]
    labels.attrs["ome"] = {
        "multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}],
        "image-label": {"properties": properties},
    }
    return folder / "o.zarr"


FORMATS = [as_png, as_palette_png, as_tiff, as_tiles, as_zarr, as_ome_zarr]


@pytest.mark.parametrize("write", FORMATS)
def test_a_label_map_covers_the_slide_at_its_own_scale(tmp_path, write):
    annotation = open_annotation(write(tmp_path), CLASSES, {}, 0, (280, 440))
    found = annotation.read_labels(Box(0, 0, 140, 220), (2.0, 2.0))
    assert np.array_equal(found, np.kron(STORED, np.ones((2, 2), np.uint8)))
    assert (annotation.read_labels(Box(139, 219, 141, 221), (2.0, 2.0))[1] == IGNORE).all()


@pytest.mark.parametrize("l0_size", [(279, 440), (277, 437)])
def test_sides_rounded_to_whole_pixels_are_a_whole_ratio(tmp_path, l0_size):
    annotation = open_annotation(as_png(tmp_path), CLASSES, {}, 0, l0_size)
    assert np.array_equal(annotation.read_labels(Box(0, 0, 70, 110), (4.0, 4.0)), STORED)


def test_a_label_map_of_another_shape_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match="70 x 110 px, the slide 440 x 280"):
        open_annotation(as_png(tmp_path), CLASSES, {}, 0, (440, 280))
    with pytest.raises(AnnotationError, match="does not say where it lies"):
        open_annotation(as_png(tmp_path), CLASSES, {})


@pytest.mark.parametrize("write", [as_png, as_tiles, as_zarr])
def test_a_value_beyond_the_classes_is_told_with_its_file(tmp_path, write):
    annotation = open_annotation(write(tmp_path), CLASSES[:2], {}, 0, (70, 110))
    with pytest.raises(AnnotationError, match=r"[ap]\.(png|tif|zarr) holds the value 2"):
        annotation.read_labels(Box(0, 0, 70, 110), (1.0, 1.0))


def test_a_mask_of_one_bit_holds_classes_0_and_1(tmp_path):
    Image.fromarray(STORED == 2).save(tmp_path / "m.png")
    annotation = open_annotation(tmp_path / "m.png", CLASSES, {}, 0, (70, 110))
    assert np.array_equal(annotation.read_labels(Box(0, 0, 70, 110), (1.0, 1.0)), STORED == 2)


@pytest.mark.parametrize("not_analysed", [255, 65535])
@pytest.mark.parametrize("kind", ["result", "ome", "flat"])
def test_a_result_brings_its_classes_and_its_place(tmp_path, kind, not_analysed):
    from wsi_seg.output.tiff_writer import write_ome_tiff

    classes = ["stroma", "background", "tumour <1 & 2>"]
    spec = make_spec((300, 620), not_analysed=not_analysed)
    spec = make_spec((300, 620), not_analysed=not_analysed, classes=tuple(spec.classes[n] for n in (1, 0, 2)))
    assert [entry.name for entry in spec.classes] == classes
    result, made = finished(tmp_path / "a.seg.zarr", spec)
    path = result.path
    if kind != "result":
        path = tmp_path / "a.tif"
        write_ome_tiff(result, path, flat=kind == "flat")
    annotation = open_annotation(path, CLASSES, RESULT_NAMES)
    found = annotation.read_labels(Box(0, 0, 300, 620), (2.0, 2.0), spec.l0_offset)
    expected = np.select([made.levels[0] == n for n in range(3)], [1, 0, 2], IGNORE)
    assert np.array_equal(found, expected)
    with pytest.raises(AnnotationError, match="tumour <1 & 2>"):
        open_annotation(path, CLASSES, {})


def test_damaged_files_are_told(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png(tmp_path).read_bytes()[:100])
    (tmp_path / "a.tif").write_bytes(b"II*\0rubbish")
    (tmp_path / "a.zarr").mkdir()
    for name in ("a.png", "a.tif", "a.zarr"):
        with pytest.raises(AnnotationError, match=name):
            open_annotation(tmp_path / name, CLASSES, {}, 0, (70, 110))


def test_a_damaged_part_is_told_when_it_is_read(tmp_path):
    path = as_zarr(tmp_path)
    chunk = next(file for file in sorted(path.rglob("*")) if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(b"rubbish")
    annotation = open_annotation(path, CLASSES, {}, 0, (70, 110))
    with pytest.raises(AnnotationError, match=r"a\.zarr cannot be read at y 0, x 0"):
        annotation.read_labels(Box(0, 0, 70, 110), (1.0, 1.0))
