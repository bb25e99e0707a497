"""Patches: reproducible by seed, epoch and number, split by case, spread as asked."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_seg.errors import AnnotationError, ConfigError
from wsi_seg.geometry import Box
from wsi_seg.train.source.fields import CellIndex, count_cells, cut
from wsi_seg.train.source.patches import CONTEXT, PatchSet, Sampling
from wsi_seg.train.source.sampling import make_sampler

SAMPLING = Sampling(("a", "b", "c"), 16, 64, 0.5, None, 0, 7, labelled=True)


class ArrayField:
    """A field in memory whose pixels encode (number, y, x)."""

    def __init__(self, labels: np.ndarray, number: int = 0, case: str = "") -> None:
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        self.pixels = np.stack([np.full_like(y, number), y, x], axis=-1).astype(np.uint8)
        self.labels, self.size, self.name, self.case = labels, labels.shape, f"f{number}", case or f"case {number}"

    def read(self, box: Box):
        return cut(self.pixels, box, 255), cut(self.labels, box, 255)

    def read_labels(self, box: Box):
        return cut(self.labels, box, 255)

    def index(self) -> CellIndex:
        return CellIndex(16, count_cells(self.labels, 16, 3), 1.0)


def patch_set(fields, sources=None, weights=(1.0,), **changes) -> PatchSet:
    values = {name: getattr(SAMPLING, name) for name in Sampling.__slots__}
    return PatchSet(
        Sampling(**{**values, **changes}), fields, [f.index() for f in fields], sources or [0] * len(fields), weights
    )


def random_labels(size=(60, 90), seed=0) -> np.ndarray:
    coarse = np.random.default_rng(seed).choice([0, 1, 2, 255], (size[0] // 5, size[1] // 5), p=[0.6, 0.2, 0.1, 0.1])
    return np.kron(coarse, np.ones((5, 5))).astype(np.uint8)


def stacked(batches):
    batches = list(batches)
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes_and_pairing():
    patches = patch_set([ArrayField(random_labels())])
    batch = next(patches.epoch(0, 5))
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (5, 3, 16, 16))
    assert (batch.labels.dtype, batch.labels.shape) == (torch.int64, (5, 16, 16))
    for image, labels in zip(batch.images.numpy(), batch.labels.numpy(), strict=True):
        y, x = int(image[1, 0, 0]), int(image[2, 0, 0])
        assert np.array_equal(labels, random_labels()[y : y + 16, x : x + 16])


def test_an_epoch_is_a_function_of_seed_and_epoch():
    fields = [ArrayField(random_labels(seed=n), n) for n in range(3)]
    first = stacked(patch_set(fields).epoch(3, 4))
    assert same(first, stacked(patch_set(fields).epoch(3, 4)))
    assert not same(first, stacked(patch_set(fields).epoch(4, 4)))
    assert not same(first, stacked(patch_set(fields, seed=8).epoch(3, 4)))
    by_class = patch_set(fields, balance=1.0)
    assert not same(stacked(by_class.epoch(3, 4)), stacked(by_class.epoch(4, 4)))


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(workers):
    fields = [ArrayField(random_labels(seed=n), n) for n in range(3)]
    assert same(stacked(patch_set(fields).epoch(1, 4)), stacked(patch_set(fields, workers=workers).epoch(1, 4)))
    assert not [t for t in threading.enumerate() if t.name.startswith("wsi-seg-read")]


def test_an_epoch_goes_on_from_any_batch():
    patches = patch_set([ArrayField(random_labels())])
    whole = list(patches.epoch(2, 4))
    for start in (0, 1, 3, len(whole)):
        rest = list(patches.epoch(2, 4, start=start))
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_together_what_one_draws_with_larger_batches(world):
    patches = patch_set([ArrayField(random_labels())])
    one = list(patches.epoch(0, 2 * world))
    ranks = [list(patches.epoch(0, 2, rank, world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(one)} == {patches.n_batches(2, world)}
    for number, batch in enumerate(one):
        together = torch.stack([ranks[rank][number].images for rank in range(world)], dim=1).flatten(0, 1)
        assert torch.equal(together, batch.images)


def test_length_covers_the_annotated_area_and_is_filled_to_whole_batches():
    patches = patch_set([ArrayField(np.zeros((64, 48), np.uint8)), ArrayField(np.full((20, 20), 255, np.uint8), 1)])
    assert len(patches) == 12
    assert patches.n_batches(5) == 3
    assert [len(batch.images) for batch in patches.epoch(0, 5)] == [5, 5, 5]
    assert len(patch_set([ArrayField(np.zeros((64, 48), np.uint8))], patches_per_epoch=7)) == 7


def test_without_balance_an_epoch_meets_fields_of_one_size_equally():
    fields = [ArrayField(np.zeros((16, 16), np.uint8), n) for n in range(10)]
    for epoch in range(3):
        images, _ = stacked(patch_set(fields, balance=0.0).epoch(epoch, 5))
        assert Counter(images[:, 0, 0, 0].tolist()) == dict.fromkeys(range(10), 1)


def test_patches_lie_anywhere_equally_often():
    """Around an evenly drawn px, a quarter of all patches would lie at either end."""
    images, _ = stacked(patch_set([ArrayField(np.zeros((16, 48), np.uint8))], balance=0.0).epoch(0, 3300))
    counts = np.bincount(images[:, 2, 0, 0].numpy(), minlength=33)
    assert counts.size == 33
    assert np.abs(counts - 100).max() < 40


def test_balanced_patches_show_every_class_equally_often_in_their_middle():
    labels = np.zeros((200, 200), np.uint8)
    labels[50:53, 60:63], labels[150, 150] = 1, 2
    _, found = stacked(patch_set([ArrayField(labels)], balance=1.0).epoch(0, 900))
    middle = np.bincount(found[:, 8, 8].numpy(), minlength=3)
    assert middle.sum() == 900
    assert np.abs(middle - 300).max() < 75


def test_the_rest_lies_in_the_annotated_area():
    labels = np.full((200, 200), 255, np.uint8)
    labels[40:70, 100:130] = 1
    _, found = stacked(patch_set([ArrayField(labels)], balance=0.0, patches_per_epoch=200).epoch(0, 50))
    assert ((found != 255).sum(dim=(1, 2)) > 0).all()


def test_sources_are_drawn_by_weight_whatever_their_size():
    fields = [ArrayField(np.zeros((160, 160), np.uint8)), ArrayField(np.zeros((16, 16), np.uint8), 1)]
    patches = patch_set(fields, [0, 1], (3.0, 1.0), balance=0.0, patches_per_epoch=400)
    images, _ = stacked(patches.epoch(0, 100))
    assert Counter(images[:, 0, 0, 0].tolist()) == {0: 300, 1: 100}


def test_an_image_smaller_than_the_patch_is_padded_white_and_ignored():
    images, labels = stacked(patch_set([ArrayField(np.zeros((10, 40), np.uint8))]).epoch(0, 4))
    assert (images[:, :, :3] == 255).all()
    assert (labels[:, :3] == 255).all()
    assert (labels[:, 13:] == 255).all()
    assert (labels[:, 3:13] == 0).all()


case_lists = st.lists(st.sampled_from("ABCDEFG"), min_size=2, max_size=14).filter(lambda cases: len(set(cases)) > 1)


@settings(max_examples=60)
@given(case_lists, st.floats(0.01, 1), st.integers(0, 99))
def test_no_case_is_on_both_sides(cases, share, seed):
    fields = [ArrayField(np.zeros((16, 16), np.uint8), n, case) for n, case in enumerate(cases)]
    training, validation = patch_set(fields).split(share, seed)
    assert not set(training.cases) & set(validation.cases)
    assert set(training.cases) | set(validation.cases) == set(cases)
    assert training.describe()["fields"] + validation.describe()["fields"] == len(fields)
    assert len(validation.cases) == min(max(1, round(share * len(set(cases)))), len(set(cases)) - 1)
    again = patch_set(fields).split(share, seed)
    assert (again[0].cases, again[1].cases) == (training.cases, validation.cases)


def test_one_case_cannot_be_split():
    fields = [ArrayField(np.zeros((16, 16), np.uint8), n, "A") for n in range(3)]
    with pytest.raises(ConfigError, match="of 1 case cannot be held out"):
        patch_set(fields).split(0.2, 0)


def test_nothing_labelled_is_an_error():
    with pytest.raises(AnnotationError, match=r"no labelled pixel in f0, f1, f2 and 1 more"):
        patch_set([ArrayField(np.full((20, 20), 255, np.uint8), n) for n in range(4)])


def test_whole_shows_every_labelled_pixel_once():
    labels = random_labels((150, 100))
    labels[:64, :64] = 255
    fields = [ArrayField(labels), ArrayField(random_labels((30, 40)), 1)]
    seen = [np.zeros(f.size, int) for f in fields]
    for name, images, found in patch_set(fields).whole():
        assert images.shape[2] <= 64 + 2 * CONTEXT
        number = int(name[1:])
        y, x = images[0, 1:, 0, 0].tolist()
        part = np.s_[y : y + found.shape[1], x : x + found.shape[2]]
        assert np.array_equal(images[0].permute(1, 2, 0).numpy(), fields[number].pixels[part])
        known = found[0].numpy() != 255
        assert np.array_equal(found[0].numpy()[known], fields[number].labels[part][known])
        seen[number][part] += known
    for field, counted in zip(fields, seen, strict=True):
        assert np.array_equal(counted, field.labels != 255)


def test_whole_leaves_out_tiles_without_labels():
    labels = np.full((128, 128), 255, np.uint8)
    labels[100, 100] = 1
    assert len(list(patch_set([ArrayField(labels)]).whole())) == 1


def test_unlabelled_sets_read_no_label(image_folder, config_of):
    folder = image_folder([(40, 50)])
    config = config_of({"images": folder / "images", "labels": folder / "missing"})
    config = config.model_copy(update={"data": config.data})
    source = config.data.train[0].model_copy(update={"labels": None})
    patches = PatchSet.open([source], config, labelled=False)
    images, labels = stacked(patches.epoch(0, 4))
    assert (labels == 255).all()
    assert (images[:, 0] == 0).all()
    assert patches.describe()["labelled_px"] == {}


def test_opened_from_folders(image_folder, config_of, caplog):
    folder = image_folder([(40, 50), (70, 33), (20, 20), (64, 64)])
    source = {"images": folder / "images", "labels": folder / "labels", "case_pattern": r"(p\d)"}
    config = config_of(source, data={"workers": 2})
    patches = PatchSet.open(config.data.train, config)
    assert patches.cases == ("p0", "p1")
    assert patches.describe()["fields"] == 4
    assert sum(patches.describe()["labelled_px"].values()) == 40 * 50 + 70 * 33 + 400 + 64 * 64
    batch = next(patches.epoch(0, 3))
    assert batch.images.shape == (3, 3, 32, 32)
    assert not caplog.records


def test_a_class_that_nobody_labelled_is_told(image_folder, config_of, caplog):
    folder = image_folder([(20, 20)])
    config = config_of(
        {"images": folder / "images", "labels": folder / "labels"}, classes=["background", "stroma", "tumour", "fat"]
    )
    PatchSet.open(config.data.train, config)
    assert "class 'fat' has no labelled pixel in p0_0" in caplog.text


def test_a_damaged_file_is_told_when_the_set_is_opened(image_folder, config_of):
    folder = image_folder([(40, 50), (40, 50)])
    (folder / "images" / "p0_1.png").write_bytes(b"\x89PNG")
    config = config_of({"images": folder / "images", "labels": folder / "labels"})
    with pytest.raises(AnnotationError, match=r"p0_1\.png cannot be read"):
        PatchSet.open(config.data.train, config)


@settings(max_examples=80)
@given(st.integers(0, 59), st.integers(0, 89), st.integers(-20, 70), st.integers(-20, 100), st.integers(1, 40))
def test_a_box_meets_the_index_where_it_touches_a_cell_that_counts(y, x, y0, x0, side):
    labels = np.full((60, 90), 255, np.uint8)
    labels[y, x] = 1
    box, cell = Box.at(y0, x0, side, side), Box.at(y // 16 * 16, x // 16 * 16, 16, 16)
    assert ArrayField(labels).index().meets(box) == (not box.intersect(cell).is_empty)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=4), st.data())
def test_shares_spread_evenly_hit_cells_by_their_area(areas, data):
    """One source per field: with evenly spaced shares each cell gets its exact part, within one."""
    weights = data.draw(st.lists(st.integers(1, 4), min_size=len(areas), max_size=len(areas)))
    indices = [CellIndex(16, np.array(cells, np.uint32).reshape(1, 2, 2), 1.0) for cells in areas]
    sampler = make_sampler(indices, range(len(areas)), weights)
    present = [number for number, cells in enumerate(areas) if sum(cells)]
    if not present:
        assert sampler is None
        return
    n = 3000
    hits = Counter(sampler.anywhere.at((k + 0.5) / n) for k in range(n))
    for number in present:
        source = weights[number] / sum(weights[other] for other in present)
        for cell, area in enumerate(areas[number]):
            assert abs(hits[number, cell] - n * source * area / sum(areas[number])) <= 1.01


def test_real_pairs(shared, config_of):
    folder = shared / "segmentation" / "nuinsseg-human-spleen"
    if not folder.is_dir():
        pytest.skip("shared/data/segmentation/nuinsseg-human-spleen is not here")
    source = {
        "images": folder / "tissue images",
        "labels": folder / "label masks",
        "ignore": folder / "vague areas" / "mask binary",
        "encoding": "instances",
        "mpp": 0.25,
        "case_pattern": "(0[1-3])$",
    }
    with pytest.raises(ConfigError, match="finds no case in human_spleen_04"):
        PatchSet.open(config_of(source).data.train, config_of(source))
    config = config_of({**source, "case_pattern": None}, classes=["background", "nuclei"], border=1)
    patches = PatchSet.open(config.data.train, config)
    px = patches.describe()["labelled_px"]
    assert 0.1 < px["nuclei"] / (px["nuclei"] + px["background"]) < 0.5
    image, label = Image.open(folder / "tissue images" / "human_spleen_01.png"), folder / "label masks"
    _, pixels, _ = next(patches.whole())
    means = np.asarray(image, float).reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - means).max() <= 0.5
    assert label.is_dir()
