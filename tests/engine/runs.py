"""Small runs, and what they are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.run import run_slide
from wsi_seg.geometry import Box
from wsi_seg.infer.predictor import ProgramPredictor
from wsi_seg.output.label_store import Result, open_result
from wsi_seg.slide import Slide, open_slide

SMALL: dict[str, Any] = {"model": "he-stain", "tile": 128, "block": 256, "workers": 2, "skip_background": False}
"""Options that cut a small slide into many tiles and blocks."""


def answer_nan_where(colour: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on models answer NaN for pixels of that colour, and runs draw no picture."""
    predict = ProgramPredictor.predict

    def marked(self: ProgramPredictor, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        out = predict(self, batch).copy()
        out.transpose(0, 2, 3, 1)[(batch == colour).all(3)] = np.nan
        return out

    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")
    monkeypatch.setattr(ProgramPredictor, "predict", marked)


@contextmanager
def worker_processes(n: int, threads: int = 1) -> Iterator[Scheduler]:
    """A scheduler with `n` worker processes; its pages take any free port of this machine alone."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=n, threads_per_worker=threads, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield Scheduler(cluster.scheduler_address)


class Runs:
    """Makes results in a folder, each under its own name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def report(self, slide: Path | Slide, **options: Any) -> RunReport:
        out = self._folder / f"result{next(self._numbers)}.seg.zarr"
        return run_slide(slide, RunOptions(**{**SMALL, **options}), out=out)

    def __call__(self, slide: Path | Slide, **options: Any) -> Result:
        return self.opened(self.report(slide, **options))

    @staticmethod
    def opened(report: RunReport) -> Result:
        return open_result(report.out)


def labels_of(result: Result) -> list[NDArray[Any]]:
    """Label arrays of all levels."""
    return [np.asarray(result.labels(level)[:]) for level in range(result.n_levels)]


def assert_same_labels(a: Result, b: Result) -> None:
    """Both results have the same labels at every level."""
    for level, (left, right) in enumerate(zip(labels_of(a), labels_of(b), strict=True)):
        np.testing.assert_array_equal(left, right, err_msg=f"level {level}")


def pixels_of(slide: Path) -> NDArray[np.uint8]:
    """Level 0 of a slide, uint8 (h, w, 3)."""
    opened = open_slide(slide, mpp=0.5)
    return opened.read_region(Box(0, 0, *opened.levels[0].size), 0)


def whole_forward(slide: Path | Slide, **options: Any) -> NDArray[np.uint8]:
    """Labels of the whole image predicted at once, padded with background as the plan's tiles are."""
    prepared = prepare(slide, RunOptions(**{**SMALL, **options}))
    grid, scale, card = prepared.plan.grid, prepared.plan.scale, prepared.plan.card
    assert scale.is_native
    height, width = scale.canvas_size
    rows, columns = grid.shape
    end = grid.tile_box(rows - 1, columns - 1)
    padded = np.empty((end.y1 + grid.pad, end.x1 + grid.pad, 3), np.uint8)
    padded[:] = card.background
    padded[grid.pad : grid.pad + height, grid.pad : grid.pad + width] = prepared.slide.read_region(
        Box(0, 0, height, width), scale.level
    )
    probabilities = prepared.predictor.predict(padded[None])[0]
    prepared.predictor.close()
    quantised = np.rint(probabilities * np.float32(65535)).astype(np.uint16)
    return quantised.argmax(0)[grid.pad : grid.pad + height, grid.pad : grid.pad + width].astype(np.uint8)


def shard_bytes(result: Result) -> dict[str, bytes]:
    """Stored bytes of all label shards, by key."""
    root = result.path / "labels"
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
