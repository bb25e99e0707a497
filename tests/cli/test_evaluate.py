"""`wsi-seg evaluate`, as people call it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.output.making import finished, make_spec
from wsi_seg.output.tiff_writer import write_ome_tiff


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three predictions and their references of 0 and 1."""
    rng = np.random.default_rng(0)
    for name in ("predicted", "reference"):
        (tmp_path / name).mkdir()
    for n in range(3):
        mask = np.kron(rng.integers(0, 2, (8, 9)), np.ones((10, 10))).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / f"reference/p{n}.png")
        Image.fromarray(np.roll(mask, n, axis=0)).save(tmp_path / f"predicted/p{n}.png")
    return tmp_path / "predicted", tmp_path / "reference"


def test_table_and_files(wsi_seg: Any, folders: Any, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    arguments = ("--classes", "background,nuclei", "--objects", "nuclei", "--out", out, "--mpp", 0.5)
    code, said, err = wsi_seg("evaluate", *folders, *arguments)
    assert (code, err) == (0, "")
    assert said.startswith("3 slides, boundary tolerance 2 px, objects match above an IoU of 0.5, 8-connected")
    for word in ("Dice", "HD95 (um)", "AJI", "lowest", "bootstrap of 3 cases", "not analysed: none"):
        assert word in said
    assert sorted(path.name for path in out.iterdir()) == ["report.png", "scores.csv", "scores.json"]


def test_json(wsi_seg: Any, folders: Any) -> None:
    code, said, _ = wsi_seg("evaluate", folders[1], folders[1], "--classes", "a,b", "--json")
    assert code == 0
    assert json.loads(said)["all_slides"]["b"]["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_result_against_its_tiff(wsi_seg: Any, tmp_path: Path) -> None:
    result, _ = finished(tmp_path / "a.seg.zarr", make_spec((300, 400)))
    write_ome_tiff(result, tmp_path / "b.ome.tif")
    code, said, _ = wsi_seg("evaluate", tmp_path / "a.seg.zarr", tmp_path / "b.ome.tif")
    assert code == 0
    assert "one case: no confidence intervals" in said
    assert said.count("1.000") >= 8


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 1, "names its classes"),
        (("--classes", "a"), 1, "holds the value 1"),
        (("--classes", "a,b", "--tolerance", "x"), 2, "--tolerance 'x'"),
        (("--classes", "a,b", "--tolerance", "1um"), 1, "--mpp"),
        (("--classes", "a,b", "--count-not-analysed", "x"), 2, "--count-not-analysed 'x'"),
        (("--classes", "a,b", "--reference-values", "x"), 2, "VALUE=CLASS"),
        (("--classes", "a,b", "--objects", "c"), 1, "class 'c'"),
        (("--classes", "a,b", "--case", "("), 1, "--case"),
        (("--classes", "a,b", "--mpp", "-1"), 2, "--mpp"),
        (("--classes", "a,b", "--resamples", "0"), 2, "--resamples 0"),
    ],
)
def test_refusals(wsi_seg: Any, folders: Any, arguments: Any, code: int, says: str) -> None:
    outcome = wsi_seg("evaluate", *folders, *arguments)
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    assert says in outcome.err


def test_missing_extra_is_one_message(wsi_seg: Any, folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    code, _, err = wsi_seg("evaluate", *folders, "--classes", "a,b")
    assert code == 1
    assert "pip install 'wsi-seg[evaluate]'" in err


def test_missing_partners_are_listed(wsi_seg: Any, folders: Any) -> None:
    (folders[0] / "p1.png").unlink()
    code, _, err = wsi_seg("evaluate", *folders, "--classes", "a,b")
    assert code == 1
    assert "reference/p1.png" in err
    assert wsi_seg("evaluate", *folders, "--classes", "a,b", "--only-paired").code == 0
