"""How far two predictors agree on the same tiles: the figures that every export and every choice is judged by.

Owns the sums behind them and the limits. Knows no runtime and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.infer.protocol import Predictor

MIN_ARGMAX_AGREEMENT = 0.999
"""Share of pixels whose class must be the same for a lower precision, or another runtime, to be taken on its own."""
MAX_DICE_LOSS = 0.005
"""Of any class that counts: how much Dice an int8 program may lose."""
COUNTED_SHARE = 0.001
"""A class counts where the reference gives it at least this share of the pixels; below, chance decides."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two predictors on the same tiles, the first of them the reference."""

    argmax_agreement: float
    """Share of pixels with the same class, 0-1."""
    max_abs: float
    """Largest difference of probability."""
    mean_abs: float
    """Mean difference of probability."""
    dice: tuple[float | None, ...] = ()
    """Dice of the labels with the reference's labels, per class; None where a class does not count."""
    dice_loss: tuple[float | None, ...] = ()
    """Dice that is lost, per class, if the reference's probabilities are right; None where a class does not count.

    The Dice that labels are expected to have under probabilities p is about 2 sum p[labels = c] / (sum p + count of c)
    (the soft Dice of arXiv:1606.04797). A pixel on which the reference itself is undecided costs nothing; a pixel of
    which it was sure costs all. Negative: better than the reference's own labels.
    """

    @property
    def sufficient(self) -> bool:
        """True when the class agrees on at least `MIN_ARGMAX_AGREEMENT` of the pixels."""
        return self.argmax_agreement >= MIN_ARGMAX_AGREEMENT

    @property
    def worst_dice_loss(self) -> float:
        """Of the classes that count; 0 where none does."""
        return max((loss for loss in self.dice_loss if loss is not None), default=0.0)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "argmax_agreement": self.argmax_agreement, "max_abs": self.max_abs, "mean_abs": self.mean_abs,
            "dice": list(self.dice), "dice_loss": list(self.dice_loss),
        }  # fmt: skip


def agreement(a: Predictor, b: Predictor, tiles: NDArray[np.uint8]) -> Agreement:
    """Compare two predictors of one model, tile by tile, `a` being the reference.

    `tiles` is (n, T, T, 3) uint8, n >= 1. Values that are no numbers agree with nothing. Raises PredictorError.
    """
    count = a.fixed_input[0] or b.fixed_input[0] or 1
    sums = _Sums(a.card)
    for tile in tiles:
        batch = np.ascontiguousarray(np.broadcast_to(tile, (count, *tile.shape)))
        sums.add(a.predict(batch)[0], b.predict(batch)[0])
    return sums.result()


@dataclass
class _Sums:
    """What is added up over tiles."""

    card: ModelCard
    same: int = 0
    pixels: int = 0
    values: int = 0
    largest: float = 0.0
    total: float = 0.0
    counts: NDArray[np.float64] = field(init=False)
    """(4, C): pixels of the class in a, in b, in both; sum of the reference's probability."""
    won: NDArray[np.float64] = field(init=False)
    """(2, C): the reference's probability under the labels of a and of b."""

    def __post_init__(self) -> None:
        self.counts, self.won = np.zeros((4, self.card.n_classes)), np.zeros((2, self.card.n_classes))

    def add(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
        """One tile's probabilities (C, H, W), or (1, H, W) with a threshold."""
        difference = np.abs(first - second)
        difference[np.isnan(difference)] = 1.0
        labels = _labels(first, self.card.threshold), _labels(second, self.card.threshold)
        self.same += int(((labels[0] == labels[1]) & (labels[0] >= 0)).sum())
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum(dtype=np.float64))
        self.pixels, self.values = self.pixels + labels[0].size, self.values + difference.size
        probabilities = first if len(first) > 1 else np.concatenate([1 - first, first])
        for index, values in enumerate(probabilities):
            a, b = labels[0] == index, labels[1] == index
            self.counts[:, index] += a.sum(), b.sum(), (a & b).sum(), values.sum(dtype=np.float64)
            self.won[:, index] += values[a].sum(dtype=np.float64), values[b].sum(dtype=np.float64)

    def result(self) -> Agreement:
        """The figures."""
        in_a, in_b, both, mass = self.counts
        dice = _ratio(2 * both, in_a + in_b)
        loss = _ratio(2 * self.won[0], mass + in_a) - _ratio(2 * self.won[1], mass + in_b)
        counts = in_a >= COUNTED_SHARE * self.pixels
        return Agreement(
            self.same / self.pixels, self.largest, self.total / self.values, _told(dice, counts), _told(loss, counts)
        )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part / whole`, 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _told(values: NDArray[np.float64], counts: NDArray[np.bool_]) -> tuple[float | None, ...]:
    return tuple(float(value) if counted else None for value, counted in zip(values, counts, strict=True))


def _labels(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Classes (H, W) of probabilities (C, H, W); -1 where one of them is no number."""
    labels: NDArray[np.intp] = (
        (probabilities[0] >= threshold).astype(np.intp) if len(probabilities) == 1 else probabilities.argmax(axis=0)
    )
    labels[np.isnan(probabilities).any(axis=0)] = -1
    return labels
