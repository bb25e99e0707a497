"""Several processes that train one network; a single one is the same with nobody to ask.

Owns the process group of torchrun (its environment variables), averages over processes, and the device of each.
Gradients are averaged explicitly between backward and step: correct with accumulation and with methods that call parts
of the network, which the hooks of DistributedDataParallel are not. Knows no loss and no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsi_seg.errors import UsageError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which validates whole slides alone; torch's own 10 minutes end the run."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, seen from one of them."""

    rank: int
    world: int
    device: torch.device
    n_local: int = 1
    """Processes on this machine, which share its cores."""

    @property
    def is_first(self) -> bool:
        """True in the one process that validates and writes."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], values: Tensor) -> Tensor:
        """Replace every gradient by its mean over the processes; answers the mean of `values` (n,), floating.

        Every process must pass the same parameters; one without a gradient counts as zero.
        """
        if self.world == 1:
            return values
        learning = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), values.to(torch.float32)])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for parameter, gradient in zip(learning, gradients, strict=True):
            parameter.grad = flat[start : start + gradient.numel()].view_as(gradient)
            start += gradient.numel()
        return flat[start:]

    def share(self, value: T) -> T:
        """The value that the first process holds; picklable, and only ever from our own processes."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def any(self, flag: bool) -> bool:
        """True in every process when it is in one."""
        if self.world == 1:
            return flag
        box = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return bool(box)

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers: running statistics differ, each having seen its own batches."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """The group that torchrun's environment describes; without it a group of one. Raises UsageError."""
    world, rank = (int(os.environ.get(key, default)) for key, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    local, n_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = _device(device, local)
    if world == 1:
        yield Group(0, 1, chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, rank=rank, world_size=world)
    try:
        yield Group(rank, world, chosen, n_local)
        dist.barrier()  # nobody leaves while another still listens
    finally:
        dist.destroy_process_group()


def _device(asked: str, local: int) -> torch.device:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UsageError("device: cuda", rule="no CUDA device is visible to torch", remedy="use device: auto")
    if asked == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
