"""Precision and runtime: what is asked for is what runs, and what is chosen is justified."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import ModelLoadError, UsageError
from wsi_seg.infer import ModelSpec, choose_precision, load_predictor, openvino_predictor, parity

SPEC_ERRORS = [{"runtime": "tensorflow"}, {"precision": "int3"}, {"threads": 0}, {"streams": 0}]


@pytest.mark.parametrize("options", SPEC_ERRORS, ids=str)
def test_a_spec_is_checked(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ModelSpec("identity", **options)  # type: ignore[arg-type]


def test_auto_becomes_fp32_on_a_cpu_without_bf16(
    small_unet: Path, tissue_like: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_predictor, "has_native_bf16", lambda: False)
    spec, result = choose_precision(ModelSpec(str(small_unet)), tissue_like(1, 64))
    assert (spec.runtime, spec.precision, result) == ("openvino", "fp32", None)


def test_auto_takes_bf16_only_where_the_labels_agree(
    small_unet: Path, tissue_like: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_predictor, "has_native_bf16", lambda: True)  # emulated where it is not
    tiles = tissue_like(2, 64)
    for threshold, expected in ((0.0, "bf16"), (1.1, "fp32")):
        monkeypatch.setattr(parity, "MIN_ARGMAX_AGREEMENT", threshold)
        spec, result = choose_precision(ModelSpec(str(small_unet)), tiles)
        assert spec.precision == expected
        assert result is not None
        assert 0.9 < result.argmax_agreement <= 1
        assert result.max_abs > 0  # it really was another arithmetic


def test_a_stated_precision_is_kept(small_unet: Path, tissue_like: Callable[..., np.ndarray]) -> None:
    asked = ModelSpec(str(small_unet), runtime="onnxruntime", precision="fp32")
    assert choose_precision(asked, tissue_like(1, 64)) == (asked, None)


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


@pytest.mark.parametrize("spec", [
    ModelSpec("he-stain", runtime="onnxruntime", precision="bf16"),
    ModelSpec("wsi_seg.model.he_stain:HeStain", precision="bf16"),
], ids=["onnxruntime", "torch"])  # fmt: skip
def test_runtimes_without_bf16_say_so(spec: ModelSpec) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ModelLoadError, match="precision bf16"):
        load_predictor(spec)


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


def test_a_fixed_tile_compares_too(affine: Callable[..., Path], tissue_like: Callable[..., np.ndarray]) -> None:
    card = ModelCard("m", 0.5, named_classes(["a", "b"]), 32, activation="softmax")
    path = affine(np.array([[1.0, 0, 0], [0, 1.0, 0]]), card=card, dims=(2, 32, 32))
    predictor = load_predictor(ModelSpec(str(path)))
    assert parity.agreement(predictor, predictor, tissue_like(3, 32)) == parity.Agreement(1.0, 0.0, 0.0)
