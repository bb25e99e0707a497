"""`wsi-seg convert`: what it says, what it leaves, and with which code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.output.making import finished, make_spec
from wsi_seg.convert.converting import SUFFIXES


@pytest.fixture
def result(tmp_path: Path) -> Path:
    made, _ = finished(tmp_path / "slide.seg.zarr", make_spec((120, 160)))
    assert isinstance(made.path, Path)
    return made.path


@pytest.mark.parametrize("to", sorted(SUFFIXES))
def test_every_format_beside_the_result(wsi_seg: Any, result: Path, to: str) -> None:
    code, out, _ = wsi_seg("convert", result, "--to", to)
    path = result.with_name(f"slide{SUFFIXES[to]}")
    assert code == 0
    assert path.stat().st_size > 100
    assert out.startswith(f"{path}: ")


def test_json_says_what_was_written(wsi_seg: Any, result: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "a.geojson"
    options = ("--classes", "stroma", "--objects", "--simplify", "0.5", "--json")
    code, said, _ = wsi_seg("convert", result, "--to", "geojson", "--out", out, *options)
    assert code == 0
    features = json.loads(out.read_text())["features"]
    assert json.loads(said) == {
        "path": str(out),
        "format": "geojson",
        "level": 0,
        "n_items": len(features),
        "n_bytes": out.stat().st_size,
    }


def test_the_roi_of_a_run_can_be_what_was_exported(wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
    run = ("--model", "he-stain", "--tile", 128, "--block", 256, "--no-skip", "--quiet")
    assert wsi_seg("run", small_slide, *run, "--out", tmp_path / "a.seg.zarr")[0] == 0
    assert wsi_seg("convert", tmp_path / "a.seg.zarr", "--to", "geojson")[0] == 0
    options = ("--roi", tmp_path / "a.geojson", "--out", tmp_path / "b.seg.zarr")
    assert wsi_seg("run", small_slide, *run, *options)[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--to", "svg"), 2, "--to 'svg'"),
        (("--to", "csv", "--classes", "mitosis"), 2, "mitosis"),
        (("--to", "png", "--simplify", "1"), 2, "--simplify"),
        (("--to", "csv", "--level", "7"), 2, "level 7"),
    ],
)
def test_refusals(wsi_seg: Any, result: Path, options: tuple[str, ...], code: int, said: str) -> None:
    found, _, err = wsi_seg("convert", result, *options)
    assert found == code
    assert said in err


def test_what_is_no_result_and_what_is_there(wsi_seg: Any, result: Path, tmp_path: Path) -> None:
    assert wsi_seg("convert", tmp_path / "none.seg.zarr", "--to", "csv")[0] == 1
    assert wsi_seg("convert", result, "--to", "csv")[0] == 0
    code, _, err = wsi_seg("convert", result, "--to", "csv")
    assert code == 1
    assert "--overwrite" in err
    assert wsi_seg("convert", result, "--to", "csv", "--overwrite")[0] == 0
