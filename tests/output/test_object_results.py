"""Results in an object store: the bytes of a folder, built in place, with the root metadata as the commit."""

from __future__ import annotations

import json
import pickle

import pytest

from tests.object_server import bucket, the_object_server
from tests.output.making import RUN, begin, difference, finished, make_spec
from wsi_seg.errors import CorruptOutputError, OutputExistsError, RunMismatchError, WriteError
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import PROVENANCE_FILE, ROOT, STATE
from wsi_seg.output.run_directory import RunDirectory, RunIdentity, open_run
from wsi_seg.output.site import site_at, unfinished_below
from wsi_seg.output.store import location_of, store_at
from wsi_seg.output.store.objects import ObjectStore
from wsi_seg.output.verify import verify_result

__all__ = ["bucket", "the_object_server"]
SPEC = make_spec((520, 520), probabilities=True)
NAME = "results/r é.seg.zarr"


@pytest.fixture
def url(bucket):
    return bucket.url(NAME)


@pytest.fixture
def expected(tmp_path):
    """What a folder holds in the end."""
    finished(tmp_path / "r", SPEC)
    files = sorted(path for path in (tmp_path / "r").rglob("*") if path.is_file())
    return {path.relative_to(tmp_path / "r").as_posix(): path.read_bytes() for path in files}


def test_the_bytes_are_those_of_a_folder(bucket, url, expected):
    result, made = finished(url, SPEC)
    assert bucket.contents(NAME) == expected
    assert (result.labels(0)[...] == made.levels[0]).all()
    assert (pickle.loads(pickle.dumps(result)).probabilities(1)[...] == made.chances[1]).all()
    assert verify_result(url).is_sound


def test_nobody_sees_a_result_before_its_last_object(bucket, url):
    made = begin(url, SPEC)
    made.write_all()
    with pytest.raises(CorruptOutputError, match=r"zarr\.json is not there"):
        open_result(url)
    report = verify_result(url)
    assert report.is_sound
    assert (report.n_tasks, report.n_pending) == (9, 0)
    made.finish()
    puts = [path for path in bucket.requests("PUT") if "/lock" not in path]
    assert puts[-1] == f"/{bucket.name}/{NAME}/{ROOT}"
    assert open_result(url).n_levels == SPEC.layout.n_levels


@pytest.mark.parametrize("n", range(3, 60, 8))
def test_a_run_that_is_stopped_at_any_write_is_continued(bucket, url, expected, monkeypatch, n):
    left, write = [n], ObjectStore.write

    def stopping(self, key, content, **how):
        left[0] -= 1
        if left[0] == 0:
            raise WriteError("stopped")
        write(self, key, content, **how)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "write", stopping)
        with pytest.raises(WriteError, match="stopped"):
            finished(url, SPEC)
    store = store_at(url)
    if holder := store.holder(f"{STATE}/lock"):
        assert "pid" in holder  # ours: nobody has closed it
        store.remove(f"{STATE}/lock")
    finished(url, SPEC)
    assert bucket.contents(NAME) == expected


def test_a_finished_result_is_never_replaced(bucket, url):
    finished(url, SPEC)
    before = bucket.contents()
    for options, words in (({}, "never replaced"), ({"overwrite": True}, "cannot be exchanged")):
        with pytest.raises(OutputExistsError, match=f"{words}.*another --out, or remove it"):
            open_run(url, RUN, difference, **options)
    assert bucket.contents() == before


def test_what_a_kill_right_after_the_commit_leaves_is_removed_by_who_comes_next(bucket, url, expected, monkeypatch):
    made = begin(url, SPEC)
    made.write_all()
    monkeypatch.setattr("wsi_seg.output.site.objects.ObjectSite._remove_state", lambda _: None)
    made.finish()
    monkeypatch.undo()
    store_at(url).write(f"{STATE}/lock", json.dumps({"pid": 0, "host": "x"}).encode())
    bucket.faults.skew_s = 100
    assert verify_result(url).is_sound
    assert verify_result(url).n_pending == 0
    with pytest.raises(OutputExistsError):
        open_run(url, RUN, difference)
    assert bucket.contents(NAME) == expected


def test_restart_throws_away_everything(bucket, url):
    made = begin(url, SPEC)
    made.write_all()
    made.run.attach("summary.json", b"{}")
    made.run.close()
    other = RunIdentity("b" * 64, {**RUN.fields, "mpp": 0.25})
    with pytest.raises(RunMismatchError, match=r"mpp: 0\.5 and 0\.25.*--restart"):
        open_run(url, other, difference)
    with open_run(url, other, difference, restart=True) as run:
        assert not run.resumed
        assert set(bucket.contents(NAME)) == {f"{STATE}/lock", f"{STATE}/run.json"}


