"""Batches in this process: a scheduler and a worker that are threads of it, so that a slide takes no time to start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from distributed import LocalCluster

from tests.engine.conftest import null_model
from tests.engine.runs import SMALL
from tests.whole_runs import Outcome, Program, quick_runs, tmp_path, wsi_seg
from wsi_seg.batch import BatchOptions, BatchReport, BatchSlide, run_batch
from wsi_seg.engine.options import RunOptions, Scheduler

__all__ = ["Outcome", "Program", "null_model", "quick_runs", "tmp_path", "wsi_seg"]


class Batches(Protocol):
    """Runs a batch into a folder."""

    def __call__(self, slides: Sequence[BatchSlide], out: Path | str, **options: Any) -> BatchReport: ...


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    """Of threads of this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="inproc",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as cluster:
        yield Scheduler(cluster.scheduler_address)


@pytest.fixture
def batch(scheduler: Scheduler) -> Batches:
    def run(slides: Sequence[BatchSlide], out: Path | str, **options: Any) -> BatchReport:
        watcher = options.pop("watcher", lambda *_: None)
        tiff = options.pop("tiff", False)
        asked = BatchOptions(RunOptions(**{**SMALL, **options}), scheduler, tiff=tiff)
        return run_batch(slides, out, asked, watcher=watcher)

    return run


@pytest.fixture(scope="session")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 x 260 px (width x height), 0.5 um/px."""
    from wsi_seg.sample import write_synthetic

    path = tmp_path_factory.mktemp("slide") / "tiny.tif"
    write_synthetic(path, (260, 300), mpp=0.5, seed=4, tissue_fraction=0.7)
    return path
