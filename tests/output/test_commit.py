"""A run that is stopped anywhere, or refused by the disk anywhere, ends in the same bytes when it is run again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.output.making import begin, finished, make_spec, make_thumbnail
from wsi_seg.errors import CorruptOutputError, OutputError
from wsi_seg.output.commit import all_tasks, commit_run, refuse_lost_shards
from wsi_seg.output.durable import record_digest
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import STATE
from wsi_seg.output.run_directory import partial_path

ROOT = Path(__file__).parents[2]
SPEC = make_spec((200, 1100), 256)
CALLS = ("fsync", "replace", "rename", "mkdir", "link", "unlink", "rmdir")


def whole_tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def run_all(out):
    """What an engine does: open or go on, do what is not done, commit."""
    made = begin(out, SPEC)
    try:
        done = {(tier, *place) for tier in range(2) for place in made.run.markers.load(tier, check_hashes=True)}
        for task in all_tasks(SPEC):
            if task not in done:
                made.write_task(*task)
        return made.finish()
    finally:
        made.run.close()


@pytest.fixture(scope="module")
def reference(made_path):
    return whole_tree(run_all(made_path / "r").path)


class FailingCalls:
    """Lets the system's calls through but for the nth, which `fail`s."""

    def __init__(self, monkeypatch, fail, n=None):
        self.count, self.n, self.fail = 0, n, fail
        for name in CALLS:
            monkeypatch.setattr(os, name, self.guarded(getattr(os, name)))

    def guarded(self, call):
        def guarded_call(*values, **options):
            self.count += 1
            if self.count == self.n:
                self.fail()
            return call(*values, **options)

        return guarded_call


def refuse():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_refused_call_is_an_error_of_ours_and_the_next_run_ends_in_the_same_bytes(
    tmp_path, monkeypatch, reference, step
):
    with monkeypatch.context() as patch:
        counter = FailingCalls(patch, refuse)
        run_all(tmp_path / "count")
    assert counter.count > 100
    for n in range(1, counter.count + 1, step):
        out = tmp_path / str(n)
        with monkeypatch.context() as patch:
            FailingCalls(patch, refuse, n)
            with suppress(OutputError):  # anything else fails the test
                run_all(out)
        if not out.exists():
            run_all(out)
        assert {key: value for key, value in whole_tree(out).items() if not key.startswith(STATE)} == reference


class Killed(BaseException):
    """Stands for kill -9: nothing of ours may catch it and go on."""


def test_a_result_under_its_name_is_complete_wherever_the_run_was_killed(tmp_path, monkeypatch, reference):
    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        counter = FailingCalls(patch, kill)
        run_all(tmp_path / "count")
    for n in range(2, counter.count, 7):
        out = tmp_path / str(n)
        with monkeypatch.context() as patch:
            FailingCalls(patch, kill, n)
            with pytest.raises(Killed):
                run_all(out)
        if out.exists():
            assert open_result(out).run_id == "a" * 64
        else:
            run_all(out)
        assert {key: value for key, value in whole_tree(out).items() if not key.startswith(STATE)} == reference


KILL = """
import os, signal, sys
from pathlib import Path
from tests.output.test_commit import CALLS, run_all
count, limit = 0, int(sys.argv[2])
def guarded(call):
    def guarded_call(*values, **options):
        global count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*values, **options)
    return guarded_call
for name in CALLS:
    setattr(os, name, guarded(getattr(os, name)))
run_all(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("n", [60, 111])
def test_kill_9_and_again(tmp_path, reference, n):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", KILL, str(tmp_path / "r"), str(n)]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -9
    assert not (tmp_path / "r").exists()
    assert whole_tree(run_all(tmp_path / "r").path) == reference


def test_tasks_that_are_not_done_or_changed_stop_the_commit(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    made.write_all()
    (made.run.path / "labels/segmentation/0/c/0/2").write_bytes(b"?")
    (made.run.path / STATE / "done" / "1" / "0.0.json").unlink()
    with pytest.raises(CorruptOutputError, match=r"2 of 8 tasks .*\(0, 0, 2\), \(1, 0, 0\).*run the same command"):
        made.finish()
    assert not (tmp_path / "r").exists()
    made.write_task(0, 0, 2)
    made.write_task(1, 0, 0)
    made.finish()


def test_a_shard_that_no_task_wrote_stops_the_commit(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    made.write_all()
    (made.run.path / "labels/segmentation/0/c/9").mkdir()
    (made.run.path / "labels/segmentation/0/c/9/9").write_bytes(b"?")
    with pytest.raises(CorruptOutputError, match="no task wrote: labels/segmentation/0/c/9/9"):
        made.finish()


def test_statuses_of_another_grid_are_refused(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    made.write_all()
    with pytest.raises(ValueError, match="grid of"):
        commit_run(made.run, SPEC, tiles=made.tiles()[1:], thumbnail=make_thumbnail(SPEC), facts={})


def test_the_finished_folder_holds_the_record_and_no_state(tmp_path):
    result, made = finished(tmp_path / "r", SPEC)
    assert not (result.path / STATE).exists()
    assert not partial_path(result.path).exists()
    provenance = json.loads((result.path / "provenance.json").read_bytes())
    assert provenance["sha256"] == record_digest(provenance)
    assert provenance["identity"] == made.run.identity.fields
    assert len(provenance["tasks"]) == 8
    assert {"zarr.json", "summary.json", "tiles/c/0/0", "labels/segmentation/0/zarr.json"} <= set(provenance["files"])


def test_a_shard_that_is_gone_does_not_pass_for_one_that_was_left_out(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    for task in all_tasks(SPEC):
        made.write_task(*task)
    markers = [marker for tier in range(2) for marker in made.run.markers.load(tier).values()]
    refuse_lost_shards(made.run, markers)
    lost = next(key for marker in markers for key, record in marker["shards"].items() if record)
    (made.run.path / lost).unlink()
    with pytest.raises(CorruptOutputError, match=lost):
        refuse_lost_shards(made.run, markers)
    made.run.close()
