"""What breaks stays where it broke: unreadable places, failing predictions, tasks run twice, a full disk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.runs import SMALL, Runs, labels_of, pixels_of, shard_bytes, whole_forward, worker_processes
from wsi_seg.engine.job import RunJob
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import Prepared, prepare
from wsi_seg.engine.run import run_slide
from wsi_seg.engine.schedule import all_tasks
from wsi_seg.engine.session import Session, run_task
from wsi_seg.engine.steps import result_spec
from wsi_seg.errors import PredictorError, RegionReadError, WriteError
from wsi_seg.geometry import Box
from wsi_seg.infer import load_predictor
from wsi_seg.output.label_store import Result, create_result, open_result
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.output.status import TileStatus
from wsi_seg.plan.grid import TileGrid
from wsi_seg.slide import ArraySlide

IGNORE = 255
MARK = (1, 2, 3)
"""A colour that no other pixel has: models fail on tiles that hold it."""
PLACES = ((100, 100), (330, 250), (330, 258), (500, 255))
"""Inside a block; just left of, just right of, and at the border between blocks, where several tiles overlap."""


class DamagedSlide(ArraySlide):
    """Reading fails wherever a rectangle of `damage` (level-0 px) is touched."""

    def __init__(self, pixels: NDArray[np.uint8], damage: tuple[Box, ...], mpp: float = 0.5) -> None:
        super().__init__(pixels, mpp=mpp)
        self.damage = damage

    def read_region(self, box: Box, level: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        if any(not box.intersect(bad).is_empty for bad in self.damage):
            raise RegionReadError(f"damaged at {box}")
        return super().read_region(box, level, out)

    def fingerprint(self) -> str:
        return "0" * 64

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._pixels[0], self.damage)


@pytest.fixture(scope="module")
def pixels(small_slide: Path) -> NDArray[np.uint8]:
    """620 x 700 px of tissue: 3 x 3 blocks of 256, 8 x 9 tiles at overlap 48 of 128."""
    return np.ascontiguousarray(pixels_of(small_slide)[200:820, 300:1000])


@pytest.fixture(scope="module")
def expected(pixels: NDArray[np.uint8], null_model: str) -> NDArray[np.uint8]:
    """Labels of the undisturbed slide, by one forward of the whole; a 1 x 1 convolution has no borders."""
    labels = whole_forward(ArraySlide(pixels, mpp=0.5), model=null_model)
    assert len(np.unique(labels)) == 3
    return labels


@pytest.fixture(scope="module")
def marked(pixels: NDArray[np.uint8]) -> ArraySlide:
    """The slide with a pixel of the colour MARK at each of PLACES."""
    copy = pixels.copy()
    for place in PLACES:
        copy[place] = MARK
    return ArraySlide(copy, mpp=0.5)


@pytest.fixture(scope="module")
def expected_marked(marked: ArraySlide, null_model: str) -> NDArray[np.uint8]:
    return whole_forward(marked, model=null_model)


def prepared_for(slide: Any, **options: Any) -> Prepared:
    return prepare(slide, RunOptions(**{**SMALL, **options}))


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overviews take half the time of such small runs, and are not looked at here."""
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")


def grid_of(pixels: NDArray[np.uint8], window: str) -> TileGrid:
    """The tiles of a run with tile 128 and overlap 48."""
    return TileGrid((pixels.shape[0], pixels.shape[1]), 128, 48, window=window)


def assert_contained(
    result: Result, expected: NDArray[np.uint8], grid: TileGrid, failed: set[tuple[int, int]], status: TileStatus
) -> None:
    """Exactly `failed` tiles have `status`; where they have weight is not analysed, all else is as expected."""
    statuses = result.read_tiles()
    assert {(int(y), int(x)) for y, x in np.argwhere(statuses == status)} == failed
    assert set(np.unique(statuses)) <= {TileStatus.DONE, status}
    area = np.zeros(expected.shape, bool)
    for key in failed:
        area[grid.support(*key).slices()] = True
    assert 0 < area.sum() < area.size
    got = labels_of(result)[0]
    assert (got[area] == IGNORE).all()
    np.testing.assert_array_equal(got[~area], expected[~area])


