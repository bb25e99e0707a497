"""Scores from counted pixels against loops and sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.evaluate import naive
from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.pixels import accuracy, confusion, dice, iou, mean_of_known, precision, recall

SCORES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}
VALUES = st.sampled_from([0, 1, 2, 255])


@st.composite
def pairs(draw: Any) -> tuple[Any, Any]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return tuple(draw(arrays(np.uint8, shape, elements=VALUES)) for _ in range(2))  # type: ignore[return-value]


@given(pairs())
def test_confusion_is_a_loop_over_pixels(pair: tuple[Any, Any]) -> None:
    assert confusion(*pair, 3).tolist() == naive.confusion(*pair, 3, 255)


@given(pairs())
def test_scores_are_those_of_sets(pair: tuple[Any, Any]) -> None:
    predicted, reference = pair
    predicted = np.where(reference == 255, 255, predicted)  # what is ignored is in neither set
    matrix = confusion(predicted, reference, 3)
    for index in range(3):
        for name, expected in naive.pixel_scores(predicted, reference, index).items():
            assert SCORES[name](matrix)[index] == pytest.approx(expected, nan_ok=True), name


@given(pairs())
def test_left_out_equals_ignoring_what_is_not_analysed(pair: tuple[Any, Any]) -> None:
    predicted, reference = pair
    without = confusion(predicted, np.where(predicted == 255, 255, reference), 3)
    np.testing.assert_array_equal(confusion(predicted, reference, 3)[:, :3], without[:, :3])
    assert not without[:, 3].any()


@given(pairs())
def test_swapping_the_masks_swaps_precision_and_recall(pair: tuple[Any, Any]) -> None:
    matrix = confusion(*pair, 3)[:, :3]
    np.testing.assert_array_equal(precision(matrix), recall(matrix.T))
    np.testing.assert_array_equal(dice(matrix), dice(matrix.T))
    np.testing.assert_allclose(dice(matrix), 2 * iou(matrix) / (1 + iou(matrix)))


def test_a_shifted_square() -> None:
    reference = np.zeros((20, 20), np.uint8)
    reference[5:15, 5:15] = 1
    matrix = confusion(np.roll(reference, 2, axis=1), reference, 2)
    assert dice(matrix)[1] == pytest.approx(0.8)
    assert iou(matrix)[1] == pytest.approx(80 / 120)
    assert accuracy(matrix) == pytest.approx(360 / 400)


def test_absent_from_both_is_no_score_and_absent_from_one_is_zero() -> None:
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)
    for score in SCORES.values():
        values = score(matrix)
        assert values[1] == 0
        assert np.isnan(values[2])
    assert mean_of_known(dice(matrix)) == pytest.approx(0.4)


def test_as_wrong_lowers_recall_only() -> None:
    matrix = confusion(np.array([1, 255, 0]), np.array([1, 1, 0]), 2)
    assert (recall(matrix)[1], precision(matrix)[1]) == (0.5, 1.0)
    assert recall(matrix[:, :2])[1] == 1.0


@pytest.mark.parametrize(("predicted", "reference"), [([3], [0]), ([0], [3]), ([-1], [0]), ([0, 1], [0])])
def test_refuses_what_is_no_class_and_other_shapes(predicted: Any, reference: Any) -> None:
    with pytest.raises(EvaluationError):
        confusion(np.array(predicted), np.array(reference), 3)
