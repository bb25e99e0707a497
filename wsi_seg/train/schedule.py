"""The learning rate over a run, as a pure function of the step. Knows no optimiser object."""

from __future__ import annotations

import math

from wsi_seg.train.config import OptimiserConfig

RISE_SHARE = 0.3
"""one-cycle: share of the steps that the rate rises for."""
START, END = 1 / 25, 1e-4 / 25
"""one-cycle: first and last factor (the defaults of Smith and Topin's implementation in fastai)."""


def learning_rate(step: int, total: int, optimiser: OptimiserConfig) -> float:
    """Factor on the peak learning rate for optimiser step `step` of `total`, counted from 0; in 0..1.

    `cosine`: Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts, down to 0. `one-cycle`: Smith and
    Topin 2018 (arXiv:1708.07120). Steps past the end stay at the last value.

    >>> [round(learning_rate(step, 4, OptimiserConfig()), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if optimiser.schedule == "one-cycle":
        peak = max(RISE_SHARE * total, 1)
        if step < peak:
            return _eased(START, 1.0, step / peak)
        return _eased(1.0, END, (step - peak) / max(total - 1 - peak, 1))
    warm_up = optimiser.warmup_steps
    if step < warm_up:
        return (step + 1) / (warm_up + 1)  # the first step is small, but it is one
    if optimiser.schedule == "constant":
        return 1.0
    return _eased(1.0, 0.0, (step - warm_up) / max(total - warm_up, 1))


def _eased(first: float, last: float, progress: float) -> float:
    """From `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
