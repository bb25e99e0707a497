"""What a worker process of a cluster keeps between tasks: models, and the sessions of the last runs, never mixed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.engine.runs import SMALL
from wsi_seg.engine.cluster.messages import Orders, Sealed, SealedJob
from wsi_seg.engine.cluster.worker import KEPT_MODELS, Held
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.models import Models
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.session import run_task
from wsi_seg.engine.steps import result_spec
from wsi_seg.errors import RunMismatchError
from wsi_seg.infer import load_predictor
from wsi_seg.output.label_store import create_result, open_result
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.output.status import TileStatus
from wsi_seg.slide import ArraySlide

FIRST = TaskKey(0, 0, 0)


@pytest.fixture
def held() -> Held:
    return Held()


def job_in(folder: Path, **options: Any) -> RunJob:
    """A begun run of a slide of 600 x 600 px."""
    slide = ArraySlide(np.random.default_rng(7).integers(0, 256, (600, 600, 3), dtype=np.uint8), mpp=0.5)
    prepared = prepare(slide, RunOptions(**{**SMALL, **options}))
    prepared.predictor.close()
    plan, spec = prepared.plan, result_spec(prepared)
    with open_run(folder, RunIdentity(plan.run_id, plan.identity_fields()), lambda *_: []) as opened:
        create_result(opened.path, spec)
        return RunJob(plan.run_id, opened.path, slide, prepared.model, plan, spec)


def sealed(job: RunJob) -> SealedJob:
    return SealedJob(f"{job.run_id}:{job.folder}:{job.plan.layout.block}", Sealed.of(job), Orders("token"))


def test_the_same_run_into_another_folder_is_written_there(held: Held, tmp_path: Path, null_model: str) -> None:
    jobs = [job_in(tmp_path / name, model=null_model) for name in ("a.zarr", "b.zarr")]
    assert jobs[0].run_id == jobs[1].run_id
    for job in jobs:
        run_task(held.session(sealed(job)), FIRST)
        assert (open_result(job.folder, partial=True).labels(0)[:256, :256] != 255).all()


def test_the_same_run_in_other_blocks_is_cut_by_them(held: Held, tmp_path: Path, null_model: str) -> None:
    small, large = (job_in(tmp_path / f"{block}.zarr", model=null_model, block=block) for block in (256, 512))
    large = replace(large, folder=small.folder)
    assert small.run_id == large.run_id
    run_task(held.session(sealed(small)), FIRST)
    assert sum(run_task(held.session(sealed(large)), FIRST).counts) == 512 * 512


def test_other_runs_do_not_close_the_model_under_a_task(held: Held, tmp_path: Path, null_model: str) -> None:
    """Two batches on one cluster: the tiles of the first would all have failed, in a result that looks finished."""
    first = held.session(sealed(job_in(tmp_path / "a.zarr", model=null_model)))
    for number in range(KEPT_MODELS + 1):
        other = job_in(tmp_path / f"b{number}.zarr", model=f"constant:{number}/9")
        run_task(held.session(sealed(other)), FIRST)
    receipt = run_task(first, FIRST)
    assert set(receipt.statuses.values()) == {TileStatus.DONE}
    assert receipt.failures == ()


def test_a_model_is_loaded_once_for_many_slides(
    held: Held, tmp_path: Path, null_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [sealed(job_in(tmp_path / f"{n}.zarr", model=null_model)) for n in range(3)]
    loaded: list[object] = []
    monkeypatch.setattr("wsi_seg.infer.load_predictor", lambda spec: loaded.append(spec) or load_predictor(spec))
    sessions = [held.session(job) for job in jobs]
    assert len(loaded) == 1
    assert len({id(session.predictor) for session in sessions}) == 1


def test_a_model_that_was_replaced_is_loaded_anew(tmp_path: Path, null_model: str) -> None:
    models, copy = Models(keep=4), tmp_path / "model.onnx"
    copy.write_bytes(Path(null_model).read_bytes())
    spec = job_in(tmp_path / "a.zarr", model=str(copy)).model
    first = models.load(spec)
    assert models.load(spec) is first
    content = onnx.load(copy)
    content.doc_string = "another file"
    onnx.save(content, copy)
    assert models.load(spec) is not first


class TestMismatch:
    def test_another_slide_under_the_name(self, held: Held, tmp_path: Path, null_model: str) -> None:
        job = job_in(tmp_path / "a.zarr", model=null_model)
        other = ArraySlide(np.zeros((600, 600, 3), np.uint8), mpp=0.5)
        with pytest.raises(RunMismatchError, match="slide of this worker differ"):
            held.session(sealed(replace(job, slide=other)))

    def test_another_model_under_the_name(self, held: Held, tmp_path: Path, null_model: str) -> None:
        job = job_in(tmp_path / "a.zarr", model=null_model)
        with pytest.raises(RunMismatchError, match="model, card, runtime, versions of libraries of this worker differ"):
            held.session(sealed(replace(job, model=job.model.replaced(model="constant:1/3"))))
