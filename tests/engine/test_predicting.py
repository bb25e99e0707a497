"""Predictions when memory is short and when a low precision fails: the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.runs import SMALL, labels_of, pixels_of, shard_bytes
from wsi_seg.engine.batch_size import fitting_batch
from wsi_seg.engine.events import Event, Note, RunStarted, TaskDone
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.predicting import Predicting
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import ModelLoadError, PredictorError, PredictorOutOfMemory, RunStopped
from wsi_seg.infer import ModelSpec, Predictor, load_predictor
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.slide import ArraySlide

MARK = (1, 2, 3)
"""A colour that no other pixel has."""
PLACES = ((100, 100), (300, 250), (300, 258), (255, 255))
"""Inside a block; just left of, just right of, and at the border between blocks of 256, where several tiles overlap."""
OPTIONS: dict[str, Any] = {**SMALL, "overlap": 48, "window": "cosine", "batch": 5}


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")


@pytest.fixture(scope="module")
def slide(small_slide: Path) -> ArraySlide:
    """420 x 500 px: 2 x 2 blocks of 256, 6 x 7 tiles, with the mark in the tiles of PLACES."""
    pixels = np.ascontiguousarray(pixels_of(small_slide)[200:620, 300:800])
    for place in PLACES:
        pixels[place] = MARK
    return ArraySlide(pixels, mpp=0.5)


class Disturbed:
    """A predictor that is disturbed once its run has begun: `disturb` sees batch and prediction, and may raise."""

    def __init__(self, predictor: Predictor, disturb: Callable[..., None], precision: str = "") -> None:
        self._predictor, self._disturb = predictor, disturb
        self.facts = replace(predictor.facts, precision=precision or predictor.facts.precision)
        self.sizes: list[int] = []
        self.closed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        prediction = self._predictor.predict(batch)
        self._disturb(batch, prediction)
        return prediction

    def close(self) -> None:
        self.closed += 1
        self._predictor.close()


class Runner:
    """Runs the slide, undisturbed or disturbed from the first tile on."""

    def __init__(self, folder: Path, slide: ArraySlide, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._slide, self._model, self._monkeypatch = folder, slide, model, monkeypatch
        self._numbers = count()
        self.begun = threading.Event()
        self.notes: list[str] = []
        self.disturbed: list[Disturbed] = []

    def disturb(self, how: Callable[..., None], *, always: bool = False) -> None:
        """From now on predictors are disturbed, during runs or `always`."""

        def gate(batch: NDArray[np.uint8], prediction: NDArray[np.float32]) -> None:
            if always or self.begun.is_set():
                how(batch, prediction)

        def load(spec: ModelSpec) -> Disturbed:
            self.disturbed.append(Disturbed(load_predictor(spec), gate))
            return self.disturbed[-1]

        self._monkeypatch.setattr("wsi_seg.infer.load_predictor", load)

    def __call__(self, *, name: str = "", stop_after: int | None = None, **options: Any) -> RunReport:
        self.begun.clear()
        self.notes.clear()
        out = self._folder / f"{name or next(self._numbers)}.seg.zarr"
        stop, done = threading.Event(), count(1)

        def listen(event: Event) -> None:
            if isinstance(event, RunStarted):
                self.begun.set()
            if isinstance(event, Note):
                self.notes.append(event.text)
            if isinstance(event, TaskDone) and next(done) == stop_after:
                stop.set()

        asked = RunOptions(**{**OPTIONS, "model": self._model, **options})
        return run_slide(self._slide, asked, out=out, listener=listen, stop=stop)

    def result(self, **options: Any) -> Result:
        return open_result(self(**options).out)


@pytest.fixture
def runner(tmp_path: Path, slide: ArraySlide, null_model: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(tmp_path, slide, null_model, monkeypatch)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, slide: ArraySlide, null_model: str) -> dict[int, Result]:
    """The undisturbed results, by block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")
        runner = Runner(tmp_path_factory.mktemp("undisturbed"), slide, null_model, monkeypatch)
        return {block: runner.result(block=block) for block in (256, 512)}


def room_for(tiles: int) -> Callable[..., None]:
    """Memory for so many tiles per batch."""

    def disturb(batch: NDArray[np.uint8], _: NDArray[np.float32]) -> None:
        if len(batch) > tiles:
            raise PredictorOutOfMemory(f"no room for {len(batch)} tiles")

    return disturb


