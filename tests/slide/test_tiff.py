"""The TIFF reader on what scanners, converters and broken copies leave behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.errors import RegionReadError, SlideOpenError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide import open_slide
from wsi_seg.slide.openslide_reader import VendorSlide
from wsi_seg.slide.tiff_reader import TiffSlide

Pixels = NDArray[np.uint8]
APERIO = "Aperio Image Library v12.0.0 \r\n800x600 (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 0.4990"
JPEG = {"compression": "jpeg", "compressionargs": {"level": 85}, "photometric": "rgb", "metadata": None}


def whole(slide: Any, level: int = 0) -> Pixels:
    pixels: Pixels = slide.read_region(Box(0, 0, *slide.levels[level].size), level)
    return pixels


def patch_tile(path: Path, tile: int, change: Callable[[bytes], bytes]) -> None:
    """Change the stored bytes of a tile of page 0 in place; the length must stay."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[tile], tiff.pages[0].databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        changed = change(file.read(count))
        assert len(changed) == count
        file.seek(offset)
        file.write(changed)


def patch_tags(path: Path, values: dict[str, int], index: int = 0) -> None:
    """Overwrite one entry of some tags of page 0."""
    with tifffile.TiffFile(path) as tiff:
        tags = [(tiff.pages[0].tags[name], value) for name, value in values.items()]
        places = [(tag.valueoffset, {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)], value) for tag, value in tags]
    with path.open("r+b") as file:
        for place, code, value in places:
            file.seek(place + index * struct.calcsize(code))
            file.write(struct.pack(f"<{code}", value))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_jpeg_tiles_equal_openslide_for_every_subsampling(
    tmp_path: Path, tissue: Pixels, subsampling: tuple[int, int]
) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, tissue, tile=(128, 128), subsampling=subsampling, **JPEG)
    slide = open_slide(path)
    assert slide.reader == "tiff"
    np.testing.assert_array_equal(whole(slide), whole(VendorSlide(path)))
    assert np.abs(whole(slide).astype(int) - tissue).mean() < 4


def test_rgb_jpeg_without_an_adobe_marker_keeps_its_colours(slides_folder: Path) -> None:
    path = slides_folder / "cmu-1-small-region" / "cmu-1-small-region.svs"
    slide = open_slide(path)
    assert (slide.reader, slide.vendor) == ("tiff", "aperio")
    np.testing.assert_array_equal(whole(slide), whole(VendorSlide(path)))


def test_jpeg2000_equals_openslide_at_every_level(slides_folder: Path) -> None:
    path = slides_folder / "tcga-cr-7395" / "tcga-cr-7395-01a-01-ts1.svs"
    ours, theirs = open_slide(path), VendorSlide(path)
    assert ours.reader == "tiff"
    box = Box(1024, 1500, 1400, 2000)
    np.testing.assert_array_equal(ours.read_region(box, 0), theirs.read_region(box, 0))
    corner = Box(0, 0, 512, 512)
    np.testing.assert_array_equal(ours.read_region(corner, 1), theirs.read_region(corner, 1))


def test_label_macro_and_thumbnail_pages_never_become_levels(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "s.svs"
    tiled = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tissue, description=APERIO, **tiled)
        tiff.write(tissue[::4, ::4], photometric="rgb", metadata=None)  # thumbnail: strips, the slide's shape
        tiff.write(tissue[::2, ::2], description="Aperio Image Library", **tiled)
        tiff.write(tissue[:100, :300], subfiletype=1, **tiled)  # label: tiled, another shape
        tiff.write(tissue[::2, ::2], subfiletype=1, **tiled)  # another focal plane
    slide = open_slide(path, reader="tiff")
    assert [level.size for level in slide.levels] == [(600, 800), (300, 400)]
    assert slide.mpp == Mpp(0.499, 0.499)
    np.testing.assert_array_equal(whole(slide, 1), tissue[::2, ::2])


