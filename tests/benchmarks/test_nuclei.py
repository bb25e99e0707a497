import numpy as np
import pytest

from benchmarks.nuclei import (
    FOLDS,
    MIN_PX,
    RECIPE,
    Case,
    Otsu,
    held_out,
    nuclei_of,
    otsu_threshold,
    resolve_overlaps,
    score,
)
from benchmarks.nuclei_eosin import paint
from wsi_seg.train.config import read_config


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_the_recipe_is_valid_and_is_a_small_fast_network() -> None:
    config = read_config(RECIPE)
    assert config.mpp == 0.5
    assert config.border >= 1
    assert [name.split("=")[0] for name in config.classes] == ["background", "nuclei"]


@pytest.mark.parametrize("fold", FOLDS)
def test_a_held_out_fold_leaves_no_image_of_its_groups(fold: str) -> None:
    config = read_config(RECIPE)
    groups = {source.where.get("group") for source in held_out(config, fold, 1).data.train}
    assert not groups & set(FOLDS[fold])
    assert groups | set(FOLDS[fold]) == {source.where.get("group") for source in config.data.train}


def test_summed_numbers_of_an_overlap_go_to_the_nearer_object() -> None:
    a, b = disc((40, 60), 20, 20, 12), disc((40, 60), 20, 38, 12)
    resolved = resolve_overlaps(3 * a.astype(np.int64) + 8 * b)
    assert np.array_equal(resolved > 0, a | b)
    assert len(np.unique(resolved)) == 3
    assert len(np.unique(resolved[:, :28][(a | b)[:, :28]])) == 1
    assert len(np.unique(resolved[:, 31:][(a | b)[:, 31:]])) == 1


def test_an_overlap_whose_sum_is_another_objects_number_is_still_an_overlap() -> None:
    a, b, c = disc((40, 100), 20, 20, 12), disc((40, 100), 20, 38, 12), disc((40, 100), 20, 80, 9)
    resolved = resolve_overlaps(1 * a.astype(np.int64) + 2 * b + 3 * c)
    assert len(np.unique(resolved)) == 4
    assert len(np.unique(resolved[c])) == 1


def test_touching_objects_without_overlap_stay_as_they_are() -> None:
    objects = np.zeros((10, 20), np.int64)
    objects[2:8, 2:8], objects[2:8, 8:14] = 4, 7
    assert np.array_equal(resolve_overlaps(objects) > 0, objects > 0)
    assert len(np.unique(resolve_overlaps(objects))) == 3


def test_otsu_parts_two_heaps() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 0.1, 4000), random.normal(2, 0.1, 1000)])
    assert 0.3 < otsu_threshold(values) < 1.7


@pytest.mark.parametrize("parting", [0, 1])
def test_the_baseline_finds_dark_discs(parting: float) -> None:
    pixels = np.full((80, 80, 3), 230, np.uint8)
    discs = [disc((80, 80), 20, 20, 8), disc((80, 80), 55, 50, 9)]
    for one in discs:
        pixels[one] = (90, 60, 150)
    case = Case("c", "g", pixels, discs[0] + 2 * discs[1].astype(np.int64), np.ones((80, 80), bool))
    found = score(Otsu(0.5, 1, parting)(pixels), case)
    assert found.f1 == 1
    assert found.dice > 0.9


def test_a_perfect_prediction_scores_one_and_a_merged_pair_is_no_match() -> None:
    objects = np.zeros((30, 40), np.int64)
    objects[5:20, 5:15], objects[5:20, 17:27] = 1, 2
    case = Case("c", "g", np.zeros((30, 40, 3), np.uint8), objects, np.ones((30, 40), bool))
    assert score(nuclei_of(objects > 0), case) == score(objects, case)
    assert score(objects, case).f1 == 1
    merged = score((objects > 0) | (np.indices((30, 40))[0] == 10), case)
    assert merged.f1 == 0
    assert merged.dice > 0.8


def test_specks_and_ignored_objects_do_not_count() -> None:
    mask = np.zeros((30, 40), bool)
    mask[2:4, 2:5] = True
    assert mask.sum() < MIN_PX
    assert nuclei_of(mask).max() == 0
    mask[10:20, 10:20] = True
    scored = np.ones((30, 40), bool)
    scored[8:22, 8:22] = False
    case = Case("c", "g", np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.int64), scored)
    assert score(nuclei_of(mask), case).f1 == 1


def test_the_watershed_parts_touching_discs() -> None:
    pixels = np.full((60, 80, 3), 230, np.uint8)
    left, right = disc((60, 80), 30, 25, 10), disc((60, 80), 30, 42, 10)
    pixels[left | right] = (90, 60, 150)
    assert Otsu(0.5, 0, 0)(pixels).max() == 1
    assert len(np.unique(Otsu(0.5, 0, 1.5)(pixels))) == 3


def test_painting_repeats_and_leaves_the_inside_of_nuclei_alone() -> None:
    pixels = np.full((90, 110, 3), 220, np.uint8)
    nuclei = disc((90, 110), 40, 50, 15)
    pixels[nuclei] = (80, 50, 150)
    inside, outside = disc((90, 110), 40, 50, 11), ~disc((90, 110), 40, 50, 18)
    changes = []
    for seed in range(20):
        painted = paint(pixels, nuclei, np.random.default_rng(seed))
        assert np.array_equal(painted, paint(pixels, nuclei, np.random.default_rng(seed)))
        assert painted.shape == pixels.shape
        assert painted.dtype == np.uint8
        change = np.abs(painted.astype(int) - pixels).mean(axis=2)
        changes.append((change[inside].mean(), change[outside].mean()))
    inner, outer = np.array(changes).T
    assert outer.mean() > 20
    assert inner.mean() < outer.mean() / 3
