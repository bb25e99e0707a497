"""Outputs that are not one probability per class in planar layout; owns how each of them becomes that.

Class indices become votes, independent probabilities get a class for "none of them", channels are found where they
lie. Knows no runtime and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import PredictorError
from wsi_seg.infer.protocol import DeviceProgram, DeviceTile, Program

_LEVELS = 65535
"""Steps of a quantised probability, as in `wsi_kernels.quantise`."""


def output_layout(shape: Sequence[int | None], card: ModelCard) -> str:
    """`NCHW` or `NHWC`: by the axis that has as many entries as there can be channels, else as the card says.

    >>> card = ModelCard.from_mapping({"name": "m", "mpp": 0.5, "classes": ["a", "b", "c"], "layout": "NHWC"}, "here")
    >>> output_layout((1, 3, 64, 64), card), output_layout((None, None, None, None), card)
    ('NCHW', 'NHWC')
    """
    channels = {1, card.n_classes, card.n_classes - 1}
    planar, last = shape[1] in channels, shape[3] in channels
    return card.layout if planar == last else ("NCHW" if planar else "NHWC")


def planar(output: NDArray[Any], card: ModelCard) -> NDArray[Any]:
    """An output (N, C, H, W), (N, H, W, C) or (N, H, W) as (N, C, H, W), C-contiguous; another rank as it is."""
    if output.ndim == 3:
        return np.ascontiguousarray(output[:, None])
    if output.ndim == 4 and output_layout(output.shape, card) == "NHWC":
        return np.ascontiguousarray(output.transpose(0, 3, 1, 2))
    return output


class Votes:
    """A program of class indices as one of votes: probability 1 for the class that a pixel has, 0 for the others."""

    def __init__(self, program: Program, card: ModelCard) -> None:
        self._program, self._card = program, card
        self.facts = program.facts

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, n_classes, H, W) float32 of 0 and 1. Raises PredictorError."""
        labels, card = self._program.run(batch), self._card
        if labels.ndim != 4 or labels.shape[1] != 1:
            raise PredictorError(
                f"model {card.name!r} gives integers of shape {labels.shape}",
                rule="an output of class indices is (N, H, W), (N, 1, H, W) or (N, H, W, 1)",
                remedy="export the model with probabilities as its output",
            )
        votes: NDArray[np.float32] = (labels == np.arange(card.n_classes, dtype=np.float32)[:, None, None]).astype(
            np.float32
        )
        if not votes.any(axis=1).all():
            raise PredictorError(
                f"model {card.name!r} gives the class index {self._stranger(labels):g}",
                rule=f"there are {card.n_classes} classes, from 0",
                remedy="give --classes with a name for every index of the model",
            )
        return votes

    def _stranger(self, labels: NDArray[np.floating[Any]]) -> float:
        return float(labels[~np.isin(labels, np.arange(self._card.n_classes))][0])

    def close(self) -> None:
        """Close the program."""
        self._program.close()


def none_of_them(threshold: float) -> np.float32:
    """Probability that `NoneOfThem` gives its class 0 everywhere.

    >>> round(float(none_of_them(0.5)) * 65535)
    32767
    """
    return np.float32((np.rint(threshold * _LEVELS) - 1) / _LEVELS)


class NoneOfThem:
    """A program of independent probabilities with a class 0 before them, which wins where all are below the threshold.

    Its channel is a constant one step of quantisation (1/65535) below the threshold. So a blend leaves it what it is,
    the largest channel is the label, and p >= threshold decides for a class as it does for a single channel.
    """

    def __init__(self, program: Program, threshold: float) -> None:
        self._program = program
        self._constant = none_of_them(threshold)
        self.facts = program.facts

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, 1 + C, H, W) float32."""
        output = self._program.run(batch)
        count, channels, *size = output.shape
        result = np.empty((count, 1 + channels, *size), np.float32)
        result[:, 0], result[:, 1:] = self._constant, output
        return result

    @property
    def device_blend(self) -> Any:
        """That of the program; None where it has none."""
        return getattr(self._program, "device_blend", None)

    def run_on_device(self, batch: NDArray[np.uint8]) -> list[DeviceTile]:
        """As `run`, each tile left on the device; only where `device_blend` is not None."""
        return [tile.behind(self._constant) for tile in cast("DeviceProgram", self._program).run_on_device(batch)]

    def close(self) -> None:
        """Close the program."""
        self._program.close()
