"""A run whose preferred runtime loads the model and then cannot predict the slide's tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.runs import Runs, pixels_of
from wsi_seg.errors import PredictorError, PredictorOutOfMemory
from wsi_seg.infer import measuring
from wsi_seg.infer.runtime.openvino_predictor import OpenvinoProgram
from wsi_seg.slide import ArraySlide


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "_WINDOWS", 1)
    monkeypatch.setattr("wsi_seg.infer.rough_throughput", measuring.rough_throughput)  # where the failure is met
    monkeypatch.setattr(measuring, "_native_bf16", lambda: False)


@pytest.fixture
def slide(small_slide: Path) -> ArraySlide:
    return ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:500, 300:630]), mpp=0.5)


def on_real_tiles(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[Exception]:
    """Make OpenVINO fail on all tiles but the made-up one of loading; answers a list from which the error is taken."""
    run, left = OpenvinoProgram.run, [error]

    def failing(self: OpenvinoProgram, batch: np.ndarray) -> np.ndarray:
        if left and tuple(batch[0, 0, 0]) != (128, 64, 160):
            raise left[0]
        return run(self, batch)

    monkeypatch.setattr(OpenvinoProgram, "run", failing)
    return left


def test_another_runtime_is_taken_and_the_report_says_why(
    run: Runs, slide: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_real_tiles(monkeypatch, PredictorError("OpenVINO stumbled"))
    report = run.report(slide, model=unet)
    assert report.n_failed_tiles == 0
    assert "openvino fp32 loads the program, but fails to run it (OpenVINO stumbled)" in " ".join(report.notes)
    assert "onnxruntime fp32" in " ".join(report.notes)


def test_without_another_runtime_the_run_does_not_begin(
    run: Runs, slide: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_real_tiles(monkeypatch, PredictorError("OpenVINO stumbled"))
    with pytest.raises(PredictorError, match="stumbled"):
        run(slide, model=unet, runtime="openvino")


def test_memory_that_runs_out_while_timing_does_not_end_the_run(
    run: Runs, slide: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_seg.engine import prepare

    plain = run.report(slide, model=unet)

    def throughput(*_: object, **__: object) -> float:
        raise PredictorOutOfMemory("all at once")

    monkeypatch.setattr("wsi_seg.infer.rough_throughput", throughput)
    monkeypatch.setattr(prepare, "MEASURED_FROM_S", 0.0)
    assert run.report(slide, model=unet).summary.classes == plain.summary.classes
