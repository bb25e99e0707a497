"""OpenSlide behind our contract: coordinates, handles, files that belong together."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_seg.errors import RegionReadError
from wsi_seg.geometry import Box
from wsi_seg.slide.openslide_reader import VendorSlide
from wsi_seg.slide.reading_apart import READERS

FRACTIONAL = [(1501, 2009), (750, 1001), (375, 500)]
"""OpenSlide takes the mean of both ratios as the downsample: 2.0042 and 4.0103 here."""


@pytest.fixture(scope="module")
def fractional(tmp_path_factory: pytest.TempPathFactory, tiff_writer: Any) -> VendorSlide:
    path = tiff_writer(tmp_path_factory.mktemp("fractional") / "s.tif", FRACTIONAL, tile=(256, 256))
    return VendorSlide(path)


@pytest.fixture(scope="module")
def wholes(fractional: VendorSlide) -> dict[int, Any]:
    """Levels 1 and 2 with 20 px around them, 300 at the far side."""
    sizes = {level: FRACTIONAL[level] for level in (1, 2)}
    return {n: fractional.read_region(Box(-20, -20, h + 300, w + 300), n) for n, (h, w) in sizes.items()}


@given(chosen=st.data())
@settings(max_examples=40)
def test_parts_equal_the_whole_at_a_fractional_downsample(
    fractional: VendorSlide, wholes: dict[int, Any], chosen: st.DataObject
) -> None:
    level = chosen.draw(st.integers(1, 2))
    height, width = FRACTIONAL[level]
    y, x = chosen.draw(st.integers(-20, height)), chosen.draw(st.integers(-20, width))
    box = Box.at(y, x, chosen.draw(st.integers(1, 300)), chosen.draw(st.integers(1, 300)))
    expected = wholes[level][box.slices((-20, -20))]
    np.testing.assert_array_equal(fractional.read_region(box, level), expected)


@pytest.mark.parametrize("level", [1, 2])
def test_a_fractional_downsample_shifts_nothing_by_a_pixel(fractional: VendorSlide, coded: Any, level: int) -> None:
    size = FRACTIONAL[level]
    found = fractional.read_region(Box(0, 0, *size), level).astype(int)
    away = np.abs(found - coded(size))[1:-1, 1:-1, :2]
    # Bright and dark meet where a coordinate wraps at 256, and there alone interpolation shows.
    away = np.minimum(away, 256 - away)
    assert np.quantile(away, 0.98) <= 1


def test_large_regions_of_a_whole_downsample_are_exact(tmp_path: Path, tiff_writer: Any, coded: Any) -> None:
    sizes = [(1040, 4400), (520, 2200)]
    slide = VendorSlide(tiff_writer(tmp_path / "s.tif", sizes, tile=(128, 128), compression=None, predictor=False))
    for level, size in enumerate(sizes):
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, *size), level), coded(size))


class TestHandles:
    @pytest.fixture
    def damaged(self, tmp_path: Path, tissue: Any) -> Path:
        path = tmp_path / "s.tif"
        tifffile.imwrite(path, tissue, tile=(128, 128), compression="jpeg", photometric="rgb", metadata=None)
        with tifffile.TiffFile(path) as tiff:
            offset, count = tiff.pages[0].dataoffsets[8], tiff.pages[0].databytecounts[8]
        with path.open("r+b") as file:
            file.seek(offset + 2)
            file.write(bytes(count - 2))
        return path

    def test_a_bad_tile_costs_only_its_own_region(self, damaged: Path) -> None:
        slide = VendorSlide(damaged)
        for _ in range(2):
            with pytest.raises(RegionReadError, match=r"s\.tif: level 0, y 130-140, x 130-140 cannot be read"):
                slide.read_region(Box(130, 130, 140, 140), 0)
            assert slide.read_region(Box(0, 0, 128, 800), 0).any()

    def test_closing_while_an_error_is_kept(self, damaged: Path) -> None:
        slide = VendorSlide(damaged)
        with pytest.raises(RegionReadError) as kept:
            slide.read_region(Box(130, 130, 140, 140), 0)
        slide.close()  # the traceback of what is kept still holds the handle that died
        assert "cannot be read" in str(kept.value)
        assert slide.read_region(Box(0, 0, 128, 800), 0).any()

    def test_a_bad_tile_of_one_thread_does_not_disturb_another(self, damaged: Path) -> None:
        slide, failures, good = VendorSlide(damaged), [], []

        def bad() -> None:
            for _ in range(20):
                try:
                    slide.read_region(Box(130, 130, 140, 140), 0)
                except RegionReadError as error:
                    failures.append(error)

        worker = threading.Thread(target=bad)
        worker.start()
        good = [slide.read_region(Box(256, 256, 300, 300), 0) for _ in range(40)]
        worker.join()
        assert len(failures) == 20
        assert all((pixels == good[0]).all() for pixels in good)

    def test_threads_that_read_in_turn_share_a_process(self, tmp_path: Path, tiff_writer: Any) -> None:
        slide = VendorSlide(tiff_writer(tmp_path / "s.tif", [(300, 400)]))
        n_before = len(READERS._all)
        for _ in range(10):
            worker = threading.Thread(target=slide.read_region, args=(Box(0, 0, 9, 9), 0))
            worker.start()
            worker.join()
        assert len(READERS._all) == n_before

    @pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="only where processes fork")
    def test_a_forked_child_opens_its_own(self, tmp_path: Path, tiff_writer: Any) -> None:
        path = tiff_writer(tmp_path / "s.tif", [(300, 400)])
        script = (
            "import os, sys, numpy as np\n"
            "from wsi_seg.geometry import Box\n"
            "from wsi_seg.slide import open_slide\n"
            "from wsi_seg.slide.reading_apart import READERS\n"
            f"slides = [open_slide({str(path)!r}, reader=name) for name in ('openslide', 'tiff')]\n"
            "box = Box(0, 0, 300, 400)\n"
            "before = [slide.read_region(box, 0) for slide in slides]\n"
            "parents = set(READERS._all)\n"
            "child = os.fork()\n"
            "for _ in range(5):\n"
            "    for slide, pixels in zip(slides, before):\n"
            "        assert (slide.read_region(box, 0) == pixels).all()\n"
            "assert parents and bool(child) == bool(parents & READERS._all)\n"
            "if child:\n"
            "    sys.exit(os.waitpid(child, 0)[1] != 0)\n"
        )
        assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


class TestFiles:
    def test_a_dicom_slide_is_all_files_of_its_series(self, slides_folder: Path, tmp_path: Path) -> None:
        fixtures = slides_folder / "openslide-python-fixtures"
        for name in ("boxes_0.dcm", "boxes_1.dcm"):
            copy(fixtures / name, tmp_path)
        copy(slides_folder / "dicom-highdicom" / "sm_image.dcm", tmp_path)  # another series
        both = VendorSlide(tmp_path / "boxes_0.dcm").fingerprint()
        assert VendorSlide(tmp_path / "boxes_1.dcm").fingerprint() == both
        (tmp_path / "sm_image.dcm").unlink()
        (tmp_path / "boxes_1.dcm").rename(tmp_path / "a.dcm")
        assert VendorSlide(tmp_path / "boxes_0.dcm").fingerprint() == both
        (tmp_path / "a.dcm").unlink()
        assert VendorSlide(tmp_path / "boxes_0.dcm").fingerprint() != both

    def test_bounds_and_background_come_from_the_properties(self) -> None:
        from wsi_seg.slide.openslide_reader import _background, _bounds

        sides = {"x": "10", "y": "20", "width": "300", "height": "400"}
        assert _bounds({f"openslide.bounds-{side}": value for side, value in sides.items()}) == Box(20, 10, 420, 310)
        assert _bounds({}) is None
        assert _background({"openslide.background-color": "0A0B0C"}) == (10, 11, 12)
        assert _background({}) == _background({"openslide.background-color": "x"}) == (255, 255, 255)
