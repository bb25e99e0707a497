"""Of two who work on the same objects one is refused; who is dead is replaced; who lost his lease knows it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from wsi_seg.errors import OutputExistsError, WriteError
from wsi_seg.output.store import lease as leases
from wsi_seg.output.store import store_at

ROOT = Path(__file__).parents[3]
KEY = "state/lock"
HOLD = """
import sys, time
from wsi_seg.output.store import store_at
hold = store_at(sys.argv[1]).hold("state/lock", "it")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(bucket):
    return store_at(bucket.url("r"))


@pytest.fixture
def stored(bucket):
    """The lease as it lies in the bucket."""
    return lambda: json.loads(bucket.objects[f"r/{KEY}"].content)


def written_by_another_machine(bucket, **changes):
    """From now on the lease is somebody else's."""
    lease = bucket.objects[f"r/{KEY}"]
    record = {**json.loads(lease.content), "host": "elsewhere", "pid": 7, "boot": "another", "token": "t", **changes}
    lease.content = json.dumps(record).encode()


def test_a_killed_holder_of_this_machine_is_replaced_at_once(store, bucket):
    process = subprocess.Popen([sys.executable, "-c", HOLD, bucket.url("r")], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputExistsError, match=f"pid {process.pid} on host"):
            store.hold(KEY, "it")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    began = time.monotonic()
    store.hold(KEY, "it").release()
    assert time.monotonic() - began < 2


def test_a_process_of_another_machine_is_waited_for_by_the_clock_of_the_store(store, bucket):
    store.hold(KEY, "it")._ended.set()
    written_by_another_machine(bucket)
    bucket.faults.skew_s = 50
    with pytest.raises(OutputExistsError, match="pid 7 on host elsewhere"):
        store.hold(KEY, "it")
    assert store.holder(KEY) == "pid 7 on host elsewhere"
    bucket.faults.skew_s = 62.5
    assert store.holder(KEY) == ""
    store.hold(KEY, "it").release()
    assert not bucket.contents(), "no clock is left"


def test_of_many_who_take_over_one_succeeds(store, bucket, monkeypatch):
    store.hold(KEY, "it")._ended.set()
    written_by_another_machine(bucket)
    bucket.faults.skew_s = 100
    all_have_looked, is_over = threading.Barrier(8), leases._is_over

    def is_over_for_all(*seen):
        over = is_over(*seen)
        with suppress(threading.BrokenBarrierError):
            all_have_looked.wait(1)
        return over

    monkeypatch.setattr(leases, "_is_over", is_over_for_all)

    def attempt(_):
        try:
            return store.hold(KEY, "it")
        except OutputExistsError:
            return None

    with ThreadPoolExecutor(8) as threads:
        holds = [hold for hold in threads.map(attempt, range(8)) if hold is not None]
    assert len(holds) == 1
    holds[0].confirm()
    holds[0].release()


@pytest.mark.parametrize("change", [{"namespace": "pid:[1]"}, {"boot": ""}, {"pid": "x"}, {"pid": -1}])
def test_a_pid_means_nothing_elsewhere(store, bucket, stored, change):
    store.hold(KEY, "it")._ended.set()
    here = stored()
    written_by_another_machine(bucket, **{"boot": here["boot"], "namespace": here["namespace"], **change})
    with pytest.raises(OutputExistsError):
        store.hold(KEY, "it")


def test_a_pid_that_another_process_has_by_now_is_nobody(store, bucket, stored):
    store.hold(KEY, "it")._ended.set()
    here = stored()
    written_by_another_machine(bucket, **{name: here[name] for name in ("boot", "namespace", "pid")}, born="1")
    store.hold(KEY, "it").release()


def test_a_process_that_cannot_be_looked_at_is_alive(store, bucket, stored, monkeypatch):
    store.hold(KEY, "it")._ended.set()
    here = stored()
    monkeypatch.setattr(leases, "_state", lambda pid: ("", ""))
    written_by_another_machine(bucket, **{name: here[name] for name in ("boot", "namespace", "pid")})
    with pytest.raises(OutputExistsError):
        store.hold(KEY, "it")