def test_a_tile_that_is_not_stored_is_background_and_narrows_the_bounds(tmp_path: Path, tiff_writer: Any) -> None:
    path = tiff_writer(tmp_path / "s.tif", [(300, 400)], tile=(128, 128), predictor=False)
    for column in range(4):
        patch_tags(path, {"TileOffsets": 0, "TileByteCounts": 0}, column)
    slide = open_slide(path)
    assert slide.reader == "tiff"
    assert slide.bounds == Box(128, 0, 300, 400)
    assert (whole(slide)[:128] == 255).all()
    assert (whole(slide)[128:, :, 1] == np.arange(128, 300)[:, None] % 256).all()
    assert VendorSlide(path).bounds == slide.bounds
    np.testing.assert_array_equal(whole(VendorSlide(path)), whole(slide))


def test_grey_is_spread_over_the_channels(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, tissue[..., 0], tile=(128, 128), photometric="minisblack", compression="zlib")
    np.testing.assert_array_equal(whole(open_slide(path)), np.repeat(tissue[..., :1], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_strips_are_read_to_the_last_short_one(tmp_path: Path, tissue: Pixels, channels: int) -> None:
    path = tmp_path / "s.tif"
    pixels = tissue if channels == 3 else tissue[..., 0]
    Image.fromarray(pixels).save(path, compression="jpeg", quality=90)
    slide = open_slide(path)
    assert slide.levels[0].tile[1] == 800
    assert slide.levels[0].tile[0] < 600
    assert np.abs(whole(slide).astype(int) - pixels.reshape(600, 800, channels)).max() < 25


@pytest.mark.parametrize(("extra", "opaque"), [("unassalpha", False), ("assocalpha", False), ("unspecified", True)])
def test_a_fourth_sample_is_transparency_only_where_the_file_says_so(
    tmp_path: Path, tissue: Pixels, extra: str, opaque: bool
) -> None:
    path = tmp_path / "s.tif"
    rgba = np.concatenate([tissue, np.zeros_like(tissue[..., :1])], axis=2)
    rgba[:, 400:, 3] = 255
    if extra == "assocalpha":
        rgba[:, :400] = 0
    tifffile.imwrite(path, rgba, tile=(128, 128), photometric="rgb", extrasamples=[extra], compression="zlib")
    found = whole(open_slide(path, reader="tiff"))
    np.testing.assert_array_equal(found[:, 400:], tissue[:, 400:])
    np.testing.assert_array_equal(found[:, :400], tissue[:, :400] if opaque else 255)


@pytest.mark.parametrize("reader", ["auto", "tiff"])
def test_sixteen_bits_are_refused(tmp_path: Path, tissue: Pixels, reader: str) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, tissue.astype(np.uint16), tile=(128, 128), photometric="rgb")
    with pytest.raises(SlideOpenError, match=r"samples of 16 bits.*8-bit.*convert"):
        open_slide(path, reader=reader)


def test_a_stack_of_grey_channels_is_refused(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "s.ome.tif"
    channels = tissue.transpose(2, 0, 1)
    tifffile.imwrite(path, channels, photometric="minisblack", metadata={"axes": "CYX"}, rowsperstrip=100)
    with pytest.raises(SlideOpenError, match="several channels, planes or time points"):
        open_slide(path)


def test_a_palette_is_refused(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "s.tif"
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(path, tissue[..., 0], photometric="palette", colormap=colours)
    with pytest.raises(SlideOpenError, match="photometric interpretation 3"):
        open_slide(path)


def test_a_huge_single_strip_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((10, 10, 3), np.uint8), photometric="rgb", metadata=None)
    patch_tags(path, dict.fromkeys(("ImageWidth", "ImageLength", "RowsPerStrip"), 60_000))
    with pytest.raises(SlideOpenError, match=r"60000 x 60000 px in one piece.*tiled TIFF"):
        open_slide(path)


def test_huge_tiles_are_refused_before_any_reader_sees_them(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, tissue, tile=(512, 512), photometric="rgb", metadata=None)
    patch_tags(path, {"TileWidth": 65_520, "TileLength": 65_520})
    for reader in ("auto", "openslide"):
        with pytest.raises(SlideOpenError, match="tiles of 65520 x 65520 px"):
            open_slide(path, reader=reader)


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path: Path, tissue: Pixels) -> Path:
        path = tmp_path / "s.tif"
        tifffile.imwrite(path, tissue, tile=(128, 128), subsampling=(2, 2), **JPEG)
        return path

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda tile: tile[:-200] + bytes(200), "its end is missing"),
            (lambda tile: bytes(len(tile)), "its end is missing"),
            (lambda tile: tile[: len(tile) // 2] + bytes(len(tile) - len(tile) // 2 - 2) + tile[-2:], "JPEG"),
            (lambda tile: b"\xff\xd8" + bytes(30) + tile[32:], "JPEG"),
        ],
    )
    def test_a_damaged_tile_is_named_and_costs_no_other(self, path: Path, change: Any, why: str) -> None:
        sound = whole(open_slide(path))
        patch_tile(path, 8, change)  # row 1, column 1 of 5 x 7
        slide = open_slide(path, mpp=0.5)
        assert slide.reader == "tiff"
        with pytest.raises(RegionReadError, match=rf"s\.tif: level 0, y 100-300, x 100-300 .*tile 1, 1: .*{why}"):
            slide.read_region(Box(100, 100, 300, 300), 0)
        for box in (Box(0, 0, 128, 800), Box(128, 0, 256, 128), Box(128, 256, 600, 800)):
            np.testing.assert_array_equal(slide.read_region(box, 0), sound[box.slices()])

    def test_every_cut_off_copy_is_refused_as_incomplete_or_not_a_tiff(self, path: Path, tmp_path: Path) -> None:
        content = path.read_bytes()
        copy = tmp_path / "copy.tif"
        for n in [1, 4, 8, 100, 300, *range(500, len(content) - 1, 7919), len(content) - 1]:
            copy.write_bytes(content[:n])
            with pytest.raises(SlideOpenError):
                open_slide(copy)
        copy.write_bytes(content[:-1])
        needed, found = len(content), len(content) - 1
        with pytest.raises(SlideOpenError, match=rf"ends at byte {found}, its directory needs {needed}.*incomplete"):
            open_slide(copy)

    def test_a_file_that_shrinks_while_it_is_open_fails_where_it_is_short(self, path: Path) -> None:
        slide = open_slide(path)
        whole(slide)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 10)
        assert slide.read_region(Box(0, 0, 128, 128), 0).any()
        with pytest.raises(RegionReadError, match="ends 10 bytes too early"):
            whole(slide)

    @pytest.mark.parametrize(("compression", "why"), [("lzw", ""), ("zlib", "Zlib"), ("zstd", "Zstd")])
    def test_damaged_lossless_tiles_are_noticed(
        self, tmp_path: Path, tissue: Pixels, compression: str, why: str
    ) -> None:
        path = tmp_path / "l.tif"
        tifffile.imwrite(path, tissue, tile=(128, 128), photometric="rgb", compression=compression)
        patch_tile(path, 3, lambda tile: bytes(len(tile)))
        with pytest.raises(RegionReadError, match=f"tile 0, 3: .*{why}"):
            whole(open_slide(path, reader="tiff"))

    def test_random_headers_raise_our_errors_only(self, path: Path, tmp_path: Path) -> None:
        content, random = bytearray(path.read_bytes()), np.random.default_rng(7)
        with tifffile.TiffFile(path) as tiff:
            start = tiff.pages[0].offset
        copy, outcomes = tmp_path / "copy.tif", set()
        for _ in range(150):
            mutated = content.copy()
            for place in random.integers(start, start + 250, 3):
                mutated[place] = random.integers(256)
            copy.write_bytes(mutated)
            try:
                slide = open_slide(copy, reader="tiff")
                slide.read_region(Box(0, 0, 64, 64), 0)
                outcomes.add("read")
            except (SlideOpenError, RegionReadError) as error:
                outcomes.add(type(error).__name__)
        assert {"read", "SlideOpenError"} <= outcomes


def test_the_same_slide_reads_through_a_fresh_object_without_comparing_again(tmp_path: Path, tiff_writer: Any) -> None:
    path = tiff_writer(tmp_path / "s.tif", [(300, 400)])
    layoutless = TiffSlide(path)
    np.testing.assert_array_equal(whole(layoutless), whole(open_slide(path)))
