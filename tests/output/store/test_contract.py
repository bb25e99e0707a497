"""What every store of results promises, held against folders and against an S3 service.

`WSI_SEG_TEST_S3=http://127.0.0.1:PORT` takes another service than ours, such as moto's server.
"""

from __future__ import annotations

import os
import pickle
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import uuid4

import numpy as np
import pytest
import zarr

from wsi_seg.errors import OutputExistsError
from wsi_seg.output.store import location_of, store_at

ELSEWHERE = os.environ.get("WSI_SEG_TEST_S3", "")


class StoreContract:
    """The promises; who inherits says which store."""

    @pytest.fixture
    def root(self):
        raise NotImplementedError

    @pytest.fixture
    def store(self, root):
        return store_at(root)

    def test_what_was_written_is_read(self, store):
        store.write("a/b.bin", b"\x00content")
        assert store.read("a/b.bin") == b"\x00content"
        assert store.has("a/b.bin")

    def test_an_object_is_replaced_whole(self, store):
        store.write("a", b"longer content")
        store.write("a", b"short")
        assert store.read("a") == b"short"

    def test_what_is_not_there(self, store):
        with pytest.raises(FileNotFoundError):
            store.read("a/b")
        assert store.record("a/b") is None
        assert not store.has("a/b")
        assert store.keys() == store.keys("a") == []
        store.remove("a/b")

    def test_what_is_below_an_object_is_not_there(self, store):
        store.write("a", b"1")
        with pytest.raises(FileNotFoundError):
            store.read("a/b")
        assert store.record("a/b") is None
        store.remove("a/b")
        assert store.read("a") == b"1"

    @pytest.mark.parametrize("size", [0, 1, 20_000_000])
    def test_a_record_is_of_the_bytes_as_stored(self, store, size):
        content = b"x" * size
        store.write("a", content)
        assert store.record("a") == (sha256(content).hexdigest(), size)

    def test_removing(self, store):
        store.write("a/b", b"1")
        store.write("a/c", b"2")
        store.remove("a/b")
        assert not store.has("a/b")
        assert store.keys() == ["a/c"]

    def test_exclusive_leaves_what_is_there(self, store):
        store.write("a", b"first", exclusive=True)
        with pytest.raises(FileExistsError):
            store.write("a", b"second", exclusive=True)
        assert store.read("a") == b"first"

    def test_of_many_exclusive_writers_one_succeeds(self, store):
        def attempt(number):
            try:
                store.write("a", b"%d" % number, exclusive=True)
            except FileExistsError:
                return None
            return number

        with ThreadPoolExecutor(8) as threads:
            won = [number for number in threads.map(attempt, range(8)) if number is not None]
        assert len(won) == 1
        assert store.read("a") == b"%d" % won[0]

    def test_keys_are_sorted_and_below_a_folder(self, store):
        names = [f"many/{number:03d}" for number in range(230)]
        for name in [*names, "many.not", "z", ".hidden/x"]:
            store.write(name, b"")
        assert store.keys("many") == names
        assert store.keys() == sorted([*names, "many.not", "z", ".hidden/x"])

    @pytest.mark.parametrize("key", ["a b/é.zarr/c", "100%/x", "a%20b", "a+b=c&d", "#hash?mark", "[1]*~"])
    def test_names_of_files_are_keys(self, store, key):
        store.write(key, b"1")
        assert store.keys() == [key]
        assert store.read(key) == b"1"
        assert store.has(key)

    def test_a_name_for_people(self, store, root):
        assert store.describe("a/b") == f"{root}/a/b"
        assert store.describe() == str(store.root) == str(root)

    def test_each_in_order(self, store):
        keys = [f"x/{number:02d}" for number in range(40)]
        for key in keys:
            store.write(key, key.encode())
        assert store.each(store.read, keys) == [key.encode() for key in keys]
        with pytest.raises(FileNotFoundError):
            store.each(store.read, [*keys, "not/there"])

    def test_zarr_reads_it_and_misses_nothing_as_fill(self, store):
        array = zarr.create_array({}, shape=(4, 6), chunks=(2, 3), dtype="uint8", fill_value=9, zarr_format=3)
        array[:2] = np.arange(12).reshape(2, 6)
        for key, value in array.store._store_dict.items():
            store.write(f"group/array/{key}", value.to_bytes())
        read = zarr.open_array(store.zarr(), path="group/array", mode="r")[:]
        assert (read == array[:]).all()
        assert (read[2:] == 9).all()

    def test_zarr_must_not_write(self, store):
        with pytest.raises(ValueError, match="read-only"):
            zarr.create_array(store.zarr(), shape=(1,), dtype="uint8")

    def test_it_pickles_by_its_place(self, store):
        store.write("a", b"1")
        copy = pickle.loads(pickle.dumps(store))
        assert copy.read("a") == b"1"
        assert copy.root == store.root

    def test_two_views_of_one_place(self, store, root):
        store_at(location_of(str(root)) / "a").write("b", b"1")
        assert store.read("a/b") == b"1"

    def test_one_holder(self, store):
        assert store.holder("state/lock") == ""
        hold = store.hold("state/lock", "the result")
        assert f"pid {os.getpid()} on host {os.uname().nodename}" in store.holder("state/lock")
        with pytest.raises(OutputExistsError, match=f"another process works on the result: pid {os.getpid()}"):
            store.hold("state/lock", "the result")
        hold.confirm()
        store.confirm("state/lock", hold.token)
        hold.release()
        hold.release()
        assert store.holder("state/lock") == ""
        store.hold("state/lock", "the result").release()

    def test_of_many_who_want_to_hold_one_does(self, store):
        def attempt(_):
            try:
                return store.hold("lock", "it")
            except OutputExistsError:
                return None

        with ThreadPoolExecutor(6) as threads:
            holds = [hold for hold in threads.map(attempt, range(6)) if hold is not None]
        assert len(holds) == 1
        holds[0].release()


class TestPosixStore(StoreContract):
    @pytest.fixture
    def root(self, tmp_path):
        return tmp_path / "röot dir"


class TestObjectStore(StoreContract):
    @pytest.fixture
    def root(self, bucket, monkeypatch):
        if not ELSEWHERE:
            return bucket.url("a prefix/é 100%")
        monkeypatch.setenv("AWS_ENDPOINT_URL", ELSEWHERE)
        name = f"bucket-{uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{ELSEWHERE}/{name}", method="PUT")).close()
        return f"s3://{name}/a prefix/é 100%"

    def test_conditions_are_honoured(self, store):
        first = store.create("a", b"1")
        assert store.create("a", b"2") is None
        second = store.replace("a", b"3", first)
        assert second != first
        assert store.replace("a", b"4", first) is None
        assert store.replace("not there", b"4", first) is None
        seen = store.look("a")
        assert (seen.content, seen.version) == (b"3", second)
        assert abs((store.now("a") - seen.modified).total_seconds()) <= 2
        assert store.keys() == ["a"]