def marked(tile: NDArray[np.uint8]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (tile == MARK).all(axis=-1)
    return found


class TestMemory:
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("block", [256, 512])
    @pytest.mark.parametrize("tiles", [1, 3])
    def test_smaller_batches_give_the_same_bytes(
        self, runner: Runner, expected: dict[int, Result], tiles: int, block: int, workers: int
    ) -> None:
        runner.disturb(room_for(tiles))
        report = runner(block=block, workers=workers)
        result = open_result(report.out)
        assert shard_bytes(result) == shard_bytes(expected[block])
        assert (result.read_tiles() == TileStatus.DONE).all()
        told = ["memory ran out with batches of 5 tiles: 2 per batch from here on"]
        told += ["memory ran out with batches of 2 tiles: 1 per batch from here on"] if tiles == 1 else []
        assert [note for note in runner.notes if "memory" in note] == told
        assert sorted(note for note in report.notes if "memory" in note) == sorted(told)
        assert json.loads((report.out / "summary.json").read_bytes())["notes"] == list(report.notes)
        sizes = runner.disturbed[-1].sizes[-4:]
        assert sizes == [2 if tiles == 3 else 1] * 4, "the smaller batch is remembered"

    def test_a_bare_memory_error_is_the_same(self, runner: Runner, expected: dict[int, Result]) -> None:
        def disturb(batch: NDArray[np.uint8], _: NDArray[np.float32]) -> None:
            if len(batch) > 2:
                raise MemoryError

        runner.disturb(disturb)
        assert shard_bytes(runner.result()) == shard_bytes(expected[256])

    @pytest.mark.parametrize("window", ["cosine", "crop"])
    def test_only_a_tile_that_does_not_fit_alone_is_lost(self, runner: Runner, window: str) -> None:
        reference = runner.result(window=window)

        def disturb(batch: NDArray[np.uint8], _: NDArray[np.float32]) -> None:
            if marked(batch).any():
                raise PredictorOutOfMemory("no room")

        runner.disturb(disturb)
        report = runner(window=window)
        result = open_result(report.out)
        lost = tiles_with_mark(report, result, window)
        assert {(int(y), int(x)) for y, x in np.argwhere(result.read_tiles() == TileStatus.MODEL_FAILED)} == lost
        labels, wanted = labels_of(result)[0], labels_of(reference)[0]
        assert 0 < (labels == 255).mean() < 0.5
        np.testing.assert_array_equal(labels[labels != 255], wanted[labels != 255])
        assert all("a smaller --tile" in problem for problem in report.summary.problems)
        assert len([note for note in report.notes if "memory" in note]) == 3  # 2, 1, and one at a time

    def test_two_predictions_at_once_take_turns_where_one_fits(
        self, runner: Runner, expected: dict[int, Result]
    ) -> None:
        under_way, lock = [0], threading.Lock()

        def disturb(batch: NDArray[np.uint8], _: NDArray[np.float32]) -> None:
            with lock:
                under_way[0] += 1
                crowded = under_way[0] > 1
            time.sleep(0.01)
            with lock:
                crowded = crowded or under_way[0] > 1
                under_way[0] -= 1
            if crowded:
                raise PredictorOutOfMemory("no room for two")

        runner.disturb(disturb)
        report = runner(workers=3)
        assert shard_bytes(open_result(report.out)) == shard_bytes(expected[256])
        assert report.n_failed_tiles == 0
        assert any(note.endswith("one prediction at a time from here on") for note in report.notes)

    @pytest.mark.parametrize(("before", "after"), [(9, 2), (2, 9), (2, 1)])
    def test_a_resumed_run(self, runner: Runner, expected: dict[int, Result], before: int, after: int) -> None:
        runner.disturb(room_for(before))
        with pytest.raises(RunStopped):
            runner(name="x", stop_after=2)
        runner.disturb(room_for(after))
        report = runner(name="x")
        assert shard_bytes(open_result(report.out)) == shard_bytes(expected[256])
        assert any("2 per batch" in note for note in report.notes)

    def test_a_batch_that_does_not_fit_is_halved_before_the_plan(self, runner: Runner) -> None:
        runner.disturb(room_for(3), always=True)
        report = runner(batch=8)
        assert report.notes.count("batches of 8 tiles of 128 px do not fit the memory: 2 per batch") == 1
        assert runner.notes.count("batches of 8 tiles of 128 px do not fit the memory: 2 per batch") == 1
        provenance = json.loads((report.out / "provenance.json").read_bytes())
        assert provenance["identity"]["batch"] == 2
        assert shard_bytes(open_result(report.out)) == shard_bytes(runner.result(batch=2))

    def test_not_even_one_tile_per_worker_fits_before_the_plan(self, null_model: str) -> None:
        predictor = Disturbed(load_predictor(ModelSpec(null_model)), room_for(0))
        with pytest.raises(PredictorOutOfMemory, match=r"2 workers with batches of 1 tiles.*fewer --workers"):
            fitting_batch(predictor, 4, 64, 2, lambda _: True)
        assert set(predictor.sizes) == {4, 2, 1}

    def test_a_batch_that_the_program_demands_is_not_halved(self, null_model: str) -> None:
        predictor = Disturbed(load_predictor(ModelSpec(null_model)), room_for(2))
        predictor.fixed_input = (4, None, None)  # type: ignore[attr-defined]
        with pytest.raises(PredictorOutOfMemory, match="batches of 4 tiles"):
            fitting_batch(predictor, 4, 64, 1, lambda _: True)
        predicting = Predicting(predictor, 4, lambda: predictor, lambda _: None)
        answers = predicting.predict(np.zeros((4, 64, 64, 3), np.uint8), 3)
        assert [type(answer) for answer in answers] == [PredictorOutOfMemory] * 3
        assert predicting.batch == 4

    def test_memory_that_runs_out_while_the_guilty_tile_is_looked_for(self) -> None:
        """The batch fails for another reason first; alone among padding, its tiles do not fit any more."""
        predictor = Numbers(4, {2}, set())
        predicting = Predicting(predictor, 4, lambda: predictor, lambda _: None)
        predict, calls = predictor.predict, count()

        def shrinking(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            predictor.room = 4 if next(calls) == 0 else 2
            return predict(batch)

        predictor.predict = shrinking  # type: ignore[method-assign]
        tiles = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 2, 2, 3), np.uint8)
        answers = predicting.predict(tiles, 4)
        assert [type(answer) is PredictorError for answer in answers] == [False, False, True, False]
        assert all((answers[number] == number).all() for number in (0, 1, 3))  # type: ignore[union-attr]
        assert predicting.batch == 2

    @settings(max_examples=60)
    @given(
        batch=st.integers(1, 9), filled=st.data(), room=st.integers(0, 9), bad=st.sets(st.integers(0, 8)),
        hopeless=st.sets(st.integers(0, 8)),
    )  # fmt: skip
    def test_every_tile_gets_its_own_answer(
        self, batch: int, filled: st.DataObject, room: int, bad: set[int], hopeless: set[int]
    ) -> None:
        """Any mixture: too large a batch, tiles that fail, tiles that never fit. Its number is a tile's colour."""
        wanted = filled.draw(st.integers(1, batch))
        predictor = Numbers(room, bad, hopeless)
        predicting = Predicting(predictor, batch, lambda: predictor, lambda _: None)
        tiles = np.full((batch, 2, 2, 3), 255, np.uint8)
        tiles[:wanted] = np.arange(wanted)[:, None, None, None]
        for _ in range(2):
            for number, answer in enumerate(predicting.predict(tiles, wanted)):
                if number in hopeless or room == 0:
                    assert isinstance(answer, PredictorOutOfMemory)
                elif number in bad:
                    assert isinstance(answer, PredictorError)
                else:
                    assert not isinstance(answer, PredictorError)
                    assert (answer == number).all()
        assert set(predictor.sizes) <= {batch >> shift for shift in range(5)}


