"""What happens with each real file we have: one row per file."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_seg.errors import RegionReadError, SlideOpenError
from wsi_seg.geometry import Box
from wsi_seg.slide import open_slide

# file: (vendor, reader, sizes of the levels, mpp (y, x) or None)
READ = {
    "cmu-1-small-region/cmu-1-small-region.svs": ("aperio", "tiff", [(2967, 2220)], (0.499, 0.499)),
    "tcga-cr-7395/tcga-cr-7395-01a-01-ts1.svs": ("aperio", "tiff", [(3567, 4443), (1783, 2221)], None),
    "he-example-instanseg/HE_example.tif": ("ome-tiff", "tiff", [(1484, 1380)], (0.5000799, 0.5000799)),
    "hamamatsu-ndpi-fluo/test3-DAPI-2-(387).ndpi": ("hamamatsu", "openslide", 7, (0.2281751, 0.2281751)),
    "hamamatsu-ndpi-fluo/test3-TRITC 2 (560).ndpi": ("hamamatsu", "openslide", 7, (0.2281751, 0.2281751)),
    "panimg-tiff/valid_tiff.tif": ("generic-tiff", "tiff", [(205, 205), (102, 102)], None),  # says 1 mm per px
    "panimg-tiff/invalid_resolutions_tiff.tif": ("generic-tiff", "tiff", [(1024, 1024)], None),  # no unit
    "panimg-tiff/no_dzi.tif": ("generic-tiff", "tiff", 4, (0.9723706, 0.9723706)),  # grey, sparse, BigTIFF
    "panimg-tiff/test_min_max.tif": ("generic-tiff", "tiff", 4, (0.9723706, 0.9723706)),
    "panimg-tiff/full_no_bot.dcm": ("dicom", "openslide", [(290, 154)], None),  # says 124 um per px
    "panimg-tiff/full_with_bot.dcm": ("dicom", "openslide", [(290, 154)], None),
    "panimg-tiff/sparse_no_bot.dcm": ("dicom", "openslide", [(290, 154)], None),
    "panimg-tiff/sparse_with_bot.dcm": ("dicom", "openslide", [(290, 154)], None),
    "openslide-python-fixtures/boxes.tiff": ("generic-tiff", "tiff", 4, None),  # 72 dpi
    "openslide-python-fixtures/boxes_0.dcm": ("dicom", "openslide", [(16, 16)], (0.499, 0.499)),
    "openslide-python-fixtures/boxes_1.dcm": ("dicom", "openslide", [(16, 16)], (0.499, 0.499)),
    "openslide-python-fixtures/small.svs": ("aperio", "tiff", [(16, 16)], (0.499, 0.499)),
    "dicom-highdicom/sm_image.dcm": ("dicom", "openslide", [(50, 50)], (0.499, 0.499)),
    "dicom-wsi-camelyon-google/multi_frame_jpeg2000_camelyon_challenge_image.dcm": (
        "dicom", "openslide", [(812, 1696)], (28.968, 28.969),
    ),
    "dicom-wsi-camelyon-google/multi_frame_jpeg_camelyon_challenge_image.dcm": (
        "dicom", "openslide", [(700, 1152)], (28.968, 28.969),
    ),
    "dicom-wsi-camelyon-google/multiframe_camelyon_challenge_image.dcm": (
        "dicom", "openslide", [(700, 1152)], (28.968, 28.969),
    ),
}  # fmt: skip

REFUSED = {
    "corrupt/broken.svs": "Unsupported or missing image file",
    "openslide-python-fixtures/boxes.png": "Unsupported or missing image file",
    "openslide-python-fixtures/unopenable.tiff": "compression 52479 is not supported",
    "dicom-highdicom/seg_image_sm_control_labelmap.dcm": "Unsupported or missing image file",  # labels, not a slide
    "dicom-highdicom/seg_image_sm_dots.dcm": "Unsupported or missing image file",
    "dicom-highdicom/seg_image_sm_dots_tiled_full.dcm": "Unsupported or missing image file",
    "dicom-highdicom/sm_image_grayscale.dcm": "BitsAllocated value 16",
    "dicom-highdicom/sm_image_jpegls.dcm": "Unsupported transfer syntax",
    "dicom-highdicom/sm_image_jpegls_nobot.dcm": "Unsupported transfer syntax",
}
OPENS_BUT_CANNOT_BE_READ = {"openslide-python-fixtures/unreadable.svs"}


@pytest.mark.parametrize("name", sorted(READ))
def test_a_sound_file_is_read_as_the_table_says(slides_folder: Path, name: str) -> None:
    vendor, reader, levels, mpp = READ[name]
    slide = open_slide(slides_folder / name)
    assert (slide.vendor, slide.reader) == (vendor, reader)
    sizes = [level.size for level in slide.levels]
    assert (len(sizes) if isinstance(levels, int) else sizes) == levels
    assert (slide.mpp and (slide.mpp.y, slide.mpp.x)) == (mpp and pytest.approx(mpp, rel=1e-6))
    for level, size in enumerate(sizes):
        box = Box.at(size[0] // 2, size[1] // 2, 99, 101)
        assert slide.read_region(box, level).shape == (99, 101, 3)
    assert max(slide.thumbnail(64).shape) == min(64, max(sizes[0]))
    assert len(slide.fingerprint()) == 64
    slide.close()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_unreadable_kind_is_refused_with_one_error(slides_folder: Path, name: str) -> None:
    with pytest.raises(SlideOpenError, match=REFUSED[name]) as raised:
        open_slide(slides_folder / name)
    assert Path(name).name in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize("name", sorted(OPENS_BUT_CANNOT_BE_READ))
@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_a_file_with_a_damaged_tile_opens_and_fails_where_it_is_read(
    slides_folder: Path, name: str, reader: str
) -> None:
    slide = open_slide(slides_folder / name, reader=reader)
    with pytest.raises(RegionReadError, match="level 0, y 0-16, x 0-16"):
        slide.read_region(Box(0, 0, 16, 16), 0)


def test_every_file_is_in_the_table(slides_folder: Path) -> None:
    found = {str(file.relative_to(slides_folder)) for file in slides_folder.rglob("*") if file.is_file()}
    slides = {name for name in found if Path(name).suffix not in (".txt", ".md")}
    assert slides == {*READ, *REFUSED, *OPENS_BUT_CANNOT_BE_READ}


def test_bounds_of_a_sparse_slide_are_what_was_scanned(slides_folder: Path) -> None:
    slide = open_slide(slides_folder / "panimg-tiff" / "no_dzi.tif")
    assert slide.bounds == Box(512, 0, 3968, 3072)
    assert (slide.read_region(Box(0, 0, 512, 512), 0) == 255).all()
    assert open_slide(slides_folder / "panimg-tiff" / "no_dzi.tif", reader="openslide").bounds == slide.bounds
