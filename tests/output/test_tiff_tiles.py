"""TIFFs that take the chunks of a result over hold every pixel and the same streams, or do not appear at all."""

from __future__ import annotations

import shutil
import struct
import zlib
from dataclasses import replace

import google_crc32c
import numpy as np
import openslide
import pytest
import tifffile

from tests.output.making import begin, finished, make_spec
from wsi_seg.errors import CorruptOutputError
from wsi_seg.output import tiff_tiles, tiff_writer
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.result_spec import GZIP, LABELS, ResultSpec
from wsi_seg.output.shard_codec import index_bytes, read_index, without_checksum
from wsi_seg.output.tiff_tiles import CopiedTiles, EncodedTiles, tiles_of
from wsi_seg.output.tiff_writer import write_ome_tiff
from wsi_seg.output.verify import verify_result

SPECS = {
    "one byte": make_spec((1300, 1100), 512, codec=GZIP),
    "two bytes": make_spec((1300, 1100), 512, codec=GZIP, not_analysed=65535),
    "small blocks": make_spec((700, 1100), 256, codec=GZIP),
    "one pixel": make_spec((1, 1), 256, codec=GZIP),
    "exact tiles": make_spec((1024, 512), 1024, codec=GZIP),
    "narrow": make_spec((3, 2100), 1024, codec=GZIP, not_analysed=65535),
}


def working(path, spec):
    """The working store of a TIFF result, as the engine leaves it, and what it holds."""
    made = begin(path, spec)
    made.write_all()
    made.run.close()
    return Result(made.run.path, spec, {"run_id": made.run.run_id}), made


@pytest.fixture(scope="module", params=SPECS)
def made(request, made_path):
    return working(made_path / f"{request.param}.zarr", SPECS[request.param])


@pytest.fixture(scope="module")
def plain(made_path):
    return working(made_path / "plain.zarr", SPECS["one byte"])


@pytest.fixture
def own(plain, tmp_path):
    """A copy that a test may damage."""
    result, _ = plain
    shutil.copytree(result.path, tmp_path / "s.zarr")
    return Result(tmp_path / "s.zarr", result.spec, result.attributes)


def chunks_of(result, level):
    """Encoded chunks of a level by (row, column), without their crc32c, read the slow way."""
    spec, chunks = result.spec, {}
    side, chunk = spec.layout.shard(level), spec.chunk(level)
    for file in (result.path / f"{LABELS}/{level}/c").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            index = read_index(content[-index_bytes(side, chunk) :], len(content))
            corner = int(file.parent.name) * (side // chunk), int(file.name) * (side // chunk)
            for row, column in np.argwhere(index[..., 1] > 0):
                offset, n_bytes = map(int, index[row, column])
                at = corner[0] + int(row), corner[1] + int(column)
                chunks[at] = without_checksum(content[offset : offset + n_bytes])
    return chunks


def levels_of(file, flat):
    return list(file.pages) if flat else [file.pages[0], *(file.pages[0].pages or ())]


def tiles_in(file, page):
    """Bytes of a page's tiles by (row, column)."""
    columns, tiles = -(-page.imagewidth // page.tilewidth), {}
    for n, (offset, n_bytes) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        file.filehandle.seek(offset)
        tiles[divmod(n, columns)] = file.filehandle.read(n_bytes)
    return tiles


@pytest.mark.parametrize("flat", [False, True], ids=["ome", "flat"])
def test_tifffile_reads_the_labels_and_every_stream_is_the_stores(made, flat, tmp_path):
    result, expected = made
    told = []
    write_ome_tiff(result, tmp_path / "r.tif", flat=flat, progress=lambda *at: told.append(at))
    with tifffile.TiffFile(tmp_path / "r.tif") as file:
        for page, pixels in zip(levels_of(file, flat), expected.levels, strict=True):
            assert page.dtype == result.spec.dtype
            np.testing.assert_array_equal(page.asarray(), pixels)
        n_copied = 0
        for level, page in enumerate(levels_of(file, flat)):
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            assert page.tile == (256, 256)
            if result.spec.chunk(level) < 256:
                continue
            tiles, chunks = tiles_in(file, page), chunks_of(result, level)
            assert chunks.keys() <= tiles.keys()
            nothing = np.full((256, 256), result.spec.not_analysed, result.spec.dtype).tobytes()
            for place, tile in tiles.items():
                if place in chunks:
                    n_copied += 1
                    assert tile[2:-4] == chunks[place][10:-8]
                    assert zlib.decompress(tile) == zlib.decompress(chunks[place], 31)
                else:
                    assert zlib.decompress(tile) == nothing
    assert n_copied > 0 or result.spec.layout.size == (1, 1)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


def test_some_chunks_of_these_are_not_stored(plain):
    assert len(chunks_of(plain[0], 0)) < 6 * 5


def test_openslide_reads_every_level_of_the_flat_file(made, tmp_path):
    result, expected = made
    write_ome_tiff(result, tmp_path / "r.tif", flat=True)
    with openslide.OpenSlide(tmp_path / "r.tif") as slide:
        assert slide.level_count == result.n_levels
        for level, pixels in enumerate(expected.levels):
            read = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., 0]
            if pixels.dtype == np.uint8:
                np.testing.assert_array_equal(read, pixels)
            else:  # it shows the high byte, and not even that in tiles that end beyond the image
                width = pixels.shape[1] // 256 * 256
                np.testing.assert_array_equal(read[:, :width], pixels[:, :width] >> 8)


def test_the_bytes_do_not_depend_on_the_block(tmp_path):
    files = set()
    for block in (256, 512, 2048):
        result, _ = working(tmp_path / f"{block}.zarr", make_spec((1300, 1100), block, codec=GZIP))
        write_ome_tiff(result, tmp_path / f"{block}.tif")
        files.add((tmp_path / f"{block}.tif").read_bytes())
    assert len(files) == 1


def test_frames_of_zstd_are_taken_over_from_other_results(tmp_path):
    result, expected = finished(tmp_path / "s.zarr", make_spec((1300, 1100), 512, not_analysed=65535))
    write_ome_tiff(result, tmp_path / "r.tif", compression="zstd", flat=True)
    with tifffile.TiffFile(tmp_path / "r.tif") as file:
        for level, page in enumerate(file.pages):
            assert page.compression == tifffile.COMPRESSION.ZSTD
            np.testing.assert_array_equal(page.asarray(), expected.levels[level])
            tiles = tiles_in(file, page)
            for place, chunk in chunks_of(result, level).items():
                assert tiles[place] == chunk
            assert page.tile == ((512, 512) if level == 0 else (256, 256))


@pytest.mark.parametrize(
    ("codec", "compression", "kind"),
    [
        ("gzip", "zlib", CopiedTiles),
        ("gzip", "zstd", EncodedTiles),
        ("gzip", "lzw", EncodedTiles),
        ("gzip", "none", EncodedTiles),
        ("zstd", "zlib", EncodedTiles),
        ("zstd", "zstd", CopiedTiles),
    ],
)
def test_what_is_compressed_alike_is_copied_and_all_the_rest_encoded(plain, codec, compression, kind):
    result = Result(plain[0].path, replace(plain[0].spec, codec=codec), {})
    assert type(tiles_of(result, compression, lambda: None)) is kind


@pytest.mark.parametrize("compression", ["lzw", "zstd", "none"])
def test_working_stores_can_be_compressed_anew(plain, compression, tmp_path):
    write_ome_tiff(plain[0], tmp_path / "r.tif", compression=compression)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "r.tif"), plain[1].levels[0])


