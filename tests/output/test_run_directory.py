"""One run, one holder, one identity; markers prove what is done and nothing else does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.output.making import NA, RUN, begin, blobs, difference, finished, make_spec
from wsi_seg.errors import OutputExistsError, RunMismatchError, WriteError
from wsi_seg.geometry import Box
from wsi_seg.output.durable import TEMP_SUFFIX
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import STATE
from wsi_seg.output.run_directory import Markers, RunDirectory, RunIdentity, open_run, partial_path
from wsi_seg.output.shard_writer import ResultWriter

ROOT = Path(__file__).parents[2]
OTHER = RunIdentity("b" * 64, {**RUN.fields, "mpp": 0.25})
HOLD = """
import sys, time
from pathlib import Path
from wsi_seg.output.run_directory import RunIdentity, open_run
fields = {"model": {"sha256": "00"}, "mpp": 0.5, "tile": [64, 64]}
run = open_run(Path(sys.argv[1]), RunIdentity("a" * 64, fields), None)
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def another_process_holding(out):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_job_is_refused_at_once_naming_the_first(tmp_path):
    out = tmp_path / "r.zarr"
    with another_process_holding(out) as process:
        started = time.perf_counter()
        with pytest.raises(OutputExistsError, match=f"pid {process.pid} on host {os.uname().nodename}"):
            open_run(out, RUN, difference)
        assert time.perf_counter() - started < 1
        with pytest.raises(OutputExistsError):
            open_run(out, RUN, difference, restart=True)


def test_a_killed_holder_leaves_no_lock(tmp_path):
    out = tmp_path / "r.zarr"
    with another_process_holding(out) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open_run(out, RUN, difference) as run:
            assert run.resumed


def test_closing_lets_the_next_one_in_and_keeps_what_is_there(tmp_path):
    with open_run(tmp_path / "r", RUN, difference) as run:
        assert not run.resumed
        with pytest.raises(OutputExistsError):
            open_run(tmp_path / "r", RUN, difference)
    with open_run(tmp_path / "r", RUN, difference) as run:
        assert run.resumed
        assert run.run_id == RUN.run_id


