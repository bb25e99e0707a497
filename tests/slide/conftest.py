"""Slides whose pixels encode their coordinates, in every format that is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from wsi_seg.slide import ArraySlide, Slide, open_slide

SIZES = [(1152, 1536), (576, 768), (288, 384)]
"""Levels of a slide whose downsamples are whole numbers, for OpenSlide too."""
ODD_SIZES = [(1101, 1397), (551, 699), (137, 174)]
"""Levels rounded up, down and by both, as scanners write them."""
TILE = (112, 144)
COLOUR = {"photometric": "rgb"}


@cache
def coded_pixels(size: tuple[int, int]) -> NDArray[np.uint8]:
    """R = x & 255, G = y & 255, B = the next four bits of x and of y (DESIGN §6.5)."""
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([x & 255, y & 255, ((x >> 8) & 15) << 4 | ((y >> 8) & 15)], axis=-1).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def write_tiff(path: Path, sizes: Sequence[tuple[int, int]], **options: Any) -> Path:
    """A generic pyramid, one page per level."""
    options = {"tile": TILE, "compression": "zlib", "predictor": True, **COLOUR} | options
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as tiff:
        for index, size in enumerate(sizes):
            pixels = coded_pixels(size)
            if options.get("planarconfig") == "separate":
                pixels = pixels.transpose(2, 0, 1)
            tiff.write(pixels, subfiletype=min(index, 1), metadata=None, **options)
    return path


def write_ome_tiff(path: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm"}
    options = {"tile": (128, 160), "compression": "zstd", **COLOUR}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(coded_pixels(sizes[0]), subifds=len(sizes) - 1, metadata=metadata, **options)
        for size in sizes[1:]:
            tiff.write(coded_pixels(size), subfiletype=1, **options)
    return path


def write_ome_zarr(path: Path, sizes: Sequence[tuple[int, int]], axes: str, version: str) -> Path:
    """OME-Zarr with the given order of axes; 0.4 on zarr v2, 0.5 sharded on zarr v3."""
    chunk = {"y": 100, "x": 200, "c": 3}
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for index, size in enumerate(sizes):
        pixels = coded_pixels(size)
        stored = pixels.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        stored = np.expand_dims(stored, [index for index, axis in enumerate(axes) if axis not in "yxc"])
        layout = {"chunks": tuple(chunk.get(axis, 1) for axis in axes)}
        if version == "0.5":
            layout["shards"] = tuple(2 * chunk[a] if a in "yx" else chunk.get(a, 1) for a in axes)
        group.create_array(str(index), data=np.ascontiguousarray(stored), **layout)
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    spatial = {"type": "space", "unit": "micrometer"}
    scale = [{"y": 0.5, "x": 0.25}.get(axis, 1.0) for axis in axes]
    multiscale = {
        "axes": [{"name": axis, **kinds.get(axis, spatial)} for axis in axes],
        "datasets": [
            {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for i in range(len(sizes))
        ],
    }
    group.attrs.update(
        {"multiscales": [multiscale]} if version == "0.4" else {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    )
    return path


def _bare_zarr(folder: Path) -> Slide:
    array = zarr.create_array(folder / "bare.zarr", shape=(*SIZES[0], 3), chunks=(200, 300, 3), dtype="uint8")
    array[...] = coded_pixels(SIZES[0])
    return open_slide(folder / "bare.zarr")


def _ome_zarr(axes: str, version: str) -> Callable[[Path], Slide]:
    return lambda folder: open_slide(write_ome_zarr(folder / "s.zarr", ODD_SIZES, axes, version))


def _tiff(reader: str, sizes: Sequence[tuple[int, int]], **options: Any) -> Callable[[Path], Slide]:
    return lambda folder: open_slide(write_tiff(folder / "s.tif", sizes, **options), reader=reader)


MAKERS: dict[str, Callable[[Path], Slide]] = {
    "tiff-auto": _tiff("auto", ODD_SIZES),
    "tiff-big-lzw": _tiff("tiff", ODD_SIZES, compression="lzw", bigtiff=True),
    "tiff-planar": _tiff("tiff", ODD_SIZES[:1], planarconfig="separate", predictor=False),
    "tiff-strips": _tiff("tiff", ODD_SIZES[:1], tile=None, rowsperstrip=50, compression="packbits", predictor=False),
    "tiff-uncompressed": _tiff("tiff", ODD_SIZES, compression=None, predictor=False),
    "ome-tiff": lambda folder: open_slide(write_ome_tiff(folder / "s.ome.tif", ODD_SIZES)),
    "openslide": _tiff("openslide", SIZES),
    "ome-zarr-0.5-cyx": _ome_zarr("cyx", "0.5"),
    "ome-zarr-0.4-tczyx": _ome_zarr("tczyx", "0.4"),
    "ome-zarr-0.5-yxc": _ome_zarr("yxc", "0.5"),
    "zarr-bare": _bare_zarr,
    "array": lambda folder: ArraySlide(*(coded_pixels(size) for size in ODD_SIZES), mpp=0.5),
}


@pytest.fixture(scope="session", params=sorted(MAKERS))
def coded_slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """A slide of each reader whose pixels encode their coordinates."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def coded() -> Callable[[tuple[int, int]], NDArray[np.uint8]]:
    return coded_pixels


@pytest.fixture(scope="session")
def tiff_writer() -> Callable[..., Path]:
    return write_tiff


@pytest.fixture(scope="session")
def ome_zarr_writer() -> Callable[..., Path]:
    return write_ome_zarr


@pytest.fixture(scope="session")
def ome_tiff_writer() -> Callable[..., Path]:
    return write_ome_tiff


@pytest.fixture(scope="session")
def tissue() -> NDArray[np.uint8]:
    """(600, 800, 3) uint8 of smooth colours, kind to JPEG."""
    y, x = np.mgrid[:600, :800] / 40
    waves = [np.sin(x) * 60 + 150, np.cos(y + x / 3) * 60 + 110, np.sin(y / 2 - x) * 50 + 160]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def slides_folder() -> Path:
    """Real slides, in a folder beside the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
    if not folder.is_dir():
        pytest.skip("the folder shared/data/slides beside the repository is absent")
    return folder


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> Any:
    """Libraries say nothing on their own: only our loggers may be heard."""
    with caplog.at_level(logging.WARNING):
        yield
    foreign = [record for record in caplog.get_records("call") if not record.name.startswith("wsi_seg")]
    assert not foreign
