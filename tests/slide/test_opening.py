"""Which reader opens what, and what is said when nothing can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from wsi_seg.errors import SlideOpenError, UsageError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide import ArraySlide, open_slide
from wsi_seg.slide.opening import first_difference
from wsi_seg.slide.tile_codec import TileCodec


@pytest.mark.parametrize("mpp", [0.25, Mpp(0.25, 0.25)])
def test_the_users_resolution_wins(tmp_path: Path, tiff_writer: Any, ome_zarr_writer: Any, mpp: Any) -> None:
    tiff = tiff_writer(tmp_path / "s.tif", [(300, 400)], resolution=(20_000, 10_000), resolutionunit=3)
    assert open_slide(tiff).mpp == Mpp(1.0, 0.5)
    stored = ome_zarr_writer(tmp_path / "s.zarr", [(300, 400)], "cyx", "0.5")
    assert open_slide(stored).mpp == Mpp(0.5, 0.25)
    for slide in (
        open_slide(tiff, mpp=mpp),
        open_slide(tiff, mpp=mpp, reader="openslide"),
        open_slide(stored, mpp=mpp),
    ):
        assert slide.mpp == Mpp(0.25, 0.25)


def test_ome_tiff_states_its_resolution_per_axis(tmp_path: Path, ome_tiff_writer: Any) -> None:
    slide = open_slide(ome_tiff_writer(tmp_path / "s.ome.tif", [(600, 800), (300, 400)]))
    assert (slide.vendor, slide.reader, slide.mpp) == ("ome-tiff", "tiff", Mpp(0.5, 0.25))
    assert [level.downsample for level in slide.levels] == [(1.0, 1.0), (2.0, 2.0)]


def test_where_the_readers_disagree_openslide_is_taken_with_a_warning(
    tmp_path: Path, tissue: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, tissue, tile=(128, 128), compression="jpeg", photometric="rgb", metadata=None)
    right = TileCodec.decode
    monkeypatch.setattr(TileCodec, "decode", lambda *arguments: 255 - right(*arguments))
    slide = open_slide(path)
    assert slide.reader == "openslide"
    assert "slower: pixels of level 0 at y 256, x 384 differ by" in caplog.text


def test_a_difference_names_the_level_the_place_and_the_size() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    ours, theirs = ArraySlide(pixels, pixels[::2, ::2]), ArraySlide(pixels, pixels[::2, ::2] + np.uint8(9))
    assert first_difference(ours, ours) == ""
    assert first_difference(ours, theirs) == "pixels of level 1 at y 0, x 0 differ by 9 grey levels"
    assert "level 0 is (300, 300) px for one" in first_difference(ours, ArraySlide(pixels[:100]))


def test_what_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match=r"none\.svs cannot be opened: No such file"):
        open_slide(tmp_path / "none.svs")
    (tmp_path / "empty.svs").touch()
    with pytest.raises(SlideOpenError, match=r"empty\.svs is empty \(0 bytes\).*incomplete"):
        open_slide(tmp_path / "empty.svs")
    with pytest.raises(SlideOpenError, match=r"folder without Zarr metadata.*\.mrxs") as raised:
        open_slide(tmp_path)
    assert raised.value.rule == "a slide is a file or a Zarr folder"  # not wrapped once more
    assert raised.value.remedy
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(SlideOpenError, match=r"text\.svs cannot be opened: Unsupported"):
        open_slide(tmp_path / "text.svs")


def test_a_reader_that_does_not_exist_or_fit_is_refused(tmp_path: Path, tiff_writer: Any) -> None:
    path = tiff_writer(tmp_path / "s.tif", [(300, 400)])
    with pytest.raises(UsageError, match="reader 'vips'; one of auto, tiff, openslide, zarr"):
        open_slide(path, reader="vips")
    with pytest.raises(UsageError, match="reader 'zarr'"):
        open_slide(path, reader="zarr")


def test_opening_imports_no_library_before_a_slide_needs_it() -> None:
    script = (
        "import sys, wsi_seg.slide; print(sorted({'openslide', 'tifffile', 'zarr', 'imagecodecs'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


class TestZarr:
    @pytest.mark.parametrize(
        ("shape", "dtype", "message"),
        [
            ((20, 30), "uint8", "shape"),
            ((3, 20, 30), "uint8", "30 channels"),
            ((20, 30, 3), "uint16", "uint16 with 3 channels"),
        ],
    )
    def test_arrays_that_are_not_rgb_are_refused(self, tmp_path: Path, shape: Any, dtype: str, message: str) -> None:
        zarr.create_array(tmp_path / "s.zarr", shape=shape, chunks=shape, dtype=dtype)
        with pytest.raises(SlideOpenError, match=message):
            open_slide(tmp_path / "s.zarr")

    def test_a_group_without_an_image_and_broken_metadata_are_refused(self, tmp_path: Path) -> None:
        zarr.open_group(tmp_path / "g.zarr", mode="w")
        with pytest.raises(SlideOpenError, match="without `multiscales`"):
            open_slide(tmp_path / "g.zarr")
        (tmp_path / "g.zarr" / "zarr.json").write_text("{")
        with pytest.raises(SlideOpenError, match="cannot be read as Zarr: JSONDecodeError"):
            open_slide(tmp_path / "g.zarr")

    def test_the_layout_of_bioformats2raw_is_followed(self, tmp_path: Path, ome_zarr_writer: Any) -> None:
        group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
        group.attrs["bioformats2raw.layout"] = 3
        ome_zarr_writer(tmp_path / "s.zarr" / "0", [(300, 400)], "tczyx", "0.4")
        assert open_slide(tmp_path / "s.zarr").levels[0].size == (300, 400)

    def test_a_damaged_chunk_is_a_region_that_cannot_be_read(self, tmp_path: Path) -> None:
        from wsi_seg.errors import RegionReadError

        array = zarr.create_array(tmp_path / "s.zarr", shape=(20, 30, 3), chunks=(10, 30, 3), dtype="uint8")
        array[...] = 7
        (tmp_path / "s.zarr" / "c" / "1" / "0" / "0").write_bytes(b"damaged")
        slide = open_slide(tmp_path / "s.zarr")
        assert (slide.read_region(Box(0, 0, 10, 30), 0) == 7).all()
        with pytest.raises(RegionReadError, match=r"level 0, y 5-15"):
            slide.read_region(Box(5, 0, 15, 30), 0)


@pytest.mark.parametrize(
    "levels", [[], [np.zeros((4, 4), np.uint8)], [np.zeros((4, 4, 3), np.int16)], [np.zeros((0, 4, 3), np.uint8)]]
)
def test_arrays_that_are_no_slide_are_refused(levels: list[Any]) -> None:
    with pytest.raises(SlideOpenError):
        ArraySlide(*levels)