@pytest.fixture
def sharing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parametrised: with the edge cache, or with each block predicting for itself."""
    if not request.param:
        monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)


both_ways = pytest.mark.parametrize("sharing", [True, False], indirect=True, ids=["shared", "apart"])
windows = pytest.mark.parametrize("window", ["cosine", "crop"])


@pytest.mark.usefixtures("sharing")
@both_ways
@windows
@pytest.mark.parametrize("batch", [1, 3])
class TestUnreadable:
    """Exactly the tiles whose input touches the damage are lost."""

    def test_only_the_touched_tiles(
        self,
        run: Runs,
        pixels: NDArray[np.uint8],
        expected: NDArray[np.uint8],
        null_model: str,
        window: str,
        batch: int,
    ) -> None:
        # in one tile's middle, across a block border, in a corner
        damage = (Box(120, 310, 124, 312), Box(255, 250, 257, 262), Box(618, 698, 620, 700))
        slide, grid = DamagedSlide(pixels, damage), grid_of(pixels, window)
        report = run.report(slide, model=null_model, overlap=48, window=window, batch=batch)
        rows, columns = grid.shape
        touched = {
            (row, column)
            for row in range(rows)
            for column in range(columns)
            if any(not grid.tile_box(row, column).intersect(bad).is_empty for bad in damage)
        }
        assert_contained(open_result(report.out), expected, grid, touched, TileStatus.UNREADABLE)
        assert report.n_failed_tiles == len(touched)
        assert any("damaged at" in problem for problem in report.summary.problems)


def test_damage_is_taken_for_tissue_and_reported(run: Runs) -> None:
    white = np.full((700, 800, 3), 255, np.uint8)
    white[:300, :300] = (200, 120, 180)
    report = run.report(DamagedSlide(white, (Box(500, 500, 510, 510),)), skip_background=True, overlap=0)
    statuses = open_result(report.out).read_tiles()
    assert (statuses == TileStatus.UNREADABLE).sum() == 1
    assert any("cannot be read" in note for note in report.notes)


def test_nothing_readable_is_one_error(run: Runs, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(RegionReadError, match="damaged"):
        run.report(DamagedSlide(pixels, (Box(0, 0, *pixels.shape[:2]),)))


def test_a_damaged_slide_on_worker_processes(run: Runs, pixels: NDArray[np.uint8], null_model: str) -> None:
    """The slide pickles, so workers meet the same damage: the same bytes as on threads."""
    slide = DamagedSlide(pixels, (Box(250, 250, 260, 260),))
    options: dict[str, Any] = {"model": null_model, "overlap": 48, "window": "cosine"}
    reference = run(slide, **options)
    with worker_processes(1, threads=2) as scheduler:
        result = run(slide, **options, scheduler=scheduler)
    assert shard_bytes(result) == shard_bytes(reference)
    np.testing.assert_array_equal(result.read_tiles(), reference.read_tiles())


class FailingPredictor:
    """A predictor that does something else with tiles that hold a pixel of the colour MARK."""

    def __init__(self, predictor: Any, fail: Callable[[NDArray[np.uint8], NDArray[np.float32]], None]) -> None:
        self._predictor, self._fail = predictor, fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        prediction: NDArray[np.float32] = self._predictor.predict(batch)
        self._fail(batch, prediction)
        return prediction


def raising(batch: NDArray[np.uint8], _: NDArray[np.float32]) -> None:
    if (batch == MARK).all(axis=3).any():
        raise PredictorError("out of luck")


def not_a_number(batch: NDArray[np.uint8], prediction: NDArray[np.float32]) -> None:
    """NaN in the one pixel that is marked, so that only one of the blocks sharing the tile sees it."""
    marked = np.moveaxis(np.broadcast_to((batch == MARK).all(axis=3), (prediction.shape[1], *batch.shape[:3])), 0, 1)
    prediction[marked] = np.nan


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Makes every predictor fail in the given way."""

    def make(fail: Any) -> None:
        monkeypatch.setattr("wsi_seg.infer.load_predictor", lambda spec: FailingPredictor(load_predictor(spec), fail))

    return make  # type: ignore[return-value]


def guilty(grid: TileGrid, part: Callable[[int, int], Box]) -> set[tuple[int, int]]:
    """Tiles of which `part` holds a marked pixel."""
    rows, columns = grid.shape
    return {
        (row, column)
        for row in range(rows)
        for column in range(columns)
        if any(part(row, column).contains(Box.at(*place, 1, 1)) for place in PLACES)
    }


