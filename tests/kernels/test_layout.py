"""Whatever layout an array has, a kernel is compiled once; and kernels run in several threads at a time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wsi_kernels
from wsi_kernels import blend, jit, label
from wsi_kernels.layout import flat_input, flat_output

ROOT = Path(__file__).parents[2]
_THREADS = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import wsi_kernels as k

probabilities = np.random.default_rng(0).random((2, 128, 128), np.float32)
window = k.axis_window(128, 32, "cosine", first=False, last=False)

def work(_):
    canvas, tile = np.zeros((2, 200, 200), np.uint32), np.empty(probabilities.shape, np.uint16)
    labels = np.empty((200, 200), np.uint8)
    assert k.quantise(probabilities, tile)
    for y, x in ((-10, 0), (50, 50), (90, 120)):
        k.accumulate(canvas, tile, window, window, y, x)
    k.label_argmax(canvas, labels)
    small = k.halve_majority(labels, 255, 2)
    rgb = np.repeat(labels[:, :, None], 3, axis=2)
    return small.tobytes() + k.area_resample(rgb, (0, 0), (1.7, 1.7), (0, 0, 100, 100)).tobytes()

with ThreadPoolExecutor(4) as pool:
    assert len(set(pool.map(work, range(64)))) == 1
print("same")
"""


class TestLayout:
    @pytest.mark.parametrize(
        "view", [np.s_[:], np.s_[1:, 2:, 3:], np.s_[:, :2, :4], np.s_[:, ::2], np.s_[1:2, 1:2, 1:2]]
    )
    def test_flat_views_address_the_same_memory(self, view):
        array = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)[view]
        flat, (stride_c, stride_y) = flat_input(array)
        assert np.shares_memory(flat, array)
        assert not flat.flags.writeable
        assert array.flags.writeable
        for c, y, x in np.ndindex(array.shape):
            assert flat[c * stride_c + y * stride_y + x] == array[c, y, x]

    @pytest.mark.parametrize("view", [np.s_[:, :, ::2], np.s_[::-1], np.s_[:, :, ::-1]])
    def test_other_strides_are_copied_on_input_and_refused_on_output(self, view):
        array = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)[view]
        flat, _ = flat_input(array)
        assert (flat.reshape(array.shape) == array).all()
        with pytest.raises(ValueError, match="out has strides"):
            flat_output("out", array)

    def test_broadcast_input(self):
        flat, _ = flat_input(np.broadcast_to(np.uint8([1, 2]), (3, 2)))
        assert flat.tolist() == [1, 2] * 3

    def test_one_compilation_serves_all_layouts(self):
        canvas, tile = np.zeros((2, 9, 9), np.uint32), np.ones((2, 5, 5), np.uint16)
        ones = np.ones(5, np.uint32)
        frozen = tile.copy()
        frozen.flags.writeable = False
        for target in (canvas, canvas[:, 1:, 2:], canvas[:1]):
            n = target.shape[0]
            for source in (tile[:n], frozen[:n], tile[:n, 1:, :3], tile[:n].transpose(0, 2, 1)):
                ys, xs = ones[: source.shape[1]], ones[: source.shape[2]]
                blend.accumulate(target, source, ys, xs, np.int32(1), -1)
                label.label_threshold(target[:1], 0.5, np.zeros(target.shape[1:], np.uint8))
        assert len(blend._accumulate.signatures) == 1
        assert len(label._label_threshold.signatures) <= 2  # uint8 and uint16 labels


def test_four_threads_on_the_workqueue_layer_agree():
    environment = {
        **os.environ,
        "NUMBA_THREADING_LAYER": "workqueue",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", _THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


def test_kernels_work_where_no_cache_can_be_written(monkeypatch):
    original = jit.njit

    def refuse_cache(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(**options)

    monkeypatch.setattr(jit, "njit", refuse_cache)
    assert jit.kernel(lambda value: value + 1)(2) == 3


def test_no_kernel_is_parallel_or_fast_math():
    dispatchers = [
        function
        for module in vars(wsi_kernels).values()
        if getattr(module, "__name__", "").startswith("wsi_kernels.")
        for function in vars(module).values()
        if hasattr(function, "targetoptions")
    ]
    assert len(dispatchers) > 12
    for function in dispatchers:
        assert function.targetoptions["nogil"]
        assert not function.targetoptions.get("parallel")
        assert not function.targetoptions.get("fastmath")
