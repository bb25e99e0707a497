"""What networks cost: parameters, multiply-adds, seconds of a tile and of a training step, memory of checkpointing.

Times are CPU seconds of one thread, the median of several; only ratios of them are used.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.checkpointing import in_a_process
from benchmarks.claims.runs import Lab, Run
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.model.building import build_network
from wsi_seg.model.cost import count_macs, count_parameters
from wsi_seg.model.network import Probabilities
from wsi_seg.train.trained import read_trained

N_CLASSES = 2
TILE = 256
N_REPEATS = 7


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Size of a network."""

    parameters: int
    macs: int
    """Multiply-adds of one 256 px tile."""


def network_cost(options: dict[str, Any]) -> NetworkCost:
    """Of a freshly built network."""
    network = build_network(n_classes=N_CLASSES, **options).eval()
    return NetworkCost(count_parameters(network), count_macs(network, (TILE, TILE)))


def step_seconds(lab: Lab, options: dict[str, Any], precision: str = "fp32") -> float:
    """CPU seconds of one forward and backward pass over a batch of the setting."""
    torch.set_num_threads(1)
    network = build_network(n_classes=N_CLASSES, **options).train()
    image = torch.rand(lab.setting.batch_size, 3, lab.setting.side, lab.setting.side)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = network.decode(network.encode(image), (lab.setting.side, lab.setting.side))
            loss = torch.stack([logits.float().logsumexp(1).mean() for logits in outputs]).mean()
        loss.backward()

    return _median_seconds(step)


def tile_seconds(run: Run, runtime: str) -> float:
    """CPU seconds of one tile through `torch` or `openvino`, one thread, fp32."""
    if runtime == "torch":
        torch.set_num_threads(1)
        network = Probabilities(read_trained(run.folder).network)
        image = torch.rand(1, 3, TILE, TILE)
        with torch.inference_mode():
            return _median_seconds(lambda: network(image))
    spec = ModelSpec(model=str(run.folder / "model.onnx"), runtime=runtime, precision="fp32", threads=1)
    predictor = load_predictor(spec)
    tiles = np.random.default_rng(0).integers(0, 256, (1, TILE, TILE, 3), np.uint8)
    try:
        return _median_seconds(lambda: predictor.predict(tiles))
    finally:
        predictor.close()


@dataclass(frozen=True, slots=True)
class CheckpointingCost:
    """With checkpointing, as a share of without: peak of live tensors, CPU time of a step."""

    memory: float
    time: float


def checkpointing_cost(architecture: str) -> CheckpointingCost:
    """Of a training step at a size that hurts."""
    size = Namespace(width=16, size=256, batch=4)
    plain, again = (in_a_process(architecture, checkpointing, size) for checkpointing in (False, True))
    return CheckpointingCost(again["tensors_mb"] / plain["tensors_mb"], again["step_s"] / plain["step_s"])


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(N_REPEATS):
        started = process_time()
        work()
        seconds.append(process_time() - started)
    return median(seconds)
