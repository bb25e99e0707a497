"""Tiles grow where it pays and where there is memory, and the same command cuts the same tiles tomorrow."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.runs import Runs, assert_same_labels, pixels_of
from wsi_seg.engine.events import Event, TaskDone
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import for_timing, prepare
from wsi_seg.engine.run import run_slide
from wsi_seg.engine.tile_size import largest_tile
from wsi_seg.errors import PredictorOutOfMemory, RunStopped
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.infer.predictor import ProgramPredictor
from wsi_seg.output.label_store import open_result
from wsi_seg.slide import ArraySlide

GB = 10**9
WISHES: dict[str, Any] = {"runtime": "openvino", "precision": "fp32", "skip_background": False, "block": 512}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 GB, whatever it is in truth."""
    monkeypatch.setattr("wsi_seg.plan.memory_limit", lambda: 16 * GB)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slides count as large."""
    monkeypatch.setattr("wsi_seg.engine.planning.ENLARGED_FROM_TILES", 1)
    monkeypatch.setattr("wsi_seg.plan.plan.WORTH_ENLARGING", (0, 0))


@pytest.fixture(scope="module")
def tissue(small_slide: Path) -> ArraySlide:
    return ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[100:1100, 300:1480]), mpp=0.5)


@pytest.mark.parametrize(
    ("n_bytes", "cores", "limit", "side"),
    [(GB // 10, 2, 16, 2048), (GB // 2, 2, 16, 2048), (GB, 2, 16, 1831), (4 * GB, 2, 16, 1024), (GB, 2, 8, 1295)],
)
def test_the_largest_tile_follows_the_memory(n_bytes: int, cores: int, limit: int, side: int) -> None:
    assert largest_tile(1024, n_bytes, cores, limit * GB) == side


@pytest.mark.usefixtures("eager")
class TestRuns:
    def test_larger_tiles_give_the_same_labels(self, run: Runs, tissue: ArraySlide, unet: str) -> None:
        plan = prepare(tissue, RunOptions(model=unet, workers=2, **WISHES)).plan
        assert plan.tiling.exact
        assert plan.grid.tile > 512  # the tile that the halo of 23 px asks for
        grown = run(tissue, model=unet, tile=None, **WISHES)
        fixed = run(tissue, model=unet, tile=512, **WISHES)
        assert grown.spec.tile_grid != fixed.spec.tile_grid
        assert_same_labels(grown, fixed)

    @pytest.mark.parametrize("change", [{"workers": 1}, {"memory_bytes": 10 * GB}])
    def test_neither_workers_nor_a_budget_that_is_large_enough_change_the_tiles(
        self, tissue: ArraySlide, unet: str, change: dict[str, Any]
    ) -> None:
        wishes = {"workers": 2, **WISHES}
        plans = [prepare(tissue, RunOptions(model=unet, **{**wishes, **more})).plan for more in ({}, change)]
        assert plans[0].grid == plans[1].grid

    @pytest.mark.parametrize("wish", [{"tile": 512}, {"overlap": 48}])
    def test_what_is_asked_for_is_kept(self, tissue: ArraySlide, unet: str, wish: dict[str, Any]) -> None:
        plan = prepare(tissue, RunOptions(model=unet, workers=1, **WISHES, **wish)).plan
        assert plan.grid.tile == (128 if "overlap" in wish else 512)

    def test_a_budget_that_larger_tiles_would_exceed_is_respected(self, tissue: ArraySlide, unet: str) -> None:
        sizes = (512, None)
        fixed, free = (prepare(tissue, RunOptions(model=unet, workers=1, tile=tile, **WISHES)).plan for tile in sizes)
        assert free.grid.tile > fixed.grid.tile
        budget = (fixed.memory.total_bytes + free.memory.total_bytes) // 2
        plan = prepare(tissue, RunOptions(model=unet, workers=1, memory_bytes=budget, **WISHES)).plan
        assert plan.memory.total_bytes <= budget
        assert 512 <= plan.grid.tile < free.grid.tile

    def test_a_program_that_cannot_tell_its_memory_keeps_the_tile_of_the_halo(self, tissue: ArraySlide) -> None:
        wishes = {**WISHES, "runtime": "auto"}
        assert prepare(tissue, RunOptions(model="constant:1/2", workers=2, **wishes)).plan.grid.tile == 512

    def test_larger_tiles_that_take_more_memory_than_was_reckoned_are_given_up(
        self, tissue: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fixed = prepare(tissue, RunOptions(model=unet, workers=1, tile=512, **WISHES)).plan
        monkeypatch.setattr(ProgramPredictor, "prediction_bytes", lambda *_: 1)
        budget = int(1.02 * fixed.memory.total_bytes)
        plan = prepare(tissue, RunOptions(model=unet, workers=1, memory_bytes=budget, **WISHES)).plan
        assert plan.memory.total_bytes <= budget

    def test_larger_tiles_that_do_not_fit_when_they_are_tried_are_given_up(
        self, tissue: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        predict = ProgramPredictor.predict

        def small_memory(self: ProgramPredictor, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            if batch.shape[1] > 512:
                raise PredictorOutOfMemory("as if")
            return predict(self, batch)

        monkeypatch.setattr(ProgramPredictor, "predict", small_memory)
        assert prepare(tissue, RunOptions(model=unet, workers=1, **WISHES)).plan.grid.tile == 512

    def test_a_batch_counts_as_often_as_it_has_tiles(
        self, tissue: ArraySlide, unet: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        monkeypatch.setattr(
            "wsi_seg.engine.planning.largest_tile", lambda tile, n_bytes, *_: asked.append(n_bytes) or tile
        )
        for batch in (1, 3):
            prepare(tissue, RunOptions(model=unet, workers=1, batch=batch, **WISHES))
        assert asked[1] == 3 * asked[0]

    def test_what_is_analysed_does_not_depend_on_the_tiles(self, run: Runs, small_slide: Path, unet: str) -> None:
        wishes = {**WISHES, "skip_background": True, "block": 256}
        options = RunOptions(model=unet, workers=1, **wishes)
        plan = prepare(small_slide, options).plan
        assert plan.grid.tile > 512 == plan.cells.grid.tile
        assert 0 < plan.analysed_share < 1
        grown = run(small_slide, model=unet, tile=None, **wishes)
        fixed = run(small_slide, model=unet, tile=512, **wishes)
        assert_same_labels(grown, fixed)

    def test_what_the_process_did_before_changes_no_tile(self, tissue: ArraySlide, unet: str) -> None:
        options = RunOptions(model=unet, workers=2, **WISHES)
        before = prepare(tissue, options).plan.grid
        ballast = np.ones(3 * GB // 8)
        del ballast
        assert prepare(tissue, options).plan.grid == before

    def test_a_resumed_run_keeps_the_tiles_it_was_begun_with(
        self, tissue: ArraySlide, unet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, stop = tmp_path / "x.seg.zarr", threading.Event()

        def stop_after_one(event: Event) -> None:
            if isinstance(event, TaskDone):
                stop.set()

        options = RunOptions(model=unet, workers=1, **WISHES)
        with pytest.raises(RunStopped):
            run_slide(tissue, options, out=str(out), listener=stop_after_one, stop=stop)
        monkeypatch.setattr("wsi_seg.engine.planning.ENLARGED_FROM_TILES", 10**9)
        assert prepare(tissue, options).plan.grid.tile == 512
        run_slide(tissue, options, out=str(out))
        assert open_result(out).spec.tile_grid == (1, 1)


def test_runtimes_are_measured_on_tiles_of_a_moderate_size(unet: str) -> None:
    predictor = load_predictor(ModelSpec(unet, runtime="openvino"))
    try:
        for side, timed in ((256, 256), (512, 512), (2048, 512)):
            probes = np.zeros((2, side, side, 3), np.uint8)
            assert for_timing(predictor, probes).shape == (2, timed, timed, 3)
    finally:
        predictor.close()