@pytest.mark.usefixtures("sharing")
@both_ways
@windows
class TestModelFailed:
    """A tile that the model fails on is lost, alone, and is never a class."""

    def test_an_error_costs_the_guilty_tiles_of_a_batch(
        self,
        run: Runs,
        marked: ArraySlide,
        expected_marked: NDArray[np.uint8],
        null_model: str,
        window: str,
        failing: Any,
    ) -> None:
        failing(raising)
        report = run.report(marked, model=null_model, overlap=48, window=window, batch=4)
        grid = grid_of(expected_marked, window)
        lost = guilty(grid, grid.tile_box)
        assert_contained(open_result(report.out), expected_marked, grid, lost, TileStatus.MODEL_FAILED)
        assert any("out of luck" in problem for problem in report.summary.problems)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_nan_in_one_pixel(
        self, run: Runs, marked: ArraySlide, expected_marked: NDArray[np.uint8], null_model: str, window: str,
        failing: Any, workers: int,
    ) -> None:  # fmt: skip
        failing(not_a_number)
        result = run(marked, model=null_model, overlap=48, window=window, workers=workers)
        grid = grid_of(expected_marked, window)
        assert_contained(result, expected_marked, grid, guilty(grid, grid.support), TileStatus.MODEL_FAILED)


@windows
def test_nan_does_not_depend_on_blocks(
    run: Runs, marked: ArraySlide, null_model: str, window: str, failing: Any
) -> None:
    failing(not_a_number)
    options: dict[str, Any] = {"model": null_model, "overlap": 48, "window": window}
    reference = labels_of(run(marked, **options, block=1024))[0]
    assert (reference == IGNORE).any()
    np.testing.assert_array_equal(labels_of(run(marked, **options, block=256))[0], reference)


class TestTwice:
    """Dask may run any task twice."""

    @pytest.fixture
    def session(self, tmp_path: Path, pixels: NDArray[np.uint8], unet: str) -> Iterator[Session]:
        """A run whose tasks are called by hand."""
        slide = DamagedSlide(np.tile(pixels, (2, 1, 1)), (Box(120, 310, 124, 312),))
        prepared = prepared_for(slide, model=unet, overlap=48, window="cosine", probabilities=True)
        spec, plan = result_spec(prepared), prepared.plan
        assert plan.layout.n_tiers > 1
        identity = RunIdentity(plan.run_id, plan.identity_fields())
        with open_run(tmp_path / "x.seg.zarr", identity, lambda *_: []) as opened:
            create_result(opened.path, spec)
            yield Session(RunJob(plan.run_id, opened.path, slide, prepared.model, plan, spec), prepared.predictor)
        prepared.predictor.close()

    def test_in_any_order_changes_nothing(self, session: Session) -> None:
        keys = list(all_tasks(session.job.plan.layout))
        for key in keys:
            run_task(session, key)
        before = files_of(session.job.folder)
        shuffled = random.Random(5).sample(keys, len(keys))
        threads = [
            threading.Thread(target=lambda part=part: [run_task(session, key) for key in part])
            for part in (shuffled[::2], shuffled[1::2])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert files_of(session.job.folder) == before

    def test_before_its_neighbours_have_run_changes_nothing(self, session: Session) -> None:
        """What the block itself left for them is then still in the process, and is not what the block needs."""
        for key in all_tasks(session.job.plan.layout):
            run_task(session, key)
            before = files_of(session.job.folder)
            run_task(session, key)
            assert files_of(session.job.folder) == before, key

    def test_at_the_same_time_changes_nothing(self, session: Session) -> None:
        keys = list(all_tasks(session.job.plan.layout))
        for key in keys:
            twin = threading.Thread(target=run_task, args=(session, key))
            twin.start()
            run_task(session, key)
            twin.join()
        together = files_of(session.job.folder)
        for key in keys:  # the edges are all used by now
            run_task(session, key)
        assert files_of(session.job.folder) == together


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents of all files but the markers, which hold timings."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "done" not in file.parts
    }


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a small file system cannot be mounted: not root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("free", [20_000, 90_000], ids=["at the first shards", "later"])
    def test_one_clear_error_then_resume(
        self, run: Runs, tiny_disk: Path, pixels: NDArray[np.uint8], null_model: str, free: int
    ) -> None:
        slide, out = ArraySlide(pixels, mpp=0.5), tiny_disk / "x.seg.zarr"
        options = RunOptions(**{**SMALL, "model": null_model, "overlap": 32})
        reference = run(slide, model=null_model, overlap=32)
        ballast = tiny_disk / "ballast"
        ballast.write_bytes(bytes((4 << 20) - free))
        with pytest.raises(WriteError, match=r"No space left.*bytes are free") as raised:
            run_slide(slide, options, out=out)
        assert "run the same command again" in raised.value.remedy
        assert not out.exists()
        assert not list(tiny_disk.rglob("*.wsi-seg-tmp"))
        ballast.unlink()
        result = open_result(run_slide(slide, options, out=out).out)
        assert shard_bytes(result) == shard_bytes(reference)
