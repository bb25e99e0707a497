"""Slides that mean harm, or were harmed: refused with what, why and what to do, or read but for the bad tile."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.chaos.bombs import BOMBS
from wsi_seg.errors import RegionReadError, SlideOpenError
from wsi_seg.geometry import Box
from wsi_seg.slide import limits, open_slide
from wsi_seg.slide.byte_file import ByteFile
from wsi_seg.slide.fingerprint import full_sha256, sampled_bytes
from wsi_seg.slide.limits import checked_levels
from wsi_seg.slide.resolution import ome_mpp

REFUSED = {
    "sides_of_a_signed_word": "px in a level",
    "sides_of_an_unsigned_word": "px per side",
    "a_tile_of_four_gigapixels": "px in a tile",
    "a_tile_without_width": "px in a tile",
    "tiles_of_one_pixel": "1048576 x 1048576",
    "a_strip_of_sixteen_gigapixels": "in one piece",
    "a_sparse_level_of_terapixels": "px in a level",
    "tables_of_four_billion_tiles": "px in a level",
    "a_million_sub_directories": "SubIFDs",
    "a_billion_laughs": "without a DTD",
    "quadratic_entities": "without a DTD",
    "a_directory_that_follows_itself": "more than 4096 pages",
    "two_directories_in_a_circle": "more than 4096 pages",
    "offsets_beyond_every_file": "Invalid TIFF",
    "metadata_nested_deeply": "nested too deeply",
    "an_array_of_exapixels": "px in a level",
    "a_sparse_array_of_terapixels": "px in a level",
    "a_chunk_of_gigabytes": "px in a tile",
    "a_shard_of_a_billion_chunks": "chunks in a shard",
    "ten_thousand_levels": "10000 levels",
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_bomb_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path, _ = BOMBS[name](tmp_path)
    began = time.monotonic()
    with pytest.raises(SlideOpenError, match=REFUSED[name]) as raised:
        open_slide(path, mpp=0.5)
    assert raised.value.rule
    assert raised.value.remedy
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_tile_that_unpacks_to_gigabytes", "ZstdError"),
        ("a_tile_of_packed_bits", "ImcdError"),
        ("a_jpeg_that_says_it_is_large", "JPEG: "),
        ("a_codestream_that_says_it_is_large", "JPEG 2000: it is 2147483647 x 2147483647 px"),
        ("a_codestream_of_parts_of_one_pixel", "JPEG 2000: it is divided into 65536 parts"),
    ],
)
def test_a_tile_that_is_a_bomb_costs_only_itself(name: str, why: str, tmp_path: Path) -> None:
    slide = open_slide(BOMBS[name](tmp_path)[0], mpp=0.5)
    with pytest.raises(RegionReadError, match=f"tile 0, 1: {why}"):
        slide.read_region(Box(0, 256, 256, 512), 0)
    assert slide.read_region(Box(0, 0, 256, 256), 0).std() > 1


def test_a_chunk_that_is_a_bomb_costs_only_itself(tmp_path: Path) -> None:
    slide = open_slide(BOMBS["a_chunk_that_unpacks_to_gigabytes"](tmp_path)[0], mpp=0.5)
    with pytest.raises(RegionReadError, match="cannot be read"):
        slide.read_region(Box(0, 128, 128, 256), 0)
    assert not slide.read_region(Box(128, 0, 256, 128), 0).any()  # not stored: the fill value


def test_a_level_that_is_all_there_is_must_be_readable_whole() -> None:
    side = 1 << 18
    path = Path("s.tif")
    assert checked_levels(path, [(side, side), (side // 4, side // 4)], [None, None])
    with pytest.raises(SlideOpenError, match="no level below 262144 x 262144 px"):
        checked_levels(path, [(side, side)], [None])
    with pytest.raises(SlideOpenError, match="65 levels"):
        checked_levels(path, [(5, 5)] * (limits.MAX_LEVELS + 1), [None] * (limits.MAX_LEVELS + 1))


def test_a_description_without_end_states_no_resolution() -> None:
    pixels = '<Pixels SizeY="3" SizeX="4" PhysicalSizeX="0.5" PhysicalSizeY="0.5"/>'
    assert ome_mpp(f"<OME><Image>{pixels}</Image></OME>", (3, 4)) is not None
    assert ome_mpp(f'<o:OME xmlns:o="x"><o:Image>{pixels.replace("<P", "<o:P")}</o:Image></o:OME>', (3, 4)) is not None
    assert ome_mpp("<a>" * 200_000 + pixels + "</a>" * 200_000, (3, 4)) is None
    assert ome_mpp(f"<OME>{pixels}", (3, 4)) is None


@pytest.fixture
def plain(tmp_path: Path, tissue: Any) -> Path:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, tissue[:512, :512], tile=(256, 256), photometric="rgb", compression="zlib", metadata=None)
    return path


def _set_tag(path: Path, name: str, index: int, value: int) -> None:
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[name]
        width = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        place = tag.valueoffset + index * width
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(value.to_bytes(width, "little"))


def test_a_tile_without_bytes_is_unreadable_and_one_without_a_place_is_glass(plain: Path) -> None:
    _set_tag(plain, "TileByteCounts", 1, 0)
    slide = open_slide(plain, mpp=0.5)
    with pytest.raises(RegionReadError, match="tile 0, 1: it has a place in the file and no bytes"):
        slide.read_region(Box(0, 300, 10, 310), 0)
    assert (slide.read_region(Box(0, 0, 9, 9), 0) != 255).any()
    _set_tag(plain, "TileOffsets", 1, 0)
    assert (open_slide(plain, mpp=0.5).read_region(Box(0, 300, 10, 310), 0) == 255).all()


def test_a_tile_as_long_as_the_file_is_not_read(plain: Path) -> None:
    with plain.open("ab") as file:
        file.truncate(plain.stat().st_size + (1 << 22))
    _set_tag(plain, "TileByteCounts", 3, 1 << 21)
    slide = open_slide(plain, mpp=0.5)
    assert slide.reader == "tiff"
    with pytest.raises(RegionReadError, match="tile 1, 1: 2097152 bytes are stored for it, more than its pixels"):
        slide.read_region(Box(300, 300, 310, 310), 0)


class TestTransientErrors:
    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
    def test_what_the_system_refuses_twice_is_read(
        self, plain: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        whole = plain.read_bytes()
        file, right, refused = ByteFile(plain), os.pread, []

        def failing(fd: int, count: int, offset: int) -> bytes:
            if len(refused) < 2:
                refused.append(fd)
                raise OSError(number, os.strerror(number))
            assert fd not in refused, "a descriptor that failed is not asked again"
            return right(fd, count, offset)

        monkeypatch.setattr(os, "pread", failing)
        assert file.read(10, 20) == whole[10:30]
        file.close()

    def test_what_is_refused_always_is_an_error(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> bytes:
            raise OSError(errno.EIO, "no")

        slide = open_slide(plain, mpp=0.5, reader="tiff")
        monkeypatch.setattr(os, "pread", refuse)
        with pytest.raises(RegionReadError, match="no"):
            slide.read_region(Box(0, 0, 9, 9), 0)

    def test_a_failure_of_one_thread_takes_no_descriptor_from_another(
        self, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"x" * 100)
        file, right = ByteFile(plain), os.pread
        inside, go_on, heard, opened = threading.Event(), threading.Event(), list[bytes](), list[int]()

        def pread(fd: int, count: int, offset: int) -> bytes:
            if threading.current_thread() is reader:
                inside.set()
                assert go_on.wait(10)
            elif not opened:
                raise OSError(errno.EIO, "no")
            return right(fd, count, offset)

        def another_file_is_opened(_: float) -> None:
            opened.append(os.open(other, os.O_RDONLY))  # it gets the number of a descriptor that was closed
            go_on.set()
            reader.join()

        monkeypatch.setattr(os, "pread", pread)
        monkeypatch.setattr("wsi_seg.slide.byte_file.sleep", another_file_is_opened)
        reader = threading.Thread(target=lambda: heard.append(file.read(0, 30)))
        reader.start()
        assert inside.wait(10)
        assert file.read(0, 30) == plain.read_bytes()[:30]
        assert heard == [plain.read_bytes()[:30]]
        os.close(opened[0])
        file.close()

    def test_a_chunk_is_tried_again(
        self, tmp_path: Path, ome_zarr_writer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from wsi_seg.slide.zarr_handle import ZarrImages

        path = str(ome_zarr_writer(tmp_path / "s.zarr", [(300, 400)], "cyx", "0.5"))
        images, right, failed = ZarrImages(), ZarrImages._read, []

        def failing(self: ZarrImages, *arguments: Any) -> Any:
            if not failed:
                failed.append(1)
                raise OSError(errno.ESTALE, "stale")
            return right(self, *arguments)

        monkeypatch.setattr(ZarrImages, "_read", failing)
        assert images.read("s", path, {"level": 0, "box": (0, 0, 9, 9)}).shape == (9, 9, 3)


def test_metadata_that_a_header_cannot_mean() -> None:
    from wsi_seg.slide.openslide_reader import _bounds, _tile

    sides = {f"openslide.bounds-{side}": "1e999" for side in ("x", "y", "width", "height")}
    assert _bounds(sides) is None
    prefix = "openslide.level[0].tile-"
    assert _tile({f"{prefix}height": "x", f"{prefix}width": "256"}, 0) is None


def test_zarr_metadata_of_a_length_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_seg.slide import zarr_handle

    monkeypatch.setattr(zarr_handle, "MAX_TEXT_BYTES", 100)
    (tmp_path / "zarr.json").write_text(json.dumps({"a": "b" * 200}))
    with pytest.raises(ValueError, match=r"zarr\.json has 209 bytes, 100 are allowed"):
        zarr_handle.ZarrImages().facts("s", str(tmp_path))


def test_the_whole_hash_sees_what_the_sample_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    before = full_sha256([path])
    n_sampled, n_bytes = sampled_bytes([path])
    assert (n_sampled, n_bytes) == (2 * (128 << 10) + 48 * 4096, 2_000_000)
    content[131072 + 4096 + 5] ^= 1
    path.write_bytes(content.tobytes())
    assert full_sha256([path]) != before
