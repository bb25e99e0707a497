"""Softmax and sigmoid for runtimes that do not put them into their graph; owns nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def activated(output: NDArray[np.floating[Any]], activation: str) -> NDArray[np.float32]:
    """Probabilities (N, C, H, W) float32 from a program's output; computed in place where it is float32.

    `activation` is one of `wsi_seg.card.ACTIVATIONS`; softmax is over axis 1. Large logits do not overflow.

    >>> activated(np.array([[[[0.0]], [[0.0]]]], np.float32), "softmax").ravel().tolist()
    [0.5, 0.5]
    """
    values: NDArray[np.float32] = output.astype(np.float32, copy=False)
    if activation == "softmax":
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
    elif activation == "sigmoid":  # 1 / (1 + exp(-x)) as (1 + tanh(x / 2)) / 2: no overflow for any x
        values *= 0.5
        np.tanh(values, out=values)
        values += 1
        values *= 0.5
    return values
