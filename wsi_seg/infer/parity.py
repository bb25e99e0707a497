"""How far two predictors agree, and whether that allows bf16; owns the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.infer.loading import load_predictor
from wsi_seg.infer.protocol import ModelSpec, Predictor

MIN_ARGMAX_AGREEMENT = 0.999
"""Share of pixels whose class must be the same for a lower precision to be taken on its own."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two predictors on the same tiles."""

    argmax_agreement: float
    """Share of pixels with the same class, 0-1."""
    max_abs: float
    """Largest difference of probability."""
    mean_abs: float
    """Mean difference of probability."""

    @property
    def sufficient(self) -> bool:
        """True when the class agrees on at least `MIN_ARGMAX_AGREEMENT` of the pixels."""
        return self.argmax_agreement >= MIN_ARGMAX_AGREEMENT


def agreement(a: Predictor, b: Predictor, tiles: NDArray[np.uint8]) -> Agreement:
    """Compare two predictors of one model, tile by tile; `tiles` (n, T, T, 3) uint8, n >= 1. Raises PredictorError."""
    same, largest, total, pixels, values = 0, 0.0, 0.0, 0, 0
    count = a.fixed_input[0] or b.fixed_input[0] or 1
    for tile in tiles:
        batch = np.ascontiguousarray(np.broadcast_to(tile, (count, *tile.shape)))
        first, second = a.predict(batch)[:1], b.predict(batch)[:1]
        difference = np.abs(first - second)
        labels = _labels(first, a.card.threshold), _labels(second, b.card.threshold)
        same += int((labels[0] == labels[1]).sum())
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=np.float64))
        pixels, values = pixels + labels[0].size, values + difference.size
    return Agreement(same / pixels, largest, total / values)


def choose_precision(spec: ModelSpec, tiles: NDArray[np.uint8]) -> tuple[ModelSpec, Agreement | None]:
    """The spec with its runtime and precision made concrete, and the comparison behind it, where one was needed.

    `auto` becomes bf16 only on OpenVINO, on a CPU that multiplies bf16 in hardware, and where bf16 and fp32 agree on
    `tiles` (n, T, T, 3) uint8 from the slide at hand. Raises as `load_predictor`.
    """
    reference = load_predictor(spec.replaced(precision="fp32") if spec.precision == "auto" else spec)
    try:
        facts = reference.facts
        concrete = spec.replaced(
            runtime=facts.runtime if facts.runtime != "numpy" else "auto", precision=facts.precision
        )
        if spec.precision != "auto" or facts.runtime != "openvino" or not _native_bf16():
            return concrete, None
        fast = load_predictor(concrete.replaced(precision="bf16"))
        try:
            result = agreement(reference, fast, tiles)
        finally:
            fast.close()
    finally:
        reference.close()
    return (concrete.replaced(precision="bf16") if result.sufficient else concrete), result


def _native_bf16() -> bool:
    from wsi_seg.infer.openvino_predictor import has_native_bf16

    return has_native_bf16()


def _labels(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    if probabilities.shape[1] == 1:
        return (probabilities[:, 0] >= threshold).astype(np.intp)
    labels: NDArray[np.intp] = probabilities.argmax(axis=1)
    return labels
