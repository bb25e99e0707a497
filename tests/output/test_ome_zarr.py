"""Strangers' validators and readers accept the metadata, and everything lines up in µm."""

from __future__ import annotations

import ngff_zarr
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel

from tests.output.making import finished, make_spec
from wsi_seg.card import named_classes
from wsi_seg.geometry import Mpp
from wsi_seg.output.documents import translation

SPECS = {
    "labels": make_spec(),
    "probabilities": make_spec(probabilities=True),
    "one probability": make_spec(
        (300, 900), classes=named_classes(["rest", "tumour"]), probabilities=True, n_channels=1
    ),
    "two bytes": make_spec((300, 900), not_analysed=65535),
    "one pixel": make_spec((1, 1)),
}


@pytest.fixture(scope="module", params=SPECS)
def result(request, made_path):
    return finished(made_path / f"{request.param}.zarr", SPECS[request.param])[0]


def groups(result):
    return ["", "labels/segmentation", *(["probabilities"] if result.spec.probabilities else [])]


def test_ome_zarr_models_accepts_it(result):
    for key in groups(result):
        kind = ImageLabel if "labels" in key else Image
        image = kind.from_zarr(zarr.open_group(result.path / key, mode="r"))
        assert len(image.ome_attributes.multiscales[0].datasets) == result.n_levels
    labels = Image.from_zarr(zarr.open_group(result.path, mode="r")).labels
    assert labels.label_paths == ["segmentation"]


def test_ngff_zarr_accepts_it_and_reads_the_pixels(result):
    for key in groups(result):
        images = ngff_zarr.from_ngff_zarr(str(result.path / key), validate=True).images
        assert len(images) == result.n_levels
        if key.startswith("labels"):
            np.testing.assert_array_equal(np.asarray(images[0].data), result.labels(0)[...])
            assert images[0].axes_units == {"y": "micrometer", "x": "micrometer"}


def test_the_root_lists_everything(result):
    root = zarr.open_group(result.path, mode="r", use_consolidated=True)
    listed = {key for key, _ in root.members(max_depth=None)}
    stored = {str(p.parent.relative_to(result.path)) for p in result.path.rglob("zarr.json")} - {"."}
    assert listed == stored
    np.testing.assert_array_equal(root["labels/segmentation/0"][...], result.labels(0)[...])


def test_not_analysed_is_named_and_transparent_and_never_a_class(result):
    label = zarr.open_group(result.path / "labels/segmentation", mode="r").attrs["ome"]["image-label"]
    colours = {entry["label-value"]: entry["rgba"] for entry in label["colors"]}
    names = {entry["label-value"]: entry["name"] for entry in label["properties"]}
    assert colours.keys() == names.keys() == {*range(len(result.spec.classes)), result.spec.not_analysed}
    assert colours[result.spec.not_analysed][3] == 0
    assert names[result.spec.not_analysed] == "not analysed"
    assert result.labels(0).fill_value == result.spec.not_analysed
    for value, entry in enumerate(result.spec.classes):
        assert (names[value], tuple(colours[value])) == (entry.name, (*entry.rgb, 255))


@given(
    mpp=st.floats(0.1, 8),
    l0=st.floats(0.1, 1),
    offset=st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)),
    level=st.integers(0, 2),
    pixel=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_a_label_pixel_lies_where_its_slide_pixels_lie(mpp, l0, offset, level, pixel):
    spec = make_spec(mpp=Mpp(mpp, mpp * 1.1), l0_mpp=Mpp(l0, l0 * 0.9), l0_offset=offset)
    shift, scale = translation(spec, level), spec.level_mpp(level)
    for axis, (step, fine) in enumerate([(scale.y, l0), (scale.x, l0 * 0.9)]):
        # the pixel's edges in slide level-0 px; the centre of level-0 pixel k lies at k * l0_mpp
        first = offset[axis] + pixel[axis] * step / fine
        last = offset[axis] + (pixel[axis] + 1) * step / fine
        centre_um = ((first + last) / 2 - 0.5) * fine
        assert shift[axis] + pixel[axis] * step == pytest.approx(centre_um)


def test_thumbnail_and_labels_cover_the_same_place(result):
    """The corner of the thumbnail is the slide's: half a level-0 pixel before the origin."""
    image = ngff_zarr.from_ngff_zarr(str(result.path)).images[0]
    for axis in ("y", "x"):
        corner = image.translation[axis] - image.scale[axis] / 2
        assert corner == pytest.approx(-getattr(result.spec.l0_mpp, axis) / 2)