def test_another_run_is_refused_naming_the_fields_and_changes_nothing(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.write_task(0, 0, 1)
    made.run.close()
    before = snapshot(made.run.path)
    for run in (OTHER, replace(RUN, fields=OTHER.fields), replace(RUN, run_id="c" * 64)):
        with pytest.raises(RunMismatchError, match=r"mpp: 0\.5 and 0\.25|run id aaaaaaaaaaaa.*--restart"):
            open_run(tmp_path / "r", run, difference)
    lock = f"{STATE}/lock"
    assert {k: v for k, v in snapshot(made.run.path).items() if k != lock} == {
        k: v for k, v in before.items() if k != lock
    }


def snapshot(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_restart_throws_away_everything_but_the_lock(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.write_all()
    made.run.close()
    with open_run(tmp_path / "r", OTHER, difference, restart=True) as run:
        assert not run.resumed
        assert set(snapshot(run.path)) == {f"{STATE}/lock", f"{STATE}/run.json"}
        assert run.markers.load(0) == {}


def test_a_result_is_settled_when_nothing_unfinished_is_left(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    other = RunDirectory.borrowed(tmp_path / "r", RUN, overwrite=False)
    assert not other.is_settled
    made.write_all()
    made.finish()
    assert other.is_settled
    shutil.rmtree(tmp_path / "r")  # as after a TIFF result, which has another name
    assert other.is_settled


def test_unfinished_files_are_swept(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.run.close()
    stray = made.run.path / "labels/segmentation/0" / f".0.123{TEMP_SUFFIX}"
    stray.write_bytes(b"half a shard")
    open_run(tmp_path / "r", RUN, difference).close()
    assert not stray.exists()


def test_a_finished_result_is_replaced_only_when_asked_and_only_at_the_end(tmp_path):
    out = tmp_path / "r"
    finished(out, make_spec(), seed=1)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        open_run(out, RUN, difference)
    made = begin(out, make_spec(), seed=2, overwrite=True)
    assert (open_result(out).labels(0)[...] == blobs((700, 1100), 3, NA, 1)).all()
    made.write_all()
    assert (made.finish().labels(0)[...] == blobs((700, 1100), 3, NA, 2)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_overwrite_spares_what_is_no_result(tmp_path, kind):
    out, treasure = tmp_path / "slides", tmp_path / "treasure"
    finished(treasure, make_spec((300, 300)))
    if kind == "folder":
        out.mkdir()
        (out / "slide.svs").write_bytes(b"precious")
    elif kind == "file":
        out.write_bytes(b"precious")
    else:
        out.symlink_to(treasure)
    before = snapshot(tmp_path)
    with pytest.raises(OutputExistsError, match="no result of wsi-seg"):
        open_run(out, RUN, difference, overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_folder_of_somebody_elses_called_partial_is_left_alone(tmp_path):
    partial = partial_path(tmp_path / "r")
    partial.mkdir()
    (partial / "thesis.tex").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="no unfinished result"):
        open_run(tmp_path / "r", RUN, difference, restart=True)
    assert snapshot(partial) == {"thesis.tex": b""}


def test_a_result_that_appears_meanwhile_is_not_replaced(tmp_path):
    made = begin(tmp_path / "r", make_spec((300, 300)))
    made.write_all()
    (tmp_path / "r").mkdir()
    with pytest.raises(OutputExistsError):
        made.finish()
    (tmp_path / "r").rmdir()
    made.finish()


def test_markers_come_back_by_tier(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    for task in ((0, 0, 1), (0, 2, 4), (1, 0, 0)):
        made.write_task(*task)
    assert set(made.run.markers.load(0)) == {(0, 1), (2, 4)}
    assert set(made.run.markers.load(1, check_hashes=True)) == {(0, 0)}
    assert made.run.markers.load(7) == {}
    marker = pickle.loads(pickle.dumps(made.run.markers)).load(0)[0, 1]
    assert marker["counts"] == made.counts(made.levels[0][0:256, 256:512])
    assert marker["seconds"] == 0.1


def test_markers_that_prove_nothing_count_as_not_done(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    for column in range(4):
        made.write_task(0, 2, column)
    folder = made.run.path / STATE / "done" / "0"
    (folder / "2.0.json").write_bytes(b'{"tier": 0')
    other = json.loads((folder / "2.1.json").read_bytes()) | {"run_id": OTHER.run_id}
    (folder / "2.1.json").write_text(json.dumps(other))
    (made.run.path / "labels/segmentation/0/c/2/2").write_bytes(b"other bytes")
    assert set(made.run.markers.load(0)) == {(2, 2), (2, 3)}
    assert set(made.run.markers.load(0, check_hashes=True)) == {(2, 3)}


def test_a_marker_of_which_any_bit_was_turned_counts_as_not_done(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.write_task(0, 2, 0)
    path = made.run.path / STATE / "done" / "0" / "2.0.json"
    sound = path.read_bytes()
    assert set(made.run.markers.load(0)) == {(2, 0)}
    for place in range(0, len(sound) - 1, 7):  # the last byte is the end of the line
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert made.run.markers.load(0) == {}, f"byte {place}, {sound[place - 9 : place + 9]!r}"


def test_a_missing_shard_and_one_that_should_be_absent_are_both_noticed(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.levels[0][:256, :256] = NA
    made.write_task(0, 0, 0)
    made.write_task(0, 2, 3)
    assert made.run.markers.load(0, check_hashes=True)[0, 0]["shards"]["labels/segmentation/0/c/0/0"] is None
    ResultWriter(made.run.path, made.spec).write_labels(0, Box(0, 0, 256, 256), made.levels[0][256:512, 256:512])
    (made.run.path / "labels/segmentation/1/c/2/3").unlink()
    assert made.run.markers.load(0, check_hashes=True) == {}


def test_a_worker_of_a_run_that_was_thrown_away_cannot_leave_markers(tmp_path):
    made = begin(tmp_path / "r", make_spec())
    made.run.close()
    with open_run(tmp_path / "r", OTHER, difference, restart=True) as run:
        with pytest.raises(RunMismatchError, match="belongs to bbbbbbbbbbbb"):
            made.run.markers.write({"tier": 0, "row": 0, "column": 0, "shards": {}})
        assert run.markers.load(0) == {}
    with pytest.raises(RunMismatchError, match="belongs to no run"):
        Markers(tmp_path / "nowhere", RUN.run_id).write({"tier": 0, "row": 0, "column": 0, "shards": {}})


def test_an_identity_nobody_can_read_is_refused(tmp_path):
    open_run(tmp_path / "r", RUN, difference).close()
    (partial_path(tmp_path / "r") / STATE / "run.json").write_bytes(b"?")
    with pytest.raises(RunMismatchError, match="--restart"):
        open_run(tmp_path / "r", RUN, difference)
    open_run(tmp_path / "r", RUN, difference, restart=True).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        open_run(tmp_path / "r", RUN, difference)


def test_a_place_that_is_a_file_is_said_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"Not a directory|File exists"):
        open_run(tmp_path / "file" / "r", RUN, difference)
