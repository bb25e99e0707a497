"""A run that blends where the model runs writes the bytes of one that blends on the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.runs import Runs, assert_same_labels, pixels_of, shard_bytes
from wsi_seg.errors import UsageError
from wsi_seg.slide import ArraySlide

pytest.importorskip("torch")


@pytest.mark.parametrize(
    "options",
    [
        {"window": "cosine", "probabilities": True},
        {"window": "crop", "block": 512, "workers": 1, "min_object": {"": 20.0}},
    ],
)
def test_same_bytes(run: Runs, small_slide: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    from wsi_seg.infer.device.device_blend import TorchSums

    slide = ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:620, 300:800]), mpp=0.5)
    options = {"model": "wsi_seg.model.he_stain:HeStain", "runtime": "torch", "device": "cpu", "overlap": 32, **options}
    host = run(slide, **options, blend="host")
    added: list[bool] = []
    add = TorchSums.add_prediction
    monkeypatch.setattr(TorchSums, "add_prediction", lambda *args: added.append(True) or add(*args))
    device = run(slide, **options, blend="device")
    assert added
    assert shard_bytes(device) == shard_bytes(host)


MODEL = "tests.infer.torch_models:"
MARK = (255, 1, 2)
PLACES = ((40, 40), (255, 130), (256, 300), (300, 256), (380, 60), (380, 61))
"""Where tiles fail, as (y, x): inside a block, on both sides of its borders, and where four tiles overlap."""
ALL_STEPS: dict[str, Any] = {
    "min_object": {"": 6.0}, "fill_holes": {"": 9.0}, "crf": {"radius_um": 1.0, "iterations": 2}
}  # fmt: skip
CRF = {"crf": ALL_STEPS["crf"]}
CASES: dict[str, dict[str, Any]] = {
    "tiles of NaN": {"model": "Marked", "probabilities": True},
    "tiles of NaN that do not blend": {"model": "Marked", "window": "crop", "probabilities": True},
    "one channel and a threshold": {"model": "MarkedAlone", "probabilities": True},
    "one channel and a CRF": {"model": "MarkedAlone", **CRF},
    "none of them": {"model": "MarkedApart", "probabilities": True, "min_object": {"": 6.0}},
    "overlapping classes": {"model": "MarkedOverlapping", "card": {"threshold": 0.6}, "window": "linear"},
    "all steps": {"model": "Marked", **ALL_STEPS},
    "all steps, tiles that do not blend": {"model": "Marked", "window": "crop", **ALL_STEPS},
    "large batches": {"model": "Marked", "batch": 5, **CRF},
    "tiles that raise": {"model": "Raising", "batch": 3, "window": "linear"},
    "redone in fp32": {"model": "Overflowing", "precision": "fp16", "probabilities": True, "batch": 3},
}


@pytest.fixture(scope="module")
def marked(small_slide: Path) -> ArraySlide:
    pixels = np.ascontiguousarray(pixels_of(small_slide)[200:620, 300:800])
    for place in PLACES:
        pixels[place] = MARK
    return ArraySlide(pixels, mpp=0.5)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A triangle and a square."""
    rings = [[[20, 20], [420, 60], [200, 400], [20, 20]], [[400, 300], [490, 300], [490, 410], [400, 410], [400, 300]]]
    path = tmp_path_factory.mktemp("region") / "roi.geojson"
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}))
    return path


@pytest.mark.parametrize(("case", "regional"), [(case, number % 2 == 0) for number, case in enumerate(CASES)])
def test_same_bytes_where_tiles_fail(
    case: str, regional: bool, run: Runs, marked: ArraySlide, region: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")
    options = {**CASES[case], "runtime": "torch", "device": "cpu", "overlap": 32, "roi": region if regional else None}
    options["model"] = MODEL + options["model"]
    if "raise" in case:  # a model that fails on the tiles it is measured on does not begin
        monkeypatch.setattr("wsi_seg.engine.prepare.probe_tiles", lambda *_: np.full((2, 128, 128, 3), 200, np.uint8))
    host = run(marked, **options, blend="host", workers=1)
    tiles = json.loads((host.path / "summary.json").read_text())["tiles"]
    assert tiles["redone-fp32" if "redone" in case else "model-failed"], tiles
    assert tiles["done"]
    for block, workers in ((256, 3), (512, 1)):
        device = run(marked, **options, blend="device", workers=workers, block=block)
        assert json.loads((device.path / "summary.json").read_text())["tiles"] == tiles
        if block == 256:
            assert shard_bytes(device) == shard_bytes(host)
        assert_same_labels(device, host)
        if "probabilities" in options:
            np.testing.assert_array_equal(device.probabilities(0)[:], host.probabilities(0)[:])


def test_a_predictor_that_cannot(run: Runs, small_slide: Path) -> None:
    with pytest.raises(UsageError, match="--blend device"):
        run(small_slide, model="constant:1/2", blend="device")
