"""What the runtimes say when memory runs out is understood, and they go on with less."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.analytic import CARD
from wsi_seg.errors import PredictorError, PredictorOutOfMemory
from wsi_seg.infer import RuntimeFacts
from wsi_seg.infer.device.out_of_memory import ran_out_of_memory
from wsi_seg.infer.predictor import ProgramPredictor, first_answer

TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB",
    "CUDA error: out of memory",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. "
    "Failed to allocate memory for requested buffer of size 536870912",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\n"
    "Failed to allocate 2147483648 bytes of memory",
    "std::bad_alloc",
    "[GPU] Exceeded max size of memory object allocation: requested 4831838208 bytes",
    "[GPU] clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES",
    "Cuda Runtime (out of memory)",
)
"""As torch, ONNX Runtime, OpenVINO and TensorRT put it."""


class FailingProgram:
    """A program that holds something large while it fails."""

    facts = RuntimeFacts("formula", "1", "CPU", "fp32")

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.held: weakref.ref[NDArray[np.uint8]] | None = None

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        large = batch.copy()
        self.held = weakref.ref(large)
        try:
            raise self._error
        except MemoryError:
            raise
        except Exception as error:
            raise PredictorError("the program failed") from error

    def close(self) -> None:
        pass


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which knows no other sign."""


@pytest.mark.parametrize("error", [*map(RuntimeError, TOLD), OutOfMemoryError("?"), MemoryError()], ids=str)
def test_it_is_told_apart_and_lets_go_of_the_call(error: Exception) -> None:
    program = FailingProgram(error)
    predictor = ProgramPredictor(program, CARD, 3, (None, None, None))
    with pytest.raises(PredictorOutOfMemory, match="'analytic' ran out of memory on a batch") as caught:
        predictor.predict(np.zeros((2, 32, 32, 3), np.uint8))
    assert isinstance(caught.value, MemoryError)
    assert caught.value.__cause__ is caught.value.__context__ is None
    error.__traceback__ = None  # this test's own hold on it
    assert program.held is not None
    assert program.held() is None
    with pytest.raises(PredictorOutOfMemory):
        first_answer(program, CARD, (None, None, None))


@pytest.mark.parametrize("text", ["invalid argument", "shape mismatch", "memory format", "NaN"])
def test_other_failures_are_not_taken_for_it(text: str) -> None:
    predictor = ProgramPredictor(FailingProgram(RuntimeError(text)), CARD, 3, (None, None, None))
    with pytest.raises(PredictorError, match="the program failed") as caught:
        predictor.predict(np.zeros((1, 32, 32, 3), np.uint8))
    assert not isinstance(caught.value, PredictorOutOfMemory)
    assert not ran_out_of_memory(caught.value)


SCRIPT = """
import resource, sys
import numpy as np
from wsi_seg.errors import PredictorOutOfMemory
from wsi_seg.infer import ModelSpec, load_predictor
model, runtime = sys.argv[1:]
predictor = load_predictor(ModelSpec(model, runtime=runtime))
small, large = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((8, 1024, 1024, 3), np.uint8)
before = predictor.predict(small)
(used,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (int(used) * 1024 + 150_000_000,) * 2)
try:
    predictor.predict(large)
except PredictorOutOfMemory as error:
    print(error.what)
assert np.array_equal(predictor.predict(small), before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux: limits the address space")
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_the_real_runtimes(runtime: str, small_unet: Path) -> None:
    """A batch of 8 px² x 2^20 in 150 MB: an error that is understood, and the same predictor goes on."""
    model = str(small_unet)
    if runtime == "torch":
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed")
        model = "wsi_seg.model.he_stain:HeStain"
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, model, runtime], capture_output=True, text=True, check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "ran out of memory on a batch (8, 1024, 1024, 3)" in ran.stdout
