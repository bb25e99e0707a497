"""Tiles of the picture against a naive composition of the whole slide, and the pyramid against the area mean."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box
from wsi_seg.sample.scene import N_TEXTURES, Scene, SceneOptions, area_mean
from wsi_seg.sample.texture import CELL, GLASS, NUCLEUS, STROMA, TextureFamily

CASES = {
    "many cells": SceneOptions((2100, 2300), tile=256, seed=2),
    "odd size, small tiles": SceneOptions((1111, 777), tile=64, seed=2),
    "tiles as large as a texture": SceneOptions((1500, 2100), tile=1024, seed=2),
    "full of tissue": SceneOptions((2100, 1100), tile=512, seed=2, tissue_fraction=1.0),
    "empty": SceneOptions((2100, 1100), tile=128, seed=2, tissue_fraction=0.0),
}


@pytest.fixture(scope="module")
def family():
    """One family for all cases: textures are slow to draw and depend on seed and resolution alone."""
    drawn = TextureFamily(2, 0.5)
    drawn.tissue = cache(drawn.tissue)
    return drawn


@pytest.fixture(params=CASES, scope="module")
def scene(request, family):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_seg.sample.scene.TextureFamily", lambda seed, mpp: family)
        return Scene(CASES[request.param])


def level_picture(scene, level, of=None):
    rows, columns = scene.grid(level)
    tile = of or scene.pixels
    return np.vstack([np.hstack([tile(level, row, column) for column in range(columns)]) for row in range(rows)])


def naive_level_0(scene):
    """(rgb, labels) of all tiles, textures laid out px by px and covered by the outline, without any shortcut."""
    rows, columns = (n * scene.options.tile for n in scene.grid(0))
    rgb = np.empty((rows, columns, 3))
    labels = np.empty((rows, columns), np.uint8)
    cover = scene._outline.cover(Box(0, 0, rows, columns))
    glass = scene._family.glass().rgb
    for y in range(0, rows, CELL):
        for x in range(0, columns, CELL):
            index = int(scene._mosaic[y // CELL, x // CELL])
            texture = scene._family.tissue(index, index / (N_TEXTURES - 1))
            h, w = min(CELL, rows - y), min(CELL, columns - x)
            share = cover[y : y + h, x : x + w, None]
            rgb[y : y + h, x : x + w] = share * texture.rgb[:h, :w] + (1 - share) * glass[:h, :w]
            labels[y : y + h, x : x + w] = np.where(share[..., 0] < 0.5, GLASS, texture.labels[:h, :w])
    return rgb, labels


def test_level_0_is_tissue_over_glass(scene):
    rgb, labels = naive_level_0(scene)
    assert np.abs(level_picture(scene, 0) - rgb).max() <= 0.51
    np.testing.assert_array_equal(level_picture(scene, 0, lambda _, row, column: scene.labels(row, column)), labels)


def test_every_level_is_the_area_mean_of_the_one_below(scene):
    below = level_picture(scene, 0)
    for level in range(1, scene.n_levels):
        here = level_picture(scene, level)
        mean = area_mean(below[: below.shape[0] // 2 * 2, : below.shape[1] // 2 * 2])
        np.testing.assert_array_equal(here[: mean.shape[0], : mean.shape[1]], mean)
        below = here


def test_equal_copy_keys_mean_equal_pixels_and_labels(scene):
    seen = {}
    for level in range(scene.n_levels):
        for row, column in np.ndindex(scene.grid(level)):
            if (key := scene.copy_key(level, row, column)) is not None:
                pixels = seen.setdefault(key, scene.pixels(level, row, column))
                np.testing.assert_array_equal(scene.pixels(level, row, column), pixels)


def test_tiles_do_not_depend_on_the_order_of_asking(scene):
    top = scene.n_levels - 1
    first = [scene.pixels(level, 0, 0).copy() for level in (top, 0, 1, top)]
    level_picture(scene, top)
    np.testing.assert_array_equal(first[0], first[3])
    np.testing.assert_array_equal(first[0], scene.pixels(top, 0, 0))
    np.testing.assert_array_equal(first[2], scene.pixels(1, 0, 0))


def test_halves_kept_for_the_next_level_are_used_up(scene):
    scene._halves.clear()
    for level in range(scene.n_levels):
        level_picture(scene, level)
        assert {kept for kept, _, _ in scene._halves} <= {level, scene.n_levels - 1}


@given(arrays(np.uint8, st.tuples(st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 6]), st.just(3))))
def test_area_mean_rounds_halves_up(pixels):
    h, w, _ = pixels.shape
    exact = pixels.reshape(h // 2, 2, w // 2, 2, 3).sum(axis=(1, 3), dtype=int) / 4
    np.testing.assert_array_equal(area_mean(pixels), np.floor(exact + 0.5))


class TestTextures:
    def test_neighbours_fit_without_a_seam(self, family):
        a, b = family.tissue(0, 0.0).rgb.astype(float), family.tissue(N_TEXTURES - 1, 1.0).rgb.astype(float)
        inside = np.abs(np.diff(a, axis=1)).mean()
        for left, right in ((a, b), (b, a), (a, a)):
            assert np.abs(left[:, -1] - right[:, 0]).mean() < 1.5 * inside
            assert np.abs(left[-1] - right[0]).mean() < 1.5 * inside

    def test_members_share_their_border(self, family):
        a, b = family.tissue(0, 0.0), family.tissue(N_TEXTURES - 1, 1.0)
        for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            np.testing.assert_array_equal(a.rgb[side], b.rgb[side])
            np.testing.assert_array_equal(a.labels[side], b.labels[side])

    def test_members_differ_and_more_cellular_ones_have_more_nuclei(self, family):
        fibrous, cellular = family.tissue(0, 0.0), family.tissue(N_TEXTURES - 1, 1.0)
        assert np.abs(fibrous.rgb.astype(int) - cellular.rgb).mean() > 15
        assert (cellular.labels == NUCLEUS).sum() > 1.3 * (fibrous.labels == NUCLEUS).sum()

    def test_nuclei_are_darker_and_bluer_than_stroma_and_glass_is_white(self, family):
        texture = family.tissue(5, 0.5)
        mean = {kind: texture.rgb[texture.labels == kind].mean(axis=0) for kind in (GLASS, STROMA, NUCLEUS)}
        assert mean[GLASS].min() > 230
        assert mean[STROMA][0] > mean[STROMA][2] > mean[STROMA][1]
        assert mean[NUCLEUS][2] > mean[NUCLEUS][0]
        assert (mean[NUCLEUS] < mean[STROMA] - 25).all()

    def test_nuclei_measure_five_to_nine_um(self, family):
        labels = family.tissue(3, 0.3).labels == NUCLEUS
        # mean chord of a convex figure is pi * area / perimeter; runs along a row are its chords: about 0.8 diameters
        starts = np.flatnonzero(np.diff(labels.astype(np.int8).ravel()) == 1)
        ends = np.flatnonzero(np.diff(labels.astype(np.int8).ravel()) == -1)
        n = min(len(starts), len(ends))
        assert 3.0 < np.mean(ends[-n:] - starts[-n:]) * family.mpp < 9.0

    def test_resolution_changes_the_size_of_nuclei_not_their_share(self):
        fine, coarse = TextureFamily(1, 0.25).tissue(0), TextureFamily(1, 1.0).tissue(0)
        shares = [(texture.labels == NUCLEUS).mean() for texture in (fine, coarse)]
        assert shares[0] == pytest.approx(shares[1], rel=0.6)
        edges = [np.abs(np.diff((texture.labels == NUCLEUS).astype(int))).mean() for texture in (fine, coarse)]
        assert edges[1] > 2 * edges[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": (0, 5)}, "size"),
        ({"size": (5, 1 << 21)}, "size"),
        ({"mpp": 0.01}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"seed": -1}, "seed"),
        ({"tissue_fraction": 1.5}, "fraction"),
        ({"tile": 240}, "tile"),
    ],
)
def test_options_out_of_range_are_named(change, word):
    with pytest.raises(UsageError, match=word):
        SceneOptions(**{"size": (512, 512), **change})
