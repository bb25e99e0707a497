"""Boundary F1 and Hausdorff-95 against loops; blocks against the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.evaluate import naive
from wsi_seg.evaluate import surfaces
from wsi_seg.evaluate.surfaces import SurfaceTally, boundary, boundary_f1, boundary_scores, hausdorff95
from wsi_seg.geometry import Box

SPACINGS = st.sampled_from([(1.0, 1.0), (0.5, 0.25), (0.5, 0.52)])


@st.composite
def masks(draw: Any, n: int = 3) -> tuple[Any, ...]:
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 10)))
    chance = draw(st.sampled_from([0.1, 0.5, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return tuple(rng.random(shape) < chance for _ in range(n))


@given(masks())
def test_boundary_is_a_loop(given_masks: Any) -> None:
    mask, scored, _ = given_masks
    assert naive.pixels(boundary(mask, scored)) == naive.boundary(mask, scored)
    assert naive.pixels(boundary(mask)) == naive.boundary(mask, np.ones_like(mask))


@given(masks(), SPACINGS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_scores_are_those_of_a_loop(given_masks: Any, spacing: Any, tolerance: float) -> None:
    predicted, reference, scored = given_masks
    expected = naive.boundary_f1(predicted, reference, tolerance, spacing, scored)
    assert boundary_f1(predicted, reference, tolerance, spacing, scored) == pytest.approx(expected, nan_ok=True)
    expected = naive.hausdorff95(predicted, reference, spacing, scored)
    assert hausdorff95(predicted, reference, spacing, scored) == pytest.approx(expected, nan_ok=True, rel=1e-6)


@given(masks(2), SPACINGS)
def test_symmetric_and_perfect_with_itself(given_masks: Any, spacing: Any) -> None:
    a, b = given_masks
    assert hausdorff95(a, b, spacing) == pytest.approx(hausdorff95(b, a, spacing), nan_ok=True)
    assert boundary_f1(a, b, 1.0, spacing) == pytest.approx(boundary_f1(b, a, 1.0, spacing), nan_ok=True)
    if boundary(a).any():
        assert (hausdorff95(a, a, spacing), boundary_f1(a, a, 0.0, spacing)) == (0.0, 1.0)


def test_a_shifted_square() -> None:
    reference = np.zeros((40, 40), np.bool_)
    reference[10:20, 10:20] = True
    shifted = np.roll(reference, 3, axis=1)
    assert hausdorff95(shifted, reference) == 3.0
    assert hausdorff95(shifted, reference, (0.5, 0.5)) == 1.5
    assert boundary_f1(shifted, reference, 3.0) == 1.0
    # of each outline of 36 px, within 1 px of the other: 8 of each long side, and the px of the short sides beside them
    assert boundary_f1(shifted, reference, 1.0) == pytest.approx(
        naive.boundary_f1(shifted, reference, 1.0, (1, 1), np.ones_like(reference))
    )


def test_absent() -> None:
    empty, full = np.zeros((9, 9), np.bool_), np.ones((9, 9), np.bool_)
    dot = empty.copy()
    dot[4, 4] = True
    assert np.isnan(hausdorff95(empty, full))
    assert np.isnan(boundary_f1(empty, full, 1.0))  # a mask that fills the image has no boundary
    assert hausdorff95(dot, empty) == np.inf
    assert boundary_f1(empty, dot, 1.0) == 0.0


def in_blocks(predicted: Any, reference: Any, scored: Any, block: int, margin: int) -> SurfaceTally:
    size = predicted.shape
    whole = Box(0, 0, *size)
    tally = SurfaceTally(size, (1.0, 1.0), 2.0, margin)
    for y in range(0, size[0], block):
        for x in range(0, size[1], block):
            inner = Box.at(y, x, block, block).intersect(whole)
            box = Box(inner.y0 - margin, inner.x0 - margin, inner.y1 + margin, inner.x1 + margin).intersect(whole)
            part = box.slices()
            tally.add((predicted[part], reference[part]), scored[part], box, inner)
    return tally


@settings(max_examples=40)
@given(arrays(np.bool_, (31, 23)), arrays(np.bool_, (31, 23)), st.integers(3, 12), st.integers(4, 9))
def test_blocks_give_what_the_whole_gives(predicted: Any, reference: Any, block: int, margin: int) -> None:
    scored = np.ones_like(predicted)
    scored[5:8, 3:20] = False
    tally = in_blocks(predicted, reference, scored, block, margin)
    assert float(boundary_scores(tally.counts)[2]) == pytest.approx(
        boundary_f1(predicted, reference, 2.0, scored=scored), nan_ok=True
    )
    assert tally.hausdorff95() == pytest.approx(hausdorff95(predicted, reference, scored=scored), nan_ok=True)


@pytest.mark.parametrize("side", [16, 64])
def test_what_lies_beyond_the_margin_is_known_to_within_a_cell(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    monkeypatch.setattr(surfaces, "COARSE_SIDE", side)
    predicted, reference = np.zeros((2, 128, 128), np.bool_)
    predicted[10:20, 10:20] = True
    reference[90:110, 70:100] = True
    tally = in_blocks(predicted, reference, np.ones_like(predicted), 32, 8)
    exact, cell = hausdorff95(predicted, reference), 128 // side
    assert abs(tally.hausdorff95() - exact) <= np.sqrt(2) * cell
    assert exact > 60
