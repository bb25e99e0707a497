"""What recomputing stages saves in memory and costs in time, per architecture: `python -m benchmarks.checkpointing`.

One training step (forward, loss, backward) in a process of its own, plain and with checkpointing. Memory is counted
twice: bytes of all tensors alive at once beyond weights and input, and the growth of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import weakref
from time import process_time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsi_seg.model.building import build_network

ARCHITECTURES = ("unet", "unet++", "resnet-unet", "swin-unet")


class LiveBytes(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of storages that operations made and that are still referenced, and their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def known(self, *tensors: torch.Tensor) -> None:
        """Do not count these."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._known.discard(key)


def one_step(network: torch.nn.Module, x: torch.Tensor) -> None:
    network(x).square().mean().backward()


def timed(network: torch.nn.Module, x: torch.Tensor) -> float:
    started = process_time()
    one_step(network, x)
    return process_time() - started


def measured(architecture: str, checkpointing: bool, options: argparse.Namespace) -> dict[str, float]:
    """Peak MB of live tensors and of the process, CPU seconds of a step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_network(architecture, 3, width=options.width, checkpointing=checkpointing).train()
    one_step(network, torch.zeros(2, 3, 64, 64))  # allocators and kernels are awake, gradients exist
    x = torch.randn(options.batch, 3, options.size, options.size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_step(network, x)
    process_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    step_s = min(timed(network, x) for _ in range(3))
    live = LiveBytes()
    live.known(x, *network.parameters(), *network.buffers(), *(p.grad for p in network.parameters()))
    with live:
        one_step(network, x)
    return {"tensors_mb": live.peak / 2**20, "process_mb": process_mb, "step_s": step_s}


def in_a_process(architecture: str, checkpointing: bool, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.checkpointing", "--only", architecture]
    command += ["--checkpointing"] * checkpointing
    for name in ("width", "size", "batch"):
        command += [f"--{name}", str(getattr(options, name))]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="side of a patch, px")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--only", choices=ARCHITECTURES)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only, options.checkpointing, options)))
        return
    print("| network | tensors MB, plain | recomputed | process MB, plain | recomputed | CPU time |")
    print("|---|---|---|---|---|---|")
    for name in ARCHITECTURES:
        a, b = (in_a_process(name, again, options) for again in (False, True))
        share = b["tensors_mb"] / a["tensors_mb"]
        print(
            f"| {name} | {a['tensors_mb']:.0f} | {b['tensors_mb']:.0f} ({share:.0%}) "
            f"| {a['process_mb']:.0f} | {b['process_mb']:.0f} | x {b['step_s'] / a['step_s']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