class Numbers:
    """Answers a tile's colour; runs out of memory on batches beyond `room`, and on tiles that are `hopeless`."""

    def __init__(self, room: int, bad: set[int], hopeless: set[int]) -> None:
        self.room, self._bad, self._hopeless = room, bad, hopeless
        self.fixed_input = (None, None, None)
        self.sizes: list[int] = []

    @property
    def card(self) -> Any:
        return load_predictor(ModelSpec("constant:0/2")).card

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        numbers = set(batch[:, 0, 0, 0].tolist())
        if len(batch) > self.room or numbers & self._hopeless:
            raise PredictorOutOfMemory("no room")
        if numbers & self._bad:
            raise PredictorError("bad")
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).astype(np.float32)


def tiles_with_mark(report: RunReport, result: Result, window: str, *, used: bool = False) -> set[tuple[int, int]]:
    """Tiles whose pixels hold the mark; `used`: only where the tile has weight there."""
    from wsi_seg.geometry import Box
    from wsi_seg.plan.grid import TileGrid

    grid = TileGrid(result.spec.layout.size, 128, 48, window=window)
    part = grid.support if used else grid.tile_box
    rows, columns = grid.shape
    return {
        (row, column)
        for row in range(rows)
        for column in range(columns)
        if any(part(row, column).contains(Box.at(*place, 1, 1)) for place in PLACES)
    }


class LowPrecision:
    """Loads the real program, twice: in `bf16` it gives no probability where a pixel is marked, in fp32 it does."""

    def __init__(self, value: float, fp32: Callable[..., None] = lambda *_: None) -> None:
        self._value, self._fp32 = value, fp32
        self.exact: list[Disturbed] = []

    def __call__(self, spec: ModelSpec) -> Disturbed:
        predictor = load_predictor(spec.replaced(precision="fp32"))
        if spec.precision != "fp32":
            return Disturbed(predictor, self._break, spec.precision)
        self.exact.append(Disturbed(predictor, self._fp32))
        return self.exact[-1]

    def _break(self, batch: NDArray[np.uint8], prediction: NDArray[np.float32]) -> None:
        prediction.transpose(0, 2, 3, 1)[marked(batch)] = self._value


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LowPrecision]]:
    def make(value: float = np.nan, **options: Any) -> LowPrecision:
        loader = LowPrecision(value, **options)
        monkeypatch.setattr("wsi_seg.infer.load_predictor", loader)
        return loader

    return make  # type: ignore[return-value]