def test_indices_of_rows_of_shards_that_are_done_are_let_go(plain):
    chunks = tiff_tiles._Chunks(plain[0], 0)
    for row in range(6):
        list(chunks.framed(row, 5))
        assert chunks._indices.keys() == {f"{LABELS}/0/c/{row // 2}/{column}" for column in range(3)}


def test_one_row_is_held_at_a_time(plain):
    steps = []
    tiles = CopiedTiles(plain[0], lambda: steps.append(1)).written(0)
    for n in range(1, 13):
        next(tiles)
        assert len(steps) == -(-n // 5)


class TestDamage:
    """Bytes of the working store that changed after the task that wrote them."""

    KEY = f"{LABELS}/0/c/1/1"
    """A shard with chunks (0, 0) and more."""

    def refused(self, result, tmp_path):
        with pytest.raises(CorruptOutputError) as caught:
            write_ome_tiff(result, tmp_path / "r.tif")
        assert not (tmp_path / "r.tif").exists()
        assert self.KEY in caught.value.what
        return caught.value.what

    def place(self, result, row, column):
        content = (result.path / self.KEY).read_bytes()
        return map(int, read_index(content[-index_bytes(512, 256) :], len(content))[row, column])

    def test_of_every_chunk_is_named(self, own, tmp_path):
        file = own.path / self.KEY
        sound = file.read_bytes()
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            offset, n_bytes = self.place(own, row, column)
            for at in (0, n_bytes // 2, n_bytes - 1):
                damaged = bytearray(sound)
                damaged[offset + at] ^= 16
                file.write_bytes(damaged)
                assert f"chunk {row}, {column} of " in self.refused(own, tmp_path)
        file.write_bytes(sound)
        write_ome_tiff(own, tmp_path / "r.tif")

    def test_of_the_index_is_named(self, own, tmp_path):
        file = own.path / self.KEY
        content = bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
        assert "crc32c" in self.refused(own, tmp_path)

    def test_a_shard_that_was_cut_off(self, own, tmp_path):
        file = own.path / self.KEY
        file.write_bytes(file.read_bytes()[:50])
        self.refused(own, tmp_path)

    @pytest.mark.parametrize(
        ("at", "words"), [(-8, "crc32 of its pixels"), (-4, "crc32 of its pixels"), (3, "optional fields"), (30, "")]
    )
    def test_that_the_crc32c_does_not_show(self, own, tmp_path, at, words):
        """Such as an encoder would make."""
        file = own.path / self.KEY
        content = bytearray(file.read_bytes())
        offset, n_bytes = self.place(own, 0, 1)
        chunk = content[offset : offset + n_bytes - 4]
        chunk[at] ^= 1
        content[offset : offset + n_bytes] = chunk + struct.pack("<I", google_crc32c.value(bytes(chunk)))
        file.write_bytes(content)
        told = self.refused(own, tmp_path)
        assert "chunk 0, 1 of " in told
        assert words in told

    def test_an_index_that_points_elsewhere(self, own, tmp_path):
        file = own.path / self.KEY
        content = file.read_bytes()
        index = np.frombuffer(content[-index_bytes(512, 256) : -4], "<u8").copy()
        for entry in ((len(content), 9), (2**64 - 2, 9), (9, 2**64 - 2), (9, len(content) - len(index) * 8 - 4)):
            index[:2] = entry
            body = index.tobytes()
            tail = body + struct.pack("<I", google_crc32c.value(body))
            file.write_bytes(content[: -len(tail)] + tail)
            assert "outside of the shard" in self.refused(own, tmp_path)


class TestReadBack:
    """Bytes of the new file that are not what was handed over."""

    def refused(self, result, tmp_path, monkeypatch, damage):
        monkeypatch.setattr(tiff_writer, "sync_file", damage)
        with pytest.raises(CorruptOutputError) as caught:
            write_ome_tiff(result, tmp_path / "r.tif", flat=True)
        assert list(tmp_path.iterdir()) == []
        return caught.value.what

    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize(("level", "n"), [(0, 0), (0, 7), (0, 29), (1, 3)])
    def test_a_flipped_bit_of_any_tile_is_found_and_the_tile_named(self, plain, tmp_path, monkeypatch, level, n, part):
        def damage(path):
            with tifffile.TiffFile(path) as file:
                page = file.pages[level]
                at = page.dataoffsets[n] + round(part * (page.databytecounts[n] - 1))
            with path.open("r+b") as raw:
                raw.seek(at)
                (old,) = raw.read(1)
                raw.seek(at)
                raw.write(bytes([old ^ 1]))

        told = self.refused(plain[0], tmp_path, monkeypatch, damage)
        assert f"tile {n} of level {level} " in told
        assert "differs from what was written" in told

    @pytest.mark.parametrize("tag", ["TileOffsets", "TileByteCounts"])
    def test_a_directory_that_points_elsewhere_is_found(self, plain, tmp_path, monkeypatch, tag):
        def damage(path):
            with tifffile.TiffFile(path, mode="r+") as file:
                entry = file.pages[0].tags[tag]
                first, *others = entry.value
                entry.overwrite([first + 1, *others])

        assert "tile 0 of level 0" in self.refused(plain[0], tmp_path, monkeypatch, damage)

    @pytest.mark.parametrize(("tag", "value"), [("Compression", 5), ("ImageWidth", 1099), ("TileWidth", 272)])
    def test_tags_that_say_something_else_are_found(self, plain, tmp_path, monkeypatch, tag, value):
        def damage(path):
            with tifffile.TiffFile(path, mode="r+") as file:
                file.pages[1 if tag == "Compression" else 0].tags[tag].overwrite(value)

        self.refused(plain[0], tmp_path, monkeypatch, damage)


def test_large_files_have_large_offsets(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_writer, "_CLASSIC_LIMIT", 1000)
    write_ome_tiff(plain[0], tmp_path / "r.tif")
    with tifffile.TiffFile(tmp_path / "r.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), plain[1].levels[0])


class TestWorkingStore:
    """The rest of what is done with unfinished results works with theirs."""

    def test_is_verified_and_opened_while_unfinished(self, made):
        result, expected = made
        report = verify_result(result.path)
        assert report.is_sound
        assert report.n_pending == 0
        opened = open_result(result.path, partial=True)
        assert opened.spec == result.spec
        for level, pixels in enumerate(expected.levels):
            np.testing.assert_array_equal(opened.labels(level)[:], pixels)

    def test_damage_is_named_by_verify(self, own):
        file = own.path / TestDamage.KEY
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content)
        assert TestDamage.KEY in {problem.key for problem in verify_result(own.path).problems}

    def test_its_spec_says_so_and_others_say_nothing(self):
        spec = SPECS["one byte"]
        assert spec.to_mapping()["codec"] == "gzip"
        assert ResultSpec.from_mapping(spec.to_mapping(), "x") == spec
        assert "codec" not in replace(spec, codec="zstd").to_mapping()
        with pytest.raises(CorruptOutputError, match="'lz4'; zstd or gzip"):
            replace(spec, codec="lz4")
