"""What an evaluation found: sums per slide, scores and intervals from them.

Owns the values and how slides are pooled: sums over slides are scored once (pixels, boundary pixels and objects of all
slides weigh the same), only distances are averaged over slides. Knows no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import SegmentationClass
from wsi_seg.evaluate import pixels
from wsi_seg.evaluate.bootstrap import case_weights, percentile_interval, resampled_sums
from wsi_seg.evaluate.objects import OBJECT_METRICS, object_metrics
from wsi_seg.evaluate.pixels import Floats
from wsi_seg.evaluate.surfaces import boundary_scores

PIXEL_METRICS = ("dice", "iou", "precision", "recall")
METRICS = (*PIXEL_METRICS, "boundary_f1", "hausdorff95", *OBJECT_METRICS)
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "boundary_f1": "boundary F1",
    "hausdorff95": "HD95",
    "object_f1": "object F1",
    "object_precision": "precision",
    "object_recall": "recall",
    "object_iou": "mean IoU",
    "panoptic_quality": "panoptic q.",
    "aggregated_jaccard": "AJI",
}
"""Of columns and legends."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums that every score follows from; any number of leading axes, n classes."""

    confusion: NDArray[np.number]
    """(..., n, n + 1): reference by prediction, last column not analysed."""
    boundaries: NDArray[np.number]
    """(..., n, 4): `SurfaceTally.counts`."""
    distances: NDArray[np.number]
    """(..., n, 3): sum of finite Hausdorff distances, slides with a finite one, slides with an infinite one."""
    objects: NDArray[np.number]
    """(..., n, 6): `ObjectScores.sums`; zero for classes whose objects are not asked for."""

    def pooled(self, weights: Floats) -> Totals:
        """Weighted sums over the first axis (slides): weights (m, slides) -> leading axis m."""
        parts = (self.confusion, self.boundaries, self.distances, self.objects)
        return Totals(*(resampled_sums(part, weights) for part in parts))

    def scores(self, *, as_wrong: bool) -> dict[str, Floats]:
        """Scores by name of `METRICS`, each (..., n); NaN where a class is in neither mask."""
        n = self.confusion.shape[-2]
        matrix = self.confusion if as_wrong else self.confusion[..., :n]
        total, finite, infinite = np.moveaxis(np.asarray(self.distances, np.float64), -1, 0)
        distance = np.where(finite + infinite > 0, np.inf, np.nan)
        return {
            **{name: getattr(pixels, name)(matrix) for name in PIXEL_METRICS},
            "boundary_f1": boundary_scores(self.boundaries)[2],
            "hausdorff95": np.where(finite > 0, total / np.where(finite > 0, finite, 1), distance),
            **object_metrics(self.objects),
        }


def stacked(totals: Sequence[Totals]) -> Totals:
    """Totals with one more leading axis."""
    return Totals(
        np.stack([t.confusion for t in totals]),
        np.stack([t.boundaries for t in totals]),
        np.stack([t.distances for t in totals]),
        np.stack([t.objects for t in totals]),
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its 95 % interval."""

    value: float
    low: float | None = None
    """None where there is no interval: fewer than two cases, or no resample that has the class."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class SlideScores:
    """One pair of masks."""

    name: str
    case: str
    """What is resampled: slides of one case are drawn together."""
    totals: Totals
    n_ignored: int
    """Pixels that the reference does not label."""
    size: tuple[int, int]
    """Of the predicted map."""
    picture: NDArray[np.uint8]
    """(h, w) small, values of `picture_values`."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How was it scored."""

    tolerance: float = 2.0
    """Of boundary F1, in `tolerance_unit`."""
    tolerance_unit: str = "px"
    """`px` or `um`."""
    as_wrong: bool = False
    """Pixels not analysed count as missed, instead of being left out."""
    objects: tuple[str, ...] = ()
    """Classes scored as objects."""
    connectivity: int = 8
    """Of components that are objects: 4 or 8."""
    object_iou: float = 0.5
    """Objects match above it."""
    n_resamples: int = 2000
    """Of the bootstrap over cases."""
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Scores of all slides."""

    classes: tuple[SegmentationClass, ...]
    slides: tuple[SlideScores, ...]
    scoring: Scoring
    unit: str
    """Of distances: `um` or `px`."""
    notes: tuple[str, ...] = ()
    """What a reader should know, in words."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Cases, sorted."""
        return tuple(sorted({slide.case for slide in self.slides}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores that were asked for."""
        return METRICS if self.scoring.objects else tuple(name for name in METRICS if name not in OBJECT_METRICS)

    @cached_property
    def totals(self) -> Totals:
        """Of every slide, (slides, ...)."""
        return stacked([slide.totals for slide in self.slides])

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Summed over slides, (n, n + 1)."""
        summed: NDArray[np.int64] = np.asarray(self.totals.confusion, np.int64).sum(axis=0)
        return summed

    @cached_property
    def per_slide(self) -> dict[str, Floats]:
        """Scores by name, (slides, n)."""
        return self.totals.scores(as_wrong=self.scoring.as_wrong)

    @cached_property
    def pooled(self) -> dict[str, tuple[Estimate, ...]]:
        """Scores by name: one estimate per class, and last their mean over the classes that are there."""
        ones = np.ones((1, len(self.slides)))
        values = self._with_mean(ones)
        if len(self.cases) < 2:
            return {name: tuple(Estimate(float(v)) for v in row[0]) for name, row in values.items()}
        index = [self.cases.index(slide.case) for slide in self.slides]
        weights = case_weights(len(self.cases), self.scoring.n_resamples, self.scoring.seed)[:, index]
        resampled = self._with_mean(weights)
        return {name: _estimates(values[name][0], resampled[name]) for name in values}

    @property
    def not_analysed(self) -> NDArray[np.int64]:
        """Pixels of the reference's class that the prediction does not analyse, (n,)."""
        return self.confusion[:, -1]

    def slide_means(self, metric: str = "dice") -> Floats:
        """Mean over classes of a score of every slide, (slides,)."""
        return pixels.mean_of_known(self.per_slide[metric])

    def _with_mean(self, weights: Floats) -> dict[str, Floats]:
        """Scores (m, n + 1) by name; the last column is the mean over classes."""
        scores = self.totals.pooled(weights).scores(as_wrong=self.scoring.as_wrong)
        return {
            name: np.concatenate([rows, pixels.mean_of_known(rows)[:, None]], axis=1) for name, rows in scores.items()
        }


def _estimates(values: Floats, resampled: Floats) -> tuple[Estimate, ...]:
    low, high = percentile_interval(resampled)
    return tuple(
        Estimate(float(v)) if np.isnan(a) or not np.isfinite(v) else Estimate(float(v), float(a), float(b))
        for v, a, b in zip(values, low, high, strict=True)
    )
