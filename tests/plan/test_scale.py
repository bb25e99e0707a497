"""The level that is read and its factor: not coarser than the model, each axis by itself, all px where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsi_kernels import area_source_box

from tests.plan.strategies import scale
from wsi_seg.errors import PlanError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.plan import choose_scale
from wsi_seg.plan.scale import TOLERANCE, scale_notes


def pyramid(l0_size: tuple[int, int], *steps: float) -> tuple[Level, ...]:
    sizes = [(max(1, round(l0_size[0] / step)), max(1, round(l0_size[1] / step))) for step in (1, *steps)]
    return tuple(Level(size, (l0_size[0] / size[0], l0_size[1] / size[1])) for size in sizes)


def whole(levels: tuple[Level, ...]) -> Box:
    return Box(0, 0, *levels[0].size)


CASES = [
    pytest.param(0.25, (4, 16), 0.25, 0, 1.0, id="level 0 is the model's"),
    pytest.param(0.2527, (4, 16), 0.25, 0, 1.0, id="level 0 is the model's within the tolerance, coarser"),
    pytest.param(0.2405, (4, 16), 0.25, 0, 1.0, id="level 0 is the model's within the tolerance, finer"),
    pytest.param(0.25, (4, 16), 0.5, 0, 2.0, id="between two levels the finer is read"),
    pytest.param(0.2527, (4, 16), 0.5, 0, 2.0, id="a factor near 2 is 2"),
    pytest.param(0.25, (4, 16), 1.0, 1, 1.0, id="level 1 is the model's"),
    pytest.param(0.2527, (4, 16), 1.0, 1, 1.0, id="level 1 is the model's within the tolerance"),
    pytest.param(0.25, (4, 16), 1.6, 1, 1.6, id="a factor far from a whole number is kept"),
    pytest.param(0.25, (4, 16), 8.0, 2, 2.0, id="coarser than all levels"),
    pytest.param(0.25, (), 8.0, 0, 32.0, id="one level"),
    pytest.param(0.5, (4,), 0.3, 0, 0.6, id="enlarged"),
    pytest.param(0.5, (4,), 0.25, 0, 0.5, id="enlarged as far as allowed"),
]


@pytest.mark.parametrize(("l0_mpp", "steps", "model_mpp", "level", "factor"), CASES)
def test_level_and_factor(l0_mpp: float, steps: tuple[float, ...], model_mpp: float, level: int, factor: float) -> None:
    levels = pyramid((16000, 32000), *steps)
    chosen = choose_scale(levels, Mpp(l0_mpp, l0_mpp), whole(levels), model_mpp)
    assert chosen.level == level
    assert chosen.factor == pytest.approx((factor, factor))
    assert chosen.is_native == (factor == 1)
    assert chosen.upsampled == (factor < 1)
    size = levels[level].size
    assert chosen.canvas_size == (round(size[0] / factor), round(size[1] / factor))


@given(
    st.tuples(st.floats(0.1, 4), st.floats(0.5, 2)),
    st.lists(st.floats(1.5, 40), max_size=4),
    st.floats(0.1, 10),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
def test_the_finest_level_that_is_not_coarser_is_read_at_nearly_the_models_resolution(
    l0_mpp: tuple[float, float], steps: list[float], model_mpp: float, l0_size: tuple[int, int]
) -> None:
    levels = pyramid(l0_size, *sorted(steps))
    mpp = Mpp(l0_mpp[0], l0_mpp[0] * l0_mpp[1])
    try:
        chosen = choose_scale(levels, mpp, whole(levels), model_mpp)
    except PlanError:
        exact = [model_mpp / (mpp.y * levels[0].downsample[0]), model_mpp / (mpp.x * levels[0].downsample[1])]
        assert min(exact) < 0.5
        return
    limit = model_mpp * (1 + TOLERANCE)
    fits = [max(mpp.y * level.downsample[0], mpp.x * level.downsample[1]) <= limit for level in levels]
    assert fits[chosen.level] or not any(fits)
    own = max(mpp.y * chosen.downsample[0], mpp.x * chosen.downsample[1])
    for level, fit in zip(levels, fits, strict=True):
        assert not fit or max(mpp.y * level.downsample[0], mpp.x * level.downsample[1]) <= own
    assert chosen.canvas_mpp.y == pytest.approx(model_mpp, rel=TOLERANCE * 1.06)
    assert chosen.canvas_mpp.x == pytest.approx(model_mpp, rel=TOLERANCE * 1.06)
    assert min(chosen.canvas_size) >= 1
    # The canvas covers the level: no more than half a canvas px is missing or added.
    for axis in (0, 1):
        covered = chosen.canvas_size[axis] * chosen.factor[axis]
        missing = abs(covered - levels[chosen.level].size[axis])
        assert chosen.canvas_size[axis] == 1 or missing <= chosen.factor[axis] / 2 + 1e-6


def test_axes_are_treated_one_by_one() -> None:
    levels = pyramid((1000, 1000))
    chosen = choose_scale(levels, Mpp(0.5, 0.25), whole(levels), 0.5)
    assert chosen.factor == (1.0, 2.0)
    assert chosen.canvas_size == (1000, 500)
    assert chosen.canvas_mpp == Mpp(0.5, 0.5)
    assert not chosen.is_native


def test_bounds_give_the_origin_and_the_size() -> None:
    levels = pyramid((8000, 16000), 4)
    chosen = choose_scale(levels, Mpp(0.25, 0.25), Box(400, 802, 4400, 8802), 2.0)
    assert (chosen.level, chosen.factor) == (1, (2.0, 2.0))
    assert chosen.level_origin == (100, 200)
    assert chosen.l0_offset == (400.0, 800.0)
    assert chosen.l0_per_px == (8.0, 8.0)
    assert chosen.canvas_size == (500, 1000)
    assert chosen.level_box(Box(0, 0, 10, 20)) == Box(100, 200, 120, 240)


@pytest.mark.parametrize("l0_size", [(1001, 999), (1000, 1003), (1, 1), (3, 4001)])
@pytest.mark.parametrize("rounding", ["down", "up"])
def test_bounds_of_the_whole_slide_are_the_whole_level_however_it_was_rounded(
    l0_size: tuple[int, int], rounding: str
) -> None:
    def half(n: int) -> int:
        return max(1, n // 2 if rounding == "down" else (n + 1) // 2)

    size = (half(l0_size[0]), half(l0_size[1]))
    levels = (Level(l0_size, (1.0, 1.0)), Level(size, (2.0, 2.0)))
    assert choose_scale(levels, Mpp(0.25, 0.25), whole(levels), 0.5).canvas_size == size


@given(
    st.tuples(st.floats(0.5, 40), st.floats(0.5, 40)),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
    st.tuples(st.integers(-500, 5000), st.integers(-500, 5000), st.integers(1, 600), st.integers(1, 600)),
)
def test_level_box_is_what_the_resampling_asks_for(
    factor: tuple[float, float], origin: tuple[int, int], at: tuple[int, int, int, int]
) -> None:
    box, placed = Box.at(*at), scale(factor, origin=origin)
    needed = area_source_box((box.y0, box.x0, box.y1, box.x1), factor)
    assert placed.level_box(box) == Box(*needed).shift(*origin)


def test_level_box_of_a_native_scale_is_the_box_itself_moved() -> None:
    assert scale(origin=(7, 9)).level_box(Box(-3, 0, 5, 6)) == Box(4, 9, 12, 15)


@given(st.tuples(st.floats(0.5, 40), st.floats(0.5, 40)), st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)))
def test_points_go_to_the_canvas_and_back(factor: tuple[float, float], l0_point: tuple[float, float]) -> None:
    placed = scale(factor, origin=(11, 23), downsample=(4.0, 4.5))
    (point,) = placed.canvas_points(np.array([l0_point]))
    back = point * np.array(placed.l0_per_px) + np.array(placed.l0_offset)
    assert back == pytest.approx(np.array(l0_point), abs=1e-6)


@pytest.mark.parametrize(("l0_mpp", "model_mpp"), [(1.2, 0.5), (0.001, 0.5)], ids=["too coarse", "absurdly fine"])
def test_a_resolution_too_far_away_is_refused_with_values_and_remedy(l0_mpp: float, model_mpp: float) -> None:
    levels = pyramid((1000, 1000))
    with pytest.raises(PlanError, match=rf"{l0_mpp} x {l0_mpp} um/px.*model needs 0.5.*--mpp"):
        choose_scale(levels, Mpp(l0_mpp, l0_mpp), whole(levels), model_mpp)


def test_a_slide_without_pixels_is_refused() -> None:
    with pytest.raises(PlanError, match="non-empty bounds"):
        choose_scale(pyramid((10, 10)), Mpp(1, 1), Box(5, 5, 5, 9), 1.0)
    with pytest.raises(PlanError, match="0 levels"):
        choose_scale((), Mpp(1, 1), Box(0, 0, 5, 5), 1.0)


def test_notes_speak_of_what_is_unusual_only() -> None:
    levels = pyramid((4000, 4000), 4)
    usual = choose_scale(levels, Mpp(0.25, 0.25), whole(levels), 0.5)
    assert scale_notes(usual, levels, 0.5) == []
    enlarged = choose_scale(levels, Mpp(0.75, 0.75), whole(levels), 0.5)
    assert "enlarged 1.50 times" in scale_notes(enlarged, levels, 0.5)[0]
    single = pyramid((4000, 4000))
    costly = choose_scale(single, Mpp(0.25, 0.25), whole(single), 2.0)
    assert "64 stored px" in scale_notes(costly, single, 2.0)[0]


def with_reductions(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """Levels and their reductions, as a reader offers them."""
    found = []
    for level, coarser in zip(levels, (*levels[1:], None), strict=True):
        found.append(level)
        for k in (2, 4, 8):
            if coarser is None or k * 1.05 < min(coarser.downsample) / max(level.downsample):
                size = round(level.size[0] / k), round(level.size[1] / k)
                found.append(Level(size, (level.downsample[0] * k, level.downsample[1] * k), None, k))
    return tuple(found)


REDUCED = [
    pytest.param(0.25, (4, 16), 0.5, 1, 2, id="a half"),
    pytest.param(0.2527, (4, 16), 0.5, 1, 2, id="a half within the tolerance"),
    pytest.param(0.25, (4, 16), 1.0, 2, 1, id="a quarter is stored"),
    pytest.param(0.25, (4, 16), 2.0, 3, 2, id="a half of a stored quarter"),
    pytest.param(0.25, (), 2.0, 3, 8, id="an eighth"),
    pytest.param(0.25, (), 4.0, 3, 8, id="an eighth, averaged in pairs"),
    pytest.param(0.25, (), 1.5, 1, 2, id="a half goes into six, a quarter does not"),
    pytest.param(0.25, (), 0.75, 0, 1, id="nothing goes into three"),
    pytest.param(0.25, (), 0.56, 0, 1, id="nothing goes into a fraction"),
    pytest.param(0.25, (4, 16), 0.25, 0, 1, id="level 0 is the model's"),
    pytest.param(0.5, (4,), 0.3, 0, 1, id="enlarged"),
]


@pytest.mark.parametrize(("l0_mpp", "steps", "model_mpp", "level", "reduction"), REDUCED)
def test_the_coarsest_reduction_that_divides_the_factor(
    l0_mpp: float, steps: tuple[float, ...], model_mpp: float, level: int, reduction: int
) -> None:
    levels = with_reductions(pyramid((16000, 32000), *steps))
    chosen = choose_scale(levels, Mpp(l0_mpp, l0_mpp), whole(levels), model_mpp)
    assert (chosen.level, chosen.reduction) == (level, reduction)
    assert levels[level].reduction == reduction


@given(
    st.sampled_from([0.25, 0.5, 0.502, 0.56, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 8.0]),
    st.sampled_from([(), (4.0,), (2.0, 4.0), (4.0, 16.0), (3.0,)]),
    st.tuples(st.integers(100, 5000), st.integers(100, 5000)),
    st.tuples(st.integers(0, 90), st.integers(0, 90)),
)
def test_reductions_leave_the_canvas_as_it_is(
    model_mpp: float, steps: tuple[float, ...], size: tuple[int, int], start: tuple[int, int]
) -> None:
    stored = pyramid(size, *steps)
    levels, bounds = with_reductions(stored), Box(*start, *size)
    exact, fast = (choose_scale(each, Mpp(0.25, 0.25), bounds, model_mpp) for each in (stored, levels))
    assert (fast.canvas_size, fast.canvas_mpp) == (exact.canvas_size, exact.canvas_mpp)
    assert fast.l0_offset == pytest.approx(exact.l0_offset)
    assert fast.l0_per_px == pytest.approx(exact.l0_per_px)
    assert fast.stored_level == exact.level
    assert scale_notes(fast, levels, model_mpp) == scale_notes(exact, stored, model_mpp)
    if fast.reduction == 1:
        assert fast.to_mapping() == exact.to_mapping()
    else:
        told = dict(fast.to_mapping(), factor=list(exact.factor), level_origin=list(exact.level_origin))
        assert told == {**exact.to_mapping(), "reduction": fast.reduction}