def test_what_is_not_ours_is_left_alone(bucket, url):
    store_at(url).write("slide.svs", b"precious")
    with pytest.raises(OutputExistsError, match="no unfinished result of wsi-seg"):
        open_run(url, RUN, difference, restart=True)
    assert bucket.contents(NAME) == {"slide.svs": b"precious"}


def test_who_lost_the_lease_publishes_nothing(bucket, url):
    made = begin(url, SPEC)
    made.write_all()
    lease = bucket.objects[f"{NAME}/{STATE}/lock"]
    lease.content = json.dumps({**json.loads(lease.content), "token": "another", "pid": 1, "boot": "x"}).encode()
    with pytest.raises(OutputExistsError, match=r"lease.*was lost"):
        made.finish()
    assert ROOT not in bucket.contents(NAME)
    assert PROVENANCE_FILE not in bucket.contents(NAME)


def test_who_loses_the_lease_before_the_last_write_does_not_make_it(bucket, url, monkeypatch):
    made = begin(url, SPEC)
    made.write_all()
    write = ObjectStore.write

    def taken_over(self, key, content, **how):
        write(self, key, content, **how)
        if key == PROVENANCE_FILE:
            bucket.objects[f"{NAME}/{STATE}/lock"].content = b'{"token": "another"}'

    monkeypatch.setattr(ObjectStore, "write", taken_over)
    with pytest.raises(OutputExistsError, match="was lost"):
        made.finish()
    assert ROOT not in bucket.contents(NAME)


def test_a_worker_finishes_only_for_who_holds_the_lease(bucket, url, expected):
    made = begin(url, SPEC)
    made.write_all()
    driver, place = made.run, location_of(url)
    made.run = RunDirectory.borrowed(place, RUN, overwrite=False, permit="of a driver that is dead")
    with pytest.raises(OutputExistsError, match="lost"):
        made.finish()
    assert ROOT not in bucket.contents(NAME)
    made.run = RunDirectory.borrowed(place, RUN, overwrite=False, permit=driver.permit)
    made.finish()
    driver.confirm()
    driver.close()
    assert bucket.contents(NAME) == expected


def test_two_workers_that_finish_at_once_leave_one_sound_result(bucket, url):
    made = begin(url, SPEC)
    made.write_all()
    made.run.attach("summary.json", b"of the first")
    made.finish()  # attaches another one: it took 0.1 s longer, say
    assert bucket.contents(NAME)["summary.json"] == b"of the first"
    assert verify_result(url).is_sound


def test_what_was_published_meanwhile_is_not_swept_away(bucket, url, monkeypatch):
    finished(url, SPEC)
    before = bucket.contents(NAME)
    site_at(url).sweep()
    assert bucket.contents(NAME)[ROOT] == before[ROOT]


def test_companions_of_a_stopped_commit_are_made_again(bucket, url):
    made = begin(url, SPEC)
    made.run.attach("summary.json", b"of a stopped commit")
    made.run.close()
    finished(url, SPEC)
    assert json.loads(bucket.contents(NAME)["summary.json"])["run_id"] == RUN.run_id


def test_a_shard_that_changed_is_found_and_done_again(bucket, url, expected):
    made = begin(url, SPEC)
    made.write_all()
    key = next(key for key in bucket.objects if "/c/0/0" in key)
    bucket.objects[key].content += b"x"
    assert not verify_result(url).is_sound
    done = [place for tier in range(2) for place in made.run.markers.load(tier, check_hashes=True)]
    assert len(done) == 8
    with pytest.raises(CorruptOutputError, match="1 of 9 tasks"):
        made.finish()
    made.run.close()
    finished(url, SPEC)
    assert bucket.contents(NAME) == expected


def test_a_store_that_does_not_answer_has_not_lost_a_marker(bucket, url):
    made = begin(url, SPEC)
    made.write_task(0, 0, 0)
    bucket.faults.denied, bucket.faults.only = ("GET",), "done/0/0.0.json"
    with pytest.raises(WriteError, match="denied"):
        made.run.markers.load(0)


def test_unfinished_results_of_a_batch(bucket):
    for name in ("a/x.seg.zarr", "y.seg.zarr"):
        begin(bucket.url(f"batch/{name}"), SPEC).run.close()
    finished(bucket.url("batch/z.seg.zarr"), SPEC)
    found = unfinished_below(bucket.url("batch"))
    assert list(map(str, found)) == [bucket.url("batch/a/x.seg.zarr"), bucket.url("batch/y.seg.zarr")]


def test_a_whole_bucket_is_no_result(bucket):
    with pytest.raises(Exception, match=r"BUCKET/NAME\.seg\.zarr"):
        site_at(bucket.url()).check_place()
