"""The memory of a prediction, reckoned from the graph, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import networks
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.infer.runtime.live_memory import SCRATCH

FP32 = {"runtime": "openvino", "precision": "fp32"}


def reckoned(model: Path, side: int) -> int:
    predictor = load_predictor(ModelSpec(str(model), **FP32))
    try:
        return predictor.prediction_bytes(side)  # type: ignore[attr-defined, no-any-return]
    finally:
        predictor.close()


def test_a_chain_holds_two_values_at_a_time(tmp_path: Path) -> None:
    # 3 channels in, then 5 logits, then 5 probabilities: at the worst moment both of the last two.
    model = networks.null(tmp_path / "n.onnx", n_classes=5)
    assert reckoned(model, 64) == pytest.approx(SCRATCH * 4 * 64 * 64 * (5 + 5), rel=0.01)


def test_skips_of_a_unet_live_until_they_are_read(tmp_path: Path) -> None:
    # At full resolution: skip (16) and up-sampled (16) become their concatenation (32).
    model = networks.unet(tmp_path / "u.onnx", networks.UnetShape(16, 2, tile_size=64))
    assert reckoned(model, 64) == pytest.approx(SCRATCH * 4 * 64 * 64 * 64, rel=0.01)


def test_it_grows_as_the_area(tmp_path: Path) -> None:
    model = networks.unet(tmp_path / "u.onnx", networks.UnetShape(8, 1, tile_size=64))
    assert reckoned(model, 256) == pytest.approx(16 * reckoned(model, 64), rel=0.01)


def test_other_runtimes_cannot_tell(tmp_path: Path) -> None:
    model = networks.null(tmp_path / "n.onnx")
    predictor = load_predictor(ModelSpec(str(model), runtime="onnxruntime"))
    assert predictor.prediction_bytes(64) is None  # type: ignore[attr-defined]
