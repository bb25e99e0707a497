"""Tile, overlap and window that the user left open: exact where the halo is known, and no dearer than it must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan.strategies import card
from wsi_seg.errors import GridError
from wsi_seg.plan import Tiling, choose_batch, choose_tiling
from wsi_seg.plan.tiling import tiling_notes

HALOS = st.none() | st.integers(0, 2000)
STRIDES = st.sampled_from([1, 2, 3, 8, 16, 32])


@given(STRIDES, st.integers(1, 32), HALOS)
def test_the_choice_fits_a_grid_and_is_exact_when_the_halo_is_known(stride: int, times: int, halo: int | None) -> None:
    model = card(tile_size=16 * times * stride, output_stride=stride)
    tiling = choose_tiling(model, halo)
    tiling.grid((1000, 1000), stride)  # accepts it
    assert tiling.exact == (halo is not None)
    if halo is not None:
        assert tiling.window == "crop"
        assert halo <= tiling.overlap // 2 < halo + stride
        assert tiling.tile % model.tile_size == 0
        assert tiling.cost <= 4
    else:
        assert (tiling.tile, tiling.window) == (model.tile_size, "cosine")


CASES = [
    pytest.param(92, {}, Tiling(1024, 192, "crop", 0, exact=True), id="a larger tile is cheaper"),
    pytest.param(20, {}, Tiling(512, 64, "crop", 0, exact=True), id="the card's tile is cheap enough"),
    pytest.param(40, {}, Tiling(1024, 96, "crop", 0, exact=True), id="more than an eighth is not"),
    pytest.param(0, {}, Tiling(512, 0, "crop", 0, exact=True), id="a network without context needs no overlap"),
    pytest.param(300, {}, Tiling(2048, 608, "crop", 0, exact=True), id="a wide halo needs a large tile"),
    pytest.param(None, {}, Tiling(512, 128, "cosine", 0, exact=False), id="no halo"),
    pytest.param(92, {"tile": 512}, Tiling(512, 192, "crop", 0, exact=True), id="a given tile is kept"),
    pytest.param(
        92, {"tile": 256}, Tiling(256, 128, "cosine", 0, exact=False), id="a given tile too small to be exact"
    ),
    pytest.param(92, {"overlap": 64}, Tiling(512, 64, "cosine", 0, exact=False), id="a given overlap too small"),
    pytest.param(92, {"overlap": 256}, Tiling(512, 256, "crop", 0, exact=True), id="a given overlap large enough"),
    pytest.param(92, {"overlap": None}, Tiling(1024, 192, "crop", 0, exact=True), id="None is auto"),
    pytest.param(
        92, {"overlap": 256, "window": "linear"}, Tiling(512, 256, "linear", 92, exact=True), id="exact ramps"
    ),
    pytest.param(92, {"overlap": 64, "window": "crop"}, Tiling(512, 64, "crop", 0, exact=False), id="crop, not exact"),
    pytest.param(None, {"overlap": 0}, Tiling(512, 0, "cosine", 0, exact=False), id="no overlap wanted"),
    pytest.param(None, {"tile": 32}, Tiling(32, 16, "cosine", 0, exact=False), id="at least one step of overlap"),
    pytest.param(None, {"tile": 16}, Tiling(16, 0, "cosine", 0, exact=False), id="a tile that cannot overlap"),
]


@pytest.mark.parametrize(("halo", "wishes", "tiling"), CASES)
def test_wishes_are_kept_and_the_rest_is_chosen(halo: int | None, wishes: dict[str, object], tiling: Tiling) -> None:
    chosen = choose_tiling(card(output_stride=16), halo, **wishes)  # type: ignore[arg-type]
    assert chosen == tiling
    chosen.grid((1000, 1000), 16)


@pytest.mark.parametrize(
    ("wishes", "remedy"),
    [
        ({"tile": 500}, "use 496 or 512"),
        ({"overlap": 50}, "use 48 or 64"),
        ({"overlap": 400}, "use 256 or --tile 800"),
        ({"overlap": "some"}, "a number of px or auto"),
        ({"window": "box"}, "use one of"),
    ],
)
def test_wishes_that_do_not_fit_are_refused_with_a_remedy(wishes: dict[str, object], remedy: str) -> None:
    with pytest.raises(GridError, match=remedy):
        choose_tiling(card(output_stride=16), 40, **wishes)  # type: ignore[arg-type]


def test_a_negative_halo_is_refused() -> None:
    with pytest.raises(GridError, match="halo -1"):
        choose_tiling(card(), -1)


def test_the_cost_is_predicted_px_per_canvas_px() -> None:
    assert Tiling(512, 0, "crop", 0, exact=True).cost == 1
    assert Tiling(512, 256, "crop", 0, exact=True).cost == 4


@given(STRIDES, st.integers(0, 400), st.integers(1, 20))
def test_the_note_on_an_overlap_too_small_names_one_that_is_exact(stride: int, halo: int, times: int) -> None:
    model = card(tile_size=16 * times * stride, output_stride=stride)
    tiling = choose_tiling(model, halo, tile=model.tile_size)
    notes = tiling_notes(tiling, halo, stride)
    assert bool(notes) != tiling.exact
    if notes:
        words = notes[0].split()
        tile, overlap = (int(words[words.index(option) + 1]) for option in ("--tile", "--overlap"))
        assert choose_tiling(model, halo, tile=tile, overlap=overlap).exact


def test_an_unknown_halo_is_told() -> None:
    assert "unknown or unbounded" in tiling_notes(choose_tiling(card(), None), None, 1)[0]


def test_a_batch_holds_about_the_same_px_whatever_the_tile() -> None:
    assert [choose_batch(tile) for tile in (256, 512, 1024, 4096)] == [32, 8, 2, 1]
