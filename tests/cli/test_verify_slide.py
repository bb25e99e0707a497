"""`wsi-seg verify --slide`: the slide against what the result says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsi_seg.sample import write_synthetic

OPTIONS = ("--model", "identity", "--tile", "128", "--block", "512", "--no-skip", "--quiet")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic(path, (1500, 1800), mpp=0.5, seed=1, tissue_fraction=0.8)
    assert path.stat().st_size > 500_000  # smaller files are sampled whole
    return path.read_bytes()


@pytest.fixture
def slide(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "slide.tif"
    path.write_bytes(content)
    return path


def unsampled_bit(slide: Path) -> None:
    """Change a bit between two samples."""
    content = bytearray(slide.read_bytes())
    step = (len(content) - 2 * (128 << 10)) // 48
    content[(128 << 10) + 2 * step + step - 3] ^= 1
    slide.write_bytes(content)


def test_a_change_between_the_samples_needs_the_whole_hash(wsi_seg: Any, tmp_path: Path, slide: Path) -> None:
    sampled, whole = tmp_path / "sampled.seg.zarr", tmp_path / "whole.seg.zarr"
    assert wsi_seg("run", slide, "--out", sampled, *OPTIONS).code == 0
    assert wsi_seg("run", slide, "--out", whole, "--full-hash", *OPTIONS).code == 0
    told = wsi_seg("verify", sampled, "--slide", slide)
    assert (told.code, "0.5 of its" in told.out and "--full-hash" in told.out) == (0, True), told.out
    told = wsi_seg("verify", whole, "--slide", slide)
    assert (told.code, "all of its" in told.out) == (0, True), told.out
    slide.rename(tmp_path / "other name.tif")
    slide = tmp_path / "other name.tif"
    assert wsi_seg("verify", whole, "--slide", slide).code == 0
    unsampled_bit(slide)
    assert wsi_seg("verify", sampled, "--slide", slide).code == 0
    told = wsi_seg("verify", whole, "--slide", slide, "--json")
    assert told.code == 1
    assert json.loads(told.out)["slide"]["is_same"] is False
    slide.write_bytes(slide.read_bytes() + b"x")
    told = wsi_seg("verify", sampled, "--slide", slide)
    assert (told.code, "its bytes differ" in told.out) == (1, True)


def test_the_reader_of_the_run_is_found(wsi_seg: Any, tmp_path: Path, slide: Path) -> None:
    out = tmp_path / "x.seg.zarr"
    assert wsi_seg("run", slide, "--out", out, "--reader", "openslide", *OPTIONS).code == 0
    assert wsi_seg("verify", out, "--slide", slide).code == 0


def test_what_says_nothing_of_its_slide(wsi_seg: Any, tmp_path: Path, slide: Path) -> None:
    out = tmp_path / "x.seg.zarr"
    assert wsi_seg("run", slide, "--out", out, *OPTIONS).code == 0
    assert wsi_seg("verify", out, "--slide", tmp_path / "none.tif").code == 1
    (out / "summary.json").write_text("[]")
    told = wsi_seg("verify", out, "--slide", slide)
    assert (told.code, "cannot be read" in told.err) == (1, True)
    (out / "summary.json").unlink()
    told = wsi_seg("verify", out, "--slide", slide)
    assert (told.code, "finished results say there" in told.err) == (2, True)
