"""Independent readers of files see every label where the slide has its mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ngff_zarr
import numpy as np
import openslide
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image_label import ImageLabel

from tests.readers.conftest import Made
from tests.readers.fiducials import CASES, Case
from tests.readers.places import corner_in_json, place_in_xml
from tests.readers.seen import Level, assert_aligned, centre_to_corner

Make = Callable[[Case], Made]

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def transformed(datasets: list[Any], arrays: Callable[[str], Any], case: Case) -> list[Level]:
    """Levels by the transformations of OME-Zarr."""
    levels = []
    for dataset in datasets:
        (scale, shift) = (
            dataset["coordinateTransformations"][0]["scale"],
            dataset["coordinateTransformations"][1]["translation"],
        )
        mpp = (scale[0], scale[1])
        levels.append(Level(np.asarray(arrays(dataset["path"])), mpp, centre_to_corner(tuple(shift), mpp, case)))
    return levels


def test_zarr_by_the_transformations(made: Make, case: Case) -> None:
    group = zarr.open_group(made(case).zarr / "labels/segmentation", mode="r")
    (image,) = group.attrs["ome"]["multiscales"]
    assert [(axis["name"], axis["unit"]) for axis in image["axes"]] == [("y", "micrometer"), ("x", "micrometer")]
    levels = transformed(image["datasets"], lambda path: group[path][:], case)
    assert len(levels) == len(case.levels)
    assert_aligned(levels, case)


def test_ome_zarr_models(made: Make, case: Case) -> None:
    group = zarr.open_group(made(case).zarr / "labels/segmentation", mode="r")
    (image,) = ImageLabel.from_zarr(group).ome_attributes.multiscales
    datasets = [dataset.model_dump() for dataset in image.datasets]
    levels = transformed(datasets, lambda path: group[path][:], case)
    assert len(levels) == len(case.levels)
    assert_aligned(levels, case)


def test_ngff_zarr(made: Make, case: Case) -> None:
    images = ngff_zarr.from_ngff_zarr(str(made(case).zarr / "labels/segmentation"), validate=True).images
    levels = []
    for image in images:
        mpp, shift = ((v["y"], v["x"]) for v in (image.scale, image.translation))
        levels.append(Level(np.asarray(image.data), mpp, centre_to_corner(shift, mpp, case)))
    assert len(levels) == len(case.levels)
    assert_aligned(levels, case)


def tag_mpp(page: Any) -> tuple[float, float]:
    """µm per px, (y, x), of the resolution tags."""
    assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
    y, x = (page.tags[f"{axis}Resolution"].value for axis in "YX")
    return 1e4 * y[1] / y[0], 1e4 * x[1] / x[0]


@pytest.mark.parametrize("flat", [False, True], ids=["ome", "flat"])
def test_tifffile(made: Make, case: Case, flat: bool) -> None:
    with tifffile.TiffFile(made(case).flat if flat else made(case).ome) as file:
        if flat:
            corner = corner_in_json(file.pages.first.description)
        else:
            mpp, corner = place_in_xml(file.ome_metadata or "")
            assert mpp == pytest.approx(case.mpp, rel=1e-6)
        (series,) = file.series
        levels = [Level(level.asarray(), tag_mpp(level.keyframe), corner) for level in series.levels]
    assert len(levels) == len(case.levels)
    assert_aligned(levels, case)


@pytest.mark.parametrize("flat", [False, True], ids=["ome", "flat"])
def test_openslide(made: Make, case: Case, flat: bool) -> None:
    with openslide.OpenSlide(made(case).flat if flat else made(case).ome) as file:
        description = file.properties["tiff.ImageDescription"]
        corner = corner_in_json(description) if flat else place_in_xml(description)[1]
        assert file.level_count == (len(case.levels) if flat else 1)  # it follows no SubIFDs
        mpp = [float(file.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]
        levels = []
        for n, size in enumerate(file.level_dimensions):
            rgba = np.asarray(file.read_region((0, 0), n, size))
            assert (rgba[..., :3] == rgba[..., :1]).all()
            assert (rgba[..., 3] == 255).all()
            # its own downsample is the mean of the two ratios of sizes, which are rounded up
            assert file.level_downsamples[n] == pytest.approx(2**n, rel=2**n / min(size))
            levels.append(Level(rgba[..., 0], (mpp[0] * 2**n, mpp[1] * 2**n), corner))
    assert_aligned(levels, case)


@pytest.mark.parametrize("flat", [False, True], ids=["ome", "flat"])
def test_libvips(made: Make, case: Case, flat: bool) -> None:
    pyvips = pytest.importorskip("pyvips", reason="pyvips is installed on Linux only")
    path = str(made(case).flat if flat else made(case).ome)
    levels = []
    for n in range(len(case.levels)):
        which = {"page": n} if flat else {"subifd": n - 1}
        image = pyvips.Image.tiffload(path, **which)
        assert (image.bands, image.format, image.interpretation) == (1, "uchar", "b-w")
        if n == 0:
            text = image.get("image-description")
            corner = corner_in_json(text) if flat else place_in_xml(text)[1]
        levels.append(Level(image.numpy(), (1e3 / image.yres, 1e3 / image.xres), corner))
    assert_aligned(levels, case)


def test_libvips_through_openslide(made: Make, case: Case) -> None:
    pyvips = pytest.importorskip("pyvips", reason="pyvips is installed on Linux only")
    if not pyvips.type_find("VipsForeignLoad", "openslideload"):
        pytest.skip("this libvips has no OpenSlide (the one of pyvips-binary has not)")
    levels = []
    for n in range(len(case.levels)):
        image = pyvips.Image.openslideload(str(made(case).flat), level=n)
        corner = corner_in_json(image.get("tiff.ImageDescription"))
        mpp = [float(image.get(f"openslide.mpp-{axis}")) * 2**n for axis in "yx"]
        levels.append(Level(image.numpy()[..., 0], (mpp[0], mpp[1]), corner))
    assert_aligned(levels, case)
