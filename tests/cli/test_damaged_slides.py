"""A slide with a damaged tile: exit code 3, and only the tiles that need it are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wsi_seg.geometry import Box
from wsi_seg.output.label_store import open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.plan.grid import TileGrid

OPTIONS = ("--tile", 128, "--block", 256, "--model", "identity", "--overlap", 32, "--json")
DAMAGED = (2, 3)
"""(row, column) of the slide's own tiles of 256 px."""


def damage(slide: Path, how: str) -> Path:
    """A copy with one tile of level 0 zeroed, or from a third on."""
    copy = slide.with_name(f"{how}.tif")
    content = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as file:
        page = file.pages.first
        columns = -(-page.imagewidth // page.tilewidth)
        index = DAMAGED[0] * columns + DAMAGED[1]
        start, count = page.dataoffsets[index], page.databytecounts[index]
    kept = count // 3 if how == "cut" else 0
    content[start + kept : start + count] = bytes(count - kept)
    copy.write_bytes(content)
    return copy


@pytest.fixture
def slide(tmp_path: Path, small_slide: Path) -> Path:
    copy = tmp_path / "sound.tif"
    copy.write_bytes(small_slide.read_bytes())
    return copy


@pytest.mark.parametrize("how", ["zeroed", "cut"])
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_only_the_tiles_that_need_it_are_lost(wsi_seg: Any, tmp_path: Path, slide: Path, how: str, reader: str) -> None:
    common = (*OPTIONS, "--no-skip", "--reader", reader)
    assert wsi_seg("run", slide, "--out", tmp_path / "sound.seg.zarr", *common).code == 0
    left = wsi_seg("run", damage(slide, how), "--out", tmp_path / "x.seg.zarr", *common)
    assert left.code == 3, left.err
    report = json.loads(left.out)
    result = open_result(tmp_path / "x.seg.zarr")
    grid = TileGrid((1100, 1500), 128, 32)
    lost = {
        (row, column)
        for row in range(grid.shape[0])
        for column in range(grid.shape[1])
        if not grid.tile_box(row, column).intersect(Box.at(256 * DAMAGED[0], 256 * DAMAGED[1], 256, 256)).is_empty
    }
    statuses = result.read_tiles()
    assert {(int(y), int(x)) for y, x in np.argwhere(statuses == TileStatus.UNREADABLE)} == lost
    assert report["tiles"]["unreadable"] == len(lost)
    assert report["problems"]
    assert any(f"y {256 * DAMAGED[0]}-" in note and "cannot be read" in note for note in report["notes"]), report[
        "notes"
    ]
    gone = np.zeros((1100, 1500), bool)
    for key in lost:
        gone[grid.support(*key).slices()] = True
    labels = np.asarray(result.labels(0)[:])
    sound = np.asarray(open_result(tmp_path / "sound.seg.zarr").labels(0)[:])
    assert (labels[gone] == 255).all()
    np.testing.assert_array_equal(labels[~gone], sound[~gone])


def test_skipping_does_not_hide_the_damage(wsi_seg: Any, tmp_path: Path, slide: Path) -> None:
    options = ("--out", tmp_path / "x.seg.zarr", "--model", "he-stain", "--tile", 128, "--quiet")
    left = wsi_seg("run", damage(slide, "zeroed"), *options)
    assert left.code == 3
    assert "unreadable" in left.out
    assert "tiles failed and are not analysed" in left.out
    assert wsi_seg("verify", tmp_path / "x.seg.zarr").code == 0
