"""ONNX Runtime's TensorRT provider, on a stand-in that computes on the CPU; the real one is in `test_on_gpu.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.models_of_others import zoo
from wsi_seg.card import named_classes
from wsi_seg.errors import ModelLoadError, PredictorError
from wsi_seg.infer import CardOverrides, ModelSpec, candidates, load_predictor, measuring, places
from wsi_seg.infer.runtime import onnxruntime_predictor, onnxruntime_tensorrt
from wsi_seg.infer.runtime.onnxruntime_predictor import BoundLane

TENSORRT = "TensorrtExecutionProvider"
REAL = ort.InferenceSession


class Session:
    """A session of the CPU that says it is one of TensorRT."""

    def __init__(self, source: bytes, provider: str) -> None:
        self._own, self._provider = REAL(source, providers=["CPUExecutionProvider"]), provider

    def get_providers(self) -> list[str]:
        return [self._provider, "CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


@dataclass
class Made:
    """What sessions were asked for."""

    options: list[dict[str, str]] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    provider: str = TENSORRT
    """That they say they run on."""
    problem: str = ""
    """With which they fail."""

    def session(self, source: bytes, settings: Any, providers: list[Any], enable_fallback: int) -> Session:
        ((provider, options),) = providers
        assert provider == TENSORRT
        assert not enable_fallback, "it would go on to the CPU"
        self.options.append(options)
        self.settings.append(settings)
        if self.problem:
            raise RuntimeError(self.problem)
        return Session(source, self.provider)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Made:
    """A machine with two GPUs, on which nothing but this provider is there."""
    found = Made()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "undone after the test")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    for module in (onnxruntime_predictor, places):
        monkeypatch.setattr(module, "gpu_names", lambda: ("GPU", "GPU"))
    for module in (measuring, places):
        monkeypatch.setattr(
            module, "missing_for_gpu", lambda runtime: "" if runtime == "onnxruntime-tensorrt" else "absent"
        )
    monkeypatch.setattr(onnxruntime_predictor.ort, "InferenceSession", staticmethod(found.session))
    monkeypatch.setattr(onnxruntime_tensorrt, "BoundLane", lambda session, place: BoundLane(session, ("cpu", 0)))
    return found


def asked(path: object, **more: Any) -> ModelSpec:
    return ModelSpec(str(path), runtime="onnxruntime-tensorrt", **more)


def test_it_answers_as_the_cpu_does_with_an_engine_per_tile_size(
    small_unet: Path, made: Made, tissue_like: Callable[..., np.ndarray]
) -> None:
    predictor = load_predictor(asked(small_unet, device="cuda:1"))
    assert predictor.facts.runtime == "onnxruntime-tensorrt"
    assert predictor.facts.device == "cuda:1 GPU"
    batches = [tissue_like(count, side) for count, side in ((1, 64), (3, 64), (2, 128), (200, 128))]
    found = [predictor.predict(batch) for batch in batches]
    assert [(one["trt_profile_min_shapes"], one["trt_profile_max_shapes"]) for one in made.options] == [
        ("wsi_seg_pixels:1x64x64x3", "wsi_seg_pixels:512x64x64x3"),
        ("wsi_seg_pixels:1x128x128x3", "wsi_seg_pixels:128x128x128x3"),
        ("wsi_seg_pixels:1x128x128x3", "wsi_seg_pixels:200x128x128x3"),
    ]
    assert {one["device_id"] for one in made.options} == {"1"}
    assert all(one["trt_profile_opt_shapes"] == one["trt_profile_max_shapes"] for one in made.options)
    assert {one["trt_fp16_enable"] + one["trt_int8_enable"] for one in made.options} == {"00"}
    predictor.close()
    with pytest.raises(PredictorError, match="closed"):
        predictor.predict(batches[0])
    exact = cpu_predictor(small_unet)
    for batch, values in zip(batches, found, strict=True):
        np.testing.assert_allclose(values, exact.predict(batch), atol=2e-6)


def cpu_predictor(path: Path) -> Any:
    patch = pytest.MonkeyPatch()
    with patch.context() as undone:
        undone.setattr(onnxruntime_predictor.ort, "InferenceSession", REAL)
        return load_predictor(ModelSpec(str(path), runtime="onnxruntime", device="cpu"))


def test_nothing_may_run_elsewhere_and_fp32_is_fp32(small_unet: Path, made: Made) -> None:
    load_predictor(asked(small_unet))
    assert made.settings[0].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    made.provider = "CUDAExecutionProvider"
    with pytest.raises(ModelLoadError, match=r"on CUDAExecutionProvider; not on TensorrtExecutionProvider; .*TensorRT"):
        load_predictor(asked(small_unet))
    made.problem = "nodes are assigned to the default CPU EP"
    with pytest.raises(ModelLoadError, match=r"default CPU EP; .*run with --runtime onnxruntime"):
        load_predictor(asked(small_unet))


def test_libraries_are_loaded_first_and_stdout_stays_clean(
    small_unet: Path, made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[int] = []
    monkeypatch.setattr(
        onnxruntime_predictor.ort,
        "preload_dlls",
        lambda: sys.stdout.write("no libcublas") and loaded.append(len(made.options)),
    )
    onnxruntime_predictor._load_cuda.cache_clear()
    for _ in range(2):
        load_predictor(asked(small_unet))
    assert loaded == [0], "once, before the first session"
    assert capsys.readouterr().out == ""
    onnxruntime_predictor._load_cuda.cache_clear()


def test_engines_are_kept_in_a_folder_of_their_own(small_unet: Path, made: Made, tmp_path: Path) -> None:
    for more in ({}, {}, {"device": "cuda:1"}, {"card": CardOverrides(mean=(0.1,) * 3)}):
        load_predictor(asked(small_unet, **more))
    folders = [Path(one["trt_engine_cache_path"]) for one in made.options]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    for folder, one in zip(folders, made.options, strict=True):
        assert (one["trt_engine_cache_enable"], one["trt_timing_cache_enable"]) == ("1", "1")
        assert one["trt_timing_cache_path"] == str(folder)
        assert folder.parent == tmp_path / "cache/wsi-seg/engines"
        assert folder.stat().st_mode & 0o777 == 0o700
    (folders[0] / "x.engine").write_bytes(b"old")
    (folders[0] / "x.engine").chmod(0o664)  # nobody else gets there
    load_predictor(asked(small_unet))
    made.problem = "cannot deserialize"
    with pytest.raises(ModelLoadError, match=f"cannot deserialize.*remove {folders[0]}"):
        load_predictor(asked(small_unet))


@pytest.mark.parametrize("kind", ["open", "link", "file that is a link"])
def test_a_folder_that_others_may_enter_is_refused(small_unet: Path, made: Made, tmp_path: Path, kind: str) -> None:
    load_predictor(asked(small_unet))
    folder = Path(made.options[0]["trt_engine_cache_path"])
    if kind == "open":
        folder.chmod(0o755)
    elif kind == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        (folder / "x.engine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelLoadError, match="engines are executable"):
        load_predictor(asked(small_unet))


def test_a_folder_that_cannot_be_made_costs_time_only(
    small_unet: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    load_predictor(asked(small_unet))
    assert "trt_engine_cache_enable" not in made.options[0]


@pytest.mark.parametrize(("precision", "switches"), [("fp16", "10"), ("int8", "01")])
def test_stored_precisions_are_allowed(precision: str, switches: str, small_unet: Path, made: Made) -> None:
    from wsi_seg.infer.runtime.onnxruntime_tensorrt import precision_options

    one = precision_options(precision)
    assert one["trt_fp16_enable"] + one["trt_int8_enable"] == switches
    if precision == "int8":  # the shipped one
        predictor = load_predictor(asked("nuclei", precision=precision))
        assert predictor.facts.precision == precision
        assert made.options[0]["trt_int8_enable"] == "1"


def test_a_program_of_fixed_shape_needs_no_profile(
    tmp_path: Path, made: Made, tissue_like: Callable[..., np.ndarray]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(zoo.chain(("Softmax", {"axis": 1}), image=(2, 3, 64, 64), result=(2, 3, 64, 64)), path)
    card = CardOverrides(mpp=0.5, classes=named_classes(["a", "b", "c"]), mean=(0.0,) * 3, std=(1.0,) * 3)
    batch = tissue_like(2, 64)
    power = np.exp(zoo.logits(batch))
    found = load_predictor(asked(path, card=card)).predict(batch)
    np.testing.assert_allclose(found, power / power.sum(1, keepdims=True), atol=2e-6)
    assert not [name for one in made.options for name in one if "profile" in name]
    onnx.save(zoo.chain(("Softmax", {"axis": 1}), image=(2, 3, "H", "W"), result=(2, 3, "H", "W")), path)
    load_predictor(asked(path, card=CardOverrides(**{**card.stated(), "tile_size": 64, "output_stride": 1})))
    assert made.options[-1]["trt_profile_min_shapes"] == "wsi_seg_pixels:2x64x64x3"
    assert made.options[-1]["trt_profile_max_shapes"] == "wsi_seg_pixels:2x64x64x3"


def test_what_fails_while_running_is_told(
    small_unet: Path, made: Made, monkeypatch: pytest.MonkeyPatch, tissue_like: Callable[..., np.ndarray]
) -> None:
    predictor = load_predictor(asked(small_unet))
    made.problem = "no engine for this shape"
    with pytest.raises(PredictorError, match=r"TensorRT failed .* no engine for this shape"):
        predictor.predict(tissue_like(1, 128))


def test_it_is_taken_when_asked_for_and_measured_by_bench_only(small_unet: Path, made: Made) -> None:
    spec = ModelSpec(str(small_unet), precision="fp32")
    assert "onnxruntime-tensorrt" not in {one.runtime for one in candidates(spec)}
    assert [(one.runtime, one.device) for one in candidates(spec, thorough=True)][-1] == (
        "onnxruntime-tensorrt", "cuda:0",
    )  # fmt: skip
    assert "onnxruntime-tensorrt" not in {one.runtime for one in candidates(spec.replaced(device="cpu"), thorough=True)}


def test_what_it_cannot_do_is_refused(
    small_unet: Path, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="runs on a GPU only"):
        load_predictor(asked(small_unet, device="cpu"))
    with pytest.raises(ModelLoadError, match="2 NVIDIA GPUs answer"):
        load_predictor(asked(small_unet, device="cuda:2"))
    with pytest.raises(ModelLoadError, match="bf16"):
        load_predictor(asked(small_unet, precision="bf16"))
    (tmp_path / "m.xml").write_text("")
    with pytest.raises(ModelLoadError, match="openvino-ir programs run on openvino"):
        load_predictor(asked(tmp_path / "m.xml"))


@pytest.mark.skipif(TENSORRT in ort.get_available_providers(), reason="this onnxruntime has the provider")
def test_a_build_without_the_provider_is_told(small_unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "gpu_names", lambda: ("GPU",))
    with pytest.raises(ModelLoadError, match="has no TensorRT provider; onnxruntime-gpu has one"):
        load_predictor(asked(small_unet))