def test_a_lease_that_says_nothing_counts_by_its_age(store, bucket):
    store.write(KEY, b"\xff{")
    with pytest.raises(OutputExistsError, match="it has not said who it is"):
        store.hold(KEY, "it")
    bucket.faults.skew_s = 65
    store.hold(KEY, "it").release()


def test_it_is_renewed_for_as_long_as_it_is_held(store, bucket, stored, monkeypatch):
    monkeypatch.setattr(leases, "LIFE_S", 0.6)
    hold = store.hold(KEY, "it")
    time.sleep(1.0)
    assert stored()["beat"] >= 3
    hold.confirm()
    hold.release()
    assert not bucket.contents()


def test_who_lost_it_hears_and_leaves_the_others_alone(store, bucket, monkeypatch):
    monkeypatch.setattr(leases, "LIFE_S", 0.6)
    hold, lost = store.hold(KEY, "the result"), threading.Event()
    hold.on_loss(lost.set)
    written_by_another_machine(bucket)
    assert lost.wait(2)
    with pytest.raises(OutputExistsError, match="the lease of the result was lost"):
        hold.confirm()
    with pytest.raises(OutputExistsError, match="lost"):
        store.confirm(KEY, hold.token)
    late = threading.Event()
    hold.on_loss(late.set)
    assert late.is_set()
    hold.release()
    assert json.loads(bucket.objects[f"r/{KEY}"].content)["token"] == "t"


def test_confirming_asks_the_store(store, bucket):
    hold = store.hold(KEY, "it")
    store.confirm(KEY, hold.token)
    written_by_another_machine(bucket)
    with pytest.raises(OutputExistsError, match="lost"):
        hold.confirm()
    hold.release()


def test_a_removed_lease_is_lost(store, bucket):
    hold = store.hold(KEY, "it")
    store.remove(KEY)
    with pytest.raises(OutputExistsError, match="lost"):
        hold.confirm()
    with pytest.raises(OutputExistsError, match="lost"):
        store.confirm(KEY, hold.token)
    hold.release()


def test_a_store_that_stays_silent_ends_it(store, bucket, monkeypatch):
    monkeypatch.setattr(leases, "LIFE_S", 1.2)
    monkeypatch.setattr(leases, "PATIENCE_S", 0.2)
    hold, lost = store.hold(KEY, "it"), threading.Event()
    hold.on_loss(lost.set)
    began = time.monotonic()
    bucket.faults.unavailable = 1_000_000
    assert lost.wait(5)
    assert 0.9 < time.monotonic() - began < 3
    hold.release()


def test_a_short_silence_does_not(store, bucket, stored, monkeypatch):
    monkeypatch.setattr(leases, "LIFE_S", 1.5)
    monkeypatch.setattr(leases, "PATIENCE_S", 0.2)
    hold, lost = store.hold(KEY, "it"), threading.Event()
    hold.on_loss(lost.set)
    bucket.faults.unavailable = 3
    time.sleep(1.4)
    assert bucket.faults.unavailable == 0
    assert not lost.is_set()
    assert stored()["beat"] >= 2
    hold.release()
    assert not bucket.contents()


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_refused(store, bucket, header):
    bucket.faults.ignores = header
    with pytest.raises(WriteError, match="ignores the conditions of a write"):
        store.hold(KEY, "it")
    assert not bucket.contents()


def test_answers_that_are_lost_on_the_way_do_no_harm(store, bucket):
    bucket.faults.lost_answers, bucket.faults.only = 1, KEY
    hold = store.hold(KEY, "it")
    bucket.faults.lost_answers = 1
    hold.confirm()
    hold.confirm()
    hold.release()
    assert not bucket.contents()


def test_two_renewals_never_have_the_same_content(store, bucket):
    hold = store.hold(KEY, "it")
    etags = set()
    for _ in range(3):
        hold.confirm()
        etags.add(bucket.objects[f"r/{KEY}"].etag)
    hold.release()
    assert len(etags) == 3
