"""Whole runs into an object store give the bytes of runs into a folder, whatever happens on the way."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.trees import contents, differences, untimed
from tests.engine.runs import SMALL, worker_processes
from tests.object_server import Bucket, bucket, the_object_server
from tests.whole_runs import Program, wsi_seg
from wsi_seg.engine.events import TaskDone
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import OutputExistsError, RunStopped, UsageError, WriteError
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import LOCK, ROOT
from wsi_seg.output.store import lease as leases

__all__ = ["bucket", "the_object_server", "wsi_seg"]
NAME = "results/x.seg.zarr"
OPTIONS = ("--model", "he-stain", "--tile", "128", "--block", "256", "--no-skip", "--workers", "2", "--quiet")


@pytest.fixture(autouse=True)
def quick_runs() -> None:
    """Pictures are of full size here: worker processes draw them so, and bytes are compared."""


@pytest.fixture(scope="module")
def expected(small_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run into a folder gives."""
    out = tmp_path_factory.mktemp("expected") / "x.seg.zarr"
    run_slide(small_slide, RunOptions(**SMALL), out=out)
    return contents(out)


@pytest.fixture
def url(bucket: Bucket) -> str:
    return bucket.url(NAME)


def segment(slide: Path, url: str, **more: Any) -> Any:
    listener = more.pop("listener", lambda _: None)
    return run_slide(slide, RunOptions(**{**SMALL, **more}), out=url, listener=listener)


def after_some_tasks(act: Any, n: int = 5) -> Any:
    """A listener that calls `act` once, when so many tasks are done."""
    done: list[object] = []

    def hear(event: object) -> None:
        if isinstance(event, TaskDone):
            done.append(event)
            if len(done) == n:
                act()

    return hear


def assert_same(bucket: Bucket, expected: dict[str, bytes]) -> None:
    assert differences(expected, untimed(bucket.contents(NAME))) == []


def test_the_bytes_are_those_of_a_folder(
    small_slide: Path, bucket: Bucket, url: str, expected: dict[str, bytes], wsi_seg: Program
) -> None:
    ran = wsi_seg("run", small_slide, "--out", url, *OPTIONS)
    assert ran.code == 0, ran.err
    assert f"{url}/overview.png" in ran.out
    assert_same(bucket, expected)
    assert not [key for key in bucket.contents(NAME) if key.startswith(".wsi-seg")]
    assert open_result(url).read_tiles().any()
    verified = wsi_seg("verify", url, "--slide", small_slide)
    assert "is sound" in verified.out
    assert "is what the result was made from" in verified.out
    assert "small.tif" in wsi_seg("info", url).out
    again = wsi_seg("run", small_slide, "--out", url, *OPTIONS)
    assert again.code == 1
    assert "results are never replaced" in again.err
    bucket.objects[f"{NAME}/labels/segmentation/0/c/0/0"].content += b"x"
    assert wsi_seg("verify", url).code == 1


def test_a_stopped_run_goes_on_where_it_was_and_refusals_in_between_do_no_harm(
    small_slide: Path, bucket: Bucket, url: str, expected: dict[str, bytes], wsi_seg: Program
) -> None:
    stop = threading.Event()
    with pytest.raises(RunStopped):
        run_slide(small_slide, RunOptions(**SMALL), out=url, listener=after_some_tasks(stop.set), stop=stop)
    assert LOCK not in bucket.contents(NAME)
    assert "is an unfinished result" in wsi_seg("info", url).err
    told = wsi_seg("verify", url)
    assert told.code == 0
    assert "not done yet" in told.out

    def disturb() -> None:
        bucket.faults.unavailable = 12

    segment(small_slide, url, listener=after_some_tasks(disturb))
    assert bucket.faults.unavailable == 0
    assert_same(bucket, expected)


def test_a_second_driver_is_refused_while_the_first_works(
    small_slide: Path, bucket: Bucket, url: str, expected: dict[str, bytes]
) -> None:
    refused: list[str] = []

    def try_it_too() -> None:
        with pytest.raises(OutputExistsError, match="another process works on") as caught:
            segment(small_slide, url)
        refused.append(caught.value.what)

    segment(small_slide, url, listener=after_some_tasks(try_it_too))
    assert len(refused) == 1
    assert_same(bucket, expected)


def test_a_driver_that_loses_its_lease_stops_and_publishes_nothing(
    small_slide: Path, bucket: Bucket, url: str, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIFE_S", 0.9)

    done: list[object] = []

    def taken_over_after_five_tasks(event: object) -> None:
        if isinstance(event, TaskDone):
            done.append(event)
        if len(done) == 5:
            lease = bucket.objects[f"{NAME}/{LOCK}"]
            lease.content = json.dumps({**json.loads(lease.content), "token": "another", "boot": "another"}).encode()
        if len(done) >= 5:
            time.sleep(0.1)

    with pytest.raises(OutputExistsError, match=r"the lease of .* was lost"):
        segment(small_slide, url, listener=taken_over_after_five_tasks)
    assert len(done) < 30, "of 39"
    assert ROOT not in bucket.contents(NAME)
    bucket.faults.skew_s = 100
    segment(small_slide, url)
    assert_same(bucket, expected)


def test_what_cannot_be_is_refused_before_the_work(
    small_slide: Path, bucket: Bucket, url: str, wsi_seg: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.engine.run.prepare", lambda *_: pytest.fail("began to work"))
    with pytest.raises(UsageError, match=r"NAME\.seg\.zarr"):
        segment(small_slide, bucket.url("x.ome.tif"))
    with pytest.raises(WriteError, match="the bucket is not there"):
        segment(small_slide, "s3://no-such-bucket/x.seg.zarr")
    bucket.faults.denied = ("GET", "PUT")
    left = wsi_seg("run", small_slide, "--out", url)
    assert left.code == 1
    assert [line[:8] for line in left.err.splitlines()] == ["error: c", "  rule: ", "  try:  "]
    assert "access is denied" in left.err


def test_rights_that_lack_writing_end_a_run_with_one_error(small_slide: Path, bucket: Bucket, url: str) -> None:
    bucket.faults.denied = ("PUT",)
    with pytest.raises(WriteError, match=r"cannot write s3://.*access is denied"):
        segment(small_slide, url)


def test_processes_of_a_cluster_write_into_it(
    small_slide: Path, bucket: Bucket, url: str, expected: dict[str, bytes]
) -> None:
    with worker_processes(2) as scheduler:
        segment(small_slide, url, scheduler=scheduler)
        assert_same(bucket, expected)
        assert not [key for key in bucket.contents(NAME) if key.startswith(".wsi-seg")]
        with pytest.raises(OutputExistsError, match="never replaced"):
            segment(small_slide, url, scheduler=scheduler)
