"""Scores that follow from counting pixels: the confusion matrix, Dice, IoU, precision, recall, accuracy.

Owns their definition on arrays, for any number of leading axes, so that one slide, the sum of all and a thousand
resamples are scored by the same line. Knows no file. A class absent from both masks scores NaN, absent from one 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import EvaluationError

Floats = NDArray[np.float64]


def confusion(
    predicted: NDArray[np.integer], reference: NDArray[np.integer], n: int, ignore: int = 255
) -> NDArray[np.int64]:
    """Pixels by class of the reference (row) and of the prediction (column), int64 (n, n + 1).

    The last column counts predictions of `ignore`: not analysed. Pixels where the reference is `ignore` are left out.

    Args:
        predicted: class indices 0 … n - 1 or `ignore`, any shape.
        reference: the same, of the same shape.
        n: classes.
        ignore: value that is no class, at least n.

    Raises:
        EvaluationError: shapes differ, or a value is neither a class nor `ignore`.

    >>> confusion(np.array([0, 1, 1, 255]), np.array([0, 0, 1, 1]), 2).tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    if predicted.shape != reference.shape:
        raise EvaluationError(f"masks of {predicted.shape} and {reference.shape}", rule="both have the same shape")
    known = reference != ignore
    rows, columns = reference[known].astype(np.int64), predicted[known].astype(np.int64)
    missing = columns == ignore
    for what, values in (("reference", rows), ("prediction", columns[~missing])):
        if values.size and not 0 <= values.min() <= values.max() < n:
            wrong = values.min() if values.min() < 0 else values.max()
            raise EvaluationError(
                f"the {what} holds the value {wrong}", rule=f"class indices 0 … {n - 1}, or {ignore} for none"
            )
    columns[missing] = n
    counts = np.bincount(rows * (n + 1) + columns, minlength=n * (n + 1))
    return counts.reshape(n, n + 1).astype(np.int64)


def dice(matrix: NDArray[np.number]) -> Floats:
    """Dice per class, (..., n) in 0 … 1, of confusion matrices (..., n, n) or (..., n, n + 1).

    2 |P and R| / (|P| + |R|); Dice, Ecology 1945, doi:10.2307/1932409. With the last column of `confusion`, pixels not
    analysed count as missed.

    >>> dice(np.array([[1, 1], [0, 1]])).round(3).tolist()
    [0.667, 0.667]
    """
    hits, referenced, predicted = _totals(matrix)
    return ratio(2 * hits, referenced + predicted)


def iou(matrix: NDArray[np.number]) -> Floats:
    """Intersection over union (Jaccard index) per class, (..., n) in 0 … 1; arguments as for `dice`."""
    hits, referenced, predicted = _totals(matrix)
    return ratio(hits, referenced + predicted - hits)


def precision(matrix: NDArray[np.number]) -> Floats:
    """Share of the pixels predicted as a class that are of it, (..., n) in 0 … 1; arguments as for `dice`."""
    hits, referenced, predicted = _totals(matrix)
    return ratio(hits, predicted, referenced)


def recall(matrix: NDArray[np.number]) -> Floats:
    """Share of a class' pixels that are predicted as it, (..., n) in 0 … 1; arguments as for `dice`."""
    hits, referenced, predicted = _totals(matrix)
    return ratio(hits, referenced, predicted)


def accuracy(matrix: NDArray[np.number]) -> Floats:
    """Share of pixels predicted right, (...) in 0 … 1; arguments as for `dice`."""
    hits, referenced, _ = _totals(matrix)
    return ratio(hits.sum(axis=-1), referenced.sum(axis=-1))


def ratio(part: Floats, whole: Floats, other: Floats | None = None) -> Floats:
    """`part / whole`; where `whole` is 0: 0 if `other` is above 0, else NaN.

    So a class that only one of two masks has scores 0, and one that neither has scores NaN.

    >>> ratio(np.array([1.0, 0, 0]), np.array([2.0, 0, 0]), np.array([0.0, 3, 0])).tolist()
    [0.5, 0.0, nan]
    """
    empty = np.where((other if other is not None else whole) > 0, 0.0, np.nan)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), empty)


def mean_of_known(values: Floats) -> Floats:
    """Mean over the last axis, NaN left out; NaN where nothing is left.

    >>> mean_of_known(np.array([[0.5, np.nan, 1.0], [np.nan, np.nan, np.nan]])).tolist()
    [0.75, nan]
    """
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def _totals(matrix: NDArray[np.number]) -> tuple[Floats, Floats, Floats]:
    """(right, of the reference, of the prediction), each (..., n) float64."""
    counts = np.asarray(matrix, dtype=np.float64)
    n = counts.shape[-2]
    hits: Floats = np.diagonal(counts[..., :n], axis1=-2, axis2=-1)
    return hits, counts.sum(axis=-1), counts[..., :n].sum(axis=-2)
