"""The table of runtimes: every candidate in a process of its own, compared with the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import networks
from wsi_seg.export import ExportRequest, benching, export_model
from wsi_seg.export.benching import BenchRequest, bench
from wsi_seg.infer import Agreement, ModelSpec, Trial


def test_every_program_beside_the_model_is_measured(tmp_path: Path, slide: Path) -> None:
    program = networks.unet(tmp_path / "unet.onnx", networks.UnetShape(4, 1, tile_size=64))
    for to, precision in (("onnx", "int8"), ("openvino", "fp16")):
        export_model(
            ExportRequest(str(program), to=to, precision=precision, slides=(slide,), n_tiles=2, max_dice_loss=1)
        )
    (tmp_path / "unet.pt2").write_bytes(b"no archive")
    trials = list(bench(BenchRequest((str(program),), (slide,), n_tiles=1)))
    rows = {(Path(trial.spec.model).name, trial.spec.runtime, trial.spec.precision) for trial in trials if trial.runs}
    assert rows == {
        ("unet.onnx", "openvino", "fp32"), ("unet.onnx", "onnxruntime", "fp32"), ("unet.onnx", "openvino", "bf16"),
        ("unet.onnx", "openvino", "int8"), ("unet.onnx", "onnxruntime", "int8"), ("unet.fp16.xml", "openvino", "fp16"),
    }  # fmt: skip
    assert trials[0].agreement is None
    for trial in trials:
        if trial.runs:
            assert trial.mpx_per_s > 0
            assert trial.peak_bytes > 10e6
        if trial.runs and trial is not trials[0]:
            assert trial.agreement is not None
            assert trial.agreement.argmax_agreement > 0.9
    assert ["pt2" in trial.spec.model and "archive" in trial.problem for trial in trials if not trial.runs] == [True]


def test_the_reference_is_the_first_that_runs(tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = networks.unet(tmp_path / "unet.onnx", networks.UnetShape(4, 1, tile_size=64))

    def apart(spec: ModelSpec, tiles: np.ndarray, reference: ModelSpec | None) -> Trial:
        if spec.runtime == "openvino":
            return Trial(spec, problem="it stumbled")
        return Trial(spec, None, 2.0, None if reference is None else Agreement(1.0, 0, 0))

    monkeypatch.setattr(benching, "_apart", apart)
    (tmp_path / "unet.pt2").write_bytes(b"")
    trials = list(bench(BenchRequest((str(program),), (slide,), n_tiles=1)))
    assert [(trial.runs, trial.agreement is None) for trial in trials] == [
        (False, True), (True, True), (False, True), (True, False)
    ]  # fmt: skip
