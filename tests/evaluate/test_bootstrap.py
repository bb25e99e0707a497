"""Intervals: seeded, right where the answer is known, and wide enough."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.bootstrap import case_weights, percentile_interval, resampled_sums


def test_a_resample_draws_as_many_cases_as_there_are() -> None:
    weights = case_weights(7, 50, 1)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, case_weights(7, 50, 1))
    assert (weights != case_weights(7, 50, 2)).any()


def test_sums_are_those_of_drawing_cases() -> None:
    values = np.arange(24.0).reshape(4, 3, 2)
    weights = case_weights(4, 9, 0)
    for row, summed in zip(weights, resampled_sums(values, weights), strict=True):
        drawn = np.repeat(np.arange(4), row.astype(int))
        np.testing.assert_allclose(summed, values[drawn].sum(axis=0))


def test_one_case_has_no_interval() -> None:
    with pytest.raises(EvaluationError, match="2 cases"):
        case_weights(1, 10, 0)


def test_what_scores_nothing_is_left_out() -> None:
    scores = np.array([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan]])
    found = percentile_interval(scores)
    assert found[:, 0] == pytest.approx([1.05, 2.95])
    assert np.isnan(found[:, 1]).all()


def test_the_interval_of_a_mean_has_about_the_width_of_theory() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    weights = case_weights(400, 2000, 0)
    low, high = percentile_interval(resampled_sums(values, weights) / 400)
    standard_error = values.std() / 20
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)
    assert low < values.mean() < high
