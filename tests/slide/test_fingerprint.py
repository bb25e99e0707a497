"""A slide's fingerprint follows its content, not its name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_seg.errors import RegionReadError
from wsi_seg.slide import ArraySlide, open_slide
from wsi_seg.slide.fingerprint import sampled_sha256


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_it_is_stable_under_renaming_and_changes_with_a_byte(tmp_path: Path, tiff_writer: Any, reader: str) -> None:
    path = tiff_writer(tmp_path / "a.tif", [(600, 800)])
    first = open_slide(path, reader=reader).fingerprint()
    assert open_slide(path, reader=reader).fingerprint() == first
    path = path.rename(tmp_path / "b.tiff")
    assert open_slide(path, reader=reader).fingerprint() == first
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert open_slide(path, reader=reader).fingerprint() != first


def test_a_zarr_slide_is_known_by_its_metadata_and_chunks(tmp_path: Path, ome_zarr_writer: Any) -> None:
    path = ome_zarr_writer(tmp_path / "a.zarr", [(300, 400)], "cyx", "0.5")
    first = open_slide(path).fingerprint()
    path = path.rename(tmp_path / "b.zarr")
    assert open_slide(path).fingerprint() == first
    slide = open_slide(path)
    chunk = next(file for file in sorted(path.rglob("c/**/*")) if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert slide.fingerprint() != first


def test_an_array_is_known_by_all_its_pixels() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    first = ArraySlide(pixels).fingerprint()
    assert ArraySlide(pixels.copy()).fingerprint() == first
    assert ArraySlide(pixels.reshape(40, 30, 3)).fingerprint() != first
    pixels[29, 39, 2] = 1
    assert ArraySlide(pixels).fingerprint() != first


def test_a_large_file_is_sampled_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    first = sampled_sha256([path])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert sampled_sha256([path]) == first
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
    with path.open("r+b") as file:
        file.truncate((10 << 30) + 1)
    assert sampled_sha256([path]) != first


def test_a_file_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RegionReadError, match=r"none cannot be read: No such file"):
        sampled_sha256([tmp_path / "none"])
