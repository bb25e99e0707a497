"""A place that ends every process that touches it costs its tiles, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from tests.engine.cluster.deadly import DeadlySlide
from tests.engine.runs import SMALL, pixels_of
from wsi_seg.card import named_classes
from wsi_seg.engine.cluster.connecting import SETTINGS, Connection
from wsi_seg.engine.cluster.events import ClusterEvent, SlideChanged, SlideNote, TaskEnded
from wsi_seg.engine.cluster.loop import Loop
from wsi_seg.engine.cluster.messages import Assignment, Orders, Sealed
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.engine.target import Target
from wsi_seg.errors import RunStopped
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.plan.grid import TileGrid
from wsi_seg.slide import ArraySlide, Slide

PLACES = (Box.at(130, 130, 4, 4), Box.at(330, 250, 4, 4))
"""Inside one block of 256 px; and where four of them meet within the reach of their tiles."""
OVERLAP = 32


@pytest.fixture(scope="module")
def pixels(small_slide: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels_of(small_slide)[200:820, 300:1000])


@contextmanager
def workers(n: int = 2, memory: str = "3GB", deaths: int = 1) -> Iterator[Connection]:
    """Worker processes that give a task up after its first death, or so many, so that tests are quick."""
    settings = SETTINGS | {"distributed.scheduler.allowed-failures": deaths - 1}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=n, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=memory, silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Connection(client)


class Heard:
    """What a loop told."""

    def __init__(self) -> None:
        self.events: list[ClusterEvent] = []

    def __call__(self, event: ClusterEvent) -> None:
        self.events.append(event)

    @property
    def errors(self) -> list[Any]:
        return [e.error for e in self.events if isinstance(e, SlideChanged) and e.error is not None]

    def tasks(self, slide: int = 0) -> list[TaskKey]:
        return [e.key for e in self.events if isinstance(e, TaskEnded) and e.slide == slide]

    @property
    def notes(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, SlideNote)]


def assignments(tmp_path: Path, model: str, *slides: Slide, stall_s: float = 60.0, **more: Any) -> list[Assignment]:
    options = RunOptions(**{**SMALL, "model": model, "overlap": OVERLAP, **more})
    orders = Orders(uuid4().hex, stall_s=stall_s)
    return [
        Assignment(Sealed.of(slide), Target.of(slide, tmp_path / f"{n}.seg.zarr", options), options, orders)
        for n, slide in enumerate(slides)
    ]


def carried_out(connection: Connection, asked: list[Assignment], stop: threading.Event | None = None) -> Heard:
    heard = Heard()
    Loop(connection, asked, heard, stop or threading.Event()).carry_out()
    return heard


def assert_only_these_are_lost(result: Result, whole: Result, places: tuple[Box, ...], status: TileStatus) -> None:
    grid = TileGrid((620, 700), 128, OVERLAP)
    near = {
        (row, column)
        for row in range(grid.shape[0])
        for column in range(grid.shape[1])
        if any(not grid.tile_box(row, column).intersect(place).is_empty for place in places)
    }
    statuses = result.read_tiles()
    lost = {(int(y), int(x)) for y, x in np.argwhere(statuses != TileStatus.DONE)}
    assert lost == near
    assert {statuses[key] for key in near} == {status}
    found, expected = result.labels(0)[:], whole.labels(0)[:]
    kept = np.ones(found.shape, bool)
    for key in near:
        kept[grid.support(*key).intersect(Box(0, 0, 620, 700)).slices()] = False
    np.testing.assert_array_equal(found[kept], expected[kept])
    assert (found[~kept] == 255).all()


@pytest.fixture(scope="module")
def whole(pixels: NDArray[np.uint8], null_model: str, tmp_path_factory: pytest.TempPathFactory) -> Result:
    options = RunOptions(**{**SMALL, "model": null_model, "overlap": OVERLAP})
    out = tmp_path_factory.mktemp("whole") / "x.seg.zarr"
    return open_result(run_slide(ArraySlide(pixels, mpp=0.5), options, out=out).out)


@pytest.mark.parametrize(("how", "stall_s"), [("kill", 60.0), ("hang", 2.0), ("hog", 60.0)])
def test_tiles_that_end_their_process_are_left_out(
    how: str, stall_s: float, pixels: NDArray[np.uint8], whole: Result, null_model: str, tmp_path: Path
) -> None:
    slide = DeadlySlide(pixels, PLACES[:1], how)
    with workers(memory="1.2GB") as connection:
        heard = carried_out(connection, assignments(tmp_path, null_model, slide, stall_s=stall_s))
    assert heard.errors == []
    assert any("apart" in note for note in heard.notes)
    assert_only_these_are_lost(open_result(tmp_path / "0.seg.zarr"), whole, PLACES[:1], TileStatus.UNREADABLE)


def test_tiles_that_end_the_process_in_the_model_are_left_out(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    card = {"mpp": 0.5, "classes": named_classes(["light", "dark"]), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    card |= {"activation": "probabilities", "halo": 0, "output_stride": 1}
    model = "tests.engine.cluster.deadly_net:net"
    marked = pixels.copy()
    marked[PLACES[1].slices()] = (255, 0, 255)
    with workers() as connection:
        asked = assignments(tmp_path, model, ArraySlide(pixels, mpp=0.5), ArraySlide(marked, mpp=0.5), card=card)
        heard = carried_out(connection, asked)
    assert heard.errors == []
    whole, found = (open_result(tmp_path / f"{n}.seg.zarr") for n in (0, 1))
    assert_only_these_are_lost(found, whole, PLACES[1:], TileStatus.MODEL_FAILED)


def test_slides_beside_a_deadly_one_are_unharmed(
    pixels: NDArray[np.uint8], whole: Result, null_model: str, tmp_path: Path
) -> None:
    slides = [
        DeadlySlide(pixels, PLACES[:1], at_once=True),
        ArraySlide(pixels, mpp=0.5),
        DeadlySlide(pixels, PLACES),
        ArraySlide(pixels, mpp=0.5),
    ]
    with workers(deaths=2) as connection:  # those that only share a worker are suspects of one
        heard = carried_out(connection, assignments(tmp_path, null_model, *slides))
    assert [str(error) for error in heard.errors] == [heard.errors[0].args[0]]
    assert "opening and planning the slide ends its process: signal 9" in heard.errors[0].what
    for number in (1, 3):
        found = open_result(tmp_path / f"{number}.seg.zarr")
        np.testing.assert_array_equal(found.labels(0)[:], whole.labels(0)[:])
    assert_only_these_are_lost(open_result(tmp_path / "2.seg.zarr"), whole, PLACES, TileStatus.UNREADABLE)


def test_a_stop_ends_the_loop_and_the_same_call_goes_on(
    pixels: NDArray[np.uint8], whole: Result, null_model: str, tmp_path: Path
) -> None:
    stop = threading.Event()
    asked = assignments(tmp_path, null_model, ArraySlide(pixels, mpp=0.5))
    with workers() as connection:
        heard = Heard()

        def stop_at_the_third(event: ClusterEvent) -> None:
            heard(event)
            if len(heard.tasks()) == 3:
                stop.set()

        with pytest.raises(RunStopped):
            Loop(connection, asked, stop_at_the_third, stop).carry_out()
        before = set(heard.tasks())
        after = carried_out(connection, assignments(tmp_path, null_model, ArraySlide(pixels, mpp=0.5)))
    assert after.errors == []
    assert not before & set(after.tasks())
    np.testing.assert_array_equal(open_result(tmp_path / "0.seg.zarr").labels(0)[:], whole.labels(0)[:])
