"""Tissue is found on white, tinted and grey glass, and neither empty glass nor scanner fill is called tissue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import otsu_threshold, tissue_mask

from tests.kernels import naive

EOSIN, HAEMATOXYLIN = (230, 160, 195), (110, 80, 150)


def _thumbnail(colour, size=(60, 80), noise=3):
    rng = np.random.default_rng(0)
    pixels = np.array(colour) + rng.integers(-noise, noise + 1, (*size, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


class TestOtsu:
    @settings(max_examples=40)
    @given(st.dictionaries(st.integers(0, 255), st.integers(0, 50), max_size=6))
    def test_equals_the_oracle(self, bins):
        histogram = np.zeros(256, np.int64)
        for value, count in bins.items():
            histogram[value] = count
        assert otsu_threshold(histogram) == naive.otsu_threshold(histogram)

    def test_the_lowest_of_equals(self):
        histogram = np.zeros(256, np.int64)
        histogram[[20, 50, 80]] = 7
        assert otsu_threshold(histogram) == 20

    def test_refuses_negative_counts(self):
        with pytest.raises(ValueError, match="histogram holds -1"):
            otsu_threshold(np.full(256, -1, np.int64))


class TestEmpty:
    @pytest.mark.parametrize(
        "glass", [(255, 255, 255), (244, 243, 244), (226, 221, 228), (232, 236, 234), (200, 200, 200)]
    )
    def test_bare_glass_holds_no_tissue(self, glass):
        assert not tissue_mask(_thumbnail(glass)).any()

    @pytest.mark.parametrize("fill", [(0, 0, 0), (6, 4, 6)])
    def test_scanner_fill_is_not_tissue(self, fill):
        assert not tissue_mask(_thumbnail(fill)).any()

    def test_no_pixels(self):
        assert tissue_mask(np.zeros((0, 5, 3), np.uint8)).shape == (0, 5)


class TestFull:
    @pytest.mark.parametrize("stain", [EOSIN, HAEMATOXYLIN, (150, 110, 80), (115, 115, 115)])
    def test_one_stain_everywhere_is_all_tissue(self, stain):
        assert tissue_mask(_thumbnail(stain)).all()

    def test_two_stains_are_not_split(self):
        thumbnail = _thumbnail(EOSIN)
        thumbnail[:, 30:] = _thumbnail(HAEMATOXYLIN)[:, 30:]
        assert tissue_mask(thumbnail).all()


class TestSection:
    @pytest.mark.parametrize("glass", [(255, 255, 255), (226, 221, 228), (205, 205, 205)])
    @pytest.mark.parametrize("stain", [EOSIN, HAEMATOXYLIN, (150, 150, 150)])
    def test_a_section_and_one_pixel_round_it(self, glass, stain):
        thumbnail = _thumbnail(glass, noise=2)
        thumbnail[10:30, 20:50] = _thumbnail(stain)[10:30, 20:50]
        expected = np.zeros(thumbnail.shape[:2], bool)
        expected[9:31, 19:51] = True
        differs = tissue_mask(thumbnail) != expected
        assert differs.sum() <= 4 * 3  # at most the corners

    def test_black_border_beside_tissue(self):
        thumbnail = _thumbnail((244, 243, 244))
        thumbnail[:, :10] = 0
        thumbnail[20:30, 40:60] = EOSIN
        mask = tissue_mask(thumbnail)
        assert not mask[:, :10].any()
        assert mask[20:30, 40:60].all()

    def test_specks_go_holes_close_lines_stay(self):
        thumbnail = np.full((40, 40, 3), 245, np.uint8)
        thumbnail[3, 3] = EOSIN
        thumbnail[10:20, 10:20] = EOSIN
        thumbnail[13:17, 13:17] = 245
        thumbnail[30, 5:35] = EOSIN
        mask = tissue_mask(thumbnail)
        assert not mask[:8].any()
        assert mask[10:20, 10:20].all()
        assert mask[30, 5:35].all()


class TestRealSlides:
    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [
            ("cmu-1-small-region/cmu-1-small-region.svs", 0.3, 0.5),
            ("dicom-wsi-camelyon-google/multi_frame_jpeg_camelyon_challenge_image.dcm", 0.2, 0.4),
            ("dicom-wsi-camelyon-google/multi_frame_jpeg2000_camelyon_challenge_image.dcm", 0.25, 0.45),
            ("dicom-highdicom/sm_image.dcm", 0, 0),
            ("panimg-tiff/invalid_resolutions_tiff.tif", 0, 0),
        ],
    )
    def test_share_of_tissue(self, shared, name, low, high):
        openslide = pytest.importorskip("openslide")
        thumbnail = np.asarray(openslide.OpenSlide(shared / "slides" / name).get_thumbnail((700, 700)).convert("RGB"))
        assert low <= tissue_mask(thumbnail).mean() <= high
