"""A slide of one block keeps every worker busy, and its result is the one worker's."""

from __future__ import annotations

import threading
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from tests.engine.runs import Runs, answer_nan_where, pixels_of, shard_bytes
from wsi_seg.engine.predicting import Answer, Predicting, Tiles
from wsi_seg.output.status import TileStatus
from wsi_seg.slide import ArraySlide


@pytest.fixture(scope="module")
def tissue(small_slide: Path) -> ArraySlide:
    return ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:900, 300:1200]), mpp=0.5)


@pytest.fixture
def predicted_by(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that predict, slowly, from now on."""
    threads: set[int] = set()
    predict = Predicting.predict

    def heard(self: Predicting, batch: Tiles, count: int) -> list[Answer]:
        threads.add(threading.get_ident())
        sleep(0.01)
        return predict(self, batch, count)

    monkeypatch.setattr(Predicting, "predict", heard)
    return threads


@pytest.mark.parametrize("window", ["cosine", "crop"])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_block_is_predicted_by_every_worker_to_the_same_bytes(
    run: Runs, tissue: ArraySlide, unet: str, predicted_by: set[int], window: str, batch: int
) -> None:
    results = []
    for workers in (1, 4):
        predicted_by.clear()
        report = run.report(
            tissue, model=unet, overlap=48, window=window, block=1024, workers=workers, batch=batch, runtime="openvino"
        )
        assert len(predicted_by) == workers
        results.append(report)
    alone, together = (run.opened(report) for report in results)
    assert shard_bytes(alone) == shard_bytes(together)
    tiles = [report.summary.tiles for report in results]
    assert tiles[0] == tiles[1]
    cost = results[1].summary.performance
    assert cost is not None
    assert cost.stages["predict"] > cost.seconds_working  # of all threads, those that helped included


def test_a_tile_that_fails_elsewhere_fails_alone(
    run: Runs, tissue: ArraySlide, null_model: str, predicted_by: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = tissue.read_region(tissue.bounds, 0).copy()
    pixels[300:310, 300:310] = colour = (1, 2, 3)
    answer_nan_where(colour, monkeypatch)
    slide = ArraySlide(pixels, mpp=0.5)
    reports = [run.report(slide, model=null_model, overlap=0, block=1024, workers=workers) for workers in (1, 4)]
    assert len(predicted_by) > 2
    assert [report.summary.tiles[TileStatus.MODEL_FAILED.word] for report in reports] == [1, 1]
    assert shard_bytes(run.opened(reports[0])) == shard_bytes(run.opened(reports[1]))
    assert reports[0].summary.problems == reports[1].summary.problems


def test_batches_are_cut_alike_however_slow_those_are_that_help(
    run: Runs, tissue: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Predicting.predict

    def heard(self: Predicting, batch: Tiles, count: int) -> list[Answer]:
        sizes.append(count)
        sleep(0.5 if len(sizes) == 1 else 0)  # the first batch is the last to be there
        return predict(self, batch, count)

    monkeypatch.setattr(Predicting, "predict", heard)
    cut = []
    for workers in (1, 4):
        sizes.clear()
        run.report(
            tissue, model=unet, overlap=48, window="cosine", block=1024, workers=workers, batch=5, runtime="openvino"
        )
        cut.append(sorted(sizes))
    assert cut[0] == cut[1]
