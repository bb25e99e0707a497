"""R25: small files that ask for everything.

Each is refused, or loses only its bad tile, or turns out to be harmless, in 5 s and 512 MiB beyond a warm driver's.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.chaos import tiff_bytes as t
from tests.chaos.fault import Fault, Figures
from tests.chaos.mutated import is_whole, ome_zarr, tissue
from tests.chaos.scene import Scene, Wrong
from tests.chaos.slide_worker import Answer, Driver

MOST_S, MOST_BYTES = 5.0, 512 << 20
HUGE = 1 << 30
Bomb = Callable[[Path], tuple[Path, tuple[str, ...]]]
"""Makes the file in a folder; answers the slide to be run and more options."""
BOMBS: dict[str, Bomb] = {}
_COMMANDS = {"a_result_nested_deeply": ("info", "verify")}
"""What is tried with a bomb, where that is not `run`."""


def bomb(make: Callable[[Path], Path | tuple[Path, tuple[str, ...]]]) -> Bomb:
    """Enters a bomb into the list under the name of its maker."""

    def made(folder: Path) -> tuple[Path, tuple[str, ...]]:
        answer = make(folder)
        return answer if isinstance(answer, tuple) else (answer, ())

    BOMBS[make.__name__] = made
    return made


def _tiff(folder: Path, content: bytes) -> Path:
    (folder / "bomb.tif").write_bytes(content)
    return folder / "bomb.tif"


def _one_bad_tile(folder: Path, compression: int, bad: bytes, sound: bytes) -> Path:
    """Four tiles of 256 px, one of them the bomb."""
    return _tiff(folder, t.one_page(t.rgb(512, 512, (256, 256), compression), [sound, bad, sound, sound]))


def _raw() -> bytes:
    pixels = tissue()[:256, :256]
    return np.ascontiguousarray(pixels).tobytes()


@bomb
def sides_of_a_signed_word(folder: Path) -> Path:
    return _tiff(folder, t.one_page(t.rgb(2**31 - 1, 2**31 - 1, (256, 256)), [_raw()]))


@bomb
def sides_of_an_unsigned_word(folder: Path) -> Path:
    return _tiff(folder, t.one_page(t.rgb(2**32 - 1, 2**32 - 1, (256, 256)), [_raw()]))


@bomb
def a_tile_of_four_gigapixels(folder: Path) -> Path:
    return _tiff(folder, t.one_page(t.rgb(65536, 65536, (65536, 65536), 8), [zlib.compress(bytes(1 << 20))]))


@bomb
def a_tile_without_width(folder: Path) -> Path:
    return _tiff(folder, t.one_page(t.rgb(512, 512, (256, 0)), [_raw()]))


@bomb
def tiles_of_one_pixel(folder: Path) -> Path:
    return _tiff(folder, t.one_page({**t.rgb(2**20, 2**20, (1, 1)), t.TILE_OFFSETS: 8, t.TILE_COUNTS: 3}))


@bomb
def a_strip_of_sixteen_gigapixels(folder: Path) -> Path:
    strips: dict[int, t.Value] = {**t.rgb(131072, 131072, (1, 1), 8), t.ROWS: 131072}
    strips = {tag: value for tag, value in strips.items() if tag not in (t.TILE_WIDTH, t.TILE_HEIGHT)}
    return _tiff(folder, t.one_page({**strips, t.STRIP_OFFSETS: 8, t.STRIP_COUNTS: 100}))


@bomb
def a_sparse_petapixel(folder: Path) -> Path:
    """Nothing is stored, so every table is short and every byte is there."""
    side, tile = 2**25, 2**13
    n = (side // tile) ** 2
    page = {**t.rgb(side, side, (tile, tile), 8), t.TILE_OFFSETS: 0, t.TILE_COUNTS: 0}
    content = bytearray(t.one_page(page))
    zeros_at = len(content)
    for tag in (t.TILE_OFFSETS, t.TILE_COUNTS):
        place = content.find(struct.pack("<HHI", tag, t.LONG, 1))
        content[place + 4 : place + 12] = struct.pack("<II", n, zeros_at)
    return _tiff(folder, bytes(content) + bytes(4 * n))


@bomb
def a_sparse_level_of_terapixels(folder: Path) -> Path:
    side, tile = 2**20 - 4096, 2**12
    n = (side // tile) ** 2
    return _tiff(
        folder, t.one_page({**t.rgb(side, side, (tile, tile), 8), t.TILE_OFFSETS: [0] * n, t.TILE_COUNTS: [0] * n})
    )


@bomb
def tables_of_four_billion_tiles(folder: Path) -> Path:
    content = bytearray(t.one_page({**t.rgb(2**24, 2**24, (256, 256)), t.TILE_OFFSETS: 8, t.TILE_COUNTS: 8}))
    for tag in (t.TILE_OFFSETS, t.TILE_COUNTS):
        place = content.find(struct.pack("<HHI", tag, t.LONG, 1))
        content[place + 4 : place + 8] = struct.pack("<I", 2**32 - 1)
    return _tiff(folder, bytes(content))


@bomb
def a_directory_that_follows_itself(folder: Path) -> Path:
    content = t.one_page(t.rgb(256, 256, (256, 256)), [_raw()])
    at = struct.unpack_from("<I", content, 4)[0]
    return _tiff(folder, t.one_page(t.rgb(256, 256, (256, 256)), [_raw()], following=at))


@bomb
def two_directories_in_a_circle(folder: Path) -> Path:
    first = t.one_page(t.rgb(256, 256, (256, 256)), [_raw()])
    at, second_at = struct.unpack_from("<I", first, 4)[0], len(first)
    first = t.one_page(t.rgb(256, 256, (256, 256)), [_raw()], following=second_at)
    page = {**t.rgb(128, 128, (128, 128)), t.TILE_OFFSETS: 8, t.TILE_COUNTS: 49152}
    return _tiff(folder, first + t.directory(page, second_at, at))


@bomb
def a_hundred_thousand_pages(folder: Path) -> Path:
    content, page = b"II*\0" + struct.pack("<I", 8), {t.WIDTH: 1, t.HEIGHT: 1, t.STRIP_OFFSETS: 8, t.STRIP_COUNTS: 1}
    size = len(t.directory(page, 0))
    for number in range(100_000):
        content += t.directory(page, 8 + number * size, 8 + (number + 1) * size) if number < 4 else b""
    block = b"".join(t.directory(page, 8 + n * size, 8 + (n + 1) * size) for n in range(4, 100_000))
    return _tiff(folder, content + block)


@bomb
def sub_directories_of_themselves(folder: Path) -> Path:
    content = t.one_page({**t.rgb(256, 256, (256, 256)), t.SUB_IFDS: 1}, [_raw()])
    at = struct.unpack_from("<I", content, 4)[0]
    return _tiff(folder, t.one_page({**t.rgb(256, 256, (256, 256)), t.SUB_IFDS: [at] * 1000}, [_raw()]))


@bomb
def a_million_sub_directories(folder: Path) -> Path:
    content = t.one_page({**t.rgb(256, 256, (256, 256)), t.SUB_IFDS: 1}, [_raw()])
    at = struct.unpack_from("<I", content, 4)[0]
    return _tiff(folder, t.one_page({**t.rgb(256, 256, (256, 256)), t.SUB_IFDS: [at] * 1_000_000}, [_raw()]))


@bomb
def a_tile_that_inflates_to_a_gigabyte(folder: Path) -> Path:
    return _one_bad_tile(folder, 8, zlib.compress(bytes(HUGE), 1), zlib.compress(_raw()))


@bomb
def a_tile_that_unpacks_to_gigabytes(folder: Path) -> Path:
    import imagecodecs

    bad = imagecodecs.zstd_encode(bytes(HUGE))
    return _one_bad_tile(folder, 50000, bad, imagecodecs.zstd_encode(_raw()))


@bomb
def a_tile_of_repeated_words(folder: Path) -> Path:
    import imagecodecs

    return _one_bad_tile(folder, 5, imagecodecs.lzw_encode(bytes(64 << 20)), imagecodecs.lzw_encode(_raw()))


@bomb
def a_tile_of_packed_bits(folder: Path) -> Path:
    import imagecodecs

    return _one_bad_tile(folder, 32773, b"\x81\0" * 200_000, imagecodecs.packbits_encode(_raw()))


def _jpeg(**options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(tissue()[:256, :256]).save(out, "JPEG", **options)
    return out.getvalue()


@bomb
def a_jpeg_that_says_it_is_large(folder: Path) -> Path:
    sound = _jpeg()
    place = sound.index(b"\xff\xc0")
    return _one_bad_tile(folder, 7, sound[: place + 5] + struct.pack(">HH", 65500, 65500) + sound[place + 9 :], sound)


@bomb
def a_jpeg_of_thousands_of_scans(folder: Path) -> Path:
    sound = _jpeg(progressive=True)
    scan = sound[sound.rindex(b"\xff\xda") : -2]
    return _one_bad_tile(folder, 7, sound[:-2] + scan * (150_000 // len(scan)) + sound[-2:], sound)


@bomb
def a_codestream_that_says_it_is_large(folder: Path) -> Path:
    import imagecodecs

    sound = imagecodecs.jpeg2k_encode(tissue()[:256, :256], codecformat="j2k")
    place = sound.index(b"\xff\x4f\xff\x51") + 8
    bad = sound[:place] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + sound[place + 8 :]
    return _one_bad_tile(folder, 34712, bad, sound)


@bomb
def a_codestream_of_parts_of_one_pixel(folder: Path) -> Path:
    import imagecodecs

    sound = imagecodecs.jpeg2k_encode(tissue()[:256, :256], codecformat="j2k")
    place = sound.index(b"\xff\x4f\xff\x51") + 24
    return _one_bad_tile(folder, 34712, sound[:place] + struct.pack(">II", 1, 1) + sound[place + 8 :], sound)


@bomb
def a_webp_of_the_largest_size(folder: Path) -> Path:
    import imagecodecs

    bad = imagecodecs.webp_encode(np.zeros((8000, 8000, 3), np.uint8), level=10)
    return _one_bad_tile(folder, 50001, bad, imagecodecs.webp_encode(tissue()[:256, :256]))


@bomb
def tiles_as_long_as_the_file(folder: Path) -> Path:
    """Every tile of a long file is all of it, so that little is stored and much is read."""
    raw, n = _raw(), 1024
    page = {**t.rgb(32 * 256, 32 * 256, (256, 256), 8), t.TILE_OFFSETS: [8] * n, t.TILE_COUNTS: [HUGE] * n}
    path = _tiff(folder, b"II*\0" + struct.pack("<I", HUGE + 8) + zlib.compress(raw))
    with path.open("r+b") as file:
        file.seek(HUGE + 8)
        file.write(t.directory(page, HUGE + 8))
    return path


def _described(folder: Path, text: bytes) -> Path:
    page = {**t.rgb(256, 256, (256, 256)), t.DESCRIPTION: text + b"\0"}
    return _tiff(folder, t.one_page(page, [_raw()]))


_OME = b'<?xml version="1.0"?>%s<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">%s</OME>'


@bomb
def a_billion_laughs(folder: Path) -> Path:
    lines = [b'<!ENTITY a0 "ha">', *(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12))]
    return _described(folder, _OME % (b"<!DOCTYPE z [" + b"".join(lines) + b"]>", b"&a11;"))


@bomb
def quadratic_entities(folder: Path) -> Path:
    return _described(folder, _OME % (b'<!DOCTYPE z [<!ENTITY a "' + b"x" * 100_000 + b'">]>', b"&a;" * 100_000))


@bomb
def a_description_of_a_hundred_megabytes(folder: Path) -> Path:
    return _described(folder, _OME % (b"", b"<Image/>" * 12_000_000))


@bomb
def a_description_nested_deeply(folder: Path) -> Path:
    return _described(folder, _OME % (b"", b"<a>" * 1_000_000 + b"</a>" * 1_000_000))


@bomb
def an_aperio_description_of_bars(folder: Path) -> Path:
    return _described(folder, b"Aperio Image Library " + b"|MPP " * 2_500_000)


@bomb
def offsets_beyond_every_file(folder: Path) -> Path:
    entries = [(256, 4, 1, 512), (257, 4, 1, 512), (258, 3, 1, 8), (259, 3, 1, 1), (322, 4, 1, 256), (323, 4, 1, 256)]
    entries += [(324, 16, 2**60, 2**62), (325, 16, 2**60, 2**62)]
    rows = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return _tiff(folder, b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(entries)) + rows + bytes(8))


def _zarr(folder: Path, change: Callable[[dict[str, Any]], None], key: str = "0") -> Path:
    """An OME-Zarr image with metadata that are changed."""
    path = ome_zarr(folder)
    file = path / key / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return path


@bomb
def metadata_nested_deeply(folder: Path) -> Path:
    path = ome_zarr(folder)
    (path / "zarr.json").write_text('{"a":' + "[" * 2_000_000)
    return path


@bomb
def metadata_of_a_hundred_megabytes(folder: Path) -> Path:
    path = ome_zarr(folder)
    (path / "zarr.json").write_text("[" + "0," * 50_000_000 + "0]")
    return path


@bomb
def metadata_of_an_array_of_a_hundred_megabytes(folder: Path) -> Path:
    path = ome_zarr(folder)
    (path / "0" / "zarr.json").write_text("[" + "0," * 50_000_000 + "0]")
    return path


@bomb
def an_array_of_exapixels(folder: Path) -> Path:
    return _zarr(folder, lambda array: array.update(shape=[3, 2**30, 2**30]))


@bomb
def a_sparse_array_of_terapixels(folder: Path) -> Path:
    return _zarr(folder, lambda array: array.update(shape=[3, 2**20 - 100, 2**20 - 100]))


@bomb
def a_chunk_of_gigabytes(folder: Path) -> Path:
    def change(array: dict[str, Any]) -> None:
        array["shape"] = [3, 2**16, 2**16]
        array["chunk_grid"]["configuration"]["chunk_shape"] = [3, 2**16, 2**16]
        array["codecs"] = [{"name": "bytes"}]

    return _zarr(folder, change)


@bomb
def a_shard_of_a_billion_chunks(folder: Path) -> Path:
    def change(array: dict[str, Any]) -> None:
        array["shape"] = [3, 2**15, 2**15]
        array["chunk_grid"]["configuration"]["chunk_shape"] = [3, 2**15, 2**15]
        array["codecs"][0]["configuration"]["chunk_shape"] = [3, 1, 1]

    return _zarr(folder, change)


@bomb
def ten_thousand_levels(folder: Path) -> Path:
    def change(group: dict[str, Any]) -> None:
        multiscale = group["attributes"]["ome"]["multiscales"][0]
        multiscale["datasets"] = [multiscale["datasets"][0]] * 10_000

    path = ome_zarr(folder)
    file = path / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return path


def _chunk_bomb(folder: Path, codec: dict[str, Any], chunk: bytes) -> Path:
    """A plain array of 2 x 2 chunks of 128 px, one of which is the bomb."""
    import zarr

    path = folder / "bomb.zarr"
    array = zarr.create_array(path, shape=(256, 256, 3), chunks=(128, 128, 3), dtype="uint8", compressors=None)
    array[...] = tissue()[:256, :256]
    for file in (path / "c").rglob("*"):
        if file.is_file():
            file.unlink()
    document = json.loads((path / "zarr.json").read_text())
    document["codecs"] = [{"name": "bytes"}, codec]
    (path / "zarr.json").write_text(json.dumps(document))
    (path / "c/0/1/0").parent.mkdir(parents=True, exist_ok=True)
    (path / "c/0/1/0").write_bytes(chunk)
    return path


@bomb
def a_chunk_that_gunzips_to_gigabytes(folder: Path) -> Path:
    return _chunk_bomb(
        folder, {"name": "gzip", "configuration": {"level": 5}}, gzip.compress(bytes(64 << 20), compresslevel=1) * 48
    )


@bomb
def a_chunk_that_unpacks_to_gigabytes(folder: Path) -> Path:
    import imagecodecs

    chunk = imagecodecs.zstd_encode(bytes(HUGE))
    return _chunk_bomb(folder, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}, chunk)


@bomb
def a_chunk_that_says_it_is_large(folder: Path) -> Path:
    import numcodecs

    chunk = bytearray(numcodecs.Blosc("zstd").encode(bytes(128 * 128 * 3)))
    chunk[4:8] = struct.pack("<I", 2**31 - 17)
    names = {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}
    return _chunk_bomb(folder, {"name": "blosc", "configuration": names}, bytes(chunk))


@bomb
def an_old_chunk_of_zeros(folder: Path) -> Path:
    """Zarr 2, whose codecs are others."""
    path = folder / "old.zarr"
    path.mkdir()
    array = {
        "zarr_format": 2, "shape": [128, 128, 3], "chunks": [128, 128, 3], "dtype": "|u1", "fill_value": 0,
        "order": "C", "filters": None, "compressor": {"id": "lzma", "format": 1, "check": -1, "preset": None,
        "filters": None},
    }  # fmt: skip
    (path / ".zarray").write_text(json.dumps(array))
    (path / "0.0.0").write_bytes(lzma.compress(bytes(64 << 20), preset=0) * 16)
    return path


@bomb
def an_old_chunk_of_blocks(folder: Path) -> Path:
    path = an_old_chunk_of_zeros(folder)[0]
    array = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**array, "compressor": {"id": "bz2", "level": 1}}))
    (path / "0.0.0").write_bytes(bz2.compress(bytes(16 << 20), 9) * 64)
    return path


@bomb
def a_gzipped_slide(folder: Path) -> Path:
    (folder / "slide.svs.gz").write_bytes(gzip.compress(bytes(64 << 20), compresslevel=1) * 16)
    return folder / "slide.svs.gz"


@bomb
def a_result_nested_deeply(folder: Path) -> Path:
    path = folder / "result.seg.zarr"
    path.mkdir()
    (path / "zarr.json").write_text('{"attributes":' + "[" * 2_000_000)
    (path / "provenance.json").write_text("[" * 2_000_000)
    return path


def _sound_slide(folder: Path) -> Path:
    return _tiff(folder, t.one_page(t.rgb(512, 512, (256, 256)), [_raw()] * 4))


def _roi(folder: Path, text: str) -> tuple[Path, tuple[str, ...]]:
    (folder / "roi.geojson").write_text(text)
    return _sound_slide(folder), ("--roi", str(folder / "roi.geojson"))


@bomb
def regions_nested_deeply(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _roi(folder, "[" * 2_000_000)


@bomb
def collections_in_collections(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _roi(folder, '{"type":"GeometryCollection","geometries":[' * 400 + "]}" * 400)


@bomb
def regions_of_half_a_gigabyte(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _roi(folder, "[" + "0," * 250_000_000 + "0]")


@bomb
def regions_at_infinity(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _roi(folder, '{"type":"Polygon","coordinates":[[[0,0],[1e999,0],[1e999,1e999],[0,0]]]}')


def _card(folder: Path, text: str) -> tuple[Path, tuple[str, ...]]:
    import onnx
    from onnx import TensorProto, helper

    shape = [1, 3, "h", "w"]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "bomb", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    (folder / "model.onnx.card.json").write_text(text)
    return _sound_slide(folder), ("--model", str(folder / "model.onnx"))


@bomb
def a_card_nested_deeply(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _card(folder, '{"a":' + "[" * 2_000_000)


@bomb
def a_card_of_half_a_gigabyte(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return _card(folder, "[" + "0," * 250_000_000 + "0]")


def set_off(scene: Scene, _: Random, number: int) -> Figures:
    """One bomb of the list."""
    driver: Driver = scene.kept("driver", lambda: Driver(scene.folder))
    name = sorted(BOMBS)[number]
    folder = scene.folder / "bomb"
    folder.mkdir()
    try:
        slide, options = BOMBS[name](folder)
        answer = driver.ask(slide, ("--mpp", "0.5", *options), _COMMANDS.get(name, ("run",)))
        judge(name, answer)
    finally:
        remove(folder)
    return {
        "seconds": max(answer.seconds.values()),
        "bytes": answer.extra_bytes,
        "code": max(answer.codes.values(), key=(0, 3, 2, 1).index),
    }


def remove(folder: Path) -> None:
    """A folder and all in it."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def judge(name: str, answer: Answer) -> None:
    """Refused, or done but for bad tiles, in time and memory. Raises Wrong."""
    for command, code in answer.codes.items():
        said, seconds = answer.said[command], answer.seconds[command]
        if code not in (0, 1, 2, 3) or (code in (1, 2) and not is_whole(said)):
            raise Wrong(f"{name}: {command} left with {code}, saying {said[-500:]!r}")
        if seconds > MOST_S or answer.extra_bytes > MOST_BYTES:
            raise Wrong(f"{name}: took {seconds:.1f} s and {answer.extra_bytes / 2**20:.0f} MiB more")


def told_of_bombs(figures: Sequence[Figures]) -> str:
    """What they cost."""
    slowest, most = max(figure["seconds"] for figure in figures), max(figure["bytes"] for figure in figures)
    n_tiles, n_whole = (sum(figure["code"] == code for figure in figures) for code in (3, 0))
    return (
        f"{len(figures) - n_tiles - n_whole} refused, {n_tiles} done but for the bad tile, {n_whole} done as harmless; "
        f"slowest {slowest:.1f} s, at most {most / 2**20:.0f} MiB more"
    )


FAULTS = (
    Fault("bombs", "R25", "bombs", len(BOMBS), set_off, told_of_bombs, count=lambda _: len(BOMBS)),
)  # fmt: skip
