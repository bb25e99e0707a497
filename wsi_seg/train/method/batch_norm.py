"""Batch normalisation: statistics that stand still, and statistics estimated anew.

Knows no network but `nn.Module`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _StandsStill:
    """Stays in eval mode, whatever `train()` is called on around it; a copy does too."""

    for_good = False
    """Not to be thawed."""

    def train(self, mode: bool = True) -> Any:  # noqa: ARG002
        return super().train(False)  # type: ignore[misc]


@functools.cache
def _standing(kind: type[nn.Module]) -> type[nn.Module]:
    """`kind` that stands still."""
    return type(f"Standing{kind.__name__}", (_StandsStill, kind), {})


def freeze_batch_norm(module: nn.Module, *, for_good: bool = True) -> int:
    """Make every batch normalisation in `module` use, and keep, the statistics it has; returns how many.

    Scale and shift go on learning. Survives `train()`. Frozen `for_good`, `thaw_batch_norm` leaves it alone.
    """
    norms = list(_norms(module))
    for norm in norms:
        if not isinstance(norm, _StandsStill):
            kind: Any = type(norm)
            norm.__class__ = _standing(kind)
        norm.for_good = norm.for_good or for_good
        norm.train()
    return len(norms)


def thaw_batch_norm(module: nn.Module) -> None:
    """Let the statistics in `module` move again, but those frozen for good; in the mode that `module` is in."""
    for norm in _norms(module):
        if isinstance(norm, _StandsStill) and not norm.for_good:
            norm.__class__ = type(norm).__bases__[1]
            norm.train(module.training)


def recalibrate(module: nn.Module, batches: Iterable[torch.Tensor], n: int) -> int:
    """Replace the statistics by those of all pixels of the first `n` batches, pooled; returns how many there were.

    `batches` are normalised float (N, 3, H, W) on the module's device, of any sizes. Each batch goes through as in
    training (normalised by its own statistics, dropout off); per layer, mean and variance of everything that came in
    are kept: exact moments, where an average of the batches' variances misses the variance between batches (Wu and
    Johnson 2021, arXiv:2105.07576). Frozen layers too: this is asked for by name. Without a batch nothing changes.
    """
    norms = list(_norms(module))
    pools = [_Pool(norm.num_features) for norm in norms]
    handles = [norm.register_forward_pre_hook(pool.take) for norm, pool in zip(norms, pools, strict=True)]
    modes = {part: part.training for part in module.modules()}
    saved = [(norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()) for norm in norms]
    n_seen = 0
    try:
        module.eval()
        for norm in norms:
            norm.training = True
        with torch.no_grad():
            for _, batch in zip(range(n), batches, strict=False):
                module(batch)
                n_seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
        for norm, pool, before in zip(norms, pools, saved, strict=True):
            pool.write(norm, before)
    return n_seen


class _Pool:
    """Count, mean and sum of squared deviations of all pixels seen by one layer, float64."""

    def __init__(self, n_channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(n_channels, dtype=torch.float64)
        self.squares = torch.zeros(n_channels, dtype=torch.float64)

    def take(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Merge a batch (Chan et al. 1983, doi:10.1080/00031305.1983.10483115)."""
        x = inputs[0].float().transpose(0, 1).flatten(1)  # (C, pixels)
        variance, mean = (part.double().cpu() for part in torch.var_mean(x, dim=1, correction=0))
        count = x.shape[1]
        total, apart = self.count + count, mean - self.mean
        self.squares += variance * count + apart**2 * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    def write(self, norm: nn.Module, before: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        """Into the layer's statistics, the variance unbiased as PyTorch keeps it; without a pixel, those `before`."""
        norm.num_batches_tracked.copy_(before[2])
        if not self.count:
            norm.running_mean.copy_(before[0])
            norm.running_var.copy_(before[1])
            return
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / max(self.count - 1, 1))


def _norms(module: nn.Module) -> Iterator[Any]:
    kept = (part for part in module.modules() if isinstance(part, _BatchNorm))
    return (norm for norm in kept if norm.running_mean is not None)
