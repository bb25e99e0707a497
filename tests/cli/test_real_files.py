"""Every real file we have, through `info`, `plan` and `run`: a result, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_seg.output.label_store import open_result

REFUSED = {
    "corrupt/broken.svs",
    "dicom-highdicom/seg_image_sm_control_labelmap.dcm",
    "dicom-highdicom/seg_image_sm_dots.dcm",
    "dicom-highdicom/seg_image_sm_dots_tiled_full.dcm",
    "dicom-highdicom/sm_image_grayscale.dcm",
    "dicom-highdicom/sm_image_jpegls.dcm",
    "dicom-highdicom/sm_image_jpegls_nobot.dcm",
    "openslide-python-fixtures/boxes.png",
    "openslide-python-fixtures/unopenable.tiff",
}
UNREADABLE = {"openslide-python-fixtures/unreadable.svs"}
NO_MPP = {
    "openslide-python-fixtures/boxes.tiff",
    "panimg-tiff/full_no_bot.dcm",
    "panimg-tiff/full_with_bot.dcm",
    "panimg-tiff/invalid_resolutions_tiff.tif",
    "panimg-tiff/sparse_no_bot.dcm",
    "panimg-tiff/sparse_with_bot.dcm",
    "panimg-tiff/valid_tiff.tif",
    "tcga-cr-7395/tcga-cr-7395-01a-01-ts1.svs",
}
TOO_COARSE = {
    "dicom-wsi-camelyon-google/multi_frame_jpeg2000_camelyon_challenge_image.dcm",
    "dicom-wsi-camelyon-google/multi_frame_jpeg_camelyon_challenge_image.dcm",
    "dicom-wsi-camelyon-google/multiframe_camelyon_challenge_image.dcm",
}
FINE = {
    "cmu-1-small-region/cmu-1-small-region.svs",
    "dicom-highdicom/sm_image.dcm",
    "hamamatsu-ndpi-fluo/test3-DAPI-2-(387).ndpi",
    "hamamatsu-ndpi-fluo/test3-TRITC 2 (560).ndpi",
    "he-example-instanseg/HE_example.tif",
    "openslide-python-fixtures/boxes_0.dcm",
    "openslide-python-fixtures/boxes_1.dcm",
    "openslide-python-fixtures/small.svs",
    "panimg-tiff/no_dzi.tif",
    "panimg-tiff/test_min_max.tif",
}


@pytest.fixture
def slides(shared: Path) -> Path:
    return shared / "slides"


def one_error(left: Any, *words: str) -> None:
    assert left.code == 1
    assert left.out == ""
    lines = left.err.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[0].startswith("error: ")
    assert any(line.startswith("  try:  ") for line in lines)
    assert all(word in left.err for word in words)


def makes_a_result(wsi_seg: Any, slide: Path, out: Path, *options: object) -> None:
    """A quick model is enough: reading is what is tried here."""
    left = wsi_seg("run", slide, "--out", out, "--model", "constant:1/2", "--json", *options)
    assert left.code == 0, left.err
    report, labels = json.loads(left.out), np.asarray(open_result(out).labels(0)[:])
    assert set(np.unique(labels)) <= {1, 255}
    assert report["classes"][1]["n_pixels"] == (labels == 1).sum()


def test_every_file_is_in_one_table(slides: Path) -> None:
    found = {str(file.relative_to(slides)) for file in slides.rglob("*") if file.is_file()}
    tables = [REFUSED, UNREADABLE, NO_MPP, TOO_COARSE, FINE]
    assert {name for name in found if Path(name).suffix not in (".txt", ".md")} == set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(wsi_seg: Any, slides: Path, tmp_path: Path, name: str) -> None:
    for command in (("info",), ("plan",), ("run", "--out", tmp_path / "x.seg.zarr")):
        one_error(wsi_seg(*command, slides / name), str(slides / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_opens_but_nothing_can_be_read(wsi_seg: Any, slides: Path, tmp_path: Path, name: str) -> None:
    assert wsi_seg("info", slides / name).code == 0
    one_error(wsi_seg("run", slides / name, "--out", tmp_path / "x.seg.zarr"), str(slides / name), "cannot be read")


@pytest.mark.parametrize("name", sorted(NO_MPP))
def test_resolution_is_asked_for_never_guessed(wsi_seg: Any, slides: Path, tmp_path: Path, name: str) -> None:
    assert "--mpp" in wsi_seg("info", slides / name).out
    one_error(wsi_seg("plan", slides / name), "--mpp")
    one_error(wsi_seg("run", slides / name, "--out", tmp_path / "x.seg.zarr"), "--mpp")
    makes_a_result(wsi_seg, slides / name, tmp_path / "x.seg.zarr", "--mpp", "0.5")


@pytest.mark.parametrize("name", sorted(TOO_COARSE))
def test_too_coarse_for_the_model(wsi_seg: Any, slides: Path, tmp_path: Path, name: str) -> None:
    one_error(wsi_seg("run", slides / name, "--out", tmp_path / "x.seg.zarr"), "28.968", "--mpp")
    makes_a_result(wsi_seg, slides / name, tmp_path / "x.seg.zarr", "--model-mpp", "28.97")


@pytest.mark.parametrize("name", sorted(FINE))
def test_fine(wsi_seg: Any, slides: Path, tmp_path: Path, name: str) -> None:
    assert wsi_seg("info", slides / name).code == 0
    assert wsi_seg("plan", slides / name).code == 0
    makes_a_result(wsi_seg, slides / name, tmp_path / "x.seg.zarr")
