"""Confidence intervals by resampling cases; owns the percentile bootstrap of sums.

A score of several slides is a function of sums over slides (pixels, boundary pixels, objects), so a resample is a
weight per case and every score of it follows from weighted sums. Efron & Tibshirani 1993, doi:10.1201/9780429246593.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import EvaluationError

PERCENTILES = (2.5, 97.5)


def case_weights(n_cases: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each case is drawn in each resample, (n_resamples, n_cases); rows sum to n_cases.

    Raises EvaluationError where there are fewer than two cases, of which no interval follows.
    """
    if n_cases < 2 or n_resamples < 1:
        raise EvaluationError(f"{n_resamples} resamples of {n_cases} cases", rule="at least 1 of at least 2 cases")
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_cases, np.full(n_cases, 1 / n_cases), size=n_resamples).astype(np.float64)


def resampled_sums(per_case: NDArray[np.number], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over cases of every resample: per_case (n_cases, ...) -> (n_resamples, ...)."""
    values = np.asarray(per_case, dtype=np.float64)
    flat = weights @ values.reshape(values.shape[0], -1)
    return flat.reshape(weights.shape[0], *values.shape[1:])


def percentile_interval(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """2.5 and 97.5 percentile over the first axis, (2, ...); resamples that score NaN or infinite are left out.

    >>> percentile_interval(np.arange(1001.0)).tolist()
    [25.0, 975.0]
    """
    flat = scores.reshape(scores.shape[0], -1)
    found = np.full((2, flat.shape[1]), np.nan)
    for column, values in enumerate(flat.T):
        known = values[np.isfinite(values)]
        if known.size:
            found[:, column] = np.percentile(known, PERCENTILES)
    return found.reshape(2, *scores.shape[1:])
