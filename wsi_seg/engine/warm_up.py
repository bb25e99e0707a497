"""Everything that is loaded or compiled once, done before the plan: so that the memory measured then is all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wsi_seg.card import ModelCard
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.infer import Predictor


def warm_up(predictor: Predictor, shape: tuple[int, int, int], n_workers: int) -> int:
    """Predict once per worker at the batch's (n, height, width) and run each kernel; answer the process' peak bytes.

    Raises PredictorError.
    """
    batch = np.full((*shape, 3), predictor.card.background, np.uint8)
    with ThreadPoolExecutor(n_workers) as pool:
        list(pool.map(predictor.predict, [batch] * n_workers))
    _touch_kernels(predictor)
    return peak_bytes()


def touch_steps(card: ModelCard, options: RunOptions) -> None:
    """Load (the first time ever: compile) the kernels of the post-processing asked for."""
    from wsi_kernels import FieldShape, fill_holes, mean_field, remove_small

    labels = np.zeros((4, 4), np.uint8 if card.not_analysed == 255 else np.uint16)
    labels[1:3, 1:3] = 1
    ones = [1] * card.n_classes
    if options.min_object:
        remove_small(labels, ones, ones)
    if options.fill_holes:
        fill_holes(labels, ones, ones, (True,) * 4)
    if options.crf is not None:
        priors, pixels = np.full((2, 4, 4), 0.5, np.float32), np.zeros((4, 4, 3), np.uint8)
        mean_field(priors, pixels, np.ones((4, 4), np.bool_), FieldShape(1, 1, 1.0, 1.0))


def peak_bytes() -> int:
    """The most memory this process has held at once so far, in bytes.

    Not what getrusage answers on Linux: that counts what the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _touch_kernels(predictor: Predictor) -> None:
    """Load (the first time ever: compile) the kernels with the types the run will use."""
    from wsi_kernels import are_probabilities, count_labels, halve_majority, halve_mean, label_probabilities, quantise

    from wsi_seg.engine.band import Band, Surface
    from wsi_seg.geometry import Box

    channels, side, ignore = predictor.n_channels, 4, predictor.card.not_analysed
    labels = np.zeros((side, side), np.uint8 if ignore == 255 else np.uint16)
    quantised = np.zeros((channels, side, side), np.uint16)
    quantise(np.zeros((channels, side, side), np.float32), quantised)
    are_probabilities(np.zeros((channels, side, side), np.float32))
    label_probabilities(np.zeros((channels, side, side), np.float32), 0.5, labels)
    probabilities = np.zeros((channels, side, side), np.uint8)
    band = Band(Surface(Box(0, 0, side, side), labels, probabilities), side, channels)
    weights = np.zeros(side, np.uint32)
    band.add(quantised, (weights, weights), 0, 0)
    band.add_prediction(np.zeros((channels, side, side), np.float32), (weights, weights), 0, 0)
    band.finish(side)
    halve_majority(labels, ignore, predictor.card.n_classes)
    halve_mean(probabilities, labels, ignore)
    count_labels(labels, predictor.card.n_classes)
