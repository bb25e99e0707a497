"""Scores of a validation set: one confusion matrix over all its pixels, and what follows from it.

Owns the arithmetic of Dice and IoU on tensors. Ignored pixels count nowhere. Knows no network and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

import torch
from torch import Tensor

from wsi_seg.annotation.protocol import IGNORE


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of fields of view scored."""

    dice: tuple[float, ...]
    """Per class, 0-1; NaN for a class that is neither there nor predicted."""
    iou: tuple[float, ...]
    loss: float
    """Mean over labelled pixels."""
    n_px: int
    """Labelled pixels."""

    def chosen(self, name: str) -> float:
        """The one number that epochs are compared by, larger is better: `dice`, `iou` or `loss` (negated).

        Dice and IoU are means over the classes but the first, NaN left out; 0 where nothing is left.
        """
        return -self.loss if name == "loss" else _mean(self.dice[1:] if name == "dice" else self.iou[1:])

    @property
    def mean_dice(self) -> float:
        """Mean over the classes but the first."""
        return _mean(self.dice[1:])

    @property
    def mean_iou(self) -> float:
        """Mean over the classes but the first."""
        return _mean(self.iou[1:])


def confusion(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Counts [reference, prediction] (C, C) int64 of two equal shapes of class indices; 255 is left out.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    known = labels != IGNORE
    pairs = labels[known].long() * n_classes + predicted[known].long()
    return torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def scores_of(matrix: Tensor, loss: float) -> Scores:
    """Scores of a confusion matrix (C, C) int64 as `confusion` counts it."""
    counts = matrix.double().cpu()
    hits, reference, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    dice = [_ratio(2 * h, r + p) for h, r, p in zip(hits, reference, predicted, strict=True)]
    iou = [_ratio(h, r + p - h) for h, r, p in zip(hits, reference, predicted, strict=True)]
    return Scores(tuple(dice), tuple(iou), loss, int(counts.sum()))


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else nan


def _mean(values: tuple[float, ...]) -> float:
    present = [value for value in values if not isnan(value)]
    return sum(present) / len(present) if present else 0.0
