"""A batch below a URL: results, records and reports lie there, and nowhere else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import Batches, Program
from tests.object_server import Bucket, bucket, the_object_server
from wsi_seg.batch import BatchSlide, batch_status
from wsi_seg.engine.cluster.events import TaskEnded
from wsi_seg.errors import OutputExistsError, UsageError
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import LOCK, ROOT
from wsi_seg.output.store import lease as leases

__all__ = ["bucket", "the_object_server"]
OUT = "results/batch 1"


@pytest.fixture
def slides(tiny_slide: Path) -> list[BatchSlide]:
    return [BatchSlide(tiny_slide, "a"), BatchSlide(tiny_slide, "sub/b")]


def after_a_task(act: Callable[[], None]) -> Any:
    """A watcher that calls `act` when the first task is done."""
    seen: list[object] = []

    def watch(_: object, event: object) -> None:
        if isinstance(event, TaskEnded) and not seen:
            seen.append(event)
            act()

    return watch


def test_a_batch_and_what_is_told_of_it(
    batch: Batches, slides: list[BatchSlide], bucket: Bucket, wsi_seg: Program
) -> None:
    out, told = bucket.url(OUT), []
    report = batch(slides, out, watcher=after_a_task(lambda: told.append(batch_status(out).to_mapping())))
    assert [record.state for record in report.records] == ["done", "done"]
    assert f"pid {os.getpid()} on host" in told[0]["owner"]
    assert sum(slide["n_done"] for slide in told[0]["unfinished"]) >= 1
    held = bucket.contents(OUT)
    assert {"report.html", "report.csv", "areas.csv", ".wsi-seg-batch/batch.json"} <= held.keys()
    assert b'src="sub/b.seg.zarr/overview.png"' in held["report.html"]
    assert not [key for key in held if "lock" in key or "/.wsi-seg/" in key]
    assert open_result(f"{out}/sub/b.seg.zarr").labels(0).shape == (260, 300)
    said = wsi_seg("status", out)
    assert "nobody works on it" in said.out
    assert "2 done, 0 failed, 0 begun" in said.out
    n_requests = len(bucket.requests("PUT"))
    again = batch(slides, out)
    assert again.n_new == 0
    assert again.exit_code == 0
    written = [path.rpartition("/")[2] for path in bucket.requests("PUT")[n_requests:]]
    assert set(written) <= {"lock", "report.csv", "areas.csv", "report.html", "batch.json"}


def test_a_slide_whose_lease_is_lost_fails_and_the_others_go_on(
    batch: Batches, slides: list[BatchSlide], small_slide: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIFE_S", 0.9)
    out, large = bucket.url(OUT), BatchSlide(small_slide, "large")

    done: list[object] = []

    def taken_over_after_five_tasks(_: object, event: object) -> None:
        if isinstance(event, TaskEnded) and event.slide == 0:
            done.append(event)
            if len(done) == 5:
                lease = bucket.objects[f"{OUT}/large.seg.zarr/{LOCK}"]
                lease.content = json.dumps({**json.loads(lease.content), "token": "x", "boot": "another"}).encode()
            time.sleep(0.1 if len(done) >= 5 else 0)

    report = batch([large, *slides], out, watcher=taken_over_after_five_tasks)
    assert len(done) < 30, "of 39"
    states = {record.name: (record.state, record.what) for record in report.records}
    assert states["large"][0] == "failed"
    assert "was lost" in states["large"][1]
    assert states["a"][0] == states["sub/b"][0] == "done"
    assert f"large.seg.zarr/{ROOT}" not in bucket.contents(OUT)
    bucket.faults.skew_s = 100
    assert batch([large, *slides], out).exit_code == 0


def test_a_second_batch_is_refused(batch: Batches, slides: list[BatchSlide], bucket: Bucket) -> None:
    refused = []

    def try_it_too() -> None:
        with pytest.raises(OutputExistsError, match="another process works on s3://"):
            batch(slides, bucket.url(OUT))
        refused.append(True)

    batch(slides, bucket.url(OUT), watcher=after_a_task(try_it_too))
    assert refused


def test_tiff_files_lie_in_folders(batch: Batches, slides: list[BatchSlide], bucket: Bucket) -> None:
    with pytest.raises(UsageError, match="a file of a file system"):
        batch(slides, bucket.url(OUT), tiff=True)
    assert bucket.contents() == {}
