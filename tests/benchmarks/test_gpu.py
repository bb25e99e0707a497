"""The GPU benchmark as a command: it ends well without a GPU, and its rows are made the same way on a CPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from wsi_seg.infer.device.cuda_driver import gpu_names

SCRIPT = Path(gpu.__file__)


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    ran = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True, cwd=SCRIPT.parent)
    assert "no NVIDIA GPU 0 answers here" in ran.stdout


def test_every_entry_is_of_one_device_and_has_its_program(tmp_path: Path) -> None:
    setup = gpu.Setup("cuda:1", gpu.SMALL, 512, 0.1)
    entries = list(gpu.entries(tmp_path, setup))
    assert {entry.spec.device for entry in entries} == {"cuda:1"}
    assert {entry.names[1:] for entry in entries} == {
        (runtime, precision)
        for runtime in ("onnxruntime", "onnxruntime-tensorrt", "tensorrt")
        for precision in ("fp32", "fp16")
    } | {("torch", precision) for precision in ("fp32", "fp16", "bf16")}
    assert all(":" in entry.spec.model or Path(entry.spec.model).is_file() for entry in entries)
    assert sum(entry.spec.cuda_graphs for entry in entries) == 1


def test_a_row_holds_agreement_speed_and_a_whole_run(tmp_path: Path, small_slide: Path) -> None:
    setup = gpu.Setup("cpu", gpu.SMALL, 512, 0.05)
    entry = next(entry for entry in gpu.entries(tmp_path, setup) if entry.names == ("U-Net", "onnxruntime", "fp16"))
    slide = tmp_path / small_slide.name
    slide.write_bytes(small_slide.read_bytes())
    row = dict(zip(gpu.HEADER, gpu.measured(entry, slide, setup), strict=True))
    assert float(row["labels as CPU"].split()[0]) > 99
    assert 0 < float(row["largest diff."]) < 0.05
    assert float(row["images/s"]) > 0
    assert row["busy"] == row["GPU memory"] == "-"
    assert float(row["run Mpx/s"]) >= 0
    assert replace(setup, device="cpu").title.startswith("CPU, tiles of 128 px, batches of 1")