LOW: dict[str, Any] = {"precision": "bf16", "runtime": "openvino"}


class TestLowPrecision:
    @pytest.mark.parametrize("value", [np.nan, np.inf, 1.5])
    def test_what_is_no_probability_is_redone(
        self, runner: Runner, expected: dict[int, Result], low: Callable[..., LowPrecision], value: float
    ) -> None:
        loader = low(value)
        report = runner(**LOW)
        result = open_result(report.out)
        assert shard_bytes(result) == shard_bytes(expected[256])
        redone = tiles_with_mark(report, result, "cosine", used=True)
        assert {(int(y), int(x)) for y, x in np.argwhere(result.read_tiles() == TileStatus.REDONE_FP32)} == redone
        assert report.summary.tiles["redone-fp32"] == len(redone) > 4
        assert f"{len(redone)} redone-fp32" in report.describe()
        assert report.n_failed_tiles == 0
        assert report.summary.model["precision"] == "bf16"
        assert [exact.closed for exact in loader.exact] == [1], "loaded once, closed at the end"
        assert set(loader.exact[0].sizes) == {1}

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("shared", [True, False])
    def test_it_does_not_depend_on_blocks(
        self, runner: Runner, expected: dict[int, Result], low: Callable[..., LowPrecision], shared: bool, workers: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        if not shared:
            monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)
        low()
        results = {block: runner.result(**LOW, block=block, workers=workers) for block in (256, 512)}
        for block, result in results.items():
            assert shard_bytes(result) == shard_bytes(expected[block])
        np.testing.assert_array_equal(results[256].read_tiles(), results[512].read_tiles())

    def test_a_resumed_run(self, runner: Runner, expected: dict[int, Result], low: Callable[..., LowPrecision]) -> None:
        low()
        with pytest.raises(RunStopped):
            runner(name="x", stop_after=2, **LOW)
        resumed, whole = runner(name="x", **LOW), runner(**LOW)
        assert shard_bytes(open_result(resumed.out)) == shard_bytes(expected[256])
        assert resumed.summary.tiles == whole.summary.tiles

    def test_a_tile_that_fails_in_fp32_too_is_lost(
        self, runner: Runner, expected: dict[int, Result], low: Callable[..., LowPrecision]
    ) -> None:
        def nan_in_one(batch: NDArray[np.uint8], prediction: NDArray[np.float32]) -> None:
            if marked(batch)[0].sum() > 1:  # the tiles that hold two of the marks
                prediction[:] = np.nan

        low(fp32=nan_in_one)
        report = runner(**LOW)
        statuses = open_result(report.out).read_tiles()
        failed, redone = ((statuses == status).sum() for status in (TileStatus.MODEL_FAILED, TileStatus.REDONE_FP32))
        assert failed > 0
        assert redone > 0
        assert any("not a probability in bf16, nor in fp32" in problem for problem in report.summary.problems)
        labels, wanted = labels_of(open_result(report.out))[0], labels_of(expected[256])[0]
        np.testing.assert_array_equal(labels[labels != 255], wanted[labels != 255])

    @pytest.mark.parametrize("room", [1, 2])
    def test_with_memory_short_as_well(
        self, runner: Runner, expected: dict[int, Result], low: Callable[..., LowPrecision], room: int
    ) -> None:
        loader = low(fp32=room_for(room))
        assert shard_bytes(runner.result(**LOW)) == shard_bytes(expected[256])
        assert loader.exact[0].closed == 1

    def test_a_model_that_cannot_be_had_in_fp32(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        loader, asked = LowPrecision(np.nan), []

        def load(spec: ModelSpec) -> Disturbed:
            if spec.precision == "fp32":
                asked.append(spec)
                raise ModelLoadError("there is no such file")
            return loader(spec)

        monkeypatch.setattr("wsi_seg.infer.load_predictor", load)
        report = runner(**LOW)
        assert report.n_failed_tiles > 4
        assert all("cannot be loaded in fp32: there is no such file" in text for text in report.summary.problems)
        assert len(asked) == 1, "tried once"

    def test_in_fp32_nothing_is_loaded(self, runner: Runner, low: Callable[..., LowPrecision]) -> None:
        loader = low()
        runner(precision="fp32", runtime="openvino")
        assert len(loader.exact) == 1  # the run's own
