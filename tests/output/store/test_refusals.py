"""What an object store refuses becomes one clear error, and nothing of the credentials is ever told."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import zarr
from tblib import pickling_support

from tests.object_server import ACCESS, SECRET
from wsi_seg.errors import UsageError, WriteError
from wsi_seg.output.store import Url, location_of, objects, opening, store_at

pickling_support.install()  # as Dask does: errors then travel with their context
ROOT = Path(__file__).parents[3]
CALLS = {
    "read": lambda store: store.read("a"),
    "write": lambda store: store.write("a", b"1"),
    "create": lambda store: store.write("a", b"1", exclusive=True),
    "remove": lambda store: store.remove("a"),
    "record": lambda store: store.record("a"),
    "keys": lambda store: store.keys(),
    "hold": lambda store: store.hold("a", "it"),
}


@pytest.fixture
def store(bucket, monkeypatch):
    monkeypatch.setattr(objects, "RETRIES", timedelta(seconds=0.25))
    monkeypatch.setattr(objects, "REQUEST", timedelta(seconds=0.3))
    return store_at(bucket.url("r"))


def clear(caught):
    """An error of three lines, in which and behind which no secret stands."""
    error = caught.value
    assert error.what
    assert error.rule
    assert error.remedy
    assert error.__cause__ is error.__context__ is None
    told = f"{error}{pickle.dumps(error)!r}"
    assert ACCESS not in told
    assert SECRET not in told
    return error


@pytest.mark.parametrize("call", sorted(CALLS))
def test_denied(store, bucket, call):
    bucket.faults.denied = ("GET", "PUT", "POST", "DELETE")
    with pytest.raises(WriteError, match=r"s3://.*access is denied: 403 Forbidden \(InvalidAccessKeyId\)") as caught:
        CALLS[call](store)
    clear(caught)


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_missing_bucket(bucket, call):
    with pytest.raises(WriteError, match=r"s3://no-such-bucket/r.*the bucket is not there") as caught:
        CALLS[call](store_at("s3://no-such-bucket/r"))
    clear(caught)


@pytest.mark.parametrize("call", sorted(CALLS))
def test_unavailable_for_a_moment_is_not_noticed(store, bucket, call):
    store.write("a" if call != "create" else "b", b"1")
    if call == "hold":
        store.remove("a")
    bucket.faults.unavailable = 2
    answer = CALLS[call](store)
    assert bucket.faults.unavailable == 0
    if call == "hold":
        answer.release()


@pytest.mark.parametrize("call", sorted(set(CALLS) - {"hold"}))
def test_unavailable_for_long(store, bucket, call):
    bucket.faults.unavailable = 1_000_000
    with pytest.raises(WriteError, match=r"the store answered 503 Service Unavailable \(SlowDown\)") as caught:
        CALLS[call](store)
    assert "run the same command again" in clear(caught).remedy


@pytest.mark.parametrize("call", ["read", "write"])
def test_no_answer(store, bucket, call):
    bucket.faults.hangs = 0.8
    with pytest.raises(WriteError, match="no answer") as caught:
        CALLS[call](store)
    clear(caught)


def test_nobody_listens(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    opening.forget_stores()
    with pytest.raises(WriteError, match="no answer") as caught:
        store_at("s3://b/r").write("a", b"1")
    clear(caught)


def test_an_answer_that_is_lost_on_the_way(store, bucket):
    bucket.faults.lost_answers = 1
    store.write("a", b"1")
    bucket.faults.lost_answers = 1
    store.write("b", b"1", exclusive=True)
    with pytest.raises(FileExistsError):
        store.write("b", b"2", exclusive=True)


def test_zarr_does_not_take_a_refusal_for_emptiness(store, bucket):
    array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="uint8", zarr_format=3)
    array[:] = 1
    for key, value in array.store._store_dict.items():
        store.write(f"x/{key}", value.to_bytes())
    opened = zarr.open_array(store.zarr(), path="x", mode="r")
    bucket.faults.denied = ("GET",)
    with pytest.raises(WriteError, match="access is denied") as caught:
        opened[:]
    clear(caught)


def test_nothing_that_travels_or_is_logged_holds_a_secret(store, caplog):
    with caplog.at_level(logging.DEBUG):
        hold = store.hold("lock", "it")
        lease = store.read("lock")
        hold.release()
    for told in (pickle.dumps(store), repr(store).encode(), lease, caplog.text.encode()):
        assert SECRET.encode() not in told
        assert ACCESS.encode() not in told


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket:secret/x",
        "s3://bucket/x?sig=secret",
        "ftp://secret/x",
        "s3://secret//x",
    ],
)
def test_urls_that_are_refused(text):
    with pytest.raises(UsageError) as caught:
        location_of(text)
    if "//x" not in text:
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://b/a/../c", "s3://b/./c", "http://b/c"])
def test_urls_that_are_none(text):
    with pytest.raises(UsageError, match=r"one of|BUCKET/KEY"):
        location_of(text)


def test_a_path_that_was_a_url():
    with pytest.raises(UsageError, match="give the URL as text"):
        location_of(Path("s3://bucket/x"))
    assert location_of(Path("a:/b")) == Path("a:/b")
    assert location_of("s3:x") == Path("s3:x")


def test_other_services_are_opened_by_their_schemes(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    for scheme in ("gs", "az"):
        assert store_at(Url(scheme, "bucket", "x")).describe("y") == f"{scheme}://bucket/x/y"


def test_what_cannot_be_opened(bucket, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    for url in (Url("az", "bucket", "x"), Url("s3", "bucket", "x\udc80")):
        with pytest.raises(UsageError, match="cannot be opened") as caught:
            store_at(url)
        clear(caught)


def test_without_the_package_its_name_is_told():
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from wsi_seg.cli.main import main\n"
        "main(['verify', 's3://bucket/x.seg.zarr'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'wsi-seg[objects]'" in done.stderr
    assert "Traceback" not in done.stderr
