"""A network over a validation set: scores of all its pixels, and a few fields of view to look at.

Owns the pass; whole fields, one at a time, in fp32, as the exported program will see them. Chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.model.network import Network
from wsi_seg.train.method.losses import Loss
from wsi_seg.train.objective import Normalise
from wsi_seg.train.record.pictures import Field
from wsi_seg.train.score import Scores, confusion, scores_of

N_PICTURES = 6

Fields = Iterable[tuple[str, Tensor, Tensor]]
"""(name, images uint8 (1, 3, H, W), labels int64 (1, H, W)), as `PatchSet.whole` gives them."""


def validate(
    network: Network, fields: Fields, loss: Loss, normalise: Normalise, between: Callable[[], None]
) -> tuple[Scores, list[Field]]:
    """Scores, and at most `N_PICTURES` fields with their prediction; `between` is called after every field.

    Fields that hold more than the first class are shown first.
    """
    device = next(network.parameters()).device
    matrix = torch.zeros(network.n_classes, network.n_classes, dtype=torch.int64)
    total, n_px = 0.0, 0
    telling, plain = _Gallery(), _Gallery()
    training = network.training
    network.eval()
    try:
        for _, images, labels in fields:
            with torch.inference_mode():
                logits = network(normalise(images.to(device).float() / 255))
                reference = labels.to(device)
                predicted = logits.argmax(1)
                matrix += confusion(predicted, reference, network.n_classes).cpu()
                known = int((reference != IGNORE).sum())
                total, n_px = total + float(loss(logits, reference)) * known, n_px + known
            field = _plain(images[0].permute(1, 2, 0)), _plain(labels[0]), _plain(predicted[0])
            has_others = bool(((labels > 0) & (labels != IGNORE)).any())
            (telling if has_others else plain).offer(field)
            between()
    finally:
        network.train(training)
    pictures = telling.spread(N_PICTURES)
    return scores_of(matrix, total / max(1, n_px)), pictures + plain.spread(N_PICTURES - len(pictures))


class _Gallery:
    """Some of the fields that are offered, spread over all of them, however many there will be."""

    def __init__(self) -> None:
        self._fields = list[Field]()
        self._every, self._offered = 1, 0

    def offer(self, field: Field) -> None:
        """Keep a field, or not."""
        if self._offered % self._every == 0:
            self._fields.append(field)
        self._offered += 1
        if len(self._fields) == 2 * N_PICTURES:
            self._fields, self._every = self._fields[::2], 2 * self._every

    def spread(self, at_most: int) -> list[Field]:
        """`at_most` of the fields kept."""
        n = min(len(self._fields), at_most)
        return [self._fields[index * len(self._fields) // n] for index in range(n)]


def _plain(tensor: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(tensor.cpu().numpy().astype(np.uint8))
