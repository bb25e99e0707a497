"""What only a GPU can show: each runtime runs there, agrees with the CPU, and a run gives the same labels twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from tests.engine.runs import shard_bytes
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer import Predictor, agreement, load_predictor
from wsi_seg.output.label_store import open_result

pytestmark = pytest.mark.gpu
SETUP = gpu.Setup("cuda:0", gpu.SMALL, 1024, 0.2)
NAMES = [
    f"{model} {runtime} {precision}"
    for model in ("U-Net", "nuclei")
    for runtime in ("onnxruntime", "tensorrt", "onnxruntime-tensorrt")
    for precision in ("fp32", "fp16")
] + ["U-Net torch fp32", "U-Net torch fp16", "U-Net torch bf16", "U-Net, CUDA graphs torch fp16"]
LEAST = {"fp32": 0.9999, "fp16": 0.995, "bf16": 0.98}
"""Share of the labels that stay; random weights have many near ties."""


@pytest.fixture(params=NAMES)
def entry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu.Entry:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {" ".join(entry.names): entry for entry in gpu.entries(tmp_path, SETUP)}[request.param]


@pytest.fixture
def predictor(entry: gpu.Entry) -> Iterator[Predictor]:
    try:
        predictor = load_predictor(entry.spec)
    except ModelLoadError as error:
        pytest.skip(str(error))
    yield predictor
    predictor.close()


def test_it_runs_on_the_gpu_and_agrees_with_the_cpu(entry: gpu.Entry, predictor: Predictor) -> None:
    assert predictor.facts.device.startswith("cuda:0 ")
    assert predictor.facts.precision == entry.spec.precision
    exact = gpu.reference(entry.spec)
    found = agreement(exact, predictor, gpu.tissue(3, SETUP.side))
    exact.close()
    assert found.argmax_agreement >= LEAST[entry.spec.precision]


def test_threads_get_the_bits_of_a_single_thread(predictor: Predictor) -> None:
    batches = [np.roll(gpu.tissue(2, SETUP.side), shift, axis=1) for shift in range(12)]
    expected = [predictor.predict(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(predictor.predict, batches), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_run_gives_the_same_labels_with_one_worker_and_with_four(
    entry: gpu.Entry, predictor: Predictor, tmp_path: Path, small_slide: Path
) -> None:
    del predictor  # only to skip where the runtime is not there
    labels: list[np.ndarray] = []
    for workers in (1, 4):
        spec, out = entry.spec, tmp_path / f"{workers}.seg.zarr"
        options = RunOptions(
            model=spec.model, runtime=spec.runtime, precision=spec.precision, device="cuda:0", workers=workers,
            cuda_graphs=spec.cuda_graphs,
        )  # fmt: skip
        run_slide(small_slide, options, out=out)
        labels.append(np.asarray(open_result(out).labels(0)[:]))
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize("window", ["cosine", "crop"])
def test_blending_on_the_gpu_gives_the_bytes_of_the_host(window: str, tmp_path: Path, small_slide: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    written: list[dict[str, bytes]] = []
    for blend in ("host", "device"):
        options = RunOptions(
            model="benchmarks.gpu:small_unet", runtime="torch", device="cuda:0", blend=blend, window=window,
            workers=4, overlap=32,
        )  # fmt: skip
        run_slide(small_slide, options, out=tmp_path / f"{blend}.seg.zarr")
        written.append(shard_bytes(open_result(tmp_path / f"{blend}.seg.zarr")))
    assert written[0] == written[1]


def test_the_benchmark_fills_a_row(entry: gpu.Entry, predictor: Predictor, tmp_path: Path, small_slide: Path) -> None:
    del predictor
    assert len(gpu.measured(entry, small_slide, SETUP)) == len(gpu.HEADER)


def test_memory_is_given_back(entry: gpu.Entry) -> None:
    torch = pytest.importorskip("torch")
    if entry.names[1] != "torch" or not torch.cuda.is_available():
        pytest.skip("torch tells its memory, the others do not")
    load_predictor(entry.spec).close()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    load_predictor(entry.spec).close()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before
