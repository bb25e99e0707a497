"""Object scores against sets of pixels; blocks against the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.evaluate import naive
from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.objects import ObjectTally, object_scores, objects_of
from wsi_seg.geometry import Box

IDS = st.sampled_from([0, 0, 1, 2, 5])
CONNECTIVITY = st.sampled_from([4, 8])


@st.composite
def pairs(draw: Any, elements: Any = IDS, dtype: Any = np.int32) -> tuple[Any, Any]:
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    return tuple(draw(arrays(dtype, shape, elements=elements)) for _ in range(2))  # type: ignore[return-value]


@given(pairs(), st.sampled_from([0.5, 0.7]))
def test_scores_are_those_of_sets(pair: tuple[Any, Any], iou: float) -> None:
    found = object_scores(*pair, iou=iou)
    expected = naive.object_sums(*map(naive.instances, pair), iou)
    np.testing.assert_allclose(found.sums, expected)


@given(pairs())
def test_derived_scores(pair: tuple[Any, Any]) -> None:
    found, swapped = object_scores(*pair), object_scores(*pair[::-1])
    if not found.n_predicted + found.n_reference:
        assert np.isnan([found.f1, found.panoptic_quality, found.aggregated_jaccard, found.mean_iou]).all()
        return
    assert found.f1 == swapped.f1
    assert found.precision == swapped.recall
    assert found.panoptic_quality == pytest.approx(found.f1 * found.mean_iou)
    assert 0 <= found.aggregated_jaccard <= 1
    perfect = object_scores(pair[0], pair[0])
    if perfect.n_reference:
        assert (perfect.f1, perfect.mean_iou, perfect.aggregated_jaccard) == (1, 1, 1)


@given(pairs(st.booleans(), np.bool_), CONNECTIVITY, st.integers(1, 5))
def test_components_joined_over_blocks(pair: tuple[Any, Any], connectivity: int, block: int) -> None:
    height, width = pair[0].shape
    tally = ObjectTally(width, connectivity)
    for y in range(0, height, block):
        for x in range(0, width, block):
            box = Box.at(y, x, block, block).intersect(Box(0, 0, height, width))
            tally.add((pair[0][box.slices()], pair[1][box.slices()]), None, box)
    expected = naive.object_sums(*(naive.components(mask, connectivity) for mask in pair), 0.5)
    np.testing.assert_allclose(tally.scores().sums[:4], expected[:4])
    # of two predictions of one IoU, Kumar's index takes whichever comes first
    if not naive.has_ties(*(naive.components(mask, connectivity) for mask in pair)):
        np.testing.assert_allclose(tally.scores().sums, expected)


@given(pairs(), arrays(np.bool_, (8, 8)))
def test_pixels_that_are_not_scored_are_in_no_object(pair: tuple[Any, Any], chosen: Any) -> None:
    scored = chosen[: pair[0].shape[0], : pair[0].shape[1]]
    found = object_scores(*pair, scored=scored)
    expected = naive.object_sums(*(naive.instances(np.where(scored, ids, 0)) for ids in pair), 0.5)
    np.testing.assert_allclose(found.sums, expected)


def test_an_ignored_line_cuts_no_object_in_two() -> None:
    mask = np.ones((5, 9), np.bool_)
    scored = mask.copy()
    scored[:, 4] = False
    tally = ObjectTally(9)
    tally.add((mask, mask), scored, Box(0, 0, 5, 9))
    assert (tally.scores().n_reference, tally.scores().f1) == (1, 1.0)


def test_a_prediction_that_joins_two_nuclei_matches_neither() -> None:
    reference = np.zeros((10, 21), np.int32)
    reference[:, :10], reference[:, 11:] = 1, 2
    found = object_scores(np.ones_like(reference), reference)
    assert (found.n_matched, found.f1, found.recall) == (0, 0.0, 0.0)
    # both choose the same prediction: C = 200, U = 210 + 210
    assert found.aggregated_jaccard == pytest.approx(200 / 420)


def test_diagonal_neighbours() -> None:
    mask = np.eye(4, dtype=np.bool_)
    assert (objects_of(mask, 8).max(), objects_of(mask, 4).max()) == (1, 4)


def test_refuses() -> None:
    ids = np.ones((2, 2), np.int32)
    for call in (
        lambda: object_scores(ids, ids, iou=0.4),
        lambda: object_scores(ids, ids[:1]),
        lambda: object_scores(-ids, ids),
        lambda: objects_of(ids > 0, 6),
    ):
        with pytest.raises(EvaluationError):
            call()
