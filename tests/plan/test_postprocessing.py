"""Areas become px and windows, the margin is the sum of the reaches, and what makes no sense is refused in words."""

from __future__ import annotations

from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import PlanError, UsageError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.plan import Crf, CrfWishes, FillHoles, Postprocessing, PostWishes, RemoveObjects, plan_postprocessing
from wsi_seg.plan.postprocessing import MAX_MARGIN, postprocessing_notes

CARD = ModelCard("m", 0.5, named_classes(["background", "tumour", "stroma"]))
MPP = Mpp(0.5, 0.5)


def planned(mpp: Mpp = MPP, **wishes: object) -> Postprocessing:
    return plan_postprocessing(PostWishes(**wishes), CARD, mpp)  # type: ignore[arg-type]


def test_nothing_asked_for_is_nothing() -> None:
    assert planned() == Postprocessing()
    assert planned().margin == 0
    assert planned().rows(("a", "b", "c")) == []
    assert planned().window(Box(5, 6, 7, 8), Box(0, 0, 9, 9)) == Box(5, 6, 7, 8)


def test_steps_are_in_order_and_their_reaches_add_up() -> None:
    made = planned(min_object={"": 4.0}, fill_holes={"stroma": 9.0}, crf=CrfWishes(radius_um=1.0, iterations=3))
    assert made.steps == (
        Crf(2, 3, 20.0, 3.0),
        FillHoles((0, 0, 36), (0, 0, 24)),
        RemoveObjects((0, 16, 16), (0, 16, 16)),
    )
    assert [step.reach for step in made.steps] == [6, 24, 32]
    assert made.margin == 62
    assert made.window(Box(100, 0, 200, 50), Box(0, 0, 240, 300)) == Box(38, 0, 240, 112)
    assert dict(made.rows(("background", "tumour", "stroma"))) == {
        "CRF": "radius 2 px, 3 iterations, colour 20, weight 3",
        "holes filled": "stroma below 36 px within 24 px",
        "objects removed": "tumour, stroma below 16 px within 16 px",
        "margin of a block": "62 px",
    }


def test_a_class_of_its_own_wins_and_zero_leaves_it_alone() -> None:
    (step,) = planned(min_object={"": 4.0, "tumour": 25.0}).steps
    assert isinstance(step, RemoveObjects)
    assert step.limits == (0, 100, 16)
    (step,) = planned(min_object={"": 4.0, "tumour": 0.0}).steps
    assert isinstance(step, RemoveObjects)
    assert (step.limits, step.windows) == ((0, 0, 16), (0, 0, 16))


@given(st.floats(0.6, 1000), st.floats(0.2, 0.7), st.floats(0.2, 0.7))
def test_an_object_is_small_exactly_where_its_area_is(area: float, y: float, x: float) -> None:
    (step,) = planned(Mpp(y, x), min_object={"": area}).steps
    assert isinstance(step, RemoveObjects)
    limit, window = step.limits[1], step.windows[1]
    assert (limit - 1) * y * x * (1 - 1e-12) < area <= limit * y * x * (1 + 1e-12)
    assert (window - 1) ** 2 < 16 * limit <= window**2
    assert window >= isqrt(limit)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"min_object": {"nuclei": 5.0}}, "classes other than the first: tumour, stroma"),
        ({"fill_holes": {"background": 5.0}}, "--fill-holes for class 'background'"),
        ({"min_object": {"": 0.0}}, "an area above 0"),
        ({"min_object": {"tumour": -1.0}}, "0 .* or more um2"),
        ({"min_object": {"": float("inf")}}, "an area above 0"),
        ({"crf": CrfWishes(radius_um=0)}, "--crf-radius 0"),
        ({"crf": CrfWishes(radius_um=float("nan"))}, "--crf-radius nan"),
        ({"crf": CrfWishes(iterations=0)}, "--crf-iterations 0"),
        ({"crf": CrfWishes(colour=0)}, "--crf-colour 0"),
        ({"crf": CrfWishes(weight=33)}, "--crf-weight 33"),
    ],
)
def test_what_no_slide_could_be_given_is_wrong_use(wishes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(**wishes)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"min_object": {"": 0.25}}, "a px is 0.25 um2.*use more than 0.25"),
        ({"min_object": {"": 1e5}}, f"at most {MAX_MARGIN} px"),
        ({"crf": CrfWishes(radius_um=9)}, "at most 8.25 um"),
    ],
)
def test_what_does_not_fit_this_resolution_cannot_be_planned(wishes: dict[str, object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        planned(**wishes)


def test_notes() -> None:
    made = planned(min_object={"": 20.0})
    assert made.margin == 72
    assert postprocessing_notes(made, 4096, batch_independent=True) == []
    assert "72 px beyond blocks of 256 px" in postprocessing_notes(made, 256, batch_independent=True)[0]
    assert "depend on their batch" in postprocessing_notes(made, 4096, batch_independent=False)[0]
    assert postprocessing_notes(planned(), 256, batch_independent=False) == []
