"""The promises of DESIGN.md §6, end to end."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.runs import (
    Runs,
    assert_same_labels,
    labels_of,
    pixels_of,
    shard_bytes,
    whole_forward,
    worker_processes,
)
from wsi_seg.card import named_classes
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.verify import verify_result
from wsi_seg.slide import ArraySlide

TISSUE = named_classes(["background", "tissue"])


class TestConstant:
    """1. A constant predictor gives exactly that constant everywhere."""

    @pytest.mark.parametrize("window", ["linear", "cosine", "gaussian", "crop"])
    @pytest.mark.parametrize(
        ("tile", "overlap", "block"), [(128, 0, 256), (128, 64, 256), (96, 20, 512), (256, 34, 256)]
    )
    def test_everywhere(self, run: Runs, window: str, tile: int, overlap: int, block: int) -> None:
        slide = ArraySlide(np.random.default_rng(1).integers(0, 256, (301, 523, 3), dtype=np.uint8), mpp=0.5)
        result = run(
            slide, model="constant:2/4", window=window, tile=tile, overlap=overlap, block=block, probabilities=True
        )
        for labels in labels_of(result):
            assert (labels == 2).all()
        for level in range(result.n_levels):
            probabilities = np.asarray(result.probabilities(level)[:])
            assert (probabilities[2] == 255).all()
            assert (np.delete(probabilities, 2, axis=0) == 0).all()

    @pytest.mark.parametrize("size", [(1, 1), (1, 700), (255, 255), (257, 256)])
    def test_odd_sizes(self, run: Runs, size: tuple[int, int]) -> None:
        result = run(ArraySlide(np.full((*size, 3), 90, np.uint8), mpp=0.5), model="constant:1/2", overlap=32)
        assert labels_of(result)[0].shape == size
        assert (labels_of(result)[0] == 1).all()


@pytest.fixture(scope="module")
def tissue(small_slide: Path) -> ArraySlide:
    """700 x 900 px (height x width): 3 x 4 blocks of 256, two of them with neighbours on all sides; 2 x 2 of 512."""
    return ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:900, 300:1200]), mpp=0.5)


@pytest.fixture(scope="module")
def alone(tissue: ArraySlide, unet: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """The result of one worker in blocks of 256 px for a window, made once."""
    runs = Runs(tmp_path_factory.mktemp("alone"))
    return cache(lambda window: runs(tissue, model=unet, overlap=48, window=window, workers=1))


class TestSameBytes:
    """2. Byte-identical output for any worker count, block size, task order and scheduler."""

    @pytest.mark.parametrize("window", ["cosine", "crop"])
    def test_workers_and_batches(
        self, run: Runs, tissue: ArraySlide, unet: str, window: str, alone: Callable[[str], Result]
    ) -> None:
        for workers in (2, 4, 3):
            other = run(tissue, model=unet, overlap=48, window=window, workers=workers)
            assert shard_bytes(other) == shard_bytes(alone(window))

    @pytest.mark.parametrize("window", ["linear", "crop"])
    def test_blocks(
        self, run: Runs, tissue: ArraySlide, unet: str, window: str, alone: Callable[[str], Result]
    ) -> None:
        for block in (512, 1024):
            assert_same_labels(run(tissue, model=unet, overlap=48, window=window, block=block), alone(window))

    def test_blocks_of_a_resampled_slide(self, run: Runs, small_slide: Path, null_model: str) -> None:
        options: dict[str, Any] = {"model": null_model, "slide_mpp": 0.31, "overlap": 32, "window": "linear"}
        reference = run(small_slide, **options)
        assert reference.spec.layout.size == (682, 930)
        assert_same_labels(run(small_slide, **options, block=1024), reference)

    def test_without_the_edge_cache(
        self, run: Runs, tissue: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch, alone: Callable[[str], Result]
    ) -> None:
        monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)
        other = run(tissue, model=unet, overlap=48, window="cosine")
        assert shard_bytes(other) == shard_bytes(alone("cosine"))

    def test_worker_processes(self, run: Runs, small_slide: Path, unet: str) -> None:
        reference = shard_bytes(run(small_slide, model=unet, overlap=48, window="cosine"))
        with worker_processes(2) as scheduler:
            result = run(small_slide, model=unet, overlap=48, window="cosine", scheduler=scheduler)
        assert shard_bytes(result) == reference


class TestExactness:
    """4. With a halo at least the receptive field the tiled labels equal the whole-image forward, pixel for pixel."""

    @pytest.mark.parametrize("tile", [128, 192])
    def test_unet(self, run: Runs, small_slide: Path, unet: str, tile: int) -> None:
        result = run(small_slide, model=unet, tile=tile)
        labels = labels_of(result)[0]
        assert len(np.unique(labels)) >= 2
        np.testing.assert_array_equal(labels, whole_forward(small_slide, model=unet, tile=tile))

    def test_two_tile_sizes_give_the_same_bytes(self, run: Runs, small_slide: Path, unet: str) -> None:
        assert shard_bytes(run(small_slide, model=unet, tile=128)) == shard_bytes(
            run(small_slide, model=unet, tile=256)
        )

    def test_too_small_a_halo_is_seen(self, run: Runs, small_slide: Path, unet: str) -> None:
        labels = labels_of(run(small_slide, model=unet, overlap=8, window="crop"))[0]
        assert (labels != whole_forward(small_slide, model=unet)).any(), "else the tests above prove nothing"

    @pytest.mark.parametrize("tile", [128, 256])
    def test_third_party_model(self, run: Runs, shared: Path, tile: int) -> None:
        options: dict[str, Any] = {
            "model": str(shared / "models/slaid-tissue-mlp/tissue_1x1conv_derived.onnx"),
            "card": {
                "mpp": 0.5,
                "classes": named_classes(["background", "tissue"]),
                "mean": (0.0,) * 3,
                "std": (1 / 255,) * 3,
            },
            "tile": tile,
            "block": 512,
        }
        whole = pixels_of(shared / "slides/cmu-1-small-region/cmu-1-small-region.svs")
        slide = ArraySlide(np.ascontiguousarray(whole[700:1900, 900:2200]), mpp=0.5)
        labels = labels_of(run(slide, **options))[0]
        assert set(np.unique(labels)) == {0, 1}
        np.testing.assert_array_equal(labels, whole_forward(slide, **options))

    def test_identity_is_the_brightest_channel(self, run: Runs, small_slide: Path) -> None:
        labels = labels_of(run(small_slide, model="identity", overlap=16, window="linear"))[0]
        np.testing.assert_array_equal(labels, pixels_of(small_slide).argmax(2))


class TestPyramid:
    """7. Level n + 1 holds no class that is absent below; areas over the levels agree."""

    def test_classes_and_areas(self, run: Runs, small_slide: Path) -> None:
        levels = labels_of(run(small_slide, model="he-stain", skip_background=True, block=256))
        assert len(levels) == 3
        for fine, coarse in pairwise(levels):
            assert set(np.unique(coarse)) <= set(np.unique(fine))
            for label in np.unique(fine):
                assert abs((fine == label).mean() - (coarse == label).mean()) < 0.05

    def test_verify_finds_it_sound_and_a_flipped_bit_not(self, run: Runs, small_slide: Path) -> None:
        result = run(small_slide, model="he-stain", probabilities=True)
        assert verify_result(result.path).is_sound
        shard = next(file for file in sorted((result.path / "labels/segmentation/0/c").rglob("*")) if file.is_file())
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 4
        shard.write_bytes(content)
        report = verify_result(result.path)
        assert not report.is_sound
        assert any(shard.relative_to(result.path).as_posix() in problem.key for problem in report.problems)


class TestNotAnalysed:
    """8. Not-analysed is never a class, and skipping never changes an analysed label."""

    @pytest.mark.parametrize("window", ["cosine", "crop"])
    def test_skipping_changes_no_analysed_label(self, run: Runs, tmp_path: Path, unet: str, window: str) -> None:
        from wsi_seg.sample import write_synthetic

        slide = tmp_path / "sparse.tif"
        write_synthetic(slide, (900, 1100), mpp=0.5, seed=5, tissue_fraction=0.25)
        options: dict[str, Any] = {"model": unet, "overlap": 48, "window": window}
        everything = labels_of(run(slide, **options))[0]
        skipped = labels_of(run(slide, **options, skip_background=True))[0]
        analysed = skipped != 255
        assert 0.05 < analysed.mean() < 0.95
        assert (everything != 255).all()
        np.testing.assert_array_equal(skipped[analysed], everything[analysed])

    def test_counts_leave_it_out(self, run: Runs, small_slide: Path) -> None:
        report = run.report(small_slide, model="he-stain", skip_background=True)
        labels = labels_of(open_result(report.out))[0]
        for index, area in enumerate(report.summary.classes):
            assert area.n_pixels == (labels == index).sum()
        assert report.summary.not_analysed_mm2 == pytest.approx((labels == 255).sum() * 0.25e-6)

    def test_white_slide(self, run: Runs) -> None:
        report = run.report(ArraySlide(np.full((700, 600, 3), 255, np.uint8), mpp=0.5), skip_background=True)
        assert (labels_of(open_result(report.out))[0] == 255).all()
        assert report.summary.analysed_mm2 == 0
        assert report.n_failed_tiles == 0

    @pytest.mark.parametrize("window", ["linear", "crop"])
    def test_probabilities_are_0_there(self, run: Runs, tmp_path: Path, null_model: str, window: str) -> None:
        """Also where skipped tiles left half a sum, and where a predicted tile lies outside the region."""
        pixels = np.random.default_rng(4).integers(0, 200, (600, 640, 3), dtype=np.uint8)
        pixels[:, 300:] = 250
        roi = tmp_path / "roi.geojson"
        roi.write_text('{"type": "Polygon", "coordinates": [[[20, 30], [600, 30], [600, 500], [20, 500], [20, 30]]]}')
        options: dict[str, Any] = {"model": null_model, "overlap": 64, "window": window, "probabilities": True}
        result = run(ArraySlide(pixels, mpp=0.5), **options, roi=roi, skip_background=True)
        for level, labels in enumerate(labels_of(result)):
            probabilities = np.asarray(result.probabilities(level)[:])
            assert 0.1 < (labels == 255).mean() < 0.9
            assert (probabilities[:, labels == 255] == 0).all()
            assert (probabilities[:, labels != 255].max(0) > 0).all()

    def test_roi_is_exact_to_the_pixel(self, run: Runs, tmp_path: Path, small_slide: Path) -> None:
        roi = tmp_path / "roi.geojson"
        ring = [[100, 50], [800, 50], [800, 400], [100, 400], [100, 50]]
        hole = [[300, 200], [400, 200], [400, 300], [300, 300], [300, 200]]
        roi.write_text('{"type": "Polygon", "coordinates": ' + str([ring, hole]) + "}")
        labels = labels_of(run(small_slide, model="constant:0/2", roi=roi))[0]
        expected = np.full(labels.shape, 255)
        expected[50:400, 100:800] = 0
        expected[200:300, 300:400] = 255
        np.testing.assert_array_equal(labels, expected)


class TestFailedTiles:
    """A failed tile is the same failed tile however the canvas is cut into blocks."""

    @pytest.mark.parametrize("window", ["cosine", "crop"])
    def test_one_bad_value_beside_a_block_border(self, run: Runs, monkeypatch: pytest.MonkeyPatch, window: str) -> None:
        pixels = np.random.default_rng(2).integers(0, 200, (700, 700, 3), dtype=np.uint8)
        pixels[300, 258:261] = pixels[600, 250:253] = 255  # in tiles across a block border, on one side of it
        monkeypatch.setattr("wsi_seg.infer.predictor.ProgramPredictor.predict", _identity_but_nan_on_white)
        slide = ArraySlide(pixels, mpp=0.5)
        options: dict[str, Any] = {"model": "identity", "overlap": 48, "window": window}
        reference = run(slide, **options, block=1024)
        labels = labels_of(reference)[0]
        assert (labels[300, 258:261] == 255).all()
        assert 0 < (labels == 255).mean() < 0.3
        for block, workers in ((256, 1), (256, 2), (512, 2)):
            other = run(slide, **options, block=block, workers=workers)
            assert_same_labels(other, reference)
            np.testing.assert_array_equal(other.read_tiles(), reference.read_tiles())


def _identity_but_nan_on_white(_: object, batch: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    """RGB / 255, NaN where a pixel is white inside the slide (its neighbour above is not)."""
    out = np.ascontiguousarray(batch.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    white = (batch == 255).all(3)
    white[:, 1:] &= ~(batch[:, :-1] == 255).all(3)
    white[:, 0] = False
    out.transpose(0, 2, 3, 1)[white] = np.nan
    return out
