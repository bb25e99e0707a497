"""The loop that one writes without any engine: OpenSlide, a runtime, centre crops into a memory map.

As many threads as cores, each reading, predicting and writing its own tiles, one core per prediction: nothing waits
for anything. fp32 and int8 by ONNX Runtime with all its optimisations; bf16 by torch, channels last, since ONNX
Runtime has no bf16 on CPUs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import openslide

from benchmarks.peers.job import Job, asked, rgb

Predict = Callable[[np.ndarray], np.ndarray]
"""(1, 3, tile, tile) float32 -> probabilities of the same shape."""


def onnx_runtime(job: Job) -> Predict:
    """One core per call, calls from several threads at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(job.model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def torch_bf16(job: Job) -> Predict:
    """As `onnx_runtime`."""
    import torch

    from benchmarks.peers import torch_network

    torch.set_num_threads(1)
    network = torch_network.load(job.weights, "bf16")

    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(batch).to(torch.bfloat16, memory_format=torch.channels_last)
            return network(tensor).float().numpy()

    return predict


def main() -> None:
    """Do the job of the command line."""
    job = asked()
    predict = torch_bf16(job) if job.precision == "bf16" else onnx_runtime(job)
    with openslide.OpenSlide(job.slide) as slide:
        width, height = slide.dimensions
    labels = np.lib.format.open_memmap(job.out, mode="w+", dtype=np.uint8, shape=(height, width))
    margin, own = job.overlap // 2, threading.local()
    scale, shift = np.float32(1 / (255 * job.std)), np.float32(job.mean / job.std)

    def work(origin: tuple[int, int]) -> None:
        if not hasattr(own, "slide"):
            own.slide = openslide.OpenSlide(job.slide)
        y, x = origin
        tile = rgb(own.slide, y - margin, x - margin, job.tile, job.tile)
        batch = np.ascontiguousarray(tile.transpose(2, 0, 1), dtype=np.float32)[None] * scale - shift
        centre = predict(batch)[0, :, margin : margin + job.step, margin : margin + job.step]
        found = centre.argmax(axis=0)[: height - y, : width - x]
        labels[y : y + job.step, x : x + job.step] = found

    with ThreadPoolExecutor(job.threads) as pool:
        for _ in pool.map(work, product(range(0, height, job.step), range(0, width, job.step))):
            pass
    labels.flush()


if __name__ == "__main__":
    main()
