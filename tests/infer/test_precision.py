"""Precision and runtime: what is asked for is what runs, and what is chosen is justified."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_seg.errors import ModelLoadError, UsageError
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.infer.runtime import openvino_predictor

SPEC_ERRORS = [{"runtime": "tensorflow"}, {"precision": "int3"}, {"threads": 0}, {"streams": 0}]


@pytest.mark.parametrize("options", SPEC_ERRORS, ids=str)
def test_a_spec_is_checked(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ModelSpec("identity", **options)  # type: ignore[arg-type]


def test_bf16_really_runs_or_is_refused(small_unet: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    batch = tissue_like(1, 64)
    exact = load_predictor(ModelSpec(str(small_unet))).predict(batch)
    fast = load_predictor(ModelSpec(str(small_unet), precision="bf16"))
    assert fast.facts.precision == "bf16"
    difference = np.abs(fast.predict(batch) - exact).max()
    assert 1e-4 < difference < 0.2


def test_a_silent_fall_back_is_an_error(small_unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openvino_predictor._HINTS, "bf16", "f32")  # the plug-in that ignores the hint
    with pytest.raises(ModelLoadError, match="not in bf16"):
        load_predictor(ModelSpec(str(small_unet), precision="bf16"))


def test_onnx_runtime_has_no_bf16_and_says_so() -> None:
    with pytest.raises(ModelLoadError, match="precision bf16"):
        load_predictor(ModelSpec("he-stain", runtime="onnxruntime", precision="bf16"))


def test_torch_computes_in_the_precision_asked_for(tissue_like: Callable[..., np.ndarray]) -> None:
    pytest.importorskip("torch")
    for precision in ("bf16", "fp16"):  # by autocast: no program of its own is needed
        predictor = load_predictor(ModelSpec("wsi_seg.model.he_stain:HeStain", precision=precision))
        assert predictor.facts.precision == precision
        assert np.isfinite(predictor.predict(tissue_like(1, 64))).all()


def test_onnx_falls_back_to_onnxruntime_and_the_reason_is_logged(
    small_unet: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(path: Path) -> None:
        raise ModelLoadError(f"OpenVINO cannot read {path}: operator Foo")

    monkeypatch.setattr(openvino_predictor, "_read", unreadable)
    with caplog.at_level(logging.WARNING):
        assert load_predictor(ModelSpec(str(small_unet))).facts.runtime == "onnxruntime"
    assert "operator Foo" in caplog.text
    with pytest.raises(ModelLoadError, match="operator Foo"):
        load_predictor(ModelSpec(str(small_unet), runtime="openvino"))


def test_a_runtime_that_cannot_run_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    with pytest.raises(ModelLoadError, match="openvino-ir programs run on openvino"):
        load_predictor(ModelSpec(str(tmp_path / "m.xml"), runtime="torch"))


def test_importing_the_room_imports_no_runtime() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'onnxruntime', 'openvino', 'onnx', 'numba', 'dask', 'zarr'}"
    code = f"import sys, wsi_seg.infer; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
