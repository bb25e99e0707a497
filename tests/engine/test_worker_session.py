"""What a worker process of a cluster keeps between tasks: one run's session, and never another run's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.runs import SMALL
from wsi_seg.engine import session as sessions
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.run import result_spec
from wsi_seg.engine.session import run_task_on_worker
from wsi_seg.errors import RunMismatchError
from wsi_seg.output.label_store import create_result, open_result
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.output.status import TileStatus
from wsi_seg.slide import ArraySlide

FIRST = TaskKey(0, 0, 0)


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    sessions._worker_sessions.clear()
    yield
    sessions._worker_sessions.clear()


def job_in(folder: Path, **options: Any) -> RunJob:
    """A begun run of a slide of 600 x 600 px."""
    slide = ArraySlide(np.random.default_rng(7).integers(0, 256, (600, 600, 3), dtype=np.uint8), mpp=0.5)
    prepared = prepare(slide, RunOptions(**{**SMALL, **options}))
    prepared.predictor.close()
    plan, spec = prepared.plan, result_spec(prepared)
    with open_run(folder, RunIdentity(plan.run_id, plan.identity_fields()), lambda *_: []) as opened:
        create_result(opened.path, spec)
        return RunJob(plan.run_id, opened.path, slide, prepared.model, plan, spec)


def test_the_same_run_into_another_folder_is_written_there(tmp_path: Path, null_model: str) -> None:
    jobs = [job_in(tmp_path / name, model=null_model) for name in ("a.zarr", "b.zarr")]
    assert jobs[0].run_id == jobs[1].run_id
    for job in jobs:
        run_task_on_worker(job, FIRST)
        assert (open_result(job.folder, partial=True).labels(0)[:256, :256] != 255).all()


def test_the_same_run_in_other_blocks_is_cut_by_them(tmp_path: Path, null_model: str) -> None:
    small, large = (job_in(tmp_path / f"{block}.zarr", model=null_model, block=block) for block in (256, 512))
    large = replace(large, folder=small.folder)
    assert small.run_id == large.run_id
    run_task_on_worker(small, FIRST)
    assert sum(run_task_on_worker(large, FIRST).counts) == 512 * 512


def test_another_run_does_not_close_the_model_under_a_task(
    tmp_path: Path, null_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs on one cluster: the tiles of the first would all have failed, in a result that looks finished."""
    first, second = job_in(tmp_path / "a.zarr", model=null_model), job_in(tmp_path / "b.zarr", model="constant:1/3")
    run, begun = sessions.run_task, []

    def meanwhile(session: sessions.Session, key: TaskKey) -> Any:
        if not begun:
            begun.append(session)
            run_task_on_worker(second, FIRST)
        return run(session, key)

    monkeypatch.setattr(sessions, "run_task", meanwhile)
    receipt = run_task_on_worker(first, FIRST)
    assert set(receipt.statuses.values()) == {TileStatus.DONE}
    assert receipt.failures == ()


class TestMismatch:
    def test_another_slide_under_the_name(self, tmp_path: Path, null_model: str) -> None:
        job = job_in(tmp_path / "a.zarr", model=null_model)
        other = ArraySlide(np.zeros((600, 600, 3), np.uint8), mpp=0.5)
        with pytest.raises(RunMismatchError, match="slide of this worker differ"):
            run_task_on_worker(replace(job, slide=other), FIRST)

    def test_another_model_under_the_name(self, tmp_path: Path, null_model: str) -> None:
        job = job_in(tmp_path / "a.zarr", model=null_model)
        with pytest.raises(RunMismatchError, match="model, card, runtime of this worker differ"):
            run_task_on_worker(replace(job, model=job.model.replaced(model="constant:1/3")), FIRST)
