"""The table of runtimes: every candidate is measured, compared with the first, in a process of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import networks
from wsi_seg.export import ExportRequest, benching, export_model
from wsi_seg.export.benching import BenchRequest, bench
from wsi_seg.infer import Agreement, ModelSpec, Trial, candidates, measuring


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return networks.unet(tmp_path / "unet.onnx", networks.UnetShape(4, 1, tile_size=64))


def table(program: Path, slide: Path) -> list[Trial]:
    return list(bench(BenchRequest((str(program),), (slide,), n_tiles=1)))


def assert_agree(trials: list[Trial]) -> None:
    assert trials[0].agreement is None
    assert all(trial.mpx_per_s > 0 for trial in trials)
    for trial in trials[1:]:
        assert trial.agreement is not None
        assert trial.agreement.argmax_agreement > 0.9


def test_every_program_beside_the_model_is_measured(
    program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: seven processes of their own take minutes where other work goes on."""
    monkeypatch.setattr(benching, "_apart", benching._measured)
    monkeypatch.setattr(measuring, "throughput", partial(measuring.throughput, seconds=0.02))
    for to, precision in (("onnx", "int8"), ("openvino", "fp16")):
        export_model(
            ExportRequest(str(program), to=to, precision=precision, slides=(slide,), n_tiles=2, max_dice_loss=1)
        )
    program.with_suffix(".pt2").write_bytes(b"no archive")
    trials = table(program, slide)
    rows = {(Path(trial.spec.model).name, trial.spec.runtime, trial.spec.precision) for trial in trials if trial.runs}
    assert rows == {
        ("unet.onnx", "openvino", "fp32"), ("unet.onnx", "onnxruntime", "fp32"), ("unet.onnx", "openvino", "bf16"),
        ("unet.onnx", "openvino", "int8"), ("unet.onnx", "onnxruntime", "int8"), ("unet.fp16.xml", "openvino", "fp16"),
    }, [trial.problem for trial in trials]  # fmt: skip
    assert_agree([trial for trial in trials if trial.runs])
    assert ["pt2" in trial.spec.model and "archive" in trial.problem for trial in trials if not trial.runs] == [True]


def test_the_reference_is_the_first_that_runs(program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(spec: ModelSpec, tiles: np.ndarray, reference: ModelSpec | None) -> Trial:
        if spec.runtime == "openvino":
            return Trial(spec, problem="it stumbled")
        return Trial(spec, None, 2.0, None if reference is None else Agreement(1.0, 0, 0))

    monkeypatch.setattr(benching, "_apart", apart)
    program.with_suffix(".pt2").write_bytes(b"")
    assert [(trial.runs, trial.agreement is None) for trial in table(program, slide)] == [
        (False, True), (True, True), (False, True), (True, False)
    ]  # fmt: skip


def test_each_has_a_process_of_its_own(program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So its peak is its own: in this one, whose peak is past, it would be nothing."""
    monkeypatch.setattr(benching, "candidates", lambda spec, **wishes: candidates(spec, **wishes)[:2])
    trials = table(program, slide)
    assert [(trial.spec.runtime, trial.problem) for trial in trials] == [("openvino", ""), ("onnxruntime", "")]
    assert_agree(trials)
    assert all(trial.peak_bytes > 10e6 for trial in trials)
