"""Learning from unlabelled pixels: a strongly changed view must be seen as the weakly changed one is.

Knows no augmentation and no network. Sources: Sohn et al. 2020 (FixMatch, arXiv:2001.07685); the ramp: Laine and Aila
2017, arXiv:1610.02242.
"""

from __future__ import annotations

import math

import torch

from wsi_seg.train.method.losses import masked_log_softmax


def consistency_loss(
    weak: torch.Tensor, strong: torch.Tensor, confidence: float, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy of `strong` with the classes that `weak` is confident of; scalar float32.

    Both are logits (N, C, H, W) of the same pixels. Pixels whose largest probability in `weak` is below `confidence`,
    or where `valid` (N, H, W) is False, cost nothing, and yet count in the mean (as in the paper), so that few
    confident pixels weigh little. No gradient reaches `weak`.
    """
    certainty, classes = torch.softmax(weak.detach().float(), dim=1).max(dim=1)
    counted = certainty >= confidence  # False for NaN
    n_pixels = counted.numel() if valid is None else valid.sum().clamp_min(1)
    if valid is not None:
        counted = counted & valid
    costs = -masked_log_softmax(strong, counted).gather(1, classes[:, None])[:, 0]
    return (costs * counted).sum() / n_pixels


def ramp_up(epoch: float, ramp_epochs: float) -> float:
    """Factor of the unlabelled loss: exp(-5 (1 - t)²), t the share of `ramp_epochs` that is over; 1 from then on.

    >>> [round(ramp_up(epoch, 4), 3) for epoch in (0, 2, 4, 9)]
    [0.007, 0.287, 1.0, 1.0]
    """
    if epoch >= ramp_epochs:
        return 1.0
    return math.exp(-5 * (1 - max(epoch, 0) / ramp_epochs) ** 2)
